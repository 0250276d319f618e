"""``stillshot run``: the whole comparison."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping

import typer

from stillshot.cli.arguments import (
    AsJson,
    Overrides,
    RecipePath,
    RunPath,
    echo_json,
    read_recipe,
    require_models,
    run_folder,
)
from stillshot.cli.console import echo
from stillshot.cli.outcome import best_student, better_finetuned, show_results
from stillshot.cli.progress import progress


def run(
    recipe: RecipePath, overrides: Overrides = None, output: RunPath = None, as_json: AsJson = False
) -> None:
    """Run a whole recipe, or go on with it.

    On a terminal it ends with a short table, elsewhere with one in Markdown that has all columns. Finished work is found in the run folder and never done twice. Ends with exit code 1 where a part failed.

    \b
    Example:
      stillshot run recipe.yaml --set teacher.scoring=both -o runs/both
    """
    asked = read_recipe(recipe, overrides)
    require_models(asked)
    folder = run_folder(asked, output)
    with progress() as report:
        report("check", "reading data and prompts", 0, 0)
        from stillshot import pipeline
        from stillshot.evaluate.runner import quiet_libraries
        from stillshot.tasks import load_task

        quiet_libraries()
        results = pipeline.run(asked, folder, report)
    page = folder / "report.html"
    student = best_student(results, folder)
    failed = {cell.id: cell.failed for cell in results.cells if cell.failed is not None}
    if as_json:
        echo_json(
            {
                "folder": str(folder),
                "report": str(page),
                "best_student": str(student) if student else None,
                "summary": [line.model_dump(mode="json") for line in results.summary],
                "failed": [{"id": name, "reason": reason} for name, reason in failed.items()],
            }
        )
    else:
        show_results(results, sys.stdout)
        echo(f"Report: {page}")
        if student:
            if better := better_finetuned(results, folder, student):
                echo(f"Note: {better}")
            query = shlex.quote(json.dumps(dict.fromkeys(load_task(asked.task).fields, "...")))
            echo(f"Use it: echo {query} | stillshot predict {shlex.quote(str(student))}")
    end_with_failures(failed, len(results.cells))


def end_with_failures(failed: Mapping[str, str], cells: int) -> None:
    """Say which cells failed and why, and end with exit code 1; do nothing where none did."""
    if failed:
        echo(f"error: {len(failed)} of {cells} cells failed:", err=True)
        for name, reason in failed.items():
            echo(f"  {name}: {reason}", err=True)
        raise typer.Exit(1)
