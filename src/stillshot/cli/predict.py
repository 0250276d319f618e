"""``stillshot predict``: a student's answers to queries, line by line."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillshot.cli.answers import PREDICTION, PROBABILITIES, TABLE_SUFFIXES, answer_sink, check_output
from stillshot.cli.progress import progress
from stillshot.cli.students import find_student
from stillshot.errors import DataError

if TYPE_CHECKING:
    from stillshot.deploy.predictor import Predictor

CHUNK_LINES = 1024
QUIET_SECONDS = 2.0

# A row and where it was read; what is not an object was a text alone.
Row = tuple[str, Any]


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="A student or an export: a folder under a run's students/, a run, which stands for its best distilled student, or what `export` wrote.",
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Queries as JSONL, CSV, TSV or Parquet. Without it, JSONL from stdin."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write here, as a table where it ends in .csv, .tsv or .parquet. Without it, to stdout.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Queries at a time.")] = 32,
) -> None:
    """Answer queries with a trained student, or with an export of one.

    Each comes back as it was, with `prediction` and `probabilities` added, as JSONL; in a table, each label's probability is a column. A line is an object with the task's fields, or for a task of one field a JSON string.

    \b
    Example:
      stillshot predict runs/first/students/CELL queries.jsonl -o answers.jsonl
    """
    check_output(output)
    rows, folder = _rows(file), find_student(model)
    with progress(after_seconds=QUIET_SECONDS) as report:
        report("predict", "loading the student", 0, 0)
        from stillshot.deploy.predictor import load_predictor
        from stillshot.evaluate.runner import quiet_libraries

        quiet_libraries()
        student = load_predictor(folder)
        done = 0
        with answer_sink(output) as sink:
            while chunk := list(itertools.islice(rows, CHUNK_LINES)):
                sink.write(_answers(student, chunk, batch_size))
                done += len(chunk)
                report("predict", "answering queries", done, 0)
    if not done:
        name = "stdin" if file is None or str(file) == "-" else file
        typer.echo(f"note: {name} holds no queries, so nothing was answered.", err=True)


def _answers(student: Predictor, rows: list[Row], batch_size: int) -> Iterator[dict[str, Any]]:
    from stillshot.data.files import examples_in
    from stillshot.student.saved import as_predictions

    task = student.task.of_queries()
    objects = [(where, _object(where, row, task.fields)) for where, row in rows]
    examples = examples_in(objects, task, task.sources.local, labels=False)
    answers = as_predictions(task.labels, student.predict_proba(examples, batch_size))
    for (_, row), answer in zip(objects, answers, strict=True):
        probabilities = {label: round(value, 6) for label, value in answer.probabilities.items()}
        yield {**row, PREDICTION: answer.label, PROBABILITIES: probabilities}


def _object(where: str, row: Any, fields: list[str]) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, str) and len(fields) == 1:
        return {fields[0]: row}
    names = ", ".join(fields)
    what = "a text alone" if isinstance(row, str) else f"a JSON {type(row).__name__}"
    raise DataError(f"{where} is {what}. Each line must be one object with the keys {names}.")


# Reading -----------------------------------------------------------------------------------------


def _rows(file: Path | None) -> Iterator[Row]:
    from stillshot.data.files import file_suffix, read_rows

    if file is None or str(file) == "-":
        stream = typer.get_binary_stream("stdin")
        if stream.isatty():
            raise DataError("There are no queries. Name a file, or pipe JSONL into this command.")
        return _json_rows(stream, "stdin")
    if not file.exists() or file.is_dir() or file_suffix(file) in TABLE_SUFFIXES:
        return read_rows(file)  # or its error
    return _json_rows(_opened(file), str(file))


def _opened(file: Path) -> Iterator[bytes]:
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with opener(file, "rb") as lines:
            yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}.") from None


def _json_rows(lines: Iterable[bytes], name: str) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield where, json.loads(text)
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not UTF-8 text: {error.reason}.") from None
        except (ValueError, RecursionError) as error:
            reason = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            )
            raise DataError(
                f"{where} is not valid JSON: {reason}. Each line must be one whole object."
            ) from None
