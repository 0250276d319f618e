"""Exports of a student: written, verified on the spot, and described."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillshot.config import AGREEMENT_FLOORS, ExportKind
from stillshot.deploy import gguf_export, onnx_export
from stillshot.deploy.agreement import Agreement
from stillshot.deploy.card import Describer, Provenance
from stillshot.deploy.held_out import HeldOut, held_out_queries
from stillshot.deploy.merged import load_in_float32, merge
from stillshot.deploy.predictor import load_predictor
from stillshot.errors import ModelError, NoSuchExportError, RunFolderError, WorkError
from stillshot.storage import remove_scratch, scratch_beside
from stillshot.student.features import DecoderFeaturizer
from stillshot.student.integrity import weights_checksums
from stillshot.student.saved import Student
from stillshot.student.sidecar import SIDECAR, Exported

Report = Callable[[str, int, int], None]  # (what, done, total)
LeaveOut = Callable[[ExportKind, str], None]  # (kind, why)


@dataclass(frozen=True)
class Export:
    """An export in its folder.

    Attributes:
        size_bytes: Of all its files, the tokenizer's included.
        floor: The agreement that was asked for.
    """

    kind: ExportKind
    folder: Path
    size_bytes: int
    agreement: Agreement
    floor: float

    @property
    def accepted(self) -> bool:
        """Whether it agrees with its student as was asked."""
        return self.agreement.share >= self.floor


def export_student(
    folder: Path,
    kinds: Sequence[ExportKind],
    output: Path,
    *,
    queries: Path | None = None,
    floor: float | None = None,
    repo: str | None = None,
    leave_out: LeaveOut | None = None,
    report: Report = lambda *_: None,
) -> list[Export]:
    """Export a student, each kind into a folder of ``output`` with its name.

    Every export is loaded again as it will be used and answers held-out queries; how often it agrees with
    the student in float32 stands in the result and in its model card. One that agrees too little is kept. A
    folder ``hub`` also holds the other kinds of the same call.

    Args:
        folder: A student's folder.
        queries: A file of held-out queries; if ``None``, the evaluated items of the student's run.
        floor: The least agreement to accept; if ``None``, that of each kind
            (:data:`stillshot.config.AGREEMENT_FLOORS`).
        repo: The Hub repository that the folder ``hub`` is for, by which its card calls it.
        leave_out: Is told of each kind that the student cannot have, and the others are made; if ``None``, such a
            kind is an error.

    Raises:
        ModelError: There is no student, or it cannot be exported so.
        DataError: There are no held-out queries.
        RunFolderError: A folder to write holds something else.
        WorkError: An export or its writing failed.
    """
    ordered: list[ExportKind] = [kind for kind in AGREEMENT_FLOORS if kind in kinds]
    student = load_in_float32(folder)
    ordered = [kind for kind in ordered if _fits(kind, student, leave_out)]
    for kind in ordered:
        _check_target(output / kind, folder)
    held_out = held_out_queries(folder, student.task, queries)
    provenance = Provenance.of(folder)
    report("the student's own answers", 0, 0)
    expected = student.predict_proba(held_out.queries)
    student = merge(student)
    describer = Describer(folder.resolve().name, student, provenance, held_out, repo)
    done: list[Export] = []
    for number, kind in enumerate(ordered):
        least = AGREEMENT_FLOORS[kind] if floor is None else floor
        with _whole_folder(output / kind) as scratch:
            report(f"exporting to {kind}", number, len(ordered))
            exported = _write(kind, student, scratch, done)
            beside = [other for other in done if kind == "hub" and other.kind != "merged"]
            for other in beside:
                shutil.copytree(other.folder, scratch / other.kind)
            report(f"verifying {kind}", number, len(ordered))
            agreement = _verified(kind, scratch, held_out, expected)
            describer.write(scratch, kind, agreement, exported, [(o.kind, o.agreement) for o in beside])
        size = sum(file.stat().st_size for file in (output / kind).rglob("*") if file.is_file())
        done.append(Export(kind, output / kind, size, agreement, least))
    return done


def _fits(kind: ExportKind, student: Student, leave_out: LeaveOut | None) -> bool:
    """Whether the student can have this kind."""
    try:
        if kind in ("onnx", "onnx-int8"):
            onnx_export.check_onnx(student)
        elif kind == "gguf":
            gguf_export.check_gguf(student)
    except ModelError as error:
        if leave_out is None:
            raise
        # The other kinds, which the whole message advises, are made as well.
        leave_out(kind, error.why if isinstance(error, NoSuchExportError) else str(error))
        return False
    return True


def _write(kind: ExportKind, student: Student, folder: Path, others: Sequence[Export]) -> Exported | None:
    """Write an export's files but for its card; what its sidecar says of weights that PyTorch does not load."""
    if kind in ("merged", "hub"):
        student.save(folder)
        return None
    student.plain_tokenizer().save_pretrained(folder)
    student.model.config.save_pretrained(folder)
    if kind == "gguf":
        exported = gguf_export.write_gguf(student, folder)
    else:
        file = folder / onnx_export.MODEL_FILE
        _write_onnx(kind, student, file, others)
        beside = [other.name for other in onnx_export.files_beside(file)]
        exported = Exported(kind=kind, file=file.name, files_beside=beside)
    replace(student.sidecar(exported), weights=weights_checksums(folder, exported)).write(folder)
    return exported


def _write_onnx(kind: ExportKind, student: Student, file: Path, others: Sequence[Export]) -> None:
    if kind == "onnx":
        onnx_export.write_onnx(student, file)
        return
    with tempfile.TemporaryDirectory() as folder:
        full = next((other.folder for other in others if other.kind == "onnx"), None)
        if full is None:
            full = Path(folder)
            onnx_export.write_onnx(student, full / onnx_export.MODEL_FILE)
        decoder = isinstance(student.featurizer, DecoderFeaturizer)
        onnx_export.write_int8(full / onnx_export.MODEL_FILE, file, decoder=decoder)


def _verified(kind: ExportKind, folder: Path, held_out: HeldOut, expected: NDArray[np.float64]) -> Agreement:
    found = load_predictor(folder).predict_proba(held_out.queries)
    if not np.isfinite(found).all():
        raise WorkError(
            f"The export to {kind} answers with numbers that are not finite. Nothing was kept of it."
        )
    return Agreement.between(expected, found)


# Folders -----------------------------------------------------------------------------------------


def _check_target(folder: Path, student: Path) -> None:
    if folder.resolve() == student.resolve():
        raise RunFolderError(
            f"{folder} is what is exported; nothing was changed. Choose another folder with -o."
        )
    if folder.exists() and not (folder / SIDECAR).is_file():
        if folder.is_dir() and not any(folder.iterdir()):
            return
        raise RunFolderError(
            f"{folder} is there and holds no export; nothing was changed. Choose another folder with -o."
        )


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that takes its name, and the place of an earlier export, when all is written.

    Raises:
        WorkError: It cannot be written, e.g. because the disk is full.
    """
    remove_scratch(target.parent)
    scratch = scratch_beside(target)
    earlier = scratch.with_suffix(".earlier")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if target.exists():
            target.rename(earlier)
        scratch.rename(target)
    except OSError as error:
        if earlier.exists():
            earlier.rename(target)
        raise WorkError(f"{target} could not be written: {error}. Nothing was changed there.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)
