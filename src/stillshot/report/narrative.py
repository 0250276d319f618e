"""What was done and what came out, in sentences that claim no more than the records show."""

from __future__ import annotations

from dataclasses import dataclass

from stillshot.data.balance import UNEVEN_ADVICE, describe_uneven
from stillshot.evaluate.records import Comparison, Results, SummaryLine
from stillshot.report import names
from stillshot.report.lines import (
    cells_of,
    counterpart,
    evaluation_sets,
    headline,
    interval_on,
    items_in,
)
from stillshot.report.tables import LOST, is_lost_to_correction, kind, reversed_comparison, verdict

_REFERENCES = ("in_context", "pattern_finetune", "zero_shot")


@dataclass(frozen=True)
class Statement:
    """One paired comparison in words, e.g. ``better than`` ``Zero-shot`` by ``+5.2`` points.

    ``correction`` says where the difference does not stand once the number of comparisons is allowed for.
    """

    verdict: str
    other: str
    difference: str
    interval: str
    correction: str = ""


@dataclass(frozen=True)
class Finding:
    """What the headline's line does on one evaluation set."""

    split: str
    kind: str
    accuracy: str
    interval: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Story:
    """The beginning of a report: what was done, whose results are told, and what limits them."""

    setup: str
    subject: str
    findings: tuple[Finding, ...]
    caveats: tuple[str, ...]


def tell(results: Results) -> Story:
    """The story of a run."""
    line = headline(results)
    if line is None:
        return Story(_setup_without_distillation(results), "", (), _caveats(results, None))
    findings = tuple(
        finding
        for split, inside in evaluation_sets(results)
        if (finding := _finding(results, line, split, inside)) is not None
    )
    return Story(
        _setup(results, line),
        _in_a_sentence(names.line_names(results.summary)[line.key]),
        findings,
        _caveats(results, line),
    )


def _setup(results: Results, line: SummaryLine) -> str:
    teacher = names.isolate(names.model_name(line.teacher)) if line.teacher else "a larger model"
    student = names.isolate(names.model_name(line.student)) if line.student else "a smaller model"
    if line.num_shots:
        shots, contexts = (
            names.plural(line.num_shots, "demonstration"),
            names.plural(line.num_contexts, "context"),
        )
        of_each = "in one context" if line.num_contexts == 1 else f"in each of {contexts}"
        reading = f"was shown {shots} {of_each}, made from {names.plural(line.labelled, 'labelled example')},"
        if line.control:
            reading = f"{reading.removesuffix(',')} with shuffled labels (a control),"
    else:
        reading = "was shown no demonstration (a control)"
    return (
        f"A teacher, {teacher}, {reading} and gave soft labels to "
        f"{names.plural(line.unlabelled, 'unlabelled query')}. A student, {student} "
        f"({names.parameters(line.parameters)} parameters), was trained to give the same answers from the query "
        f"alone, without the context. {_evaluation(results)}"
    )


def _setup_without_distillation(results: Results) -> str:
    methods = list(dict.fromkeys(names.method_name(line.method) for line in results.summary))
    if not methods:
        return "No method finished in this run, so there is nothing to compare."
    told = names.listed(methods)
    return f"{told} {'was' if len(methods) == 1 else 'were'} run; context distillation was not. {_evaluation(results)}"


def _evaluation(results: Results) -> str:
    sets = evaluation_sets(results)
    if not sets:
        return "Nothing was evaluated."
    told = []
    for split, inside in sets:
        number = items_in(results, split)
        size = f", {names.plural(number, 'item')}" if number is not None else ""
        told.append(f"{names.isolate(split)} ({kind(inside)}{size})")
    methods = len({line.method for line in results.summary})
    who = "Every method" if methods > 1 else "It"
    seeds = len({cell.seed for cell in results.cells if not cell.failed})
    repeated = f", with {names.plural(seeds, 'seed')}" if seeds else ""
    return f"{who} was evaluated on {names.listed(told)}{repeated}."


def _finding(results: Results, line: SummaryLine, split: str, inside: bool) -> Finding | None:
    found = interval_on(line, split)
    if found is None:
        return None
    statements = []
    named = names.line_names(results.summary)
    for method in _REFERENCES:
        other = counterpart(results, line, method)
        comparison = _comparison(results, line.key, other.key, split) if other else None
        if other and comparison:
            statements.append(_statement(comparison, named[other.key]))
    return Finding(
        names.shorten(split, 80),
        kind(inside),
        names.percent(found.mean),
        names.interval(found.ci95),
        tuple(statements),
    )


def _comparison(results: Results, first: str, second: str, split: str) -> Comparison | None:
    for comparison in results.comparisons:
        if comparison.split == split and (comparison.a, comparison.b) == (first, second):
            return comparison
        if comparison.split == split and (comparison.a, comparison.b) == (second, first):
            return reversed_comparison(comparison)
    return None


def _statement(comparison: Comparison, other: str) -> Statement:
    word = verdict(comparison)
    joined = {"better": "better than", "worse": "worse than"}.get(word, f"{word} from")
    lost = is_lost_to_correction(comparison)
    return Statement(
        joined,
        _in_a_sentence(other),
        names.points(comparison.difference),
        names.interval(comparison.ci95),
        f"{LOST}, p = {names.p_value(comparison.p_holm)}" if lost else "",
    )


def _in_a_sentence(name: str) -> str:
    return name[:1].lower() + name[1:]


def _uneven(results: Results) -> str | None:
    """The first in-domain set with uneven labels on which something calibrated over a pool was evaluated."""
    for cell in results.cells:
        if cell.failed is None and cell.calibration == "batch":
            for name, scores in cell.in_domain.items():
                counts = {label: sum(row) for label, row in zip(scores.labels, scores.confusion, strict=True)}
                if told := describe_uneven(counts, scores.labels):
                    return f"{names.isolate(name)}, {told}"
    return None


def _caveats(results: Results, line: SummaryLine | None) -> tuple[str, ...]:
    caveats = []
    siblings = [o for o in results.summary if o.method == "context_distillation" and o.control is None]
    if len(siblings) > 1:
        caveats.append(
            f"Of {len(siblings)} variants of context distillation, the first in the recipe is quoted here, "
            "not the best one; all are in the table."
        )
    seeds = {cell.seed for cell in (cells_of(results, line) if line else results.cells) if not cell.failed}
    if len(seeds) == 1:
        caveats.append(
            "There is one seed, so the intervals cover the choice of evaluation items alone: other "
            "demonstrations or another training run may give other results."
        )
    if line and not results.comparisons:
        caveats.append("The records hold no paired comparison, so nothing is called better or worse.")
    if uneven := _uneven(results):
        caveats.append(f"Labels are uneven: of {uneven}. {UNEVEN_ADVICE}")
    if any(cell.failed for cell in results.cells):
        caveats.append("Some cells failed and are missing from the means; they are listed below.")
    if any(
        (cell.teacher or "").startswith("random:") or (cell.student or "").startswith("random:")
        for cell in results.cells
    ):
        caveats.append("Some models have random weights: their accuracy means nothing, only their cost does.")
    return tuple(caveats)
