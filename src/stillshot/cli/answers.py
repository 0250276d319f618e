"""Where answers go: JSONL on stdout or in a file, line by line, or a table when all are there."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import typer

from stillshot.errors import DataError, StillshotError, WorkError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
LINES_SUFFIXES = ("", ".jsonl", ".json", ".ndjson", ".txt")
PREDICTION, PROBABILITIES = "prediction", "probabilities"
Answer = Mapping[str, Any]  # a row as it was read, with `prediction` and `probabilities`


class Sink(Protocol):
    """Takes answers."""

    def write(self, answers: Iterable[Answer]) -> None:
        """Take some more answers."""
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


@contextmanager
def answer_sink(output: Path | None) -> Iterator[Sink]:
    """Stdout, or a file in the format of its suffix that appears under its name when all of it is written.

    Raises:
        WorkError: The file cannot be written.
        DataError: A column cannot be one of the table; see also :func:`check_output`.
    """
    check_output(output)
    if output is None:
        yield _Lines(typer.get_binary_stream("stdout"))
        return
    scratch = output.parent / f".{output.name}.{uuid.uuid4().hex}.tmp"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            if output.suffix.lower() in TABLE_SUFFIXES:
                table = _Table()
                yield table
                table.save(file, output)
            else:
                yield _Lines(file)
        scratch.replace(output)
    except StillshotError:
        raise
    except OSError as error:
        raise WorkError(f"{output} could not be written: {error}. Nothing was left there.") from error
    finally:
        scratch.unlink(missing_ok=True)


class _Lines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self._file.write(_line(answer))
        self._file.flush()


def _line(answer: Answer) -> bytes:
    try:
        return (json.dumps(answer, ensure_ascii=False, default=str) + "\n").encode()
    except UnicodeEncodeError:  # half a character in a column that no field reads
        return (json.dumps(answer, default=str) + "\n").encode()


class _Table:
    """Rows for CSV, TSV or Parquet; each label's probability is a column, ``probability_LABEL``."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def write(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            row = {name: value for name, value in answer.items() if name != PROBABILITIES}
            row |= {f"probability_{label}": value for label, value in answer[PROBABILITIES].items()}
            self._rows.append(row)

    def save(self, file: BinaryIO, output: Path) -> None:
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        if output.suffix.lower() == ".parquet":
            _save_parquet(names, self._rows, file, output)
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", errors="surrogatepass")
        table = csv.writer(
            text,
            delimiter="\t" if output.suffix.lower() == ".tsv" else ",",
            lineterminator="\r\n",  # so that both are quoted within a text
        )
        table.writerow(names)
        table.writerows([_cell(row.get(name)) for name in names] for row in self._rows)
        text.detach()  # flushes, and leaves the file open to its owner


def _cell(value: Any) -> Any:
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def _save_parquet(names: Sequence[str], rows: Sequence[Answer], file: BinaryIO, output: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name in names:
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise DataError(
                f"{output}: the column {name!r} cannot be one of a Parquet file ({str(error).splitlines()[0]}). Write "
                "to a .jsonl file instead."
            ) from None
    pq.write_table(pa.table(columns), file)
