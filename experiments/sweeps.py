"""Sweeps that decide defaults: one recipe, run once for each variant of some settings.

    python experiments/sweeps.py experiments/sweeps/asking-nli.yaml
    python experiments/sweeps.py experiments/sweeps/*.yaml -o runs/sweeps

A sweep is a YAML file with ``question``, ``recipe`` (its path), ``set`` (overrides for all variants, as
``stillshot run --set`` takes them) and ``variants`` (a name and overrides for each; the first is what the
others are compared with, where it has the same students and numbers of labels). Every variant is a run of its own in the output folder, which goes on where it was;
all share one store of the teacher's scores, so none asks what another has asked. The record goes to
``results/sweeps/``; ``tools/result_tables.py`` makes tables of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
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

ROOT = Path(__file__).parents[1]
Report = Callable[[str, str, int, int], None]


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
    """Every variant's line against the first variant's line of the same kind, as one family.

    Lines are of the same kind where method, model, head, tuning and number of labels are the same; of two
    ways to ask in context only the one that labels queries is compared.
    """
    first, *others = results
    pairs = []
    for other in others:
        for kind, cells in _by_kind(results[other]).items():
            base = _by_kind(results[first]).get(kind, {})
            seeds = sorted(set(cells) & set(base))
            pairs += [(other, kind, split, seeds) for split in _splits(cells, base, seeds)]
    samples = samples_for(len(pairs), max(r.evaluation.bootstrap_samples for r in recipes.values()))
    found = []
    for other, kind, split, seeds in pairs:
        cells, base = _by_kind(results[other])[kind], _by_kind(results[first])[kind]
        paired = [
            (_answers(folder / other, cells[seed]), _answers(folder / first, base[seed])) for seed in seeds
        ]
        label = ", ".join(str(part) for part in kind if part)
        found.append(compare(f"{other}: {label}", f"{first}: {label}", split, paired, samples))
    return corrected(found)


def _by_kind(results: Results) -> dict[tuple[Any, ...], dict[int, Cell]]:
    """A variant's cells by kind and seed; without those that every variant has alike."""
    found: dict[tuple[Any, ...], dict[int, Cell]] = {}
    for cell in results.cells:
        raw = cell.method == "in_context" and "-raw-" in cell.id
        if cell.failed is None and cell.control is None and not raw and cell.method != "zero_shot":
            kind = (cell.method, cell.student, cell.head, cell.tuning, cell.labelled)
            found.setdefault(kind, {})[cell.seed] = cell
    return found


def _splits(cells: dict[int, Cell], base: dict[int, Cell], seeds: Sequence[int]) -> list[str]:
    if not seeds:
        return []
    return [name for name in cells[seeds[0]].splits if name in base[seeds[0]].splits]


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
