"""Put the records of finished runs into results/: all that their tables and figures are made of.

    python experiments/publish.py runs/sentiment runs/nli

Predictions, students, soft labels and the data's own texts stay in the run folder. With ``--plan`` what
``stillshot plan`` says of the recipe is put beside them, as ``plan.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from stillshot.config import Recipe
from stillshot.errors import RunFolderError, StillshotError
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.runner import quiet_libraries
from stillshot.methods.plan import plan
from stillshot.report import write_report
from stillshot.report.folder import read_results

RESULTS = Path(__file__).parents[1] / "results"
MADE_OF_THEM = ("calibrated.json", "plan.json")  # by other scripts, from a run's predictions or recipe


def publish(run: Path, target: Path, remade: Collection[str] = ()) -> None:
    """Copy a run's records to ``target``, in the place of what is there, and draw its figures.

    Args:
        remade: Files beside the records that are made anew after this.

    Raises:
        StillshotError: The run is not finished.
    """
    folder = RunFolder(run)
    read_results(run)  # says so where there are none
    if run.resolve() == target.resolve():
        raise RunFolderError(f"{run} is what was published. Give the run's own folder, e.g. runs/{run.name}.")
    records = [folder.recipe, folder.machine, folder.results]
    records += sorted(folder.cell("*").parent.glob("*.json"))
    records += sorted(folder.peer("*").parent.glob("*.json"))
    records += [folder.peers] if folder.peers.is_file() else []
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = [target / name for name in MADE_OF_THEM if name not in remade and (target / name).is_file()]
    if beside and (target / "results.json").read_bytes() != folder.results.read_bytes():
        dropped = ", ".join(file.name for file in beside)
        print(f"{target}: {dropped} is of earlier results and is left out. Make it again.", file=sys.stderr)
        beside = []
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        written = Path(scratch) / target.name
        for record in records:
            copy = written / record.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(record, copy)
        for file in beside:
            shutil.copy(file, written)
        write_report(written)
        shutil.rmtree(target, ignore_errors=True)
        written.rename(target)


def planned(recipe: Recipe) -> str:
    """What is to be expected of a recipe on this machine, as ``plan.json`` has it."""
    return json.dumps([asdict(cell) for cell in plan(recipe)], indent=1) + "\n"


def main() -> None:
    """Parse arguments and copy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--plan", action="store_true", help="write plan.json too")
    arguments = parser.parse_args()
    quiet_libraries()
    for run in arguments.runs:
        target = RESULTS / run.resolve().name
        try:
            if arguments.plan:
                content = planned(RunFolder(run).open_recipe())
                publish(run, target, remade=["plan.json"])
                (target / "plan.json").write_text(content, encoding="utf-8")
            else:
                publish(run, target)
        except StillshotError as error:
            sys.exit(f"error: {run}: {error}")
        print(target)


if __name__ == "__main__":
    main()
