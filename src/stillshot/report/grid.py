"""Lines of the summary as curves over the number of labelled (support) examples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stillshot.evaluate.records import Results, SummaryLine
from stillshot.report import names
from stillshot.report.lines import headline

# A budget at the end of a line's key, e.g. ``-n16x2x16``.
_BUDGET = re.compile(r"-n?\d+(x\d+x\d+)?$")
_OF_THE_BUDGET = ("labelled", "unlabelled", "num_shots", "num_contexts")


@dataclass(frozen=True)
class Series:
    """One method with one model over its budgets, from the fewest labels to the most.

    Zero-shot uses no labels: its only line stands for every budget.
    """

    name: str
    lines: tuple[SummaryLine, ...]

    @property
    def method(self) -> str:
        """The method of all its lines."""
        return self.lines[0].method

    @property
    def tuning(self) -> str | None:
        """How its students are trained."""
        return self.lines[0].tuning

    @property
    def is_flat(self) -> bool:
        """Whether it does not depend on the number of labels."""
        return self.lines[0].labelled == 0


def has_grid(results: Results) -> bool:
    """Whether there are at least two numbers of labels to draw something against."""
    lines = [line for line in results.summary if line.labelled]
    # A context may hold only a part of a budget's labels.
    given = [line for line in lines if line.method != "in_context"] or lines
    return len({line.labelled for line in given}) > 1


def method_series(results: Results) -> list[Series]:
    """The methods side by side for the student of the report's headline.

    Zero-shot is that of the student's own model, where it was asked. Context distillation of other
    students is in :func:`student_series`.
    """
    line = headline(results)
    if line is None:
        return _named([found for method in names.METHODS for found in _grouped(results, method)])
    zero_shot = _grouped(results, "zero_shot")
    own = [found for found in zero_shot if found[0].teacher == line.student]
    alike = ("student", "head", "tuning")
    finetuned = [
        found
        for found in _grouped(results, "pattern_finetune")
        if all(getattr(found[0], name) == getattr(line, name) for name in alike)
    ]
    asked = [found for found in _grouped(results, "in_context") if found[0].teacher == line.teacher]
    distilled = [found for found in _grouped(results, "context_distillation") if line in found]
    return _named([*(own or zero_shot)[:1], *asked, *finetuned, *distilled])


def student_series(results: Results) -> list[Series]:
    """All distilled students, told apart by model, head and tuning; empty for fewer than two."""
    found = [lines for lines in _grouped(results, "context_distillation") if lines[0].num_shots]
    named = _named(found)
    return [Series(_within(one.name), one.lines) for one in named] if len(named) > 1 else []


def _grouped(results: Results, method: str) -> list[list[SummaryLine]]:
    """A method's lines that differ in nothing but the budget.

    Of two budgets with the same number of labels (in other contexts), the second begins a curve of its own.
    """
    curves: dict[tuple[str, int], list[SummaryLine]] = {}
    for line in results.summary:
        if line.method != method:
            continue
        name, rank = (line.key if method == "zero_shot" else _BUDGET.sub("", line.key)), 0
        while any(line.labelled == other.labelled for other in curves.get((name, rank), [])):
            rank += 1
        curves.setdefault((name, rank), []).append(line)
    return [sorted(lines, key=lambda line: line.labelled) for lines in curves.values()]


def _named(curves: Sequence[list[SummaryLine]]) -> list[Series]:
    without_budget: dict[str, int] = dict.fromkeys(_OF_THE_BUDGET, 0)
    examples = [lines[0].model_copy(update=without_budget) for lines in curves]
    named = names.line_names(examples)
    return [Series(named[lines[0].key], tuple(lines)) for lines in curves]


def _within(name: str) -> str:
    """What tells a method's series apart, without the method.

    >>> _within("Context distillation (LoRA)")
    'LoRA'
    """
    found = re.fullmatch(r"[^(]+\((.*)\)", name)
    return found[1] if found else name
