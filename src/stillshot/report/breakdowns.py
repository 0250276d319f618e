"""Tables that look behind an accuracy: by group, by predicted label, and how far to trust a probability."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from statistics import fmean

from stillshot.evaluate.records import Peers, Results, SplitResult, SummaryLine
from stillshot.report import names
from stillshot.report.lines import (
    cells_of,
    evaluation_sets,
    headline,
    interval_on,
    mean_of,
    ordered_lines,
    peer_cells_of,
    peer_lines,
    split_results,
)
from stillshot.report.names import NOT_APPLICABLE
from stillshot.report.tables import Column, Entry, Row, Table, kind

_SHOWN_LABELS = 8
_SHOWN_ACROSS = 6
_CONSTANT = 0.95
CALIBRATED = "if calibrated here, %"  # beneath the heading of a column

_MEASURES: tuple[tuple[str, Callable[[SplitResult], float], Callable[[float], str]], ...] = (
    ("Macro F1", lambda found: found.macro_f1, names.percent),
    ("NLL", lambda found: found.nll, names.decimal),
    ("ECE", lambda found: found.ece, names.decimal),
)


def group_tables(results: Results) -> list[Table]:
    """Accuracy by each group of each evaluation set that has groups."""
    tables = []
    for split, _ in evaluation_sets(results):
        found = {line.key: split_results(results, line, split) for line in ordered_lines(results)}
        groups = dict.fromkeys(group for runs in found.values() for run in runs for group in run.by_group)
        tables += [_group_table(results, split, group, found) for group in groups]
    return tables


def _group_table(results: Results, split: str, group: str, found: dict[str, list[SplitResult]]) -> Table:
    runs = [run.by_group[group] for run_list in found.values() for run in run_list if group in run.by_group]
    sizes = {value: max(run[value].n for run in runs if value in run) for run in runs for value in run}
    named = names.line_names(results.summary)
    featured = headline(results)
    rows = []
    for key, run_list in found.items():
        by_value = [run.by_group.get(group, {}) for run in run_list]
        entries = []
        for value in sizes:
            accuracies = [values[value].accuracy for values in by_value if value in values]
            entries.append(Entry(names.percent(fmean(accuracies)) if accuracies else NOT_APPLICABLE))
        is_featured = featured is not None and key == featured.key
        rows.append(Row(Entry(named[key]), tuple(entries), featured=is_featured))
    columns = tuple(Column(names.shorten(value, 60), f"n = {names.count(n)}") for value, n in sizes.items())
    table = Table(
        f"{names.isolate(split)}: accuracy by {names.isolate(group)}, %", "Method", columns, tuple(rows)
    )
    return _transposed(table, names.shorten(group, 60)) if len(columns) > _SHOWN_ACROSS else table


def _transposed(table: Table, row_title: str) -> Table:
    columns = tuple(Column(row.name.text) for row in table.rows)
    rows = tuple(
        Row(Entry(column.title, column.detail), tuple(row.entries[position] for row in table.rows))
        for position, column in enumerate(table.columns)
    )
    return replace(table, row_title=row_title, columns=columns, rows=rows)


def calibration_table(results: Results, peers: Peers | None = None) -> Table | None:
    """Macro F1, negative log-likelihood, calibration error, what calibration on the set gives, and agreement.

    All are means over seeds. Peers come last.
    """
    sets = evaluation_sets(results)
    lines = [line for line in ordered_lines(results) if cells_of(results, line)]
    if not sets or not lines:
        return None
    agreeing = {
        split for line in lines for cell in cells_of(results, line) for split in cell.teacher_agreement
    }
    calibrated = {
        split
        for line in lines
        for split, _ in sets
        if _calibrated(split_results(results, line, split)) is not None
    }
    columns, rows = [], []
    for split, inside in sets:
        group = f"{names.isolate(split)}, {kind(inside)}"
        columns += [Column(title, group=group) for title, _, _ in _MEASURES]
        columns += [Column("Accuracy", CALIBRATED, group=group)] if split in calibrated else []
        columns += [Column("Agreement", "with teacher, %", group=group)] if split in agreeing else []
    named = names.line_names(results.summary)
    featured = headline(results)
    for line in lines:
        entries: list[Entry] = []
        for split, _ in sets:
            found = split_results(results, line, split)
            entries += [_mean_entry(mean_of(found, measure), shown) for _, measure, shown in _MEASURES]
            entries += [_mean_entry(_calibrated(found), names.percent)] if split in calibrated else []
            entries += [_agreement(results, line, split)] if split in agreeing else []
        is_featured = featured is not None and line.key == featured.key
        rows.append(Row(Entry(named[line.key]), tuple(entries), featured=is_featured))
    if peers is not None:
        rows += _peer_calibration(results, peers, calibrated, agreeing)
    return Table("Calibration and agreement", "Method", tuple(columns), tuple(rows))


def _peer_calibration(
    results: Results, peers: Peers, calibrated: Collection[str], agreeing: Collection[str]
) -> list[Row]:
    named = names.peer_names(peers.summary)
    rows = []
    for line in peer_lines(results, peers):
        entries: list[Entry] = []
        for split, _ in evaluation_sets(results):
            found = [cell.splits[split] for cell in peer_cells_of(peers, line) if split in cell.splits]
            entries += [_mean_entry(mean_of(found, measure), shown) for _, measure, shown in _MEASURES]
            entries += [_mean_entry(_calibrated(found), names.percent)] if split in calibrated else []
            entries += [Entry(NOT_APPLICABLE)] if split in agreeing else []
        rows.append(Row(Entry(named[line.key]), tuple(entries)))
    return rows


def _calibrated(found: Sequence[SplitResult]) -> float | None:
    """None also where records of an older version, which had none, are among them."""
    values = [run.calibrated_accuracy for run in found if run.calibrated_accuracy is not None]
    return fmean(values) if values and len(values) == len(found) else None


def _mean_entry(mean: float | None, shown: Callable[[float], str]) -> Entry:
    return Entry(NOT_APPLICABLE if mean is None else shown(mean))


def _agreement(results: Results, line: SummaryLine, split: str) -> Entry:
    found = [
        cell.teacher_agreement[split] for cell in cells_of(results, line) if split in cell.teacher_agreement
    ]
    return _mean_entry(fmean(found) if found else None, names.percent)


def experts_table(results: Results) -> Table | None:
    """What soft labels were mixed of, where students were asked for an expert of their own; means over seeds."""
    named, rows = names.line_names(results.summary), []
    for line in ordered_lines(results):
        found = [cell.experts for cell in cells_of(results, line) if cell.experts is not None]
        if not found:
            continue
        alone = sum(experts.own == 0 for experts in found)
        entries = (
            Entry(names.decimal(fmean(experts.teacher for experts in found), 2)),
            Entry(names.decimal(fmean(experts.own for experts in found), 2)),
            Entry(f"{alone} of {len(found)}"),
            Entry(names.percent(fmean(experts.held_out_teacher for experts in found))),
            Entry(names.percent(fmean(experts.held_out_own for experts in found))),
        )
        rows.append(Row(Entry(named[line.key]), entries))
    columns = (
        Column("Teacher", group="Weight"),
        Column("Own", group="Weight"),
        Column("Teacher alone", "seeds"),
        Column("Teacher", group="Right on labels held out, %"),
        Column("Own", group="Right on labels held out, %"),
    )
    return Table("What soft labels were mixed of", "Method", columns, tuple(rows)) if rows else None


def predicted_tables(results: Results) -> list[Table]:
    """How often each label is predicted, beside how often it is right; one table an evaluation set."""
    return [
        table
        for split, inside in evaluation_sets(results)
        if (table := _predicted_table(results, split, inside)) is not None
    ]


def _predicted_table(results: Results, split: str, inside: bool) -> Table | None:
    lines = [line for line in ordered_lines(results) if interval_on(line, split)]
    found = {line.key: split_results(results, line, split) for line in lines}
    first = next((run for runs in found.values() for run in runs), None)
    if first is None:
        return None
    gold = gold_rates(first)
    shown = sorted(gold, key=lambda label: -gold[label])[:_SHOWN_LABELS]
    shown = [label for label in gold if label in shown]
    more = len(gold) - len(shown)
    named = names.line_names(results.summary)
    rows = [Row(Entry("Gold labels"), _rate_entries(gold, shown, more))]
    for line in lines:
        runs = found[line.key]
        if not runs:
            continue
        rates = {label: fmean(run.predicted.get(label, 0.0) for run in runs) for label in gold}
        constant = any(max(run.predicted.values(), default=0.0) >= _CONSTANT for run in runs)
        note = "nearly always the same answer" if constant else ""
        rows.append(Row(Entry(named[line.key], note), _rate_entries(rates, shown, more)))
    columns = [Column(names.shorten(label, 40)) for label in shown]
    columns += [Column(f"{more} more")] if more else []
    caption = f"{names.isolate(split)}, {kind(inside)}: how often each label is predicted, %"
    return Table(caption, "Method", tuple(columns), tuple(rows))


def _rate_entries(rates: dict[str, float], shown: list[str], more: int) -> tuple[Entry, ...]:
    entries = [Entry(names.percent(rates[label])) for label in shown]
    rest = sum(rate for label, rate in rates.items() if label not in shown)
    return (*entries, Entry(names.percent(rest))) if more else tuple(entries)


def gold_rates(found: SplitResult) -> dict[str, float]:
    """The share of each label among the gold labels of an evaluation set."""
    totals = [sum(row) for row in found.confusion]
    number = sum(totals) or 1
    return {label: total / number for label, total in zip(found.labels, totals, strict=False)}
