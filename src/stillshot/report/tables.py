"""The comparison of methods as a table, for the page and as Markdown; pure functions of the records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stillshot.evaluate.records import Comparison, Interval, PeerLine, Peers, Results, SummaryLine
from stillshot.report import names
from stillshot.report.lines import (
    evaluation_sets,
    headline,
    interval_on,
    items_in,
    ordered_lines,
    peer_lines,
    split_results,
)
from stillshot.report.names import NOT_APPLICABLE

NO_CLEAR_DIFFERENCE = "no clear difference"
SIGNIFICANT = 0.05
LOST = "not after Holm’s correction"


@dataclass(frozen=True)
class Entry:
    """What one field of a table shows: a value, and in smaller print what qualifies it."""

    text: str
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """A column's heading; neighbours with the same ``group`` share a heading above theirs."""

    title: str
    detail: str = ""
    number: bool = True
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A row: what it is about, and one entry a column."""

    name: Entry
    entries: tuple[Entry, ...]
    featured: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; ``row_title`` heads the column of row names."""

    caption: str
    row_title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Shared headings with the number of columns below each; empty where no column has one."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []


# The comparison of methods -----------------------------------------------------------------------


def comparison_table(results: Results, peers: Peers | None = None) -> Table:
    """Every line of the summary with its accuracy on each evaluation set and what it costs.

    Peers stand below our methods of the same number of labels. A mean is marked as strong only where its
    whole interval lies above those of all other lines.
    """
    lines: list[SummaryLine | PeerLine] = sorted(
        [*ordered_lines(results), *peer_lines(results, peers)],
        key=lambda line: names.budget(line) if isinstance(line, SummaryLine) else line.labelled,
    )
    seeds = len({cell.seed for cell in results.cells})
    sets = evaluation_sets(results)
    accuracies = [
        _accuracy_entries([interval_on(line, split) for line in lines], _fewer_items(results, lines, split))
        for split, _ in sets
    ]
    featured = headline(results)
    rows = tuple(
        Row(
            _who(line, seeds),
            (*_setup(line), *(column[position] for column in accuracies), *_costs(line)),
            featured=featured is not None and line.key == featured.key,
        )
        for position, line in enumerate(lines)
    )
    columns = (
        Column("Model", number=False),
        Column("Head, tuning", number=False),
        Column("Labels"),
        *(_accuracy_column(results, split, inside) for split, inside in sets),
        Column("Parameters", group="Cost"),
        Column("Model size", group="Cost"),
        Column("Peak memory", group="Cost"),
        Column("Train time", group="Cost"),
        Column("Label time", group="Cost"),
        Column("Latency", "p50", group="Cost"),
    )
    return Table("Accuracy and cost of each method", "Method", columns, rows)


def _accuracy_column(results: Results, split: str, inside: bool) -> Column:
    number = items_in(results, split)
    detail = f"n = {names.count(number)}" if number is not None else ""
    return Column(names.shorten(split, 40), detail, group=f"{kind(inside).capitalize()}, %")


def kind(inside: bool) -> str:
    """How an evaluation set relates to the task that was taught."""
    return "in-domain" if inside else "out-of-domain"


def _fewer_items(results: Results, lines: Sequence[SummaryLine | PeerLine], split: str) -> list[str]:
    """For each line, how many items it was evaluated on, where that is only a part of the evaluation set."""
    most = items_in(results, split)
    notes = []
    for line in lines:
        found = split_results(results, line, split) if isinstance(line, SummaryLine) else []
        few = found and most is not None and found[0].n < most
        notes.append(f", n = {names.count(found[0].n)}" if few else "")
    return notes


def _accuracy_entries(column: Sequence[Interval | None], notes: Sequence[str]) -> list[Entry]:
    best = clear_best(column)
    return [
        Entry(NOT_APPLICABLE)
        if found is None
        else Entry(names.percent(found.mean), names.interval(found.ci95) + note, strong=position == best)
        for position, (found, note) in enumerate(zip(column, notes, strict=True))
    ]


def clear_best(column: Sequence[Interval | None]) -> int | None:
    """The position whose interval lies above all others, if there is one.

    >>> clear_best([Interval(mean=0.9, ci95=(0.8, 1.0), seeds=1), Interval(mean=0.7, ci95=(0.6, 0.85), seeds=1)])
    """
    present = [(position, found) for position, found in enumerate(column) if found is not None]
    if len(present) < 2:
        return None
    position, best = max(present, key=lambda pair: pair[1].mean)
    apart = all(best.ci95[0] > found.ci95[1] for other, found in present if other != position)
    return position if apart else None


