"""Sweeps that decide defaults: one recipe, run once for each variant of some settings.

    python experiments/sweeps.py experiments/sweeps/asking-nli.yaml
    python experiments/sweeps.py experiments/sweeps/*.yaml -o runs/sweeps

A sweep is a YAML file with ``question``, ``recipe`` (its path), ``set`` (overrides for all variants, as
``stillshot run --set`` takes them) and ``variants`` (a name and overrides for each; the first is what the
others are compared with). Every variant is a run of its own in the output folder, which goes on where it was;
all share one store of the teacher's scores, so none asks what another has asked. The record goes to
``results/sweeps/``; ``tools/result_tables.py`` makes tables of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillshot import pipeline
from stillshot.cli.progress import progress
from stillshot.config import Recipe
from stillshot.config_files import load_recipe, read_yaml
from stillshot.errors import RecipeError, StillshotError
from stillshot.evaluate.assemble import CellAnswers, answers, compare, corrected, line_key
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.records import Cell, Comparison, Results
from stillshot.evaluate.runner import quiet_libraries
from stillshot.evaluate.statistics import samples_for
from stillshot.methods.cells import cells as planned_cells

ROOT = Path(__file__).parents[1]
Report = Callable[[str, str, int, int], None]
Place = tuple[str, int, int]  # method, positions of the student (-1 for none) and of the budget


@dataclass(frozen=True)
class Sweep:
    """One question, asked of some variants of a recipe."""

    name: str
    question: str
    recipe: str
    common: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Read a sweep's file.

        Raises:
            RecipeError: It is no sweep.
        """
        content = read_yaml(path)
        known = {"question", "recipe", "set", "variants"}
        if not {"question", "recipe", "variants"} <= set(content) <= known:
            raise RecipeError(f"{path} must have question, recipe and variants, and may have set.")
        if not isinstance(content["variants"], dict):
            raise RecipeError(f"{path}: variants must map names to lists of overrides.")
        variants = {str(name): tuple(overrides or ()) for name, overrides in content["variants"].items()}
        if len(variants) < 2:
            raise RecipeError(f"{path} has fewer than two variants.")
        return cls(
            path.stem, content["question"], content["recipe"], tuple(content.get("set") or ()), variants
        )

    def recipe_of(self, variant: str, store: Path) -> Recipe:
        """The recipe of one variant."""
        overrides = (*self.common, *self.variants[variant], f"teacher.store={store}")
        return load_recipe(ROOT / self.recipe, overrides)


def run_sweep(sweep: Sweep, folder: Path, report: Report) -> dict[str, Any]:
    """Run every variant, and put together what they reached.

    Raises:
        StillshotError: A variant cannot be run, or none of its cells could be finished.
    """
    store, results = folder / "scores", {}
    recipes = {variant: sweep.recipe_of(variant, store) for variant in sweep.variants}  # all are read first
    for number, (variant, recipe) in enumerate(recipes.items(), start=1):
        report(sweep.name, f"variant {number} of {len(recipes)}: {variant}", 0, 0)
        results[variant] = pipeline.run(recipe, folder / sweep.name / variant, report)
    return {
        "name": sweep.name,
        "question": sweep.question,
        "recipe": sweep.recipe,
        "set": sweep.common,
        "versions": next(iter(results.values())).versions,
        "hardware": next(iter(results.values())).hardware,
        "variants": [
            {"name": variant, "set": sweep.variants[variant], "lines": _lines(found)}
            for variant, found in results.items()
        ],
        "comparisons": [
            one.model_dump(mode="json") for one in comparisons(results, folder / sweep.name, recipes)
        ],
    }


def _lines(results: Results) -> list[dict[str, Any]]:
    """A variant's summary, and what each seed reached."""
    found = []
    for line in results.summary:
        cells = [c for c in results.cells if line_key(c.id) == line.key and c.failed is None]
        found.append(line.model_dump(mode="json") | {"by_seed": {c.seed: _accuracies(c) for c in cells}})
    return found


def _accuracies(cell: Cell) -> dict[str, float]:
    return {name: split.accuracy for name, split in cell.splits.items()}


def comparisons(results: dict[str, Results], folder: Path, recipes: dict[str, Recipe]) -> list[Comparison]:
    """Every variant's line against the first variant's line in the same place, as one family.

    A place is a method, with the student and the budget at the same positions in both recipes, whatever
    they are there. What is asked raw, or without a context, is left out: it is mostly every variant's.
    """
    first, *others = results
    placed = {variant: _by_place(recipes[variant], results[variant]) for variant in results}
    pairs = [
        (other, place, split)
        for other in others
        for place, cells in placed[other].items()
        if set(cells) & set(placed[first].get(place, {}))
        for split in next(iter(cells.values())).splits
    ]
    samples = samples_for(len(pairs), max(r.evaluation.bootstrap_samples for r in recipes.values()))
    found = []
    for other, place, split in pairs:
        cells, base = placed[other][place], placed[first][place]
        paired = [
            (_answers(folder / other, cells[seed]), _answers(folder / first, base[seed]))
            for seed in sorted(set(cells) & set(base))
        ]
        a, b = (
            f"{name}: {line_key(next(iter(line.values())).id)}"
            for name, line in ((other, cells), (first, base))
        )
        found.append(compare(a, b, split, paired, samples))
    return corrected(found)


def _by_place(recipe: Recipe, results: Results) -> dict[Place, dict[int, Cell]]:
    """A variant's finished cells by place and seed."""
    finished = {cell.id: cell for cell in results.cells if cell.failed is None}
    found: dict[Place, dict[int, Cell]] = {}
    for spec in planned_cells(recipe):
        setting = spec.setting
        left_out = spec.method == "zero_shot" or spec.variant == "raw" or setting.control is not None
        if spec.id in finished and not left_out:
            student = recipe.students.index(spec.student) if spec.student else -1
            place = (spec.method, student, recipe.budgets.index(setting.budget))
            found.setdefault(place, {})[setting.seed] = finished[spec.id]
    return found


def _answers(folder: Path, cell: Cell) -> CellAnswers:
    run = RunFolder(folder)
    return answers(run.read_lines(run.predictions(cell.id)))


def main() -> None:
    """Parse arguments, run, write the records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="+", type=Path, help="YAML files of sweeps")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/sweeps"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=ROOT / "results/sweeps", help="folder of the records")
    arguments = parser.parse_args()
    try:
        sweeps = [Sweep.read(path) for path in arguments.sweeps]
        quiet_libraries()
        for sweep in sweeps:
            with progress() as report:
                record = run_sweep(sweep, arguments.output, report)
            arguments.results.mkdir(parents=True, exist_ok=True)
            target = arguments.results / f"{sweep.name}.json"
            target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(target)
    except StillshotError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
