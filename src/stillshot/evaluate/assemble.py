"""From finished cells to ``results.json``: agreement with the teacher, means over seeds, comparisons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillshot.config import Recipe
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.records import Cell, Comparison, Interval, Results, SummaryLine
from stillshot.evaluate.statistics import holm, mcnemar, paired_difference, samples_for, seeds_interval


class SplitAnswers(NamedTuple):
    """The likeliest label of each item of an evaluation set, whether it is the gold one, and the item's place there."""

    given: list[str]
    right: NDArray[np.float64]
    places: list[int]


CellAnswers = dict[str, SplitAnswers]  # by evaluation set
Answers = dict[str, CellAnswers]  # by cell


def assemble(
    folder: RunFolder, recipe: Recipe, task: str, labels: list[str], cells: Sequence[Cell]
) -> Results:
    """The results of all finished and failed cells.

    Args:
        folder: Holds the cells' predictions.
        recipe: What was run.
        task: The task's name, and its ``labels``.
        cells: Records; failed ones have ``failed`` set and no results.
    """
    finished = [cell for cell in cells if cell.failed is None]
    found = {cell.id: answers(folder.read_lines(folder.predictions(cell.id))) for cell in finished}
    lines = cells_by_line(finished)
    samples = recipe.evaluation.bootstrap_samples
    return Results(
        name=recipe.name,
        task=task,
        labels=labels,
        description=recipe.description,
        **folder.read_json(folder.machine),
        cells=[_with_agreement(cell, finished, found) for cell in cells],
        summary=[_summary(key, members, found, samples) for key, members in lines.items()],
        comparisons=_comparisons(lines, found, samples),
    )


def line_key(cell_id: str) -> str:
    """A cell's id without its seed.

    >>> line_key("in_context-smollm2-135m-raw-n16x4x8-s2")
    'in_context-smollm2-135m-raw-n16x4x8'
    """
    return re.sub(r"-s-?\d+$", "", cell_id)


def setting_of(cell_id: str) -> str:
    """The budget and seed at the end of a cell's id; empty for what depends on neither.

    >>> setting_of("in_context-smollm2-135m-raw-n16x4x8-s2")
    'n16x4x8-s2'
    """
    found = re.search(r"(?<=-)n\d+x\d+x\d+-s-?\d+$", cell_id)
    return found[0] if found else ""


