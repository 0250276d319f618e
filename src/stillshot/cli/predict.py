"""``stillshot predict``: a student's answers to queries, line by line."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillshot.cli.answers import TABLE_SUFFIXES, answer_sink, check_output, refuse_to_overwrite
from stillshot.cli.console import echo
from stillshot.cli.progress import progress
from stillshot.cli.students import find_student
from stillshot.errors import DataError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stillshot.data.parquet import ParquetFile
    from stillshot.deploy.predictor import Predictor

CHUNK_LINES = 256
QUIET_SECONDS = 2.0
FEW_QUERIES = 50  # of which a bias is hardly seen

# A row and where it was read; what is not an object was a text alone.
Row = tuple[str, Any]
# Some rows as objects, with their places, and the probabilities of labels for each.
Answered = tuple[list[tuple[str, Mapping[str, Any]]], "NDArray[np.float64]"]


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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file after -o if it is there.")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Queries at a time.")] = 32,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="For many queries of which about as many have each label: divide out the student's bias towards some labels, as all its answers together show it.",
        ),
    ] = False,
) -> None:
    """Answer queries with a trained student, or with an export of one.

    Each comes back as it was, with `prediction` and `probabilities` added, as JSONL; in a table, each label's probability is a column. A line is an object with the task's fields, or for a task of one field a JSON string.

    \b
    Example:
      stillshot predict runs/first/students/CELL queries.jsonl -o answers.jsonl
    """
    check_output(output)
    refuse_to_overwrite(output, file, overwrite=overwrite)
    notes: list[str] = []
    table = _parquet(file)
    rows = table.rows(class_names=False) if table else _rows(file, notes)
    # What is wrong with a file is told before the student is loaded; stdin may have nothing to read yet.
    first = [] if _is_stdin(file) else list(itertools.islice(rows, 1))
    columns = [] if first or file is None else _columns(file, table)
    folder = find_student(model)
    _check_first(first, folder)
    with progress(after_seconds=QUIET_SECONDS) as report:
        report("predict", "loading the student", 0, 0)
        from stillshot.deploy.predictor import load_predictor
        from stillshot.evaluate.runner import quiet_libraries
        from stillshot.student.saved import as_predictions

        quiet_libraries()
        student = load_predictor(folder)
        done, cut = 0, dict[str, None]()
        with answer_sink(output, table.table if table else None, cut, columns, student.task.labels) as sink:
            queries = itertools.chain(first, rows)
            answered = _answered(student, queries, batch_size, report, notes, cut)
            for objects, probabilities in _calibrated(answered, notes) if calibrate else answered:
                sink.write(objects, as_predictions(student.task.labels, probabilities))
                done += len(objects)
        notes += sink.notes
    name = "stdin" if _is_stdin(file) else file
    if not done:
        notes.append(f"{name} holds no queries, so nothing was answered.")
    elif calibrate and done < FEW_QUERIES:
        notes.append("so few do not tell a bias from chance; calibrate many together.")
    if cut:
        notes.append(_cut_note(list(cut), done, student.featurizer.max_tokens))
    for note in notes:
        echo(f"note: {note}", err=True)


def _cut_note(cut: Sequence[str], queries: int, max_tokens: int) -> str:
    from stillshot.data.notes import places

    return (
        f"{len(cut):,} of {queries:,} queries were cut to their first part, since the student reads "
        f"{max_tokens:,} tokens: {places(cut)}."
    )


def _answered(
    student: Predictor,
    rows: Iterator[Row],
    batch_size: int,
    report: Callable[[str, str, int, int], None],
    notes: list[str],
    cut: dict[str, None],
) -> Iterator[Answered]:
    """The rows with their probabilities, some at a time.

    The places of rows whose texts were cut are added to ``cut``.
    """
    import numpy as np

    from stillshot.cli.doubts import describe_printed_missing, printed_missing
    from stillshot.data.examples import examples_in

    task, done = student.task.of_queries(), 0
    printed: list[str] = []
    report("predict", "answering queries", 0, 0)
    while chunk := list(itertools.islice(rows, CHUNK_LINES)):
        objects = [(where, _object(where, row, task.fields)) for where, row in chunk]
        examples = examples_in(objects, task, task.sources.local, labels=False, of_recipe=False)
        shortened: list[int] = []
        probabilities = student.predict_proba(examples, batch_size, shortened.extend)
        if (bad := np.flatnonzero(~np.isfinite(probabilities).all(-1))).size:
            raise ModelError(
                f"The student answers {objects[bad[0]][0]} with numbers that are not finite; its weights may be "
                "damaged. Copy the folder here again, or train the student again."
            )
        printed += printed_missing(examples)
        cut.update(dict.fromkeys(objects[position][0] for position in sorted(shortened)))
        yield objects, probabilities
        done += len(chunk)
        report("predict", "answering queries", done, 0)
    if printed:
        notes.append(f"{describe_printed_missing(printed)} Each was answered as a text.")


def _calibrated(answered: Iterable[Answered], notes: list[str]) -> Iterator[Answered]:
    """All of them, when all are there; what it changed is noted."""
    import numpy as np

    from stillshot.teacher.answers import batch_calibrated

    if parts := list(answered):
        objects = [row for rows, _ in parts for row in rows]
        before = np.concatenate([probabilities for _, probabilities in parts])
        if (before == before[0]).all():
            notes.append("nothing was calibrated, since all answers are alike.")
            yield objects, before
            return
        after = batch_calibrated(before)
        changed = int((before.argmax(-1) != after.argmax(-1)).sum())
        notes.append(f"Calibrated on {len(before):,} queries; {changed:,} answers are others for it.")
        yield objects, after


def _object(where: str, row: Any, fields: list[str]) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if isinstance(row, str) and len(fields) == 1:
        return {fields[0]: row}
    names = ", ".join(fields)
    what = "a text alone" if isinstance(row, str) else f"a JSON {type(row).__name__}"
    raise DataError(f"{where} is {what}. Each line must be one object with the keys {names}.")


# Reading -----------------------------------------------------------------------------------------


def _is_stdin(file: Path | None) -> bool:
    return file is None or str(file) == "-"


def _columns(file: Path, table: ParquetFile | None) -> list[str]:
    """The columns of a table without rows; none of a file of lines."""
    from stillshot.data.files import column_names

    return table.table.column_names if table else column_names(file)


def _check_first(rows: Sequence[Row], folder: Path) -> None:
    """See that the first row has the texts that a student reads.

    Raises:
        DataError: It has not.
        ModelError: The folder does not say what the student reads.
    """
    from stillshot.data.examples import examples_in
    from stillshot.student.sidecar import Sidecar

    task = Sidecar.read(folder).task.of_queries()
    for where, row in rows:
        objects = [(where, _object(where, row, task.fields))]
        examples_in(objects, task, task.sources.local, labels=False, of_recipe=False)


def _parquet(file: Path | None) -> ParquetFile | None:
    """The file's table, if it is a Parquet file."""
    from stillshot.data.files import file_suffix

    if file is None or not file.is_file() or file_suffix(file) != ".parquet":
        return None
    from stillshot.data.parquet import ParquetFile

    return ParquetFile(file)


def _rows(file: Path | None, notes: list[str]) -> Iterator[Row]:
    from stillshot.data.files import file_suffix, read_rows
    from stillshot.data.json_lines import json_values

    if file is None or str(file) == "-":
        stream = typer.get_binary_stream("stdin")
        if stream.isatty():
            raise DataError("There are no queries. Name a file, or pipe JSONL into this command.")
        return json_values(stream, "stdin")
    if not file.exists() or file.is_dir() or file_suffix(file) in TABLE_SUFFIXES:
        return read_rows(file, notes)
    return json_values(_opened(file), str(file))


def _opened(file: Path) -> Iterator[bytes]:
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with opener(file, "rb") as lines:
            yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}.") from None
