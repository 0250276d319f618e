"""Where examples come from: files, the package itself, a generator, local copies, the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from stillshot.config import Source, TaskDefinition
from stillshot.data.examples import Row, examples_in
from stillshot.data.files import SUFFIXES, file_suffix, read_file
from stillshot.data.notes import Notes, add_note, places
from stillshot.data.parquet import class_name, class_names_of
from stillshot.data.values import is_blank
from stillshot.errors import DataError, did_you_mean
from stillshot.hub import hub_access
from stillshot.tasks import load_task
from stillshot.types import Example

__all__ = ["read_file", "read_reference", "read_split"]

ROOT_VARIABLE = "STILLSHOT_DATA"


def read_reference(
    reference: str,
    task: TaskDefinition,
    root: Path | None = None,
    labels: bool = True,
    *,
    notes: Notes = None,
    leave_out: bool = False,
) -> tuple[TaskDefinition, list[Example]]:
    """The examples that a recipe's ``data`` section refers to, and the task they belong to.

    Args:
        reference: A split of ``task`` (``train``), a split of another task (``imdb:test``), or a file
            (``my/data.csv``), relative to the working folder. A file's columns are named as the
            task's fields or as in its ``sources.local``.
        task: The recipe's task.
        root: A folder with local copies of public data, looked into before ``$STILLSHOT_DATA``.
        labels: Whether labels are needed; see :func:`read_file`, also of the next two.
        notes: Collects what was read in another way than it is written, and what was left out.
        leave_out: Leave out rows of files that lack a text or a label.

    Raises:
        RecipeError: There is no such other task.
        DataError: See :func:`read_file` and :func:`read_split`.
    """
    if is_file_reference(reference):
        return task, read_file(
            reference, task, source=task.sources.local, labels=labels, notes=notes, leave_out=leave_out
        )
    # From the right, so that the other task may be given by a path with a colon in it.
    other, colon, split = reference.rpartition(":")
    owner = load_task(other) if colon else task
    return owner, read_split(owner, split, root, labels=labels, notes=notes, leave_out=leave_out)


def is_file_reference(reference: str) -> bool:
    """Whether a reference names a file rather than a split."""
    suffix = file_suffix(Path(reference))
    looks_like_path = "/" in reference and ":" not in reference
    return suffix in SUFFIXES or looks_like_path or (suffix != "" and Path(reference).is_file())


def read_split(
    task: TaskDefinition,
    split: str,
    root: Path | None = None,
    *,
    labels: bool = True,
    notes: Notes = None,
    leave_out: bool = False,
) -> list[Example]:
    """A named split, from the first place that has it: embedded, generated, local copy, Hub.

    Args:
        task: The task that the split belongs to.
        split: The split's name in the task's ``sources``.
        root: A folder with local copies, looked into before ``$STILLSHOT_DATA``; then the Hub is asked.
        labels: Whether labels are needed; see :func:`read_file`, also of ``notes`` and ``leave_out``.
        notes: See there.
        leave_out: See there; of data from the Hub, rows without a text are always left out.

    Raises:
        DataError: No source has such a split, the local copy is missing and the Hub cannot be reached,
            or a row does not fit the task.
    """
    sources = task.sources
    if sources.embedded and split in sources.embedded.splits:
        folder = resources.files("stillshot") / "data" / "embedded"
        with resources.as_file(folder / str(sources.embedded.splits[split])) as path:
            return read_file(path, task, source=sources.embedded, labels=labels)
    if sources.generated and split in sources.generated.splits:
        return _generated(task, int(sources.generated.splits[split]), labels)
    folders = _local_folders(root, task)
    if sources.local and split in sources.local.splits:
        for folder in folders:
            path = folder / str(sources.local.splits[split])
            if path.is_file():
                return read_file(
                    path, task, source=sources.local, labels=labels, notes=notes, leave_out=leave_out
                )
    if sources.hub and split in sources.hub.splits:
        return _from_hub(task, sources.hub, split, folders, labels, notes)
    raise DataError(_not_at_hand(task, split, folders))


def _local_folders(root: Path | None, task: TaskDefinition) -> list[Path]:
    """Where local copies are looked for; the files of a task that is nowhere else, in the working folder too."""
    found = []
    for named, given in (("data.root", root), (ROOT_VARIABLE, os.environ.get(ROOT_VARIABLE))):
        if given:
            folder = Path(given)
            if not folder.is_dir():
                raise DataError(
                    f"{named} is {folder}, which is not a folder. Name the folder with the local copies."
                )
            found.append(folder)
    return found if task.sources.hub else [*found, Path()]


def _not_at_hand(task: TaskDefinition, split: str, folders: Sequence[Path]) -> str:
    sources = task.sources
    if sources.local and split in sources.local.splits:
        return (
            f"The split {split!r} of task {task.name!r} was not found. "
            f"{_how_to_give_a_copy(task, split, folders)}"
        )
    given = [s for s in (sources.embedded, sources.generated, sources.local, sources.hub) if s is not None]
    names = {name for source in given for name in source.splits}
    return (
        f"The task {task.name!r} has no split {split!r}. {did_you_mean(split, names)} "
        f"A file is named by its path and ends in one of {', '.join(SUFFIXES)}."
    )


def _how_to_give_a_copy(task: TaskDefinition, split: str, folders: Sequence[Path]) -> str:
    local = task.sources.local
    file = str(local.splits[split]) if local and split in local.splits else None
    if file is None:
        return "Save its rows as a file and name that file in place of the split."
    if folders:
        names = " or ".join("the working folder" if folder == Path() else str(folder) for folder in folders)
        return (
            f"There is no file {file} in {names}: put a copy there, or set {ROOT_VARIABLE} or data.root to a "
            "folder that has one."
        )
    return f"Set {ROOT_VARIABLE} or data.root to a folder with a local copy named {file}."


def _generated(task: TaskDefinition, per_subcase: int, labels: bool) -> list[Example]:
    from stillshot.data.hans import generate_hans

    rows = (
        (example.origin, {**example.fields, **example.groups, "label": example.label})
        for example in generate_hans(per_subcase)
    )
    return examples_in(rows, task, task.sources.generated, labels)


def _from_hub(
    task: TaskDefinition, source: Source, split: str, folders: Sequence[Path], labels: bool, notes: Notes
) -> list[Example]:
    from datasets import load_dataset

    path, hub_split = str(source.path), str(source.splits[split])
    try:
        with hub_access():
            data = load_dataset(path, source.name, split=hub_split, revision=source.revision)
    except Exception as error:  # Offline, not found, no access, bad cache: the remedy is the same.
        reason = " ".join(str(error).split())[:300] or "no reason given"
        named = f"{path} ({source.name})" if source.name else path
        raise DataError(
            f"The split {hub_split!r} of the data set {named} could not be read from the Hugging Face Hub: "
            f"{type(error).__name__}: {reason}. {_how_to_give_a_copy(task, split, folders)}"
        ) from error
    named = class_names_of(features.to_dict()) if (features := getattr(data, "features", None)) else {}
    rows = (
        (f"{path}/{hub_split}:{number}", {**row, **{c: class_name(row.get(c), named[c]) for c in named}})
        for number, row in enumerate(map(dict, data), start=1)
    )
    # QQP, for one, has rows with an empty question, which a user cannot mend.
    columns = [source.columns.get(field, field) for field in task.fields]
    blank: list[str] = []

    def whole() -> Iterator[Row]:
        for where, row in rows:
            if any(is_blank(row.get(column, "absent")) for column in columns):
                blank.append(where)
            else:
                yield where, row

    found = examples_in(whole(), task, source, labels, notes=notes)
    if blank:
        add_note(
            notes, f"{path}/{hub_split}: {len(blank):,} rows without a text are left out ({places(blank)})."
        )
    return found
