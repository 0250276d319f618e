"""``stillshot init``: a recipe from a file of labelled examples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillshot.cli.console import echo
from stillshot.cli.progress import progress
from stillshot.errors import DataError, RecipeError

if TYPE_CHECKING:
    from stillshot.cli.drafting import Files
    from stillshot.cli.lengths import Fit
    from stillshot.config import Source, TaskDefinition
    from stillshot.types import Example

TEST_SHARE = 0.3


@dataclass(frozen=True)
class Table:
    """A file of labelled examples, and what its columns were found to be.

    Attributes:
        notes: What reading it found.
        strict: Whether rows without a text or a label are refused.
    """

    path: Path
    task: TaskDefinition
    examples: list[Example]
    text_columns: tuple[str, ...]
    label_column: str
    notes: list[str]
    strict: bool = False

    @property
    def source(self) -> Source | None:
        """How the file names columns and labels."""
        return self.task.sources.local


def init(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled examples: JSONL, CSV, TSV or Parquet.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="COLUMN", help="A column with a text; twice for pairs. Guessed."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="The column with the label. Guessed.")
    ] = None,
    label_name: Annotated[
        list[str] | None,
        typer.Option(
            "--label-name", metavar="VALUE=NAME", help="A name for a label in the file, e.g. 0=spam."
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option("--unlabelled", metavar="FILE", help="Plain texts for the teacher to label."),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option("--test", metavar="FILE", help="Labelled test examples. Without it, 30% of DATA."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The recipe to write.")
    ] = Path("recipe.yaml"),
    name: Annotated[
        str | None, typer.Option("--name", help="The recipe's name. Without it, the file's.")
    ] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", metavar="MODEL", help="The teacher.")] = None,
    student: Annotated[str | None, typer.Option("--student", metavar="MODEL", help="The student.")] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse rows without a text or a label, instead of leaving them out."),
    ] = False,
) -> None:
    """Write a recipe for your own labelled examples.

    \b
    Example:
      stillshot init tickets.csv --unlabelled queue.csv
    """
    from stillshot.cli.drafting import Files, choose_sizes, draft
    from stillshot.cli.labels import parse_label_names
    from stillshot.cli.lengths import fit_to_window
    from stillshot.config import Student, Teacher

    stem = data.name.split(".")[0] or "data"
    name = name or re.sub(r"[^\w-]+", "-", stem).strip("-") or "recipe"
    _check_options(data, test, teacher, student)
    files = Files(data, test, unlabelled, None) if test else _split_files(data, stem, output, unlabelled)
    _refuse_to_overwrite([output, *([] if test else [files.labelled, files.test])])
    table = _read_table(data, name, text or [], label, parse_label_names(label_name), strict)
    learned, tested = (table.examples, _read_more(table, test, labels=True)) if test else _split(table)
    plain = _read_more(table, unlabelled, labels=False) if unlabelled else None
    models = (teacher or Teacher().model, student or Student().model)
    asked = [*learned, *(plain or ()), *tested]
    with progress(after_seconds=2.0) as report:  # a GGUF file is read here for the first time
        report("init", "counting tokens", 0, 0)
        sizes = choose_sizes(learned, plain, table.task.labels, tested)
        fit = fit_to_window(sizes, table.task, models[0], asked)
    command = f"stillshot init {data}{' --strict' if strict else ''}"
    recipe = draft(name, table.task, files, fit.sizes, models, command, strict=strict)
    _check_draft(recipe, output)
    if not test:
        _write_examples(files.labelled, learned, table)
        _write_examples(files.test, tested, table)
    _write(output, recipe)
    _tell(table, files, output, learned, tested)
    _warn(table, test, learned, tested)
    _tell_of_cuts(fit, len(asked), models[0])


def _check_options(data: Path, test: Path | None, *models: str | None) -> None:
    from stillshot.models.gguf_files import find_gguf, hub_repository, is_gguf
    from stillshot.models.resolve import check_bundled

    if test and test.exists() and data.exists() and test.samefile(data):
        raise RecipeError(
            f"--test: {test} is the file with the examples to learn from. Give another one, or leave --test out: "
            f"{TEST_SHARE:.0%} of the examples are then held out."
        )
    for model in filter(None, models):
        check_bundled(model)
        if is_gguf(model) and hub_repository(model) is None:
            find_gguf(model)


# Reading -----------------------------------------------------------------------------------------


def _read_table(
    path: Path, name: str, text: Sequence[str], label: str | None, label_names: dict[str, str], strict: bool
) -> Table:
    from stillshot.cli.columns import label_column, look_at, text_columns
    from stillshot.cli.drafting import field_names
    from stillshot.cli.labels import kept_commas, label_values, name_labels, respelled
    from stillshot.config import Source, Sources
    from stillshot.data.examples import examples_in
    from stillshot.data.files import read_rows
    from stillshot.tasks import new_task

    notes: list[str] = []
    rows = list(read_rows(path, notes))
    if not rows:
        raise DataError(f"{path} holds no rows. Check that it is the right file.")
    columns = look_at(row for _, row in rows)
    label_from = label_column(columns, label, path, text, [row for _, row in rows])
    texts_from = text_columns(columns, text, path, label_from)
    values = label_values(rows, label_from, path, label_names, strict=strict).values
    named = name_labels(values, label_names, path)
    notes += filter(None, (respelled(values, named), kept_commas(values, named)))
    labels = list(dict.fromkeys(named.values()))
    if len(labels) < 2:
        raise DataError(f"{path}: all examples have the label {labels[0]!r}. At least two labels are needed.")
    fields = field_names(texts_from)
    source = Source(
        splits={},
        columns={field: column for field, column in fields.items() if field != column},
        label_column=label_from,
        label_values={value: name for value, name in named.items() if value != name},
    )
    task = new_task(name, list(fields), labels)
    if source != Source(splits={}):
        task = task.model_copy(update={"sources": Sources(local=source)})
    examples = examples_in(rows, task, source, True, str(path), notes=notes, leave_out=not strict)
    return Table(path, task, examples, texts_from, label_from, notes, strict)


def _read_more(table: Table, path: Path, *, labels: bool) -> list[Example]:
    from stillshot.data.files import read_file

    return read_file(
        path, table.task, source=table.source, labels=labels, notes=table.notes, leave_out=not table.strict
    )


# Splitting and writing ---------------------------------------------------------------------------


def _split_files(data: Path, stem: str, output: Path, unlabelled: Path | None) -> Files:
    from stillshot.cli.drafting import Files

    folder = output.parent
    return Files(folder / f"{stem}.train.jsonl", folder / f"{stem}.test.jsonl", unlabelled, data)


def _split(table: Table) -> tuple[list[Example], list[Example]]:
    """Examples to learn from and a stratified 30% to test on, without a common text."""
    from stillshot.data.splits import draw_evaluation

    distinct = {example.key: example for example in reversed(table.examples)}
    counts = Counter(example.label for example in distinct.values())
    rare = [label for label in table.task.labels if counts[label] < 2]
    if rare:
        raise DataError(
            f"{table.path} has fewer than two different examples of {rare[0]!r}: one to learn from and one to test on "
            "are needed. Add examples, or give a test file with --test."
        )
    size = max(len(table.task.labels), round(TEST_SHARE * len(distinct)))  # an item of each label at least
    held_out = draw_evaluation(table.examples, size)
    tested = {example.identity for example in held_out}
    return [example for example in table.examples if example.identity not in tested], list(held_out)


def _refuse_to_overwrite(paths: Sequence[Path]) -> None:
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise RecipeError(
            f"{', '.join(there)} would be overwritten; nothing was changed. Remove what is there, or choose another folder with -o."
        )


def _check_draft(recipe: str, output: Path) -> None:
    import yaml

    from stillshot.config import Recipe
    from stillshot.config_files import validated

    validated(Recipe, yaml.safe_load(recipe), str(output))


def _write_examples(path: Path, examples: Sequence[Example], table: Table) -> None:
    import json

    from stillshot.data.values import number_name

    values = table.source.label_values if table.source else {}
    # A number in its short form is read as it is.
    names = {name: value for value, name in values.items() if number_name(value) != name}
    lines = []
    for example in examples:
        row = dict(zip(table.text_columns, example.fields.values(), strict=True))
        row[table.label_column] = names.get(str(example.label), str(example.label))
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    _write(path, "".join(lines))


def _write(path: Path, content: str) -> None:
    from stillshot.errors import WorkError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise WorkError(f"{path} could not be written: {error}.") from error


def _tell(
    table: Table, files: Files, output: Path, learned: Sequence[Example], tested: Sequence[Example]
) -> None:
    from stillshot.data.values import number_name

    task = table.task
    echo(
        f"Texts from {', '.join(table.text_columns)}; labels from {table.label_column}: {', '.join(task.labels)}."
    )
    if files.split_from is not None:
        echo(f"{files.test}: {len(tested):,} of the examples, held out for the test.")
        echo(f"{files.labelled}: the other {len(learned):,}.")
    echo(f"{output}: the recipe. Next: stillshot check {output}")
    if all(number_name(label) is not None for label in task.labels):
        echo(
            f"The labels are numbers, which tell a model nothing. Name them: --label-name {task.labels[0]}=NAME ..., "
            "or change label_words in the recipe.",
            err=True,
        )


def _warn(table: Table, test: Path | None, learned: Sequence[Example], tested: Sequence[Example]) -> None:
    from stillshot.cli.doubts import doubts_about, few_to_test_on, labels_in_doubt
    from stillshot.cli.labels import odd_labels

    doubts = [*table.notes, *odd_labels(table.task.labels), *doubts_about(table.examples, table.path)]
    if test:
        doubts += doubts_about(tested, test)
    doubts += labels_in_doubt(learned, tested, table.task.labels)
    for doubt in [*doubts, *few_to_test_on(len({example.key for example in tested}))]:
        echo(f"warning: {doubt}", err=True)


def _tell_of_cuts(fit: Fit, examples: int, teacher: str) -> None:
    if fit.cut:
        echo(
            f"warning: {fit.cut:,} of {examples:,} examples have a text of more than {fit.sizes.max_tokens:,} tokens, after "
            "which it is cut (data.max_tokens): no prompt has room for all of it.",
            err=True,
        )
        if fit.estimated:
            echo(
                f"note: tokens were estimated, since the tokenizer of {teacher} is not on this machine; `stillshot check` "
                "counts them.",
                err=True,
            )
