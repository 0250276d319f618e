"""What all figures share: their look, and how they become files that are the same to the byte.

Every figure stands on white, so that it reads alike on a light page, a dark one and paper. Methods
differ in colour (Okabe and Ito's, safe for colour-blind readers) and in the shape of their marks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from stillshot.report import names

COLOURS = {
    "zero_shot": "#595f69",
    "in_context": "#0072b2",
    "pattern_finetune": "#d55e00",
    "context_distillation": "#00805f",
}
MARKS = {"zero_shot": "o", "in_context": "s", "pattern_finetune": "D", "context_distillation": "^"}
INK, MUTED, RULE = "#1c2127", "#565d66", "#d8dce1"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Segoe UI", "Helvetica Neue", "Arial"],
    "font.size": 9.5,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and selected
    "svg.hashsalt": "stillshot",
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.labelcolor": INK,
}
_LONGEST_LABEL = 44
_NARROWEST_RANGE = 30.0


@dataclass(frozen=True)
class Drawing:
    """A figure in words and as SVG; the same lies in ``figures/<name>.svg`` and ``.png``."""

    name: str
    title: str
    description: str
    svg: str


@dataclass(frozen=True)
class Plan:
    """A figure that may be drawn: ``draw`` returns it with its description, or None where it does not apply."""

    name: str
    title: str
    draw: Callable[[], tuple[Figure, str] | None]


def write_drawings(plans: Sequence[Plan], folder: Path) -> list[Drawing]:
    """Draw what applies into ``folder``, and remove what no longer does."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = []
    for plan in plans:
        paths = {suffix: folder / f"{plan.name}.{suffix}" for suffix in ("svg", "png")}
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # a reader's own settings must not change the figures
            matplotlib.rcParams.update(_STYLE)
            drawn = plan.draw()
            if drawn is None:
                for path in paths.values():
                    path.unlink(missing_ok=True)
                continue
            figure, description = drawn
            for _ in range(2):  # the second pass knows the room that turned labels take
                figure.draw_without_rendering()
            figure.set_layout_engine("none")  # both files are drawn with the layout found
            svg = _svg(figure)
            paths["svg"].write_text(svg, encoding="utf-8")
            figure.savefig(paths["png"], dpi=160, metadata={"Software": None})
        drawings.append(Drawing(plan.name, plan.title, description, svg))
    return drawings


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=metadata)
    return buffer.getvalue().decode("utf-8")


def short(text: str) -> str:
    """Text fit to stand in a figure: on one line, and not endless."""
    return " ".join(names.shorten(text, _LONGEST_LABEL).split())


def row_name(text: str) -> str:
    """Text fit to stand beside a row of a figure: what is in parentheses has a line of its own."""
    name, opened, details = text.partition(" (")
    return short(name) + (f"\n{short(opened.lstrip() + details)}" if opened else "")


def accuracy_limits(drawn: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis in percent, wide enough that small differences do not look large."""
    low, high = drawn
    wider = max(0.0, _NARROWEST_RANGE - (high - low)) / 2
    return max(low - wider, -2.0), min(high + wider, 102.0)
