"""What a run shows at its end: a table, and where its best student is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO

from stillshot.escaping import visible

if TYPE_CHECKING:
    from stillshot.evaluate.records import Cell, Interval, Results, SummaryLine

LONGEST_HEADING = 12


def show_results(results: Results, stream: TextIO) -> None:
    """Write the comparison: a narrow table on a terminal, Markdown with all columns elsewhere."""
    if not stream.isatty():
        from stillshot.report.tables import markdown_table

        stream.write(visible(markdown_table(results)) + "\n")
        return
    from rich.console import Console

    Console(file=stream).print(terminal_table(results))


def terminal_table(results: Results) -> Any:
    """A ``rich`` table of accuracies and latencies, for 80 to 100 columns; numbers are never broken.

    An accuracy is bold where its whole interval lies above those of all other lines.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from stillshot.report import names
    from stillshot.report.lines import evaluation_sets, interval_on, ordered_lines

    lines = ordered_lines(results)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Method")
    table.add_column("Labels", justify="right", no_wrap=True)
    table.add_column("Model")
    accuracies = []
    for split, inside in evaluation_sets(results):
        heading = f"{names.shorten(split, LONGEST_HEADING)}\n{'in-' if inside else 'out-of-'}\ndomain, %"
        table.add_column(Text(heading), justify="right", no_wrap=True)
        accuracies.append(_accuracies([interval_on(line, split) for line in lines]))
    table.add_column("Latency\np50", justify="right", no_wrap=True)
    for position, line in enumerate(lines):
        latency = Text(names.milliseconds(line.latency_ms.get("p50")))
        measured = (column[position] for column in accuracies)
        table.add_row(_method(line), names.count(line.labelled), _model(line), *measured, latency)
    return table


def _accuracies(column: Sequence[Interval | None]) -> list[Any]:
    from rich.text import Text

    from stillshot.report import names
    from stillshot.report.tables import clear_best

    best = clear_best(column)
    return [
        Text(names.percent(found.mean), style="bold" if position == best else "")
        if found
        else Text(names.NOT_APPLICABLE)
        for position, found in enumerate(column)
    ]


def _method(line: SummaryLine) -> Any:
    """The method or control; in-context learning with its contexts x shots and how it was calibrated."""
    from rich.text import Text

    from stillshot.report import names

    if line.method != "in_context":
        return Text(visible(names.row_name(line), keep=""))
    calibration = names.CALIBRATIONS.get(line.calibration or "", "").split(" ")[0]
    return Text(", ".join(filter(None, ("In-context", f"{line.num_contexts}x{line.num_shots}", calibration))))


def _model(line: SummaryLine) -> Any:
    """The student, else the model that was asked; a head or tuning is named where it is not the usual one."""
    from rich.text import Text

    from stillshot.report import names

    told = [names.model_name(line.student or line.teacher)]
    if line.head not in (None, "label"):
        told.append(names.HEADS.get(line.head, line.head).removesuffix(" head"))
    if line.tuning not in (None, "full"):
        told.append(names.TUNINGS.get(line.tuning, line.tuning))
    return Text(visible(", ".join(told), keep=""))


# The best student --------------------------------------------------------------------------------


def best_student(results: Results, folder: Path) -> Path | None:
    """The folder of the distilled student with the highest accuracy, in-domain where that was measured."""
    best = max(_trained(results, folder, "context_distillation"), key=accuracy, default=None)
    return folder / "students" / best.id if best else None


def better_finetuned(results: Results, folder: Path, student: Path) -> str | None:
    """What to say of the best distilled student where one that was fine-tuned on the same labels is better."""
    distilled = next(cell for cell in results.cells if cell.id == student.name)
    rivals = [
        cell
        for cell in _trained(results, folder, "pattern_finetune")
        if (cell.labelled, cell.seed) == (distilled.labelled, distilled.seed)
        and accuracy(cell) > accuracy(distilled)
    ]
    if not rivals:
        return None
    from stillshot.report import names

    best = max(rivals, key=accuracy)
    return (
        f"{names.model_name(best.student)}, fine-tuned on the same {names.plural(best.labelled, 'label')} alone, was right "
        f"more often than the best distilled student ({names.percent(accuracy(best))} % against "
        f"{names.percent(accuracy(distilled))} %): {folder / 'students' / best.id}. The report has the intervals."
    )


def _trained(results: Results, folder: Path, method: str) -> list[Cell]:
    """The cells of a method whose students are there, controls left out."""
    return [
        cell
        for cell in results.cells
        if cell.method == method
        and cell.control is None
        and cell.failed is None
        and (folder / "students" / cell.id).is_dir()
    ]


def accuracy(cell: Cell) -> float:
    """The mean over evaluation sets, in-domain where that was measured."""
    found = cell.in_domain or cell.out_of_domain
    return fmean(split.accuracy for split in found.values()) if found else 0.0
