"""Draw the sweeps in results/sweeps/ whose variants are numbers, into results/sweeps/figures/.

python tools/sweep_figures.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from result_tables import shown_lines

from stillshot.report.drawing import INK, RULE, Plan, accuracy_limits, write_drawings

SWEEPS = Path(__file__).parents[1] / "results/sweeps"
_COLOURS = ("#00805f", "#0072b2", "#d55e00", "#a3478a")
_MARKS = "^sDo"
_WIDE = 8  # times the smallest number, from where on the axis is logarithmic


def sweep_figure(record: Mapping[str, Any]) -> tuple[Figure, str] | None:
    """Accuracy against the number that was varied, a curve for each kind of line; None for other variants."""
    try:
        by_number = {float(one["name"].replace(",", "")): one for one in record["variants"]}
    except ValueError:
        return None
    numbers = sorted(by_number)
    shown = {number: shown_lines(by_number[number]["lines"]) for number in numbers}
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    kinds = dict.fromkeys(kind for lines in shown.values() for kind in lines)
    for kind in kinds:
        found = [(number, shown[number][kind]) for number in numbers if kind in shown[number]]
        for split in {**found[0][1]["in_domain"], **found[0][1]["out_of_domain"]}:
            intervals = [{**line["in_domain"], **line["out_of_domain"]}[split] for _, line in found]
            place, across = len(panel.get_lines()), [number for number, _ in found]
            colour = _COLOURS[place % len(_COLOURS)]
            lows, highs = ([100 * one["ci95"][side] for one in intervals] for side in (0, 1))
            panel.fill_between(across, lows, highs, color=colour, alpha=0.13, linewidth=0)
            panel.plot(
                across,
                [100 * one["mean"] for one in intervals],
                color=colour,
                marker=_MARKS[place % len(_MARKS)],
                label=f"{kind} · {split}",
            )
    if numbers[0] > 0 and numbers[-1] >= _WIDE * numbers[0]:
        panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator(numbers))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(color=RULE, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    panel.set_ylim(*accuracy_limits(panel.get_ylim()))
    panel.set_ylabel("Accuracy, %")
    panel.set_title(record["question"], loc="left", wrap=True, color=INK)
    panel.legend(frameon=False, fontsize=8.5)
    return figure, "Points are means over seeds and bands 95% intervals."


def main() -> None:
    """Draw those that can be drawn."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(SWEEPS.glob("*.json"))]
    plans = [Plan(one["name"], one["question"], lambda one=one: sweep_figure(one)) for one in records]
    for drawing in write_drawings(plans, SWEEPS / "figures"):
        print(SWEEPS / "figures" / f"{drawing.name}.svg")


if __name__ == "__main__":
    main()
