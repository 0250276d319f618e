"""The paper's figures from our records: accuracy, memory, time and size against support examples.

Support examples are the labelled ones that a method may use. Every figure needs two numbers of them.
Where a :class:`Paper` is given, its points are drawn dashed behind ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from stillshot.evaluate.records import Cell, Results, SummaryLine
from stillshot.report import names
from stillshot.report.drawing import COLOURS, INK, MARKS, MUTED, RULE, accuracy_limits, short
from stillshot.report.grid import Series, has_grid, method_series, student_series
from stillshot.report.lines import cells_of, evaluation_sets, interval_on, split_results
from stillshot.report.paper import AccuracyFigure, Curves, Paper
from stillshot.report.tables import kind

_MOST_PANELS = 3
_PALETTE = ("#00805f", "#0072b2", "#d55e00", "#a3478a", "#8a6d00", "#595f69")
_MARK_CYCLE = "^sDovP"
_PAPER_METHODS = {
    "baseline": "zero_shot",
    "in_context": "in_context",
    "pattern_finetune": "pattern_finetune",
    "context_distillation": "context_distillation",
}
_PAPER_TUNINGS = {
    "context_distillation": "full",
    "context_distillation_lora": "lora",
    "context_distillation_bitfit": "bitfit",
}


@dataclass(frozen=True)
class _Look:
    """How a series is drawn: the second of one method has open marks and a dotted line."""

    colour: str
    mark: str
    is_open: bool = False

    @property
    def style(self) -> dict[str, object]:
        return {
            "color": self.colour,
            "marker": self.mark,
            "markersize": 5.5,
            "linewidth": 1.5,
            "linestyle": (0, (1, 1.5)) if self.is_open else "-",
            "markerfacecolor": "white" if self.is_open else self.colour,
        }


_Drawn = list[tuple[Series, _Look]]
_DASHED = (0, (4, 2))


def methods_accuracy_figure(results: Results, paper: Paper | None) -> tuple[Figure, str] | None:
    """Accuracy by method (the paper's figure 1)."""
    colours = {theirs: COLOURS[ours] for theirs, ours in _PAPER_METHODS.items()}
    dashed = {"paper (digitised), in its method’s colour": MUTED} if paper else {}
    theirs = paper and paper.figure_1
    return _accuracy_figure(results, _by_method(results), paper, theirs, colours, dashed)


def students_accuracy_figure(results: Results, paper: Paper | None) -> tuple[Figure, str] | None:
    """Accuracy by the way the student is trained (the paper's figure 5)."""
    drawn = _by_student(results)
    theirs = paper and paper.figure_5
    return _accuracy_figure(
        results, drawn, paper, theirs, _tuning_colours(drawn), _dashed_tunings(drawn, paper)
    )


def methods_cost_figure(results: Results, paper: Paper | None) -> tuple[Figure, str] | None:
    """Peak memory, training time and model size by method; the paper has no such curves."""
    return _cost_figure(results, _by_method(results), None)


def students_cost_figure(results: Results, paper: Paper | None) -> tuple[Figure, str] | None:
    """Peak memory, training time and model size by tuning (the paper's figure 6)."""
    return _cost_figure(results, _by_student(results), paper)


# What is drawn -----------------------------------------------------------------------------------


def _by_method(results: Results) -> _Drawn:
    if not has_grid(results):
        return []
    drawn: _Drawn = []
    for one in method_series(results):
        again = any(other.method == one.method for other, _ in drawn)
        drawn.append((one, _Look(COLOURS.get(one.method, INK), MARKS.get(one.method, "o"), again)))
    return drawn


def _by_student(results: Results) -> _Drawn:
    if not has_grid(results):
        return []
    return [
        (one, _Look(_PALETTE[place % len(_PALETTE)], _MARK_CYCLE[place % len(_MARK_CYCLE)]))
        for place, one in enumerate(student_series(results))
    ]


def _tuning_colours(drawn: _Drawn) -> dict[str, str]:
    """For each of the paper's curves, the colour of our first series that is tuned so."""
    first: dict[str | None, str] = {}
    for one, look in drawn:
        first.setdefault(one.tuning, look.colour)
    return {theirs: first.get(tuning, MUTED) for theirs, tuning in _PAPER_TUNINGS.items()}


# Accuracy ----------------------------------------------------------------------------------------


def _accuracy_figure(
    results: Results,
    drawn: _Drawn,
    paper: Paper | None,
    theirs: AccuracyFigure | None,
    colours: dict[str, str],
    dashed: dict[str, str],
) -> tuple[Figure, str] | None:
    sets = evaluation_sets(results)
    if not drawn or not sets:
        return None
    across = min(len(sets), _MOST_PANELS)
    down = math.ceil(len(sets) / across)
    size = (1.6 + 2.8 * across, 0.5 + 2.6 * down + _legend_height(drawn, dashed))
    figure = Figure(figsize=size, layout="constrained")
    panels: list[Axes] = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
    for panel, (split, inside) in zip(panels, sets, strict=False):
        _prepare(panel, f"{short(split)}\n{kind(inside)}", _ticks(drawn, paper))
        if paper and theirs:
            _draw_paper(panel, paper, theirs.on(inside), colours, scale=100)
        for one, look in drawn:
            _draw_accuracy(panel, one, look, split)
        _draw_chance(panel, results, drawn, split)
    for panel in panels[len(sets) :]:
        panel.set_visible(False)
    panels[0].set_ylim(*accuracy_limits(panels[0].get_ylim()))
    for panel in panels[::across]:
        panel.set_ylabel("Accuracy, %")
    figure.supxlabel("Support (labelled) examples · logarithmic", fontsize=9.5, color=INK)
    _add_legend(figure, drawn, dashed)
    description = (
        "Points are means over seeds and bands 95% intervals; the dotted grey line is chance, a uniform guess "
        f"between the labels.{_flat_note(drawn)}{_paper_note(paper)}"
    )
    return figure, description


def _draw_accuracy(panel: Axes, one: Series, look: _Look, split: str) -> None:
    found = [(line.labelled, interval) for line in one.lines if (interval := interval_on(line, split))]
    if not found:
        return
    values = [100 * interval.mean for _, interval in found]
    lows = [100 * interval.ci95[0] for _, interval in found]
    highs = [100 * interval.ci95[1] for _, interval in found]
    _draw_curve(panel, one, look, [labelled for labelled, _ in found], values, lows, highs)


def _draw_chance(panel: Axes, results: Results, drawn: _Drawn, split: str) -> None:
    runs = [run for one, _ in drawn for line in one.lines for run in split_results(results, line, split)]
    if runs:
        panel.axhline(100 / len(runs[0].labels), color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2, zorder=0)


# Cost --------------------------------------------------------------------------------------------


def _cost_figure(results: Results, drawn: _Drawn, paper: Paper | None) -> tuple[Figure, str] | None:
    if not drawn:
        return None
    dashed = _dashed_tunings(drawn, paper)
    figure = Figure(figsize=(9.8, 3.2 + _legend_height(drawn, dashed)), layout="constrained")
    memory, time, size = figure.subplots(1, 3)
    theirs = paper.figure_6 if paper else None
    colours = _tuning_colours(drawn)
    unit, in_unit = _memory_unit(drawn, paper)
    panels: tuple[tuple[Axes, str, Callable[[SummaryLine | Cell], float], Curves, float], ...] = (
        (
            memory,
            f"Peak memory, {unit}",
            lambda record: record.peak_memory_bytes / in_unit,
            theirs.peak_memory_gb if theirs else {},
            1e9 / in_unit,
        ),
        (
            time,
            "Training time, s",
            lambda record: record.train_seconds,
            theirs.train_seconds if theirs else {},
            1,
        ),
    )
    for panel, title, measure, curves, scale in panels:
        _prepare(panel, title, _ticks(drawn, paper))
        if paper:
            _draw_paper(panel, paper, curves, colours, scale)
        for one, look in drawn:
            _draw_measured(panel, results, one, look, measure)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("Support examples · logarithmic")
    _draw_sizes(size, drawn, paper)
    _add_legend(figure, drawn, dashed)
    size_note = " Among the sizes, the dashed line is the paper’s student." if paper else ""
    description = (
        "Points are medians over seeds and bands reach from the lowest seed to the highest, as measured on the "
        f"hardware named at the end.{_flat_note(drawn)}{_paper_note(paper)}{size_note}"
    )
    return figure, description


def _memory_unit(drawn: _Drawn, paper: Paper | None) -> tuple[str, float]:
    most = max(line.peak_memory_bytes for one, _ in drawn for line in one.lines)
    return ("GB", 1e9) if paper or most >= 1e9 else ("MB", 1e6)


def _draw_measured(
    panel: Axes, results: Results, one: Series, look: _Look, measure: Callable[[SummaryLine | Cell], float]
) -> None:
    lines = [line for line in one.lines if measure(line) > 0]  # nothing is trained, or nothing was measured
    if not lines:
        return
    by_seed = [[measure(cell) for cell in cells_of(results, line)] or [measure(line)] for line in lines]
    labelled, values = [line.labelled for line in lines], [measure(line) for line in lines]
    _draw_curve(panel, one, look, labelled, values, list(map(min, by_seed)), list(map(max, by_seed)))


def _draw_sizes(panel: Axes, drawn: _Drawn, paper: Paper | None) -> None:
    """Bars, since a model's size does not depend on the number of examples."""
    panel.set_title("Model size, MB", loc="left")
    for place, (one, look) in enumerate(drawn):
        size = one.lines[-1].model_bytes / 1e6
        fill = "white" if look.is_open else look.colour
        panel.barh(place, size, height=0.62, color=fill, edgecolor=look.colour, linewidth=1.2)
        panel.annotate(
            names.size(one.lines[-1].model_bytes),
            (size, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    if paper:
        panel.axvline(1000 * paper.claims.student_size_gb, color=MUTED, linestyle=_DASHED, linewidth=1.3)
    panel.set_xlim(0, 1.3 * panel.get_xlim()[1])
    panel.set_yticks([])
    panel.invert_yaxis()
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.tick_params(length=0)


# Parts -------------------------------------------------------------------------------------------


def _ticks(drawn: _Drawn, paper: Paper | None) -> list[int]:
    """Numbers of labels that have room on the axis, ours before the paper's; the first and last are kept."""
    ours = sorted({line.labelled for one, _ in drawn for line in one.lines if line.labelled})
    every = sorted({*ours, *(paper.support_examples if paper else ())})
    least = 0.07 * math.log(every[-1] / every[0])
    kept = [every[0], every[-1]]
    for number in [*ours, *every]:
        if all(abs(math.log(number / other)) >= least for other in kept):
            kept.append(number)
    return sorted(set(kept))


def _prepare(panel: Axes, title: str, ticks: Sequence[int]) -> None:
    panel.set_title(title, loc="left")
    panel.set_xscale("log", base=2)
    panel.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(color=RULE, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)


def _draw_curve(
    panel: Axes,
    one: Series,
    look: _Look,
    labelled: list[int],
    values: list[float],
    lows: list[float],
    highs: list[float],
) -> None:
    if one.is_flat:
        panel.axhspan(lows[0], highs[0], color=look.colour, alpha=0.1, linewidth=0)
        panel.axhline(values[0], color=look.colour, linewidth=1.5)
        return
    panel.fill_between(labelled, lows, highs, color=look.colour, alpha=0.13, linewidth=0)
    if len(labelled) == 1:
        panel.vlines(labelled, lows, highs, color=look.colour, alpha=0.55, linewidth=1.5)
    panel.plot(labelled, values, **look.style)  # type: ignore[arg-type]


def _draw_paper(panel: Axes, paper: Paper, curves: Curves, colours: dict[str, str], scale: float) -> None:
    for theirs, values in curves.items():
        shown = [scale * value for value in values]
        panel.plot(
            paper.support_examples,
            shown,
            color=colours.get(theirs, MUTED),
            linestyle=_DASHED,
            linewidth=1.1,
            marker="x",
            markersize=4,
            alpha=0.65,
            zorder=1,
        )


def _add_legend(figure: Figure, drawn: _Drawn, dashed: dict[str, str]) -> None:
    """Names of the series, then of the paper's curves by their colour."""
    handles, titles = [], []
    for one, look in drawn:
        style = {**look.style, **({"marker": ""} if one.is_flat else {})}
        handles.append(Line2D([], [], **style))  # type: ignore[arg-type]
        titles.append(short(one.name))
    for title, colour in dashed.items():
        handles.append(
            Line2D([], [], color=colour, linestyle=_DASHED, linewidth=1.1, marker="x", markersize=4)
        )
        titles.append(title)
    figure.legend(handles, titles, loc="outside upper left", ncols=2, frameon=False, fontsize=8.5)


def _dashed_tunings(drawn: _Drawn, paper: Paper | None) -> dict[str, str]:
    if paper is None:
        return {}
    colours = _tuning_colours(drawn)
    return {f"paper (digitised), {names.TUNINGS[_PAPER_TUNINGS[key]]}": colours[key] for key in colours}


def _legend_height(drawn: _Drawn, dashed: dict[str, str]) -> float:
    return 0.2 * math.ceil((len(drawn) + len(dashed)) / 2)


def _flat_note(drawn: _Drawn) -> str:
    return " A level line uses no labels." if any(one.is_flat for one, _ in drawn) else ""


def _paper_note(paper: Paper | None) -> str:
    return f" Dashed, with crosses: {paper.source}; single runs, its models and hardware." if paper else ""