def _who(line: SummaryLine | PeerLine, seeds: int) -> Entry:
    if isinstance(line, SummaryLine):
        return Entry(names.row_name(line), names.contexts(line))
    some = f", {len(line.seeds)} of {seeds} seeds" if len(line.seeds) < seeds else ""
    return Entry(names.peer_name(line.peer), f"peer{some}")


def _setup(line: SummaryLine | PeerLine) -> tuple[Entry, Entry, Entry]:
    with_queries = f"+ {names.plural(line.unlabelled, 'query')}" if line.unlabelled else ""
    budget = Entry(names.count(line.labelled), with_queries)
    if isinstance(line, PeerLine):
        trained = names.PEERS[line.peer][1] if line.peer in names.PEERS else NOT_APPLICABLE
        return Entry(names.peer_model(line.encoder)), Entry(trained), budget
    asked = [names.SCORINGS.get(line.scoring or "", ""), names.CALIBRATIONS.get(line.calibration or "", "")]
    if line.student:
        taught = f"taught by {names.model_name(line.teacher)}" if line.teacher else ""
        model = Entry(names.model_name(line.student), taught)
        tuning = ", ".join(
            filter(None, (names.HEADS.get(line.head or "", ""), names.TUNINGS.get(line.tuning or "", "")))
        )
    else:
        model = Entry(names.model_name(line.teacher))
        tuning = "none"
    how = Entry(tuning or NOT_APPLICABLE, ", ".join(filter(None, asked)))
    return model, how, budget


def _costs(line: SummaryLine | PeerLine) -> tuple[Entry, ...]:
    partly = 0 < line.trainable_parameters < line.parameters
    trained = f"{names.parameters(line.trainable_parameters)} trained" if partly else ""
    return (
        Entry(names.parameters(line.parameters), trained),
        Entry(names.size(line.model_bytes)),
        Entry(names.size(line.peak_memory_bytes)),
        Entry(names.duration(line.train_seconds)),
        Entry(names.duration(line.label_seconds)),
        Entry(names.milliseconds(line.latency_ms.get("p50"))),
    )


# Differences -------------------------------------------------------------------------------------


def verdict(comparison: Comparison) -> str:
    """``better`` or ``worse`` where the interval of the difference excludes zero, and no word otherwise.

    >>> verdict(Comparison(a="x", b="y", split="hans", difference=0.1, ci95=(0.0, 0.2), p=0.05))
    'no clear difference'
    """
    low, high = comparison.ci95
    if low > 0:
        return "better"
    return "worse" if high < 0 else NO_CLEAR_DIFFERENCE


def is_lost_to_correction(comparison: Comparison) -> bool:
    """Whether a difference is spoken of that does not stand once Holm's correction is made.

    False where the records hold no corrected p-value.
    """
    spoken_of = verdict(comparison) != NO_CLEAR_DIFFERENCE
    return spoken_of and comparison.p_holm is not None and not comparison.p_holm < SIGNIFICANT


def reversed_comparison(comparison: Comparison) -> Comparison:
    """The same difference seen from the other side."""
    low, high = comparison.ci95
    bounds = comparison.relative_ci95
    turned = [_turned(bounds[1]), _turned(bounds[0])] if bounds else []
    return comparison.model_copy(
        update={
            "a": comparison.b,
            "b": comparison.a,
            "difference": -comparison.difference,
            "ci95": (-high, -low),
            "relative": None if comparison.relative is None else _turned(comparison.relative),
            "relative_ci95": None if not turned or None in turned else tuple(turned),
        }
    )


def _turned(gain: float) -> float | None:
    """A relative gain of one over another as that of the other over the one."""
    return 1 / (1 + gain) - 1 if gain > -1 else None


def differences_table(results: Results) -> Table | None:
    """Every paired comparison in the records, or ``None`` without any."""
    return _differences(
        "Paired differences in accuracy", results.comparisons, names.line_names(results.summary)
    )


def peer_differences_table(results: Results, peers: Peers | None) -> Table | None:
    """Distilled students (without any, fine-tuned ones) against the peers of their budget, or ``None``.

    ``peers.json`` holds the comparisons of all other lines too.
    """
    if peers is None:
        return None
    methods = {line.key: line.method for line in results.summary}
    told = "context_distillation" if "context_distillation" in methods.values() else "pattern_finetune"
    comparisons = [one for one in peers.comparisons if methods.get(one.a) == told]
    named = {**names.line_names(results.summary), **names.peer_names(peers.summary)}
    return _differences("Paired differences in accuracy from peers", comparisons, named)


