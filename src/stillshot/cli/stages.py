"""``stillshot label``, ``train`` and ``evaluate``: one stage of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stillshot.cli.arguments import Overrides, RecipePath, RunPath, read_recipe, run_folder
from stillshot.cli.progress import progress
from stillshot.cli.run import end_with_failures

if TYPE_CHECKING:
    from stillshot.pipeline import Run


def label(recipe: RecipePath, overrides: Overrides = None, output: RunPath = None) -> None:
    """Have the teacher label the queries, and stop there.

    \b
    Example:
      stillshot label recipe.yaml -o runs/first
    """
    story = _stage(recipe, overrides, output, lambda story: story.label())
    typer.echo(story.folder.softlabels)


def train(recipe: RecipePath, overrides: Overrides = None, output: RunPath = None) -> None:
    """Train the students on the labels that are there, and stop there.

    \b
    Example:
      stillshot train recipe.yaml -o runs/first
    """
    story = _stage(recipe, overrides, output, lambda story: story.train())
    for folder in sorted(path for path in _inside(story.folder.path / "students") if path.is_dir()):
        typer.echo(folder)
    _end(story)


def evaluate(recipe: RecipePath, overrides: Overrides = None, output: RunPath = None) -> None:
    """Evaluate the teacher and the trained students.

    `stillshot report` then puts the records together.

    \b
    Example:
      stillshot evaluate recipe.yaml -o runs/first
    """
    story = _stage(recipe, overrides, output, lambda story: story.evaluate())
    typer.echo(story.folder.path / "cells")
    _end(story)


def _stage(path: Path, overrides: list[str] | None, output: Path | None, work: Callable[[Run], None]) -> Run:
    recipe = read_recipe(path, overrides)
    with progress() as report:
        report("check", "reading data and prompts", 0, 0)
        from stillshot import pipeline
        from stillshot.evaluate.runner import quiet_libraries

        quiet_libraries()
        story = pipeline.open_run(recipe, run_folder(recipe, output), report)
        work(story)
    return story


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _end(story: Run) -> None:
    from stillshot.methods.cells import cells

    end_with_failures(story.failures, len(cells(story.recipe)))
