"""The figures of any run: accuracy, cost against accuracy, and what is answered for what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from stillshot.evaluate.records import Results, SplitResult, SummaryLine
from stillshot.report import names
from stillshot.report.drawing import COLOURS, INK, MARKS, MUTED, RULE, accuracy_limits, row_name, short
from stillshot.report.lines import (
    counterpart,
    evaluation_sets,
    headline,
    interval_on,
    ordered_lines,
    split_results,
)
from stillshot.report.tables import kind

_MOST_LABELS_WITH_NUMBERS = 12
_MOST_LABELS_WITH_NAMES = 30


# Accuracy by method ------------------------------------------------------------------------------


def accuracy_figure(results: Results) -> tuple[Figure, str] | None:
    """One panel an evaluation set, one row a line, grouped by the number of labels where it varies."""
    sets = evaluation_sets(results)
    rows = _accuracy_rows(results)
    if not sets or not rows:
        return None
    across = min(len(sets), 3)
    down = math.ceil(len(sets) / across)
    height = down * (0.38 * len(rows) + 0.95) + 0.15
    figure = Figure(figsize=(2.3 + 2.4 * across, height), layout="constrained")
    panels: list[Axes] = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for panel, (split, inside) in zip(panels, sets, strict=False):
        _draw_accuracies(panel, results, rows, split)
        panel.set_title(f"{short(split)}\n{kind(inside)}", loc="left")
    for position, panel in enumerate(panels):
        panel.set_visible(position < len(sets))
        panel.tick_params(labelbottom=position + across >= len(sets), length=0)
    panels[0].set_xlim(*accuracy_limits(panels[0].get_xlim()))
    panels[0].set_yticks(range(len(rows)), [text for text, _ in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for panel in panels[::across]:
        for label, (_, line) in zip(panel.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if line is None else "normal")
    figure.supxlabel("Accuracy, %", fontsize=9.5, color=INK)
    description = (
        "Points are means over seeds and bars are 95% intervals. The dotted line is chance: a uniform "
        "guess between the labels. All values are in the table of methods."
    )
    return figure, description


def _accuracy_rows(results: Results) -> list[tuple[str, SummaryLine | None]]:
    """Rows from the top: a line with its name, or the heading of a number of labels."""
    lines = ordered_lines(results)
    budgets = sorted({line.labelled for line in lines})
    if sum(budget > 0 for budget in budgets) < 2:
        named = names.line_names(lines)
        return [(row_name(named[line.key]), line) for line in lines]
    rows: list[tuple[str, SummaryLine | None]] = []
    for budget in budgets:
        members = [line for line in lines if line.labelled == budget]
        named = names.line_names(members)
        rows.append((names.labels(members[0]), None))
        rows += [(row_name(named[line.key]), line) for line in members]
    return rows


def _draw_accuracies(
    panel: Axes, results: Results, rows: Sequence[tuple[str, SummaryLine | None]], split: str
) -> None:
    panel.grid(axis="x", color=RULE, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines["left"].set_visible(False)
    labels = 0
    for position, (_, line) in enumerate(rows):
        found = interval_on(line, split) if line else None
        if line is None or found is None:
            continue
        colour = COLOURS.get(line.method, INK)
        low, high = (100 * bound for bound in found.ci95)
        panel.hlines(position, low, high, color=colour, linewidth=2, alpha=0.55)
        panel.plot(100 * found.mean, position, MARKS.get(line.method, "o"), color=colour, markersize=6.5)
        panel.annotate(
            names.percent(found.mean),
            (100 * found.mean, position),
            xytext=(0, 6.5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.4},
        )
        labels = next((len(run.labels) for run in split_results(results, line, split)), labels)
    if labels:
        panel.axvline(100 / labels, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.3)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))


# Cost against accuracy ---------------------------------------------------------------------------


def cost_figure(results: Results) -> tuple[Figure, str] | None:
    """Accuracy against latency, or against model size where a latency is missing.

    Controls are left out: they cost what the lines cost that they stand beside.
    """
    lines = [line for line in ordered_lines(results) if line.control is None]
    sets = evaluation_sets(results)
    firsts = [next(((s, i) for s, i in sets if i is inside), None) for inside in (True, False)]
    shown = [first for first in firsts if first]
    timed = all(_latency(line) > 0 for line in lines)
    cost: Callable[[SummaryLine], float] = _latency if timed else lambda line: line.model_bytes / 1e6
    lines = [line for line in lines if cost(line) > 0]
    if not lines or not shown:
        return None
    figure = Figure(figsize=(1.9 + 2.9 * len(shown), 3.9), layout="constrained")
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    largest = max(line.parameters for line in lines)
    for panel, (split, inside) in zip(panels, shown, strict=True):
        for line in lines:
            _draw_cost(panel, line, split, cost(line), _area(line.parameters, largest))
        panel.set_title(f"{short(split)}\n{kind(inside)}", loc="left")
        panel.grid(color=RULE, linewidth=0.7)
        panel.set_axisbelow(True)
        _set_log_axis(panel, [cost(line) for line in lines])
    panels[0].set_ylim(*accuracy_limits(panels[0].get_ylim()))
    panels[0].set_ylabel("Accuracy, %")
    unit = "Latency of one query (p50), ms" if timed else "Model size, MB"
    figure.supxlabel(f"{unit} · logarithmic", fontsize=9.5, color=INK)
    _add_legend(figure, lines, largest, columns=3 if len(shown) > 1 else 2)
    description = (
        f"Further up is more accurate, further left is {'faster' if timed else 'smaller'}. Marks grow with the "
        "number of parameters; bars are 95% intervals."
    )
    return figure, description


def _latency(line: SummaryLine) -> float:
    found = line.latency_ms.get("p50", 0.0)
    return found if math.isfinite(found) else 0.0


def _area(parameters: int, largest: int) -> float:
    """The area of a mark in square points: in proportion to the parameters, but never too small to see."""
    return 36 + 264 * parameters / max(largest, 1)


def _draw_cost(panel: Axes, line: SummaryLine, split: str, cost: float, area: float) -> None:
    found = interval_on(line, split)
    if found is None:
        return
    colour = COLOURS.get(line.method, INK)
    low, high = (100 * bound for bound in found.ci95)
    panel.vlines(cost, low, high, color=colour, linewidth=1.3, alpha=0.6)
    mark = MARKS.get(line.method, "o")
    panel.scatter(
        cost, 100 * found.mean, s=area, marker=mark, color=colour, alpha=0.8, edgecolor="white", linewidth=0.8
    )


def _set_log_axis(panel: Axes, costs: Sequence[float]) -> None:
    panel.set_xscale("log")
    low, high = min(costs), max(costs)
    panel.set_xlim(low / 1.8, high * 1.8)
    steps = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    panel.xaxis.set_major_locator(LogLocator(10, subs=steps))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.tick_params(which="both", length=0)


def _add_legend(figure: Figure, lines: Sequence[SummaryLine], largest: int, columns: int) -> None:
    handles = [
        Line2D([], [], linestyle="", marker=MARKS.get(method, "o"), color=COLOURS.get(method, INK))
        for method in dict.fromkeys(line.method for line in lines)
    ]
    titles = [names.method_name(method) for method in dict.fromkeys(line.method for line in lines)]
    sizes = sorted({min(line.parameters for line in lines), largest})
    for number in sizes if sizes[0] > 0 else []:
        width = math.sqrt(_area(number, largest))
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=width, color="none", mec=MUTED))
        titles.append(f"{names.parameters(number)} parameters")
    figure.legend(
        handles,
        titles,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.6,
    )


# Confusion ---------------------------------------------------------------------------------------


def confusion_figure(results: Results) -> tuple[Figure, str] | None:
    """Context distillation and its in-context teacher on the first in-domain set."""
    line = headline(results)
    split = next((split for split, inside in evaluation_sets(results) if inside), None)
    if line is None or split is None:
        return None
    compared = [line, counterpart(results, line, "in_context")]
    found = [(one, split_results(results, one, split)) for one in compared if one]
    drawn = [(one, runs) for one, runs in found if runs and all(run.confusion for run in runs)]
    if not drawn:
        return None
    labels = drawn[0][1][0].labels
    side = 2.2 if len(labels) <= 4 else min(3.4, 1.4 + 0.22 * len(labels))
    figure = Figure(figsize=(1.2 + (side + 0.5) * len(drawn), side + 1.6), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for position, (panel, (one, runs)) in enumerate(zip(panels, drawn, strict=True)):
        _draw_confusion(panel, runs, first=position == 0)
        model = names.model_name(one.student or one.teacher)
        panel.set_title(f"{names.method_name(one.method)}\n{short(model)}", loc="left", fontsize=9)
    description = (
        f"Answers on {names.isolate(split)} as a percentage of the items with each gold label (a row adds up to "
        "100), over all seeds."
    )
    return figure, description


def _draw_confusion(panel: Axes, runs: Sequence[SplitResult], *, first: bool) -> None:
    labels = runs[0].labels
    counts = [
        [sum(run.confusion[row][column] for run in runs) for column in range(len(labels))]
        for row in range(len(labels))
    ]
    shares = [[100 * number / max(sum(row), 1) for number in row] for row in counts]
    _draw_shares(panel, shares)
    _name_labels(panel, labels, first=first)


def _name_labels(panel: Axes, labels: Sequence[str], *, first: bool) -> None:
    numbered = len(labels) > _MOST_LABELS_WITH_NAMES
    ticks = ["" if numbered else names.shorten(label, 18) for label in labels]
    upright = len(labels) <= 2 or max(map(len, ticks)) <= 8
    turned = {} if upright else {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    panel.set_xticks(range(len(labels)), ticks, **turned)
    panel.set_yticks(range(len(labels)), ticks if first else [""] * len(labels))
    panel.tick_params(length=0, labelsize=8.5 if len(labels) <= 12 else 6, labelcolor=INK)
    order = f"\n({len(labels)} labels, in the task’s order)" if numbered else ""
    panel.set_xlabel(f"Answer{order}")
    if first:
        panel.set_ylabel(f"Gold label{order}")
    for spine in panel.spines.values():
        spine.set_visible(False)


def _draw_shares(panel: Axes, shares: Sequence[Sequence[float]]) -> None:
    if len(shares) > _MOST_LABELS_WITH_NUMBERS:
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=100)  # thousands of paths would weigh too much
        return
    places = range(len(shares))
    panel.pcolormesh(places, places, shares, cmap="Blues", vmin=0, vmax=100, edgecolor="white", linewidth=1)
    panel.set_aspect("equal")
    panel.invert_yaxis()
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            colour = "white" if share > 68 else INK
            panel.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=9)
