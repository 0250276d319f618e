"""``stillshot label``, ``train`` and ``evaluate``: one stage of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stillshot.cli.arguments import Overrides, RecipePath, RunPath, read_recipe, run_folder
from stillshot.cli.console import echo
from stillshot.cli.progress import progress
from stillshot.cli.run import end_with_failures

if TYPE_CHECKING:
    from stillshot.methods.cells import CellSpec, Setting
    from stillshot.pipeline import Run


def label(recipe: RecipePath, overrides: Overrides = None, output: RunPath = None) -> None:
    """Have the teacher label the queries, and stop there.

    Prints the soft labels of each budget and seed.

    \b
    Example:
      stillshot label recipe.yaml -o runs/first
    """
    story = _stage(recipe, overrides, output, lambda story: story.label())
    _show(story.folder.labels(setting.name) for setting in _asked_settings(story))
    _end(story)


def train(recipe: RecipePath, overrides: Overrides = None, output: RunPath = None) -> None:
    """Train the students on the labels that are there, and stop there.

    Prints the folder of each trained student.

    \b
    Example:
      stillshot train recipe.yaml -o runs/first
    """
    story = _stage(recipe, overrides, output, lambda story: story.train())
    folder, trained = story.folder, [spec.id for spec in _cells(story) if spec.student is not None]
    _show(folder.student(name) for name in trained if folder.training(name).is_file())
    _end(story)


def evaluate(recipe: RecipePath, overrides: Overrides = None, output: RunPath = None) -> None:
    """Evaluate the teacher and the trained students.

    Prints the record of each evaluated cell; `stillshot report` then puts them together.

    \b
    Example:
      stillshot evaluate recipe.yaml -o runs/first
    """
    story = _stage(recipe, overrides, output, lambda story: story.evaluate())
    folder = story.folder
    _show(folder.cell(spec.id) for spec in _cells(story) if folder.is_finished(spec.id))
    _end(story)


def _stage(path: Path, overrides: list[str] | None, output: Path | None, work: Callable[[Run], None]) -> Run:
    recipe = read_recipe(path, overrides)
    with progress() as report:
        report("check", "reading data and prompts", 0, 0)
        from stillshot import pipeline
        from stillshot.evaluate.runner import quiet_libraries

        quiet_libraries()
        with pipeline.open_run(recipe, run_folder(recipe, output), report) as story:
            work(story)
    return story


def _show(results: Iterable[Path]) -> None:
    """Print those results that are there: a stage that failed in part has made the others."""
    for path in results:
        if path.exists():
            echo(path)


def _cells(story: Run) -> list[CellSpec]:
    from stillshot.methods.cells import cells

    return cells(story.recipe)


def _asked_settings(story: Run) -> list[Setting]:
    from stillshot.methods.cells import asked_settings

    return asked_settings(story.recipe)


def _end(story: Run) -> None:
    end_with_failures(story.failures, len(_cells(story)))
