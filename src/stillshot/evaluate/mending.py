"""Find what is damaged in a run folder, and clear it away, so that it is made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stillshot.checksums import SUMS, State, checksum, damaged_in, folder_checksums
from stillshot.errors import RunFolderError, WorkError
from stillshot.evaluate.folder import RunFolder, parse_cell
from stillshot.softlabels import SoftLabelStore
from stillshot.storage import notices, remove_scratch
from stillshot.student.sidecar import SIDECAR

# Keys without which a file is not what its name says, for files of before there were checksums.
_OF_LABELS = ("pattern", "channel", "scoring", "calibration", "temperature", "biases", "soft_labels", "shots")
_OF_TRAINING = ("steps", "parameters", "trainable_parameters", "train_seconds", "peak_memory_bytes")
_WEIGHTS = ("*.safetensors", "*.bin")


def mend(folder: RunFolder) -> None:
    """Set damaged files of a run aside, each with a notice: whatever a stage finds missing, it makes again.

    Files that no checksum is known of get one, if they can be read. To be called by the process that holds the lock.

    Raises:
        RunFolderError: What only the user can put back is damaged.
        WorkError: The folder cannot be written.
    """
    for part in ("", "cells", "students", "softlabels", "evaluation", "peers"):
        remove_scratch(folder.path / part)
    known = folder.checksums.read()
    new: dict[str, str] = {}
    for path, is_usable in _files(folder):
        state = _state(folder, path, known, is_usable)
        if state == "damaged":
            aside = _set_aside(path)
            notices.warning("%s was damaged and is made again; it is kept as %s.", path, aside.name)
        elif state == "unknown":
            new[folder.checksums.name_of(path)] = checksum(path)
    given = [
        (folder.data, folder.read_json),
        *((p, folder.read_lines) for p in folder.path.glob("evaluation/*.jsonl")),
    ]
    for path, read in given:
        if folder.checksums.state(path, known) == "unknown" and path.is_file():
            read(path)  # of a run without checksums: a damaged file is no file to compare with later
            new[folder.checksums.name_of(path)] = checksum(path)
    if folder.checksums.state(folder.recipe, known) == "unknown" and folder.recipe.is_file():
        new[folder.checksums.name_of(folder.recipe)] = checksum(folder.recipe)
    for name in _lost(known, folder.path):
        notices.warning("%s is gone, though %s lists it. It is made again.", folder.path / name, SUMS)
    new |= _mend_students(folder, known)
    folder.checksums.update(new)
    SoftLabelStore(folder.softlabels).set_damaged_aside()


def unusable_record(folder: RunFolder) -> Path | None:
    """A file that the results of a run are made of, and that is damaged or gone; nothing is changed.

    Predictions may be left out of copies of a run, and are not missed.
    """
    known = folder.checksums.read()
    if folder.checksums.state(folder.recipe, known) == "damaged":
        return folder.recipe
    if _state(folder, folder.machine, known, lambda path: _is_object(path, ())) in ("damaged", "gone"):
        return folder.machine
    for path, is_usable in _files(folder):
        if path.parent.name == "cells" and _state(folder, path, known, is_usable) == "damaged":
            return path
    lost = (name for name in _lost(known, folder.path) if name.startswith("cells/"))
    return next((folder.path / name for name in lost if not name.endswith(".predictions.jsonl")), None)


def student_checksums(folder: RunFolder, cell: str) -> dict[str, str]:
    """What is known of a trained student's files, by their paths in its folder."""
    within = folder.checksums.name_of(folder.student(cell)) + "/"
    known = folder.checksums.read()
    return {name.removeprefix(within): digest for name, digest in known.items() if name.startswith(within)}


def keep_student_checksums(folder: RunFolder, cell: str) -> bool:
    """Remember the files of a student that was just trained, and say whether its weights are as they were before.

    Raises:
        WorkError: The folder cannot be written.
    """
    before, now = student_checksums(folder, cell), folder_checksums(folder.student(cell))
    within = folder.checksums.name_of(folder.student(cell))
    changes: dict[str, str | None] = {f"{within}/{name}": None for name in before}
    folder.checksums.update(changes | {f"{within}/{name}": digest for name, digest in now.items()})
    return all(now.get(name) == digest for name, digest in before.items() if name != SIDECAR) and bool(before)


