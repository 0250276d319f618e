"""How lines of the summary belong together: their cells, their order, and which are set against which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from stillshot.evaluate.assemble import line_key
from stillshot.evaluate.records import (
    Cell,
    Interval,
    PeerCell,
    PeerLine,
    Peers,
    Results,
    SplitResult,
    SummaryLine,
)
from stillshot.report.names import METHODS, budget

_ORDER = {method: position for position, method in enumerate(METHODS)}


def ordered_lines(results: Results) -> list[SummaryLine]:
    """The summary from the fewest labels to the most, by method within one budget, controls behind theirs."""

    def place(line: SummaryLine) -> tuple[int, int, bool]:
        return budget(line), _ORDER.get(line.method, len(_ORDER)), line.control is not None

    return sorted(results.summary, key=place)


def peer_lines(results: Results, peers: Peers | None) -> list[PeerLine]:
    """The peers' lines whose budget the run has too, from the fewest labels to the most."""
    budgets = {line.labelled for line in results.summary}
    return sorted(
        (line for line in (peers.summary if peers else []) if line.labelled in budgets),
        key=lambda line: line.labelled,
    )


def peer_cells_of(peers: Peers, line: PeerLine) -> list[PeerCell]:
    """The finished cells that a peer's line is the mean of."""
    return [cell for cell in peers.cells if cell.failed is None and line_key(cell.id) == line.key]


def cells_of(results: Results, line: SummaryLine) -> list[Cell]:
    """The finished cells that a line is the mean of, by seed."""
    cells = [cell for cell in results.cells if cell.failed is None and line_key(cell.id) == line.key]
    return sorted(cells, key=lambda cell: cell.seed)


def split_results(results: Results, line: SummaryLine, split: str) -> list[SplitResult]:
    """What a line's cells did on one evaluation set, by seed."""
    return [cell.splits[split] for cell in cells_of(results, line) if split in cell.splits]


def mean_of(found: Sequence[SplitResult], measure: Callable[[SplitResult], float]) -> float | None:
    """The mean over seeds of a measure, or ``None`` where there is nothing to average."""
    return fmean(map(measure, found)) if found else None


def interval_on(line: SummaryLine | PeerLine, split: str) -> Interval | None:
    """A line's accuracy on an evaluation set."""
    return line.in_domain.get(split) or line.out_of_domain.get(split)


def evaluation_sets(results: Results) -> list[tuple[str, bool]]:
    """Every evaluation set with whether it is in-domain; in-domain ones first."""
    inside = dict.fromkeys(split for line in results.summary for split in line.in_domain)
    outside = dict.fromkeys(split for line in results.summary for split in line.out_of_domain)
    return [(split, True) for split in inside] + [(split, False) for split in outside if split not in inside]


def items_in(results: Results, split: str) -> int | None:
    """How many items of an evaluation set were used, or ``None`` where no cell finished on it."""
    numbers = [cell.splits[split].n for cell in results.cells if split in cell.splits and not cell.failed]
    return max(numbers, default=None)


def headline(results: Results) -> SummaryLine | None:
    """The line the report speaks of: the first context distillation in the records.

    It is the recipe's first and not the best one, so the choice does not depend on the outcome. A
    control, or a line without a context, is taken only where there is nothing else.
    """
    lines = [line for line in results.summary if line.method == "context_distillation"]
    return min(lines, key=lambda line: (line.control is not None, line.num_shots == 0), default=None)


def counterpart(results: Results, line: SummaryLine, method: str) -> SummaryLine | None:
    """The line of another method that a line is fairly set against.

    It has the same labelled examples (or needs none), and agrees in as much else as possible: the
    same student for one that trains, the same teacher and contexts for one that does not.
    """
    lines = [
        other for other in results.summary if other.method == method and other.labelled in (0, line.labelled)
    ]
    alike = ("teacher", "num_shots", "num_contexts", "scoring", "calibration", "student", "head", "tuning")

    def likeness(other: SummaryLine) -> tuple[int, int]:
        return sum(getattr(other, name) == getattr(line, name) for name in alike), other.num_contexts

    return max(lines, key=likeness, default=None)
