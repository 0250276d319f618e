"""``stillshot plan``: memory, size and time to expect, before any weights are loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stillshot.cli.arguments import AsJson, Overrides, RecipePath, echo_json, read_recipe, require_models
from stillshot.cli.console import echo
from stillshot.cli.progress import progress
from stillshot.escaping import visible

if TYPE_CHECKING:
    from stillshot.methods.plan import PlannedCell


def plan(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Predict memory, size and time of each cell.

    No weights are loaded: figures follow from configurations and from the data's tokens. Times are for this machine, with the threads that are set. Cells that differ by seed alone are one line.

    \b
    Example:
      stillshot plan recipe.yaml --set students.0.tuning=lora
    """
    asked = read_recipe(recipe, overrides)
    require_models(asked)
    with progress(after_seconds=2.0) as report:
        report("plan", "starting", 0, 0)
        from stillshot.evaluate.runner import quiet_libraries
        from stillshot.methods.plan import plan as planned

        quiet_libraries()
        found = planned(asked, lambda what, done, total: report("plan", what, done, total))
    if as_json:
        echo_json({"recipe": asked.name, "cells": [asdict(cell) for cell in found]})
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    Console(file=sys.stdout, width=width).print(_table(found))
    echo(_totals(found))
    if asked.teacher.select:
        echo("Choosing how the teacher is asked (teacher.select) comes on top.")


def _table(found: Sequence[PlannedCell]) -> Any:
    """A ``rich`` table for 80 to 100 columns; numbers are never broken."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from stillshot.report import names

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Work")
    table.add_column("Labels", justify="right", no_wrap=True)
    table.add_column("Model")
    headings = ("Parameters\n(trained)", "Held\n(saved)", "Peak\nmemory", "Time,\neach", "Times")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in found:
        trained = names.parameters(cell.trainable_parameters)
        model = [names.model_name(cell.model)]
        if cell.head == "channel":
            model.append("channel")
        if cell.tuning:
            model.append(names.TUNINGS.get(cell.tuning, cell.tuning))
        table.add_row(
            _work(cell),
            str(cell.labelled),
            Text(visible(", ".join(model), keep="")),
            names.parameters(cell.parameters) + (f"\n({trained})" if cell.trainable_parameters else ""),
            names.size(cell.model_bytes)
            + (f"\n({names.size(cell.saved_bytes)})" if cell.saved_bytes else ""),
            names.size(cell.peak_memory_bytes),
            _duration(cell.seconds),
            f"x{len(cell.names)}",
        )
    return table


def _work(cell: PlannedCell) -> str:
    """What is done, with the contexts x shots where there are some."""
    from stillshot.report import names

    what = names.method_name(cell.method)
    if cell.num_contexts:
        what = "Label queries" if cell.stage == "label" else "In-context"
        what += f", {cell.num_contexts}x{cell.num_shots}"
    return f"{what} ({names.CONTROLS[cell.control]})" if cell.control else what


def _totals(found: Sequence[PlannedCell]) -> str:
    from stillshot.report import names

    peak = max((cell.peak_memory_bytes for cell in found), default=0)
    seconds = sum(cell.seconds * len(cell.names) for cell in found)
    return f"The run: up to {names.size(peak)} above the libraries at a time, and about {_duration(seconds)} in all."


def _duration(seconds: float) -> str:
    """A time as one says it: ``0.4 s``, ``75 s``, ``12 min``, ``3.2 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
