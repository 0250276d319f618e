"""Examples in files: JSON Lines, CSV, TSV and Parquet, and how a row becomes an example."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stillshot.config import Source, TaskDefinition
from stillshot.errors import DataError, did_you_mean
from stillshot.types import Example

JSON_SUFFIXES = (".jsonl", ".json", ".jsonlines", ".ndjson")
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".parquet")

# A row and where it was read: ("train.jsonl:17", {"text": ..., "label": ...}).
Row = tuple[str, Mapping[str, Any]]


def read_file(
    path: str | Path, task: TaskDefinition, *, source: Source | None = None, labels: bool = True
) -> list[Example]:
    """The examples in a JSON Lines, CSV, TSV or Parquet file, by its suffix (text also with ``.gz``).

    Texts are kept character for character. Numbers in a text field become text.

    Args:
        path: The file.
        task: Says which fields, labels and groups are read, and which labels are left out.
        source: How columns and label values are named in the file; a column that already has the name
            of its field needs no entry.
        labels: Whether every row needs a label. If not, labels are neither checked nor kept; rows marked
            with one of ``task.drop_labels`` are left out all the same, as they are not of the task.

    Returns:
        Examples in the order of the file, at least one; ``origin`` is ``file:line``.

    Raises:
        DataError: The file is missing, empty or malformed, or a row does not fit the task.
    """
    return examples_in(read_rows(path), task, source, labels, str(path))


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file as they are there, in order; see :func:`read_file` for the formats.

    Raises:
        DataError: The file is missing or has another suffix, or, while reading, a row is malformed.
    """
    path = Path(path)
    suffix = file_suffix(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path} has the suffix {suffix or '(none)'}. It must end in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {found}. Check the path; it is relative to {Path.cwd()}.")
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix in JSON_SUFFIXES:
        return _json_rows(path, _content(path))
    return _table_rows(path, _content(path), "\t" if suffix == ".tsv" else ",")


def file_suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case and without ``.gz``."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return Path(path.stem).suffix.lower()
    return suffix


def _content(path: Path) -> str:
    """The whole file as text, without a byte-order mark."""
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line} is not UTF-8 text: {error.reason} (byte {data[error.start]:#04x}). "
            "Save the file with the encoding UTF-8."
        ) from None


def _json_rows(path: Path, content: str) -> Iterator[Row]:
    # Not str.splitlines: it also splits at characters such as U+2028, which may stand inside a JSON text.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            at_column = isinstance(error, json.JSONDecodeError)
            reason = f"{error.msg} at column {error.colno}" if at_column else str(error)
            raise DataError(
                f"{where} is not valid JSON: {reason}. Each line must be one whole object, "
                'e.g. {"text": "...", "label": "..."}.'
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{where} is a JSON {type(row).__name__}, not an object. Each line must be one object."
            )
        yield where, row


def _table_rows(path: Path, content: str, delimiter: str) -> Iterator[Row]:
    # The default limit of 131,072 characters a value is too low for documents; 2**31 - 1 fits a C long everywhere.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1  # where the row starts: a quoted value may hold line breaks
    try:
        for values in reader:
            if not header:
                header = values
                _check_header(header, f"{path}:{line}")
            elif values:
                yield f"{path}:{line}", _named(values, header, f"{path}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{line} is malformed: {error}. A value with a quote in it must be quoted, "
            'and the quote doubled: "say ""hi""".'
        ) from None


def _check_header(header: list[str], where: str) -> None:
    other = next((separator for separator in ";\t|," if len(header) == 1 and separator in header[0]), None)
    if other:
        name = "tabs" if other == "\t" else repr(other)
        raise DataError(
            f"{where} has the single column {header[0][:80]!r}: its columns seem to be separated by {name}. Save the "
            "file with commas (.csv) or with tabs (.tsv)."
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{where} names a column twice: {', '.join(twice)}. Rename one of them.")


def _named(values: list[str], header: list[str], where: str) -> dict[str, str]:
    if len(values) != len(header):
        raise DataError(
            f"{where} has {len(values)} values, but the header has {len(header)} columns "
            f"({', '.join(header)}). Quote values that hold the separator."
        )
    return dict(zip(header, values, strict=True))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}:{number}", row


# Rows --------------------------------------------------------------------------------------------


def examples_in(
    rows: Iterable[Row], task: TaskDefinition, source: Source | None, labels: bool, where: str = ""
) -> list[Example]:
    """The examples that rows from ``where`` are; see :func:`read_file`.

    Raises:
        DataError: There is no row, none is left after ``task.drop_labels``, or one does not fit the task.
    """
    source = source or Source(splits={})
    any_row = False
    examples = []
    for origin, row in rows:
        any_row = True
        example = _example(origin, row, task, source, labels)
        if example is not None:
            examples.append(example)
    if not any_row:
        raise DataError(f"{where or task.name} holds no rows. Check that it is the right file.")
    if not examples:
        raise DataError(
            f"{where or task.name} holds only rows whose label the task {task.name!r} leaves out "
            f"({', '.join(task.drop_labels)}). Check drop_labels."
        )
    return examples


def _example(
    where: str, row: Mapping[str, Any], task: TaskDefinition, source: Source, labels: bool
) -> Example | None:
    """The example that a row is, or ``None`` where the task leaves its label out."""
    column = _column(source.label_column, "label", row)
    value = label_value(row.get(column))
    label = None if value is None else source.label_values.get(value, value)
    if label in task.drop_labels:
        return None
    if labels:
        _check_label(where, label, column, row, task)
    fields = {field: _text(where, row, field, source) for field in task.fields}
    groups = {}
    for group in task.groups:
        value = label_value(row.get(_column(source.columns.get(group, group), group, row)))
        if value is not None:
            groups[group] = value
    return Example(fields=fields, label=label if labels else None, groups=groups, origin=where)


def _column(named: str, own: str, row: Mapping[str, Any]) -> str:
    """The column that a source names, or the one with the field's own name where only that is there."""
    return own if named not in row and own in row else named


def label_value(value: Any) -> str | None:
    """A label or group as text: numbers as whole numbers, truth values as in JSON."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with a gap in it becomes one of floats in pandas
    return str(value)


def _check_label(
    where: str, label: str | None, column: str, row: Mapping[str, Any], task: TaskDefinition
) -> None:
    if column not in row:
        raise DataError(
            f"{where} has no column {column!r} for the label. {did_you_mean(column, row)} "
            "Rename the column, or name it as label_column in the task's sources.local."
        )
    if label is None:
        raise DataError(f"{where} has an empty label. Give it one of {', '.join(task.labels)}.")
    if label not in task.labels:
        raise DataError(
            f"{where} has the label {label[:80]!r}, which the task {task.name!r} does not have. "
            f"{did_you_mean(label, task.labels)} Correct the row, or add the label to label_values "
            "(what it stands for) or to drop_labels."
        )


def _text(where: str, row: Mapping[str, Any], field: str, source: Source) -> str:
    column = _column(source.columns.get(field, field), field, row)
    if column not in row:
        raise DataError(
            f"{where} has no column {column!r} for the field {field!r}. {did_you_mean(column, row)} "
            "Rename the column, or, in a recipe, map it under columns in the task's sources.local."
        )
    value = row[column]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if is_blank(value):
        raise DataError(f"{where} has no text in {column!r}. Fill it in or remove the row.")
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


def is_blank(value: Any) -> bool:
    """Whether a text field holds nothing: null, or white space alone."""
    return value is None or (isinstance(value, str) and not value.strip())