def forget_cell(folder: RunFolder, cell: str) -> None:
    """Remove what was measured of a student that is no more.

    Raises:
        WorkError: The folder cannot be written.
    """
    paths = (folder.cell(cell), folder.predictions(cell))
    for path in paths:
        _remove(path)
    folder.checksums.update({folder.checksums.name_of(path): None for path in paths})


# Files -------------------------------------------------------------------------------------------


def _files(folder: RunFolder) -> Iterator[tuple[Path, Callable[[Path], bool]]]:
    """The files that stages write, and whether one without a known checksum can be used."""
    for path in sorted(folder.softlabels.glob("*.json")):
        yield path, lambda path: _is_object(path, _OF_LABELS)
    for path in sorted(folder.path.glob("students/*.json")):
        yield path, lambda path: _is_object(path, _OF_TRAINING)
    for path in sorted(folder.path.glob("cells/*.json")):
        yield path, _is_cell
    for path in sorted(folder.path.glob("cells/*.predictions.jsonl")):
        yield path, _are_predictions
    for path in (folder.machine, folder.results):
        if path.is_file():
            yield path, lambda path: _is_object(path, ())


def _state(
    folder: RunFolder, path: Path, known: Mapping[str, str], is_usable: Callable[[Path], bool]
) -> State:
    state = folder.checksums.state(path, known)
    return state if state != "unknown" or is_usable(path) else "damaged"


def _lost(known: Mapping[str, str], folder: Path) -> list[str]:
    parts = ("cells/", "softlabels/", "students/")
    mine = (name for name in known if name.startswith(parts) and name.count("/") == 1)
    return [name for name in mine if not (folder / name).is_file()]


def _is_object(path: Path, keys: tuple[str, ...]) -> bool:
    try:
        content: Any = RunFolder(path.parent).read_json(path)
    except RunFolderError:
        return False
    return isinstance(content, dict) and all(key in content for key in keys)


def _is_cell(path: Path) -> bool:
    try:
        parse_cell(path)
    except RunFolderError:
        return False
    return True


def _are_predictions(path: Path) -> bool:
    """Whether there is a line for every item that the record counts, if there is a record."""
    record = path.with_name(path.name.removesuffix(".predictions.jsonl") + ".json")
    try:
        lines = RunFolder(path.parent).read_lines(path)
        counted = sum(split.n for split in parse_cell(record).splits.values()) if record.is_file() else None
    except RunFolderError:
        return False
    return counted in (None, len(lines)) and all(isinstance(line, dict) for line in lines)


def _set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing of it is lost."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
    except OSError as error:
        raise WorkError(f"{path} is damaged and could not be renamed: {error}. Remove it by hand.") from error
    return aside


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WorkError(f"{path} is damaged and could not be removed: {error}. Remove it by hand.") from error


# Students ----------------------------------------------------------------------------------------


def _mend_students(folder: RunFolder, known: Mapping[str, str]) -> dict[str, str]:
    """Forget the training of students whose files are damaged; checksums of those that had none."""
    new: dict[str, str] = {}
    for record in sorted(folder.path.glob("students/*.json")):
        cell = record.name.removesuffix(".json")
        student, within = folder.student(cell), f"students/{cell}/"
        listed = {
            name.removeprefix(within): digest for name, digest in known.items() if name.startswith(within)
        }
        found = next(iter(damaged_in(student, listed)), None) if listed else _missing_of(student)
        if found is not None:
            _remove(record)
            what = "is damaged" if found.exists() else "is gone"
            notices.warning("%s %s. The student %s is trained again.", found, what, cell)
        else:
            shutil.rmtree(folder.path / "students" / f".{cell}.checkpoints", ignore_errors=True)
            if not listed:
                new |= {within + name: digest for name, digest in folder_checksums(student).items()}
    return new


def _missing_of(student: Path) -> Path | None:
    """What a student's folder lacks, of which nothing more is known."""
    if not (student / SIDECAR).is_file():
        return student / SIDECAR
    has_weights = any(any(student.glob(pattern)) for pattern in _WEIGHTS)
    return None if has_weights else student / "model.safetensors"
