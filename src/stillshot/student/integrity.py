"""Whether a student's weights and tokenizer, and the weights that its adapters belong to, are what was saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stillshot.checksums import checksum, state_of
from stillshot.config import Student as StudentSection
from stillshot.errors import ModelError
from stillshot.models.fingerprints import weights_files
from stillshot.models.resolve import ResolvedModel, weights_fingerprint
from stillshot.student.sidecar import SIDECAR, Exported, Sidecar

_TOKENIZER = "tokenizer.json"


def weights_checksums(folder: Path, exported: Exported | None) -> dict[str, str]:
    """The checksum of each file with weights in a student's folder, and of its tokenizer: other tokens, other answers."""
    if exported is None:
        files = weights_files(folder)
    else:
        files = [folder / name for name in (exported.file, *exported.files_beside)]
    return {file.name: checksum(file) for file in (*files, folder / _TOKENIZER) if file.is_file()}


def check_weights(folder: Path, sidecar: Sidecar) -> None:
    """See that weights and tokenizer in a folder are those that were saved; older folders do not say.

    Raises:
        ModelError: They are not.
    """
    for name, known in (sidecar.weights or {}).items():
        if Path(name).name == name and state_of(folder / name, known) == "damaged":
            what, again = f"The weights of {folder} cannot be read; they", "train the student again"
            if name == _TOKENIZER:
                what = f"The tokenizer of {folder} is not the one that the student was saved with; it"
            elif sidecar.exported is not None:
                what = f"{folder / name} cannot be read; it"
            if sidecar.exported is not None:
                again = f"make it anew: stillshot export STUDENT --to {sidecar.exported.kind}"
            raise ModelError(
                f"{what} may be damaged or cut short ({name} is not what was saved). Copy it here again, or {again}. If "
                f'it was changed on purpose, remove "weights" from {folder / SIDECAR}.'
            )


def base_fingerprint(section: StudentSection, resolved: ResolvedModel) -> str | None:
    """What names the weights that a student's adapters belong to; null where all weights are its own."""
    return weights_fingerprint(resolved) if section.tuning == "lora" else None


def same_base(folder: Path, sidecar: Sidecar, resolved: ResolvedModel) -> ResolvedModel:
    """The model that a student's adapters were trained on; one of the Hub at the commit that it had then.

    Raises:
        ModelError: Its weights have changed since.
    """
    known = sidecar.base
    if known is None:
        return resolved
    location, at, commit = known.rpartition("@")
    if at and location == resolved.location and not Path(resolved.location).is_dir():
        return replace(resolved, revision=commit)
    if weights_fingerprint(resolved) != known:
        raise ModelError(
            f"{folder} holds adapters for the model {resolved.id!r}, whose weights have changed since it was trained: it "
            "would answer differently. Put those weights back, or train the student again."
        )
    return resolved