def _differences(caption: str, comparisons: Sequence[Comparison], named: Mapping[str, str]) -> Table | None:
    if not comparisons:
        return None
    rows = tuple(
        Row(
            Entry(named.get(comparison.a, names.shorten(comparison.a, 80))),
            (
                Entry(named.get(comparison.b, names.shorten(comparison.b, 80))),
                Entry(names.shorten(comparison.split, 40)),
                Entry(names.points(comparison.difference), strong=verdict(comparison) != NO_CLEAR_DIFFERENCE),
                Entry(names.interval(comparison.ci95)),
                _relative_entry(comparison),
                Entry(names.p_value(comparison.p)),
                Entry(names.p_value(comparison.p_holm)),
                Entry(names.p_value(comparison.p_mcnemar)),
                Entry(verdict(comparison), LOST if is_lost_to_correction(comparison) else ""),
            ),
        )
        for comparison in comparisons
    )
    columns = (
        Column("Against", number=False),
        Column("Evaluation set", number=False),
        Column("Difference", "points"),
        Column("95% interval", "points"),
        Column("Relative", "%"),
        Column("p"),
        Column("p", "Holm"),
        Column("p", "McNemar"),
        Column("The first is", number=False),
    )
    return Table(caption, "Method", columns, rows)


def _relative_entry(comparison: Comparison) -> Entry:
    if comparison.relative is None:
        return Entry(NOT_APPLICABLE)
    bounds = comparison.relative_ci95
    return Entry(names.points(comparison.relative), names.interval(bounds) if bounds else "")


def failures_table(results: Results, peers: Peers | None = None) -> Table | None:
    """The cells that did not finish, with their reason, or ``None`` where all did."""
    told = [
        (names.row_name(cell), names.model_name(cell.student or cell.teacher), cell) for cell in results.cells
    ]
    told += [
        (f"{names.peer_name(cell.peer)} (peer)", names.peer_model(cell.encoder), cell)
        for cell in (peers.cells if peers else [])
    ]
    rows = tuple(
        Row(
            Entry(name, names.shorten(cell.id, 80)),
            (
                Entry(model),
                Entry(names.count(cell.labelled)),
                Entry(str(cell.seed)),
                Entry(names.shorten(cell.failed or "No reason was recorded.")),
            ),
        )
        for name, model, cell in told
        if cell.failed is not None
    )
    if not rows:
        return None
    columns = (
        Column("Model", number=False),
        Column("Labels"),
        Column("Seed"),
        Column("Reason", number=False),
    )
    return Table("Cells that failed", "Cell", columns, rows)


# Markdown ----------------------------------------------------------------------------------------


def markdown_table(results: Results, peers: Peers | None = None) -> str:
    """The comparison as a Markdown table; details that no README needs are left out."""
    return markdown_of(comparison_table(results, peers))


def markdown_of(table: Table) -> str:
    """A table in Markdown."""
    heads = [_markdown(table.row_title)]
    for column in table.columns:
        what = f"({column.group.lower()})" if column.group.endswith("%") else column.detail
        heads.append(_markdown(f"{column.title} {what}"))
    rules = ["---", *("---:" if column.number else "---" for column in table.columns)]
    rows = [
        [_markdown(_told_apart(row)), *map(_markdown_entry, row.entries, table.columns)] for row in table.rows
    ]
    return "\n".join(f"| {' | '.join(fields)} |" for fields in (heads, rules, *rows)) + "\n"


def _told_apart(row: Row) -> str:
    """A row's name; in-context learning stands in several rows, told apart by how the teacher was asked."""
    if row.name.detail.startswith("peer"):
        return f"{row.name.text} ({row.name.detail})"
    if row.name.text != names.METHODS["in_context"]:
        return row.name.text
    setup = row.entries[1]  # "Head, tuning", whose detail is scoring and calibration
    return f"{row.name.text} ({', '.join(filter(None, [row.name.detail, setup.detail]))})"


def _markdown_entry(entry: Entry, column: Column) -> str:
    text = f"**{_markdown(entry.text)}**" if entry.strong else _markdown(entry.text)
    if not entry.detail or column.title == "Head, tuning":
        return text
    if column.group.endswith("%"):
        return f"{text} [{_markdown(entry.detail)}]"
    separator = " " if column.title == "Labels" or text.endswith(".") else ", "
    return f"{text}{separator}{_markdown(entry.detail)}"


def _markdown(text: str) -> str:
    """Text that cannot end its field or become markup."""
    return re.sub(r"[\\`*_|\[\]<>]", r"\\\g<0>", " ".join(names.shorten(text).split()))
