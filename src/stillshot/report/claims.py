"""The claims of the paper's abstract beside what a run found, each with a verdict that follows from a rule.

The rules, which look at the records alone and at no outcome when they choose what to compare:

**Whose results.** Context distillation is the report's headline: the first in the recipe, controls left out.
Where a claim needs a counterpart that the first has not, it is the first that has one.

**Size.** Parameters and bytes are choices, not findings: they are tested only where teacher and student
have the paper's numbers of parameters (within 10%). Then the claim holds if the student is smaller by at
least the paper's factor, 5% allowed for the rounding of published figures.

**Accuracy.** For each out-of-domain set, the relative gain over the other method with the same labelled
examples, with a paired bootstrap interval over seeds and items:

- *holds* if the gain is at least the paper's and the interval lies above zero;
- *does not hold* if the whole interval lies below the paper's figure;
- *cannot be tested here* otherwise (too few items or seeds to tell), and where the task is not natural
  language inference, weights are random, nothing is out-of-domain, or the counterpart is missing.

In-context learning is that of a model as large as the student (the same model, or within 10% of its
parameters), as usually reported: one context, asked directly, not calibrated. Pattern-based fine-tuning is
that of the same student with the same head and tuning.

**Memory.** "Up to" is the largest reduction of the peak among all students and budgets, against fine-tuning
of the same student with the same head and labelled examples, by medians over seeds. It holds if that is at
least the paper's, and does not hold otherwise. It is judged twice: with the same tuning, which is what
distillation alone saves, and as the paper's method is recommended, with LoRA or BitFit against fine-tuning
all weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stillshot.evaluate.records import Comparison, Results, SummaryLine
from stillshot.report import names
from stillshot.report.lines import cells_of, evaluation_sets, headline, interval_on, split_results
from stillshot.report.names import NOT_APPLICABLE
from stillshot.report.paper import is_language_inference, read_paper
from stillshot.report.tables import Column, Entry, Row, Table, markdown_of

Verdict = Literal["holds", "does not hold", "cannot be tested here"]

_CANNOT: Verdict = "cannot be tested here"
_ALIKE = 0.1
_ROUNDING = 0.05
_BYTES = 2  # a weight of the paper's models
_CONSTANT = 0.95


@dataclass(frozen=True)
class Claim:
    """What the paper says, what was found here, and whether the one bears the other out.

    ``compared`` says what was set against what, and what weakens it.
    """

    text: str
    paper: str
    here: str
    interval: str
    verdict: Verdict
    why: str
    compared: str = ""


@dataclass(frozen=True)
class _Pair:
    distilled: SummaryLine
    other: SummaryLine


def judge(results: Results) -> list[Claim]:
    """Every claim of the abstract, judged by the rules at the head of this module."""
    line = headline(results)
    return [
        *_size_claims(results, line),
        *_in_context_claims(results, line),
        *_finetune_claims(results, line),
        *_memory_claims(results),
    ]


def claims_table(claims: list[Claim]) -> Table:
    """The claims for the page."""
    rows = tuple(
        Row(
            Entry(claim.text),
            (
                Entry(claim.paper),
                Entry(claim.here, claim.interval),
                Entry(claim.verdict, strong=claim.verdict != _CANNOT),
                Entry(claim.why, claim.compared),
            ),
        )
        for claim in claims
    )
    columns = (
        Column("Paper", number=False),
        Column("Here", number=False),
        Column("Verdict", number=False),
        Column("Why", number=False),
    )
    return Table("The paper’s claims", "Claim", columns, rows)


def claims_markdown(claims: list[Claim]) -> str:
    """The claims as the page of Markdown that lies in the run folder."""
    source = read_paper().source
    return f"# The paper’s claims\n\n{markdown_of(claims_table(claims))}\nFigures of the paper: {source}.\n"


# Size --------------------------------------------------------------------------------------------


def _size_claims(results: Results, line: SummaryLine | None) -> list[Claim]:
    theirs = read_paper().claims
    asked = [one for one in results.summary if line and not one.student and one.teacher == line.teacher]
    teacher = asked[0] if asked else None
    found = (teacher.parameters, line.parameters) if teacher and line else (0, 0)
    sizes = (_BYTES * found[0], _BYTES * found[1])
    wanted = (round(theirs.teacher_parameters), round(theirs.student_parameters))
    alike = all(_alike(one, other) for one, other in zip(found, wanted, strict=True))
    wanted_sizes = (round(1e9 * theirs.teacher_size_gb), round(1e9 * theirs.student_size_gb))
    return [
        _shrinking("Fewer parameters in the student", wanted, found, names.parameters, testable=alike),
        _shrinking("A smaller student, at 16 bits a weight", wanted_sizes, sizes, names.size, testable=alike),
    ]


def _shrinking(
    text: str,
    paper: tuple[int, int],
    here: tuple[int, int],
    shown: Callable[[int], str],
    *,
    testable: bool,
) -> Claim:
    def told(pair: tuple[int, int]) -> str:
        return f"{shown(pair[0])} → {shown(pair[1])} ({names.decimal(pair[0] / pair[1], 1)} times smaller)"

    known = min(here) > 0
    verdict, why = _CANNOT, "The teacher and the student do not have the paper’s sizes; theirs are a choice."
    if not known:
        why = "The records do not hold the sizes of a teacher and of its student."
    elif testable:
        needed = (1 - _ROUNDING) * paper[0] / paper[1]
        verdict = "holds" if here[0] / here[1] >= needed else "does not hold"
        why = "The models have the paper’s numbers of parameters."
    return Claim(text, told(paper), told(here) if known else NOT_APPLICABLE, "", verdict, why)


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= _ALIKE * other


# Accuracy ----------------------------------------------------------------------------------------


def _in_context_claims(results: Results, line: SummaryLine | None) -> list[Claim]:
    pairs = [pair for pair in _pairs(results, "in_context") if _as_usually_reported(pair.other)]
    same_size = [pair for pair in pairs if _same_size(pair)]
    figure = read_paper().claims.out_of_domain_gain_over_in_context_relative
    missing = ""
    if not same_size:
        missing = (
            "No in-context learning by a model as large as the student, with one context, asked directly and not "
            "calibrated, is in this run"
        )
        missing += "; what is shown is over that of the larger teacher." if pairs else "."
    return _gain_claims(
        results,
        "in-context learning at the same model size",
        [*same_size, *_of(pairs, line)],
        figure,
        missing,
    )


def _finetune_claims(results: Results, line: SummaryLine | None) -> list[Claim]:
    pairs = [pair for pair in _pairs(results, "pattern_finetune") if _same_student(pair)]
    figure = read_paper().claims.out_of_domain_gain_over_pattern_finetune_relative
    missing = (
        "" if pairs else "Fine-tuning of the same student on the same labelled examples is not in this run."
    )
    return _gain_claims(results, "pattern-based fine-tuning", [*_of(pairs, line), *pairs], figure, missing)


def _pairs(results: Results, method: str) -> list[_Pair]:
    """What the records compare context distillation with, in the order of the recipe; controls are left out."""
    lines = {line.key: line for line in results.summary}
    found = dict.fromkeys((one.a, one.b) for one in results.comparisons)
    pairs = [_Pair(lines[a], lines[b]) for a, b in found if a in lines and b in lines]
    return [pair for pair in pairs if pair.distilled.num_shots and pair.other.method == method]


def _of(pairs: list[_Pair], line: SummaryLine | None) -> list[_Pair]:
    return [pair for pair in pairs if line and pair.distilled.key == line.key]


def _as_usually_reported(line: SummaryLine) -> bool:
    return (line.scoring, line.calibration, line.num_contexts) == ("direct", "none", 1)


def _same_size(pair: _Pair) -> bool:
    same = pair.other.teacher == pair.distilled.student
    return same or _alike(pair.other.parameters, pair.distilled.parameters)


def _same_student(pair: _Pair) -> bool:
    alike = ("student", "head", "tuning", "labelled")
    return all(getattr(pair.distilled, name) == getattr(pair.other, name) for name in alike)


def _gain_claims(results: Results, over: str, pairs: list[_Pair], figure: float, missing: str) -> list[Claim]:
    """One claim for each out-of-domain set; the first pair is judged, or with ``missing`` merely shown."""
    outside = [split for split, inside in evaluation_sets(results) if not inside]
    told = f"{names.points(figure)}%"
    pair = pairs[0] if pairs else None
    if not outside:
        reason = "Nothing out-of-domain was evaluated."
        return [Claim(f"Out-of-domain accuracy over {over}", told, NOT_APPLICABLE, "", _CANNOT, reason)]
    claims = []
    for split in outside:
        text = f"Accuracy on {names.isolate(split)} (out-of-domain) over {over}"
        comparison = _comparison(results, pair, split)
        if pair is None or comparison is None:
            reason = missing or "The records hold no paired comparison of the two."
            claims.append(Claim(text, told, NOT_APPLICABLE, "", _CANNOT, reason))
            continue
        gain = _gain(pair, comparison)
        verdict, why = _judged(results, pair, comparison, figure, missing)
        claims.append(
            Claim(
                text,
                told,
                NOT_APPLICABLE if gain is None else f"{names.points(gain)}%",
                f"95% interval {names.interval(comparison.relative_ci95)}"
                if comparison.relative_ci95
                else "",
                verdict,
                why,
                _compared(results, pair, comparison),
            )
        )
    return claims


def _comparison(results: Results, pair: _Pair | None, split: str) -> Comparison | None:
    if pair is None:
        return None
    keys = (pair.distilled.key, pair.other.key, split)
    return next((one for one in results.comparisons if (one.a, one.b, one.split) == keys), None)


def _gain(pair: _Pair, comparison: Comparison) -> float | None:
    """The relative gain as recorded, or of the means where the records are older than it."""
    if comparison.relative is not None:
        return comparison.relative
    one, other = interval_on(pair.distilled, comparison.split), interval_on(pair.other, comparison.split)
    return one.mean / other.mean - 1 if one and other and other.mean > 0 else None


def _judged(
    results: Results, pair: _Pair, comparison: Comparison, figure: float, missing: str
) -> tuple[Verdict, str]:
    models = (pair.distilled.student, pair.distilled.teacher, pair.other.student, pair.other.teacher)
    if not is_language_inference(results):
        return _CANNOT, "The claim is about natural language inference, and this task is another."
    if any((model or "").startswith("random:") for model in models):
        return _CANNOT, "The models have random weights, so their accuracy means nothing."
    if missing:
        return _CANNOT, missing
    if comparison.relative is None or comparison.relative_ci95 is None:
        return _CANNOT, "The records hold no interval of the relative gain: it is made from the predictions."
    low, high = comparison.relative_ci95
    if high < figure:
        return "does not hold", "The whole interval lies below the paper’s figure."
    if comparison.relative >= figure and low > 0:
        return "holds", "The gain is at least the paper’s, and its interval lies above zero."
    return _CANNOT, "The interval leaves it open: there are too few items or seeds to tell."


def _compared(results: Results, pair: _Pair, comparison: Comparison) -> str:
    """What was set against what, and what weakens it."""
    named = names.line_names(results.summary)
    told = [f"Compared: {named[pair.distilled.key]}; {named[pair.other.key]}."]
    if comparison.seeds == 1:
        told.append("There is one seed, so the interval covers the choice of items alone.")
    for line in (pair.distilled, pair.other):
        runs = split_results(results, line, comparison.split)
        if any(max(run.predicted.values(), default=0.0) >= _CONSTANT for run in runs):
            told.append(f"{names.method_name(line.method)} gives nearly always the same answer here.")
    return " ".join(told)


# Memory ------------------------------------------------------------------------------------------


def _memory_claims(results: Results) -> list[Claim]:
    alike = [pair for pair in _pairs(results, "pattern_finetune") if _same_student(pair)]
    whole = {
        (line.student, line.head, line.labelled): line
        for line in results.summary
        if line.method == "pattern_finetune" and line.tuning == "full"
    }
    cheaper = [
        _Pair(line, whole[key])
        for line in results.summary
        if line.method == "context_distillation" and line.control is None and line.tuning != "full"
        for key in [(line.student, line.head, line.labelled)]
        if key in whole
    ]
    return [
        _memory_claim(results, "Peak memory of training below pattern-based fine-tuning", alike),
        _memory_claim(
            results, "Peak memory of training with LoRA or BitFit below fine-tuning all weights", cheaper
        ),
    ]


def _memory_claim(results: Results, text: str, pairs: list[_Pair]) -> Claim:
    figure = read_paper().claims.peak_memory_reduction_vs_pattern_finetune
    told = f"up to {names.points(-figure)}%"
    found = [
        (1 - pair.distilled.peak_memory_bytes / pair.other.peak_memory_bytes, pair)
        for pair in pairs
        if pair.distilled.peak_memory_bytes > 0 and pair.other.peak_memory_bytes > 0
    ]
    if not found:
        reason = "No student was trained in both ways on the same labelled examples with its peak measured."
        return Claim(text, told, NOT_APPLICABLE, "", _CANNOT, reason)
    reduction, pair = max(found, key=lambda one: one[0])
    named = names.line_names(results.summary)
    where = "an accelerator" if "accelerator" in results.hardware else "a processor; the paper’s was on a GPU"
    why = f"The largest reduction of {names.plural(len(found), 'pair')}, measured on {where}."
    compared = f"Compared: {named[pair.distilled.key]}; {named[pair.other.key]}."
    by_seed = _reductions(results, pair)
    bounds = f"by seed {names.points(-max(by_seed))}% to {names.points(-min(by_seed))}%" if by_seed else ""
    verdict: Verdict = "holds" if reduction >= figure else "does not hold"
    here = f"{'up to' if reduction > 0 else 'at best'} {names.points(-reduction)}%"
    return Claim(text, told, here, bounds, verdict, why, compared)


def _reductions(results: Results, pair: _Pair) -> list[float]:
    others = {cell.seed: cell.peak_memory_bytes for cell in cells_of(results, pair.other)}
    return [
        1 - cell.peak_memory_bytes / others[cell.seed]
        for cell in cells_of(results, pair.distilled)
        if others.get(cell.seed)
    ]
