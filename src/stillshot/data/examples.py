"""How the rows of a file become examples of a task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from stillshot.config import Source, TaskDefinition
from stillshot.data.json_lines import JsonRow
from stillshot.data.notes import Notes, add_note, places
from stillshot.data.values import (
    ONE_LABEL_ADVICE,
    LabelReader,
    NotOneLabelError,
    PrintedValue,
    group_value,
    is_blank,
    is_list_of_one,
)
from stillshot.errors import DataError, did_you_mean
from stillshot.types import Example

# A row and where it was read: ("train.jsonl:17", {"text": ..., "label": ...}).
Row = tuple[str, Mapping[str, Any]]


def examples_in(
    rows: Iterable[Row],
    task: TaskDefinition,
    source: Source | None,
    labels: bool,
    where: str = "",
    *,
    notes: Notes = None,
    leave_out: bool = False,
    of_recipe: bool = True,
) -> list[Example]:
    """The examples that rows from ``where`` are.

    Args:
        rows: The rows, with their places.
        task: Says which fields, labels and groups are read, and which labels are left out.
        source: How columns and label values are named there.
        labels: Whether every row needs a label. If not, labels are neither checked nor kept.
        where: The file, for messages.
        notes: Collects what was read in another way than it is written, and what was left out.
        leave_out: Leave out rows that have no text or lack a label they need, and note their number and places;
            otherwise the first one is an error.
        of_recipe: Whether a recipe names the columns, for messages.

    Raises:
        DataError: There is no row, none is left, or one does not fit the task.
    """
    reader = _Reader(task, source or Source(splits={}), labels, leave_out, of_recipe)
    total = dropped = 0
    examples = []
    for origin, row in rows:
        total += 1
        example = reader.example(origin, row)
        if isinstance(example, Example):
            examples.append(example)
        dropped += example is _DROPPED
    name = where or task.name
    if not total:
        raise DataError(f"{name} holds no rows. Check that it is the right file.")
    if not examples and dropped == total:
        raise DataError(
            f"{name} holds only rows whose label the task {task.name!r} leaves out "
            f"({', '.join(task.drop_labels)}). Check drop_labels."
        )
    if not examples:
        raise DataError(
            f"{name}: none of its {total:,} rows can be used. {reader.missing()} Check that it is the right file."
        )
    for note in reader.notes(name, total):
        add_note(notes, note)
    return examples


_DROPPED = object()  # a row whose label the task leaves out


@dataclass
class _Reader:
    """Makes examples of rows, and keeps count of what is not plain in them."""

    task: TaskDefinition
    source: Source
    labels: bool
    leave_out: bool
    of_recipe: bool
    _left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _lists: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._label_reader = LabelReader(self.task, self.source)

    def example(self, where: str, row: Mapping[str, Any]) -> Example | object | None:
        """The example that a row is, ``None`` where it is left out, or :data:`_DROPPED`."""
        label = None
        if self.labels or self.task.drop_labels:
            label = self._label(where, row)
            if label in self.task.drop_labels:
                return _DROPPED
        fields = {}
        for name in self.task.fields:
            column = _column(self.source.columns.get(name, name), name, row)
            if self.leave_out and column in row and is_blank(row[column]):
                self._left_out[f"no text in {column!r}"].append(where)
                return None
            if column not in row:
                raise DataError(self._no_text(where, row, name, column))
            fields[name] = _text(where, row[column], column)
        if self.labels:
            column = _column(self.source.label_column, "label", row)
            if label is None and column in row and self.leave_out:
                self._left_out[f"no label in {column!r}"].append(where)
                return None
            _check_label(where, label, column, row, self.task)
        groups = {}
        for group in self.task.groups:
            value = group_value(row.get(_column(self.source.columns.get(group, group), group, row)))
            if value is not None:
                groups[group] = value
        return Example(fields=fields, label=label if self.labels else None, groups=groups, origin=where)

    def _no_text(self, where: str, row: Mapping[str, Any], field: str, column: str) -> str:
        """That a row lacks a text, and what to do, which depends on the kind of file."""
        what = _what(row)
        advice = [
            f"{where} has no {what} {column!r} for the field {field!r}.",
            did_you_mean(column, row),
            f"Rename the {what}, or map it under columns in the recipe's task, sources.local."
            if self.of_recipe
            else f"Rename the {what}.",
        ]
        if type(row) is dict:  # of a CSV or TSV
            advice.append("If the file has no line with names of columns, put one first.")
        return " ".join(advice)

    def _label(self, where: str, row: Mapping[str, Any]) -> str | None:
        column = _column(self.source.label_column, "label", row)
        raw = row.get(column)
        try:
            label = self._label_reader.find(raw)
        except NotOneLabelError as error:
            if not self.labels:
                return None
            raise DataError(
                f"{where} has {error} in the label column {column!r}. {ONE_LABEL_ADVICE}"
            ) from None
        if not self._label_reader.knows(raw) and is_list_of_one(raw):
            self._lists.append(where)
        return label

    def missing(self) -> str:
        """What the rows that are left out lack, and where."""
        return " ".join(
            f"{len(origins):,} {'has' if len(origins) == 1 else 'have'} {what} ({places(origins)})."
            for what, origins in self._left_out.items()
        )

    def notes(self, name: str, total: int) -> list[str]:
        """What was left out or read in another way than it is written."""
        found = []
        if count := sum(map(len, self._left_out.values())):
            verb = "is" if count == 1 else "are"
            found.append(f"{name}: {count:,} of {total:,} rows {verb} left out. {self.missing()}")
        if self._lists and self.labels:
            found.append(
                f"{name}: {len(self._lists):,} labels are lists of one label, which is read as the label."
            )
        if self._label_reader.respelled and self.labels:
            pairs = ", ".join(f"{a!r} as {b!r}" for a, b in list(self._label_reader.respelled.items())[:5])
            found.append(
                f"{name}: labels that are numbers written in another way are read as those: {pairs}."
            )
        return found


def _column(named: str, own: str, row: Mapping[str, Any]) -> str:
    """The column that a source names, or the one with the field's own name where only that is there."""
    return own if named not in row and own in row else named


