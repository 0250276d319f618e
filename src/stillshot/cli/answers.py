"""Where answers go: JSONL on stdout or in a file, line by line, or a table when all are there."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import typer

from stillshot.errors import DataError, StillshotError, WorkError

if TYPE_CHECKING:
    import pyarrow as pa

    from stillshot.types import Prediction

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
LINES_SUFFIXES = ("", ".jsonl", ".json", ".ndjson", ".txt")
PREDICTION, PROBABILITIES, TRUNCATED = "prediction", "probabilities", "truncated"
DIGITS = 6  # of a probability
Row = tuple[str, Mapping[str, Any]]  # where a row was read, and the row as it was


class Sink(Protocol):
    """Takes answers.

    Attributes:
        notes: What was written in another way than one would think.
    """

    @property
    def notes(self) -> list[str]:
        """See above."""
        ...

    def write(self, rows: Sequence[Row], answers: Sequence[Prediction]) -> None:
        """Take some more rows with their answers."""
        ...


def check_output(output: Path | None) -> None:
    """See that answers can be written to a file of that name; ``None`` is stdout.

    Raises:
        DataError: It is a folder, or its name says a format that is not written.
    """
    if output is None:
        return
    if output.is_dir():
        raise DataError(f"{output} is a folder. Name the file to write after -o.")
    if output.suffix.lower() not in (*TABLE_SUFFIXES, *LINES_SUFFIXES):
        known = ", ".join((*LINES_SUFFIXES[1:], *TABLE_SUFFIXES))
        raise DataError(f"Answers are not written as {output.suffix}. End the name in one of {known}.")


def refuse_to_overwrite(output: Path | None, queries: Path | None, *, overwrite: bool) -> None:
    """See that no file is lost: never that of the queries, others only where that is asked for.

    Raises:
        DataError: One would be.
    """
    if output is None or not output.exists():
        return
    if queries is not None and queries.exists() and output.samefile(queries):
        raise DataError(f"{output} is the file with the queries; nothing was changed. Name another after -o.")
    if not overwrite:
        raise DataError(
            f"{output} would be overwritten; nothing was changed. Name another file after -o, or give --overwrite."
        )


@contextmanager
def answer_sink(
    output: Path | None,
    table: pa.Table | None = None,
    cut: Collection[str] = (),
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Iterator[Sink]:
    """Stdout, or a file in the format of its suffix that appears under its name when all of it is written.

    Args:
        output: The file; null is stdout.
        table: The table that the rows are read from, which a Parquet file then holds as it is, beside the answers.
        cut: Where the rows were read whose texts were cut; in JSONL these have ``truncated``.
        columns: What a table has beside the answers if there is no row.
        labels: Whose probabilities a table has if there is no row.

    Raises:
        WorkError: The file cannot be written.
        DataError: A column cannot be one of the table; see also :func:`check_output`.
    """
    check_output(output)
    if output is None:
        yield _Lines(typer.get_binary_stream("stdout"), cut)
        return
    scratch = output.parent / f".{output.name}.{uuid.uuid4().hex}.tmp"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            if output.suffix.lower() in TABLE_SUFFIXES:
                made = _Table(table, columns, labels)
                yield made
                made.save(file, output)
            else:
                yield _Lines(file, cut)
        scratch.replace(output)
    except StillshotError:
        raise
    except OSError as error:
        raise WorkError(f"{output} could not be written: {error}. Nothing was left there.") from error
    finally:
        scratch.unlink(missing_ok=True)


class _Names:
    """Names for the answers that none of the rows' own columns has, chosen by the first rows."""

    def __init__(self, wanted: Sequence[str], notes: list[str]) -> None:
        self._wanted, self._notes = wanted, notes
        self.chosen: dict[str, str] = {}

    def beside(self, rows: Sequence[Row]) -> dict[str, str]:
        """The name of each answer beside these rows.

        Raises:
            DataError: A later row has a column of a chosen name.
        """
        if not self.chosen:
            self._choose({name for _, row in rows for name in row})
        taken = set(self.chosen.values())
        for where, row in rows:
            if clash := taken.intersection(row):
                raise DataError(
                    f"{where} has a column {min(clash)!r} of its own, where rows before it have their answers. Rename it."
                )
        return self.chosen

    def _choose(self, own: set[str]) -> None:
        taken = set(own)
        for wanted in self._wanted:
            name = next(name for name in _variants(wanted) if name not in taken)
            taken.add(name)
            self.chosen[wanted] = name
            if name != wanted:
                self._notes.append(
                    f"the rows have a column {wanted!r} of their own, so the answers are in {name!r}."
                )


