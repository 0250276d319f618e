"""``stillshot report``: the report again, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillshot.cli.arguments import RunPath, read_recipe, run_folder
from stillshot.cli.console import echo
from stillshot.cli.progress import progress
from stillshot.errors import DataError, ModelError, RecipeError, RunFolderError

if TYPE_CHECKING:
    from stillshot.evaluate.folder import RunFolder


def report(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|RECIPE", help="A run folder, or a recipe that was run.")
    ],
    output: RunPath = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Draw the paper's points behind ours, and judge its claims.")
    ] = False,
) -> None:
    """Make the report of a run again from its records.

    No model is loaded. Without its predictions, a run keeps its results.json and only gets a new page.

    \b
    Example:
      stillshot report runs/first
    """
    folder = _folder(source, output)
    with progress() as tell:
        tell("report", "reading records", 0, 0)
        from stillshot.evaluate.folder import RunFolder
        from stillshot.report import write_report

        run = RunFolder(folder)
        kept: str | None = None
        if _has_predictions(run):
            try:
                kept = _unusable(run)
                if kept is None:
                    _write_results(run, paper=paper)
            except (
                DataError,
                ModelError,
                RecipeError,
            ) as error:  # the run is from another machine, or has been moved
                kept = str(error)
            if kept and not run.results.is_file():
                raise RunFolderError(f"There is no file {run.results}, and it cannot be made. {kept}")
        page = folder / "report.html"
        if kept or not _has_predictions(run):
            page = write_report(folder, paper=paper)
    if kept:
        echo(f"{run.results} was kept as it is. {kept}", err=True)
    echo(page)


def _unusable(run: RunFolder) -> str | None:
    """Which of the records that results are made of is damaged, and what to do; null where none is."""
    from stillshot.evaluate.mending import unusable_record

    record = unusable_record(run)
    return record and (
        f"{record} is damaged or gone. Run `stillshot run RECIPE -o {run.path}` with the recipe of this run: it makes "
        "again what is damaged."
    )


def _folder(source: Path, output: Path | None) -> Path:
    if source.is_dir():
        if output is not None:
            raise RunFolderError(f"{source} is a run folder already; leave out -o {output}.")
        return source
    if not source.exists() and not source.suffix:
        raise RunFolderError(f"There is no run folder {source}. Check the path, or name the recipe's file.")
    return run_folder(read_recipe(source, None), output)


def _has_predictions(run: RunFolder) -> bool:
    """Whether every record has its predictions: copies of a run may leave these large files out."""
    cells = [path for path in run.path.glob("cells/*.json") if run.recipe.is_file()]
    return bool(cells) and all(run.predictions(path.name.removesuffix(".json")).is_file() for path in cells)


def _write_results(run: RunFolder, *, paper: bool) -> None:
    from stillshot.pipeline import Run
    from stillshot.report.folder import read_results

    failures: dict[str, str] = {}
    if run.results.is_file():  # cells that failed left no record but the one in the results
        try:
            known = read_results(run.path).cells
        except RunFolderError as error:
            echo(f"{error} It is made again here, without cells that failed.", err=True)
            known = []
        failures = {c.id: c.failed for c in known if c.failed is not None and not run.cell(c.id).is_file()}
    Run(run.open_recipe(), run, lambda *_: None, failures).write_results(paper=paper)