def _what(row: Mapping[str, Any]) -> str:
    return "key" if isinstance(row, JsonRow) else "column"


def _check_label(
    where: str, label: str | None, column: str, row: Mapping[str, Any], task: TaskDefinition
) -> None:
    if column not in row:
        what = _what(row)
        raise DataError(
            f"{where} has no {what} {column!r} for the label. {did_you_mean(column, row)} "
            f"Rename the {what}, or name it as label_column in the task's sources.local."
        )
    if label is None:
        raise DataError(f"{where} has an empty label. Give it one of {', '.join(task.labels)}.")
    if label not in task.labels:
        raise DataError(
            f"{where} has the label {label[:80]!r}, which the task {task.name!r} does not have. "
            f"{did_you_mean(label, task.labels)} Correct the row, or add the label to label_values "
            "(what it stands for) or to drop_labels."
        )


def _text(where: str, value: Any, column: str) -> str:
    if is_blank(value):
        raise DataError(f"{where} has no text in {column!r}. Fill it in or remove the row.")
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, PrintedValue):
        raise DataError(f"{where} has a value of {value.kind} in {column!r}, which must be text.")
    if not isinstance(value, str):
        raise DataError(f"{where} has a {type(value).__name__} in {column!r}, which must be text.")
    if "\0" in value:
        raise DataError(f"{where} has a NUL character (U+0000) in {column!r}. Remove it from the text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} has half a character (a lone surrogate, {value[error.start]!a}) in {column!r}. "
            "Write the whole character or remove it."
        ) from None
    return value


__all__ = ["Row", "examples_in"]