def _variants(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _probabilities(answer: Prediction) -> dict[str, float]:
    return {label: round(value, DIGITS) for label, value in answer.probabilities.items()}


class _Lines:
    def __init__(self, file: BinaryIO, cut: Collection[str] = ()) -> None:
        self._file, self._cut = file, cut
        self._notes: list[str] = []
        self._nulls = 0
        self._names = _Names((PREDICTION, PROBABILITIES), self._notes)

    def write(self, rows: Sequence[Row], answers: Sequence[Prediction]) -> None:
        from stillshot.data.json_lines import JsonRow, is_strict

        names = self._names.beside(rows) if rows else {}
        for (where, row), answer in zip(rows, answers, strict=True):
            added: dict[str, Any] = {
                names[PREDICTION]: answer.label,
                names[PROBABILITIES]: _probabilities(answer),
            }
            if where in self._cut and TRUNCATED not in row:  # a column of the user's own stays as it is
                added[TRUNCATED] = True
            self._file.write(_line(row, added))
            self._nulls += not (isinstance(row, JsonRow) and row.raw is not None) and not is_strict(dict(row))
        self._file.flush()

    @property
    def notes(self) -> list[str]:
        """See :class:`Sink`."""
        if not self._nulls:
            return self._notes
        rows = "1 row" if self._nulls == 1 else f"{self._nulls:,} rows"
        return [*self._notes, f"NaN and Infinity, which JSON does not have, are written as null in {rows}."]


def _line(row: Mapping[str, Any], added: Mapping[str, Any]) -> bytes:
    """Strict JSON: what a line of JSON holds stays as it is written there, and the answers are put behind it."""
    from stillshot.data.json_lines import JsonRow, dumps, strict

    if isinstance(row, JsonRow) and row.raw is not None:
        before = row.raw[:-1].rstrip() + (", " if row else "")
        return (before + dumps(added)[1:] + "\n").encode()
    whole = {**row, **added}
    try:
        return (dumps(whole) + "\n").encode()
    except UnicodeEncodeError:  # half a character in a column that no field reads
        return (json.dumps(strict(whole), default=str) + "\n").encode()


class _Table:
    """Rows for CSV, TSV or Parquet; each label's probability is a column, ``probability_LABEL``."""

    def __init__(self, table: pa.Table | None, columns: Sequence[str], labels: Sequence[str]) -> None:
        self._own, self._columns, self._labels = table, columns, labels
        self._rows: list[Mapping[str, Any]] = []
        self._answers: list[Prediction] = []
        self._names: _Names | None = None
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        """See :class:`Sink`."""
        return self._notes

    def write(self, rows: Sequence[Row], answers: Sequence[Prediction]) -> None:
        if not rows:
            return
        self._name(rows, list(answers[0].probabilities))
        self._rows += [row for _, row in rows]
        self._answers += answers

    def _name(self, rows: Sequence[Row], labels: Sequence[str]) -> None:
        if self._names is None:
            self._names = _Names([PREDICTION, *(f"probability_{label}" for label in labels)], self._notes)
        self._names.beside(rows)

    def save(self, file: BinaryIO, output: Path) -> None:
        own = list(dict.fromkeys(name for row in self._rows for name in row))
        if not self._rows:
            own = list(self._columns)
            self._name([("", dict.fromkeys(own))], self._labels)
        if output.suffix.lower() == ".parquet":
            self._save_parquet(own, file, output)
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", errors="surrogatepass")
        table = csv.writer(
            text,
            delimiter="\t" if output.suffix.lower() == ".tsv" else ",",
            lineterminator="\r\n",  # so that both are quoted within a text
        )
        added = self._added()
        table.writerow([*own, *added])
        for number, row in enumerate(self._rows):
            table.writerow(
                [*(_cell(row.get(name)) for name in own), *(values[number] for values in added.values())]
            )
        text.detach()  # flushes, and leaves the file open to its owner

    def _added(self) -> dict[str, list[Any]]:
        """The columns of the answers, by name."""
        names = list(self._names.chosen.values()) if self._names else []
        if not names:
            return {}
        columns: dict[str, list[Any]] = {names[0]: [answer.label for answer in self._answers]}
        probabilities = [list(_probabilities(answer).values()) for answer in self._answers]
        return columns | {name: [row[i] for row in probabilities] for i, name in enumerate(names[1:])}

    def _save_parquet(self, own: Sequence[str], file: BinaryIO, output: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self._own
        if table is None:
            table = pa.table({name: self._column(name, output) for name in own})
        for number, (name, values) in enumerate(self._added().items()):
            table = table.append_column(name, pa.array(values, pa.float64() if number else pa.string()))
        try:
            pq.write_table(table, file)
        except (pa.ArrowException, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{output} cannot be written as Parquet ({reason}). Write to a .jsonl file instead."
            ) from None

    def _column(self, name: str, output: Path) -> pa.Array:
        import pyarrow as pa

        from stillshot.data.json_lines import dumps
        from stillshot.data.parquet import exact_array

        values = [row.get(name) for row in self._rows]
        array = exact_array(values)
        if array is not None:
            return array
        if all(value is None or isinstance(value, list | dict) for value in values):
            self._notes.append(
                f"the column {name!r} is written as JSON text, since Parquet has no type for it."
            )
            return pa.array([None if value is None else dumps(value) for value in values])
        kinds = " and ".join(dict.fromkeys(type(value).__name__ for value in values if value is not None))
        if kinds == "int":
            kinds = "whole numbers of more than 64 bits"
        raise DataError(
            f"{output}: the column {name!r} cannot be one of a Parquet file, since it has values of {kinds}. Write "
            "to a .jsonl file instead."
        )


def _cell(value: Any) -> Any:
    from stillshot.data.json_lines import dumps, strict

    if isinstance(value, bool | dict | list):
        return dumps(value)
    return strict(value)


__all__ = ["TABLE_SUFFIXES", "Row", "Sink", "answer_sink", "check_output", "refuse_to_overwrite"]