def cells_by_line(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """The cells of each line of the summary, by its key."""
    lines: dict[str, list[Cell]] = {}
    for cell in cells:
        lines.setdefault(line_key(cell.id), []).append(cell)
    return lines


def answers(predictions: Iterable[dict[str, Any]]) -> CellAnswers:
    """What one predictor answered, from its lines of predictions."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for row in predictions:
        by_split.setdefault(row["split"], []).append(row)
    found = {}
    for split, rows in by_split.items():
        given = [max(row["probabilities"], key=row["probabilities"].__getitem__) for row in rows]
        right = np.array(
            [answer == row["gold"] for answer, row in zip(given, rows, strict=True)], dtype=float
        )
        found[split] = SplitAnswers(given, right, [row["index"] for row in rows])
    return found


def on_shared(a: SplitAnswers, b: SplitAnswers) -> tuple[SplitAnswers, SplitAnswers]:
    """Both predictors' answers to the items that both answered."""
    if a.places == b.places:
        return a, b
    shared = sorted(set(a.places) & set(b.places))

    def part(one: SplitAnswers) -> SplitAnswers:
        at = {place: position for position, place in enumerate(one.places)}
        positions = [at[place] for place in shared]
        return SplitAnswers([one.given[position] for position in positions], one.right[positions], shared)

    return part(a), part(b)


def _with_agreement(cell: Cell, cells: Sequence[Cell], found: Answers) -> Cell:
    """The record with the share of items on which its teacher, so asked, answers the same, by evaluation set."""
    if cell.failed is not None or cell.method != "context_distillation" or cell.control is not None:
        return cell  # the teacher of a control is not evaluated itself
    same = ("teacher", "num_contexts", "scoring", "calibration", "pattern", "channel")
    teacher = next(
        (
            other
            for other in cells
            if other.method == "in_context"
            and setting_of(other.id) == setting_of(cell.id)
            and all(getattr(other, n) == getattr(cell, n) for n in same)
        ),
        None,
    )
    if teacher is None:
        return cell
    agreement = {}
    for split in cell.splits:
        own, others = on_shared(found[cell.id][split], found[teacher.id][split])
        agreement[split] = float(np.mean([a == b for a, b in zip(own.given, others.given, strict=True)]))
    return cell.model_copy(update={"teacher_agreement": agreement})


def mean_over_seeds(correct: Sequence[NDArray[np.float64]], samples: int) -> Interval:
    """The mean accuracy and its interval; one array of 0 and 1 a seed, over the same items."""
    mean = float(np.mean([values.mean() for values in correct]))
    return Interval(mean=mean, ci95=seeds_interval(correct, samples), seeds=len(correct))


def _summary(key: str, members: list[Cell], found: Answers, samples: int) -> SummaryLine:
    first = members[0]

    def intervals(splits: Iterable[str]) -> dict[str, Interval]:
        return {
            split: mean_over_seeds([found[c.id][split].right for c in members], samples) for split in splits
        }

    def common(name: str) -> Any:
        return getattr(first, name) if len({getattr(cell, name) for cell in members}) == 1 else None

    def median(name: str) -> float:
        return float(np.median([getattr(cell, name) for cell in members]))

    quantiles = {q for cell in members for q in cell.latency_ms}
    return SummaryLine(
        key=key,
        **{n: getattr(first, n) for n in _IDENTITY},
        **{n: common(n) for n in _CHOSEN},
        in_domain=intervals(first.in_domain),
        out_of_domain=intervals(first.out_of_domain),
        peak_memory_bytes=int(median("peak_memory_bytes")),
        train_seconds=median("train_seconds"),
        label_seconds=median("label_seconds"),
        latency_ms={q: float(np.median([cell.latency_ms[q] for cell in members])) for q in sorted(quantiles)},
    )


_IDENTITY = frozenset(
    {
        "method",
        "teacher",
        "student",
        "head",
        "tuning",
        "num_shots",
        "num_contexts",
        "control",
    }
    | {"labelled", "unlabelled", "parameters", "trainable_parameters", "model_bytes"}
)

# What `teacher.select` chooses for each seed anew.
_CHOSEN = ("pattern", "channel", "scoring", "calibration")


@dataclass(frozen=True)
class LinePair:
    """Two lines to compare on an evaluation set, and their cells by seed."""

    a: str
    b: str
    split: str
    cells: tuple[tuple[Cell, Cell], ...]


def line_pairs(lines: Mapping[str, Sequence[Cell]]) -> list[LinePair]:
    """Each distilled line with the other methods of its budget, on each evaluation set.

    The others are its controls, zero-shot, in-context learning and fine-tuning of the same student.
    """
    return [
        LinePair(key, other_key, split, paired)
        for key, members in lines.items()
        if members[0].method == "context_distillation" and members[0].control is None
        for other_key, others in lines.items()
        if _comparable(members[0], others[0]) and (paired := _paired(members, others))
        for split in members[0].splits
    ]


def _comparisons(lines: Mapping[str, Sequence[Cell]], found: Answers, samples: int) -> list[Comparison]:
    """All pairs of lines, as one family for Holm's correction."""
    pairs = line_pairs(lines)
    resamples = samples_for(len(pairs), samples)
    result = []
    for pair in pairs:
        both = [(found[cell.id], found[other.id]) for cell, other in pair.cells]
        result.append(compare(pair.a, pair.b, pair.split, both, resamples))
    return corrected(result)


def compare(
    a: str, b: str, split: str, pairs: Sequence[tuple[CellAnswers, CellAnswers]], samples: int
) -> Comparison:
    """The comparison of two lines on an evaluation set, from both lines' answers by seed, on items that both answered."""
    shared = [on_shared(one[split], other[split]) for one, other in pairs]
    first, second = ([pair[side].right for pair in shared] for side in (0, 1))
    difference = paired_difference(first, second, samples)
    return Comparison(
        a=a,
        b=b,
        split=split,
        seeds=len(pairs),
        difference=difference.mean,
        ci95=difference.ci95,
        p=difference.p,
        p_mcnemar=mcnemar(first, second),
        relative=difference.relative,
        relative_ci95=difference.relative_ci95,
    )


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons with Holm's correction for how many they are."""
    p_values = holm([one.p for one in family])
    return [one.model_copy(update={"p_holm": p}) for one, p in zip(family, p_values, strict=True)]


def _comparable(distilled: Cell, other: Cell) -> bool:
    if other.method == "zero_shot":
        return True
    if line_key(setting_of(other.id)) != line_key(setting_of(distilled.id)):  # another budget
        return False
    if other.method == "in_context":
        return other.teacher in (distilled.teacher, distilled.student)
    if other.method == "context_distillation" and other.control is None:
        return False
    return all(getattr(other, n) == getattr(distilled, n) for n in ("student", "head", "tuning"))


def _paired(members: Sequence[Cell], others: Sequence[Cell]) -> tuple[tuple[Cell, Cell], ...]:
    """Cells of the same seeds; what does not depend on the seed stands beside each."""
    if others[0].method == "zero_shot":
        return tuple((cell, others[0]) for cell in members)
    by_seed = {cell.seed: cell for cell in others}
    return tuple((cell, by_seed[cell.seed]) for cell in members if cell.seed in by_seed)
