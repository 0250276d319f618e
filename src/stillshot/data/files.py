"""Examples in files: JSON Lines, CSV, TSV and Parquet."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from stillshot.config import Source, TaskDefinition
from stillshot.data.delimited import table_columns, table_rows
from stillshot.data.examples import Row, examples_in
from stillshot.data.json_lines import json_values
from stillshot.data.notes import Notes, add_note
from stillshot.errors import DataError
from stillshot.types import Example

JSON_SUFFIXES = (".jsonl", ".json", ".jsonlines", ".ndjson")
SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".parquet")
# Before UTF-16's, with which that of UTF-32 begins.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_file(
    path: str | Path,
    task: TaskDefinition,
    *,
    source: Source | None = None,
    labels: bool = True,
    notes: Notes = None,
    leave_out: bool = False,
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
        notes: Collects what was read in another way than it is written, and what was left out; null logs it.
        leave_out: Leave out rows without a text, or without a label they need, instead of refusing them.

    Returns:
        Examples in the order of the file, at least one; ``origin`` is ``file:line``.

    Raises:
        DataError: The file is missing, empty or malformed, or a row does not fit the task.
    """
    rows = read_rows(path, notes)
    return examples_in(rows, task, source, labels, str(path), notes=notes, leave_out=leave_out)


def read_rows(path: str | Path, notes: Notes = None) -> Iterator[Row]:
    """The rows of a file as they are there, in order; see :func:`read_file` for the formats.

    Raises:
        DataError: The file is missing or has another suffix, or, while reading, a row is malformed.
    """
    path = Path(path)
    suffix = checked_suffix(path)
    if suffix == ".parquet":
        from stillshot.data.parquet import ParquetFile

        return ParquetFile(path).rows()
    if suffix in JSON_SUFFIXES:
        return _json_rows(path, _content(path, notes))
    return table_rows(path, _content(path, notes), "\t" if suffix == ".tsv" else ",", notes)


def column_names(path: Path) -> list[str]:
    """The columns that the first line of a CSV or TSV names, where it has no row; none for other files.

    Raises:
        DataError: See :func:`read_rows`.
    """
    suffix = file_suffix(path)
    if suffix not in (".csv", ".tsv"):
        return []
    return table_columns(path, _content(path, []), "\t" if suffix == ".tsv" else ",")


def checked_suffix(path: Path) -> str:
    """The suffix of a file that is there and can be read.

    Raises:
        DataError: The file is missing or has another suffix.
    """
    suffix = file_suffix(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path} has the suffix {suffix or '(none)'}. It must end in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {found}. Check the path; it is relative to {Path.cwd()}.")
    return suffix


def file_suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case and without ``.gz``."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return Path(path.stem).suffix.lower()
    return suffix


def _content(path: Path, notes: Notes) -> str:
    """The whole file as text, without a byte-order mark."""
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        known = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise DataError(
            f"{path}:{line} is not {known} text: {error.reason} (byte {data[error.start]:#04x}). "
            "Save the file with the encoding UTF-8."
        ) from None
    if not encoding.startswith("utf-8"):
        add_note(notes, f"{path} is read as {encoding.upper()}, as its first bytes say.")
    return text


def _json_rows(path: Path, content: str) -> Iterator[Row]:
    # Not str.splitlines: it also splits at characters such as U+2028, which may stand inside a JSON text.
    lines = content.split("\n")
    example = ', e.g. {"text": "...", "label": "..."}'
    if content.lstrip()[:1] == "[":
        example += f"; of a file that is one array, `jq -c '.[]' {path.name}` makes such lines"
    for where, row in json_values(lines, str(path), example):
        if not isinstance(row, dict):
            raise DataError(
                f"{where} is a JSON {type(row).__name__}, not an object. Each line must be one object{example}."
            )
        yield where, row


__all__ = ["SUFFIXES", "Row", "checked_suffix", "column_names", "file_suffix", "read_file", "read_rows"]
