"""CSV and TSV: how a file separates and quotes its values, and whether its first line names the columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillshot.data.notes import Notes, add_note
from stillshot.data.values import as_number
from stillshot.errors import DataError

# Excel's first line that names the separator.
_DECLARED = re.compile(r'"?sep=(.)"?\r?(?:\n|$)', flags=re.IGNORECASE)
# A first line with one of these names columns.
USUAL_NAMES = frozenset(
    [
        "id",
        "text",
        "texts",
        "label",
        "labels",
        "class",
        "category",
        "target",
        "y",
        "sentence",
        "sentence1",
        "sentence2",
        "question1",
        "question2",
        "premise",
        "hypothesis",
        "title",
        "body",
        "review",
        "content",
        "message",
        "comment",
        "query",
        "document",
        "idx",
        "index",
        "uid",
        "split",
        "score",
        "source",
    ]
)
_QUOTING_ADVICE = 'A value with a quote in it must be quoted, and the quote doubled: "say ""hi""".'


@dataclass(frozen=True)
class Record:
    """The values of one row, and the lines it stands in."""

    first: int
    last: int
    values: list[str]


def table_rows(
    path: Path, content: str, delimiter: str, notes: Notes
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table whose first line names the columns, each with its place.

    Raises:
        DataError: The table is malformed, its header is none, or what belongs to a row cannot be told.
    """
    records = _records(path, content, delimiter, notes)
    if not records:
        return
    header, *rows = records
    names, kept = _named_columns(header, rows, path, notes)
    for record in rows:
        if len(record.values) != len(header.values):
            raise DataError(
                f"{path}:{record.first} has {len(record.values)} values, but the header has {len(header.values)} columns "
                f"({', '.join(header.values)}). Quote values that hold the separator."
            )
        yield f"{path}:{record.first}", dict(zip(names, (record.values[i] for i in kept), strict=True))


def table_columns(path: Path, content: str, delimiter: str) -> list[str]:
    """The names that a table's first line gives its columns; none where it has no line.

    Raises:
        DataError: See :func:`table_rows`.
    """
    records = _records(path, content, delimiter, [])
    return _named_columns(records[0], records[1:], path, [])[0] if records else []


def _records(path: Path, content: str, delimiter: str, notes: Notes) -> list[Record]:
    """All rows, the header first; it is checked."""
    # The default limit of 131,072 characters a value is too low for documents; 2**31 - 1 fits a C long everywhere.
    csv.field_size_limit(2**31 - 1)
    skipped = 0
    if declared := _DECLARED.match(content):
        delimiter, content, skipped = declared[1], content[declared.end() :].removeprefix("\ufeff"), 1
    elif delimiter == "," and _has_semicolons(content):
        delimiter = ";"
        add_note(notes, f"{path} is read with semicolons between its values, as its first line has no comma.")
    records = _Quoting(path, content, delimiter, skipped, notes).records()
    if records:
        _check_header(records[0], records[1:], path)
    return records


def _has_semicolons(content: str) -> bool:
    """Whether the first line, which names the columns, is one value by commas and several by semicolons, as from Excel."""
    first = content.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    try:
        by_comma, by_semicolon = (next(csv.reader([first], delimiter=d), []) for d in ",;")
    except csv.Error:
        return False
    names = {name.strip().lower() for name in by_semicolon}
    return len(by_comma) == 1 and len(by_semicolon) > 1 and bool(names & USUAL_NAMES)


@dataclass
class _Quoting:
    """Finds whether quotation marks enclose values or are part of the texts, as in the files of GLUE."""

    path: Path
    content: str
    delimiter: str
    skipped: int
    notes: Notes

    def records(self) -> list[Record]:
        """All rows, the header first."""
        self._lines = list(io.StringIO(self.content, newline=""))
        if '"' not in self.content:
            return self._told(self._parsed(csv.QUOTE_MINIMAL))
        try:
            enclosed = self._parsed(csv.QUOTE_MINIMAL)
        except DataError:
            literal = self._literal()
            if literal is None or self.delimiter != "\t":
                raise
            return self._as_literal(literal, "some cannot enclose a value")
        if self.delimiter != "\t" and all(record.last == record.first for record in enclosed):
            return self._told(enclosed)  # nothing can be swallowed
        literal = self._literal()
        if literal is None or not enclosed:
            return self._told(enclosed)
        if self.delimiter == "\t":
            if not _fits(enclosed):
                return self._as_literal(literal, "some rows would otherwise have too few columns")
            if reason := self._literal_quotes(enclosed):
                return self._as_literal(literal, reason)
        if swallowing := self._swallowing(enclosed, literal):
            if self.delimiter == "\t":
                return self._as_literal(
                    literal, f"else lines {swallowing.first} to {swallowing.last} would be one row"
                )
            raise DataError(
                f"{self.path}:{swallowing.first} opens a quotation mark that closes in line {swallowing.last}, and the "
                f"lines between look like rows of their own. {_QUOTING_ADVICE}"
            )
        return self._told(enclosed)

    def _parsed(self, quoting: Any) -> list[Record]:
        reader = csv.reader(self._lines, delimiter=self.delimiter, strict=True, quoting=quoting)
        records, line = [], 1 + self.skipped  # where the row starts: a quoted value may hold line breaks
        try:
            for values in reader:
                last = reader.line_num + self.skipped
                if values:
                    records.append(Record(line, last, values))
                line = last + 1
        except csv.Error as error:
            raise DataError(f"{self.path}:{line} is malformed: {error}. {_QUOTING_ADVICE}") from None
        return records

    def _literal(self) -> list[Record] | None:
        """The rows where no quotation mark encloses anything, if every line then has the header's columns."""
        try:
            records = self._parsed(csv.QUOTE_NONE)
        except DataError:
            return None
        return records if _fits(records) and len(records[0].values) > 1 else None

    def _as_literal(self, records: list[Record], reason: str) -> list[Record]:
        add_note(
            self.notes,
            f"{self.path} is read without quoting: quotation marks are part of its texts, since {reason}.",
        )
        self._note_blank_lines(records)
        return records

    def _told(self, records: list[Record]) -> list[Record]:
        """The rows, with a note where there are fewer of them than lines."""
        self._note_blank_lines(records)
        long = [record for record in records if record.last > record.first]
        if long:
            longest = max(long, key=lambda record: record.last - record.first)
            lines = records[-1].last - records[0].last
            add_note(
                self.notes,
                f"{self.path}: {len(long):,} rows hold line breaks, so {lines:,} lines below the header are "
                f"{len(records) - 1:,} rows; the longest row is lines {longest.first} to {longest.last}.",
            )
        return records

    def _note_blank_lines(self, records: Sequence[Record]) -> None:
        if not records:
            return
        covered = sum(record.last - record.first + 1 for record in records)
        blank = records[-1].last - records[0].first + 1 - covered
        if len(records[0].values) == 1:  # of one column, a blank line at the end may be a value too
            blank += len(self._lines) + self.skipped - records[-1].last
        if blank:
            lines = "1 blank line is" if blank == 1 else f"{blank:,} blank lines are"
            add_note(self.notes, f"{self.path}: {lines} passed over.")

    def _literal_quotes(self, records: Sequence[Record]) -> str | None:
        """Why no program that quotes values can have written these rows; ``None`` where one can."""
        needless: set[int] = set()
        bare: dict[int, int] = {}  # the columns with values that are words without quotes
        for record in records[1:]:
            raw = "".join(self._lines[record.first - 1 - self.skipped : record.last - self.skipped])
            found = _scanned(raw, self.delimiter) if '"' in raw else [(False, v) for v in record.values]
            if found is None:
                return f"line {record.first} has one inside a value that is not enclosed"
            for column, (quoted, value) in enumerate(found):
                if quoted and value and not re.search(r'["\r\n\t,;]|^\s|\s$', value):
                    needless.add(column)
                elif not quoted and value and as_number(value) is None:
                    bare.setdefault(column, record.first)
        both = next((column for column in sorted(needless) if column in bare), None)
        return None if both is None else f"column {both + 1} has values with and without them"

    def _swallowing(self, enclosed: Sequence[Record], literal: Sequence[Record]) -> Record | None:
        """A row that encloses several lines which look like rows: their other values are those of other rows."""
        long = [record for record in enclosed[1:] if record.last > record.first]
        if not long:
            return None
        inside = {line for record in long for line in range(record.first, record.last + 1)}
        apart = [record for record in literal[1:] if record.first not in inside]
        known = [{record.values[column] for record in apart} for column in range(len(literal[0].values))]
        by_line = {record.first: record.values for record in literal}
        for record in long:
            lines = [by_line.get(line) for line in range(record.first, record.last + 1)]
            for column, values in enumerate(known):
                if all(line is not None and line[column] and line[column] in values for line in lines):
                    return record
        return None


def _fits(records: Sequence[Record]) -> bool:
    return bool(records) and all(len(record.values) == len(records[0].values) for record in records)


def _scanned(raw: str, delimiter: str) -> list[tuple[bool, str]] | None:
    """The values of a row and whether each is quoted; ``None`` where a quote stands in a bare value."""
    # Possessive, so that a value without its closing quote fails at once.
    value = re.compile(
        rf'(?:"((?:[^"]|"")*+)"|([^"{re.escape(delimiter)}\r\n]*+))({re.escape(delimiter)}|\r?\n|\r|$)'
    )
    found, position = [], 0
    while True:
        match = value.match(raw, position)
        if match is None:
            return None
        quoted = match[1] is not None
        found.append((quoted, match[1].replace('""', '"') if quoted else match[2]))
        position = match.end()
        if match[3] != delimiter:
            return found


def _check_header(header: Record, rows: Sequence[Record], path: Path) -> None:
    where, names = f"{path}:{header.first}", header.values
    if any("\0" in name for name in names):
        raise DataError(
            f"{where} has a NUL character in its header: it is no UTF-8 text. Save the file as UTF-8."
        )
    other = next((separator for separator in ";\t|," if len(names) == 1 and separator in names[0]), None)
    if other:
        name = "tabs" if other == "\t" else repr(other)
        raise DataError(
            f"{where} has the single column {names[0][:80]!r}: its columns seem to be separated by {name}. Save the "
            "file with commas (.csv) or with tabs (.tsv)."
            + ("" if other == "\t" else f" Or name the separator in a line above this one: sep={other}")
        )
    twice = sorted({name for name in names if name.strip() and names.count(name) > 1})
    if twice:
        raise DataError(f"{where} names a column twice: {', '.join(twice)}. Rename one of them.")
    again = next((row for row in rows if len(names) > 1 and row.values == names), None)
    if again:
        raise DataError(
            f"{path}:{again.first} repeats the header ({', '.join(names)}). Were files put together? Remove the line."
        )
    if data := _data_in_header(names, rows):
        raise DataError(
            f"{where} seems to be a row of data, not the names of the columns: {data[:80]!r} is also a value of its "
            f"column. Put a line above it that names the columns, e.g. text,label{',...' if len(names) > 2 else ''}."
        )


def _data_in_header(names: Sequence[str], rows: Sequence[Record]) -> str | None:
    """A name that is a value of its own column, where no name is one that columns usually have."""
    if any(name.strip().lower() in USUAL_NAMES for name in names):
        return None
    for column, name in enumerate(names):
        values = [row.values[column] for row in rows if column < len(row.values)]
        few = 2 * len(set(values)) <= len(values)
        if name.strip() and values.count(name) >= (1 if few else 2):
            return name
    return None


def _named_columns(
    header: Record, rows: Sequence[Record], path: Path, notes: Notes
) -> tuple[list[str], list[int]]:
    """The columns that are read, and where they stand: several without a name are left out if they are empty."""
    nameless = [column for column, name in enumerate(header.values) if not name.strip()]
    if len(nameless) < 2:
        return header.values, list(range(len(header.values)))
    for column in nameless:
        filled = next((row for row in rows if column < len(row.values) and row.values[column].strip()), None)
        if filled:
            raise DataError(
                f"{path}:{header.first} gives {len(nameless)} columns no name, of which column {column + 1} has values, "
                f"e.g. in line {filled.first}. Name each in the first line."
            )
    add_note(notes, f"{path}: {len(nameless)} empty columns without a name are left out.")
    kept = [column for column in range(len(header.values)) if column not in nameless]
    return [header.values[column] for column in kept], kept
