"""Do published records come out again? Holds a run, of fewer seeds maybe, beside what is published of its recipe.

    stillshot run recipes/topic.yaml --set 'seeds=[0]' -o runs/again/topic
    python experiments/reproduced.py runs/again/topic    # writes results/reproduced/topic.json

Every finished cell of the run is compared with the published cell of the same name, on each evaluation set.
On one kind of machine with as many threads most are the same. Where kernels round differently, or scores were
batched with others, training carries that on, and a student differs a little.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stillshot.config import Recipe
from stillshot.errors import RunFolderError, StillshotError
from stillshot.evaluate.folder import RunFolder
from stillshot.report.folder import read_results

RESULTS = Path(__file__).parents[1] / "results"


def reproduced(run: Path, published: Path) -> dict[str, Any]:
    """Accuracies of a run's cells beside the published ones.

    Raises:
        StillshotError: One of the runs is not finished, their recipes differ in more than seeds, or
            no cell is in both.
    """
    found, known = read_results(run), {cell.id: cell for cell in read_results(published).cells}
    if _settings(run) != _settings(published):
        raise RunFolderError(
            f"{run} is not a run of the recipe in {published}: they differ in more than seeds. Run that recipe."
        )
    cells = [
        {
            "id": cell.id,
            "split": split,
            "n": result.n,
            "published": known[cell.id].splits[split].accuracy,
            "again": result.accuracy,
        }
        for cell in found.cells
        if cell.failed is None and cell.id in known and known[cell.id].failed is None
        for split, result in cell.splits.items()
    ]
    if not cells:
        raise RunFolderError(f"{run} and {published} have no finished cell in common. Run one of its seeds.")
    return {"seeds": sorted({cell.seed for cell in found.cells}), "hardware": found.hardware, "cells": cells}


def _settings(run: Path) -> dict[str, Any]:
    recipe: Recipe = RunFolder(run).open_recipe()
    # Where a teacher's scores are kept changes none of them.
    return recipe.model_dump(mode="json", exclude={"seeds": True, "description": True, "teacher": {"store"}})


def main() -> None:
    """Parse arguments, compare, write the records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs, named as their recipes")
    for run in parser.parse_args().runs:
        name = run.resolve().name
        try:
            record = reproduced(run, RESULTS / name)
        except StillshotError as error:
            sys.exit(f"error: {run}: {error}")
        target = RESULTS / "reproduced" / f"{name}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        same = sum(cell["published"] == cell["again"] for cell in record["cells"])
        print(f"{target}: {same} of {len(record['cells'])} accuracies are the same")


if __name__ == "__main__":
    main()
