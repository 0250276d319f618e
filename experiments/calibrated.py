"""What is gained where answers are calibrated on what they are asked about, without a label of it.

    python experiments/calibrated.py runs/nli-hans    # writes results/nli-hans/calibrated.json

A student may lean to one label on texts that differ from those it learned from. For every finished cell of a
run, of every method alike, the bias that its answers to an evaluation set show together is divided out (batch
calibration, Zhou et al. 2024, as ``stillshot predict --calibrate`` does it), and accuracy is taken anew. It
assumes that labels are about equally frequent there; what it costs where they are not is measured too, on parts of
the evaluation sets in which one label is four times as frequent as it was. Of the run its predictions are needed, and
nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillshot.cli.progress import progress
from stillshot.errors import RunFolderError, StillshotError
from stillshot.evaluate.assemble import (
    CellAnswers,
    answers,
    cells_by_line,
    compare,
    corrected,
    line_pairs,
    mean_over_seeds,
)
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.statistics import samples_for
from stillshot.report.folder import read_results
from stillshot.teacher.answers import batch_calibrated

RESULTS = Path(__file__).parents[1] / "results"


def calibrated(run: Path) -> dict[str, Any]:
    """Accuracies of a run's lines with calibrated answers, and what they are compared with.

    The comparisons, one family, are those of the run with both sides calibrated, and each distilled line calibrated
    against itself as it is.

    Raises:
        StillshotError: The run is not finished, or its predictions were not kept.
    """
    folder, results = RunFolder(run), read_results(run)
    finished = [cell for cell in results.cells if cell.failed is None]
    for cell in finished:
        if not folder.predictions(cell.id).is_file():
            raise RunFolderError(f"There is no file {folder.predictions(cell.id)}. Run the recipe again.")
    rows = {cell.id: folder.read_lines(folder.predictions(cell.id)) for cell in finished}
    plain = {cell: answers(found) for cell, found in rows.items()}
    fair = {cell: calibrated_answers(found) for cell, found in rows.items()}
    lines = cells_by_line(finished)
    samples = folder.open_recipe().evaluation.bootstrap_samples
    pairs = line_pairs(lines)
    distilled = list(dict.fromkeys((pair.a, pair.split) for pair in pairs))
    resamples = samples_for(len(pairs) + len(distilled), samples)
    family = [
        compare(p.a, p.b, p.split, [(fair[cell.id], fair[other.id]) for cell, other in p.cells], resamples)
        for p in pairs
    ]
    family += [
        compare(key, f"{key}, as it is", split, [(fair[c.id], plain[c.id]) for c in lines[key]], resamples)
        for key, split in distilled
    ]
    return {
        "lines": [
            {
                "key": key,
                "splits": {
                    split: mean_over_seeds(
                        [fair[cell.id][split].right for cell in cells], samples
                    ).model_dump()
                    for split in cells[0].splits
                },
                "skewed": {
                    split: skewed([rows[cell.id] for cell in cells], split) for split in cells[0].splits
                },
            }
            for key, cells in lines.items()
        ],
        "comparisons": [one.model_dump(mode="json") for one in corrected(family)],
    }


def skewed(runs: Sequence[Sequence[dict[str, Any]]], split: str) -> dict[str, float]:
    """Accuracy, as it is and calibrated, where one label is four times as frequent as it was beside the others.

    The mean over seeds, and over the labels of which each is the frequent one once: all its items, and every fourth
    of each other label's.
    """
    means: dict[str, list[float]] = {"accuracy": [], "calibrated_accuracy": []}
    for rows in runs:
        by_label: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["split"] == split:
                by_label.setdefault(row["gold"], []).append(row)
        for frequent in by_label:
            part = [
                row
                for label, found in by_label.items()
                for row in (found if label == frequent else found[::4])
            ]
            for name, answered in (("accuracy", answers), ("calibrated_accuracy", calibrated_answers)):
                means[name].append(float(answered(part)[split].right.mean()))
    return {name: float(np.mean(values)) for name, values in means.items()}


def calibrated_answers(predictions: Iterable[dict[str, Any]]) -> CellAnswers:
    """What one predictor answers to each evaluation set, calibrated on that set."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for row in predictions:
        by_split.setdefault(row["split"], []).append(row)
    changed = []
    for rows in by_split.values():
        labels = list(rows[0]["probabilities"])
        values = np.array([[row["probabilities"][label] for label in labels] for row in rows])
        for row, found in zip(rows, batch_calibrated(values), strict=True):
            changed.append({**row, "probabilities": dict(zip(labels, found.tolist(), strict=True))})
    return answers(changed)


def main() -> None:
    """Parse arguments, compute, write the records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs, which are published")
    arguments = parser.parse_args()
    for run in arguments.runs:
        target = RESULTS / run.resolve().name / "calibrated.json"
        try:
            if not target.parent.is_dir():
                raise RunFolderError(f"There is no folder {target.parent}. Publish the run first.")
            with progress() as report:
                report(run.resolve().name, "calibrating and comparing", 0, 0)
                record = calibrated(run)
        except StillshotError as error:
            sys.exit(f"error: {run}: {error}")
        target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
