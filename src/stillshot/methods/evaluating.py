"""Ask a predictor about every evaluation set of a recipe, and measure its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillshot.config import Recipe
from stillshot.errors import WorkError
from stillshot.evaluate.metrics import measure, project
from stillshot.evaluate.records import SplitResult
from stillshot.methods.materials import EvaluationSet, Materials
from stillshot.types import Example

Report = Callable[[str, int, int], None]
Array = NDArray[np.float64]


def on_all_sets(
    recipe: Recipe,
    materials: Materials,
    answer: Callable[[Sequence[Example], Callable[[int, int], None]], Array],
    report: Report,
    limit: int | None = None,
) -> tuple[dict[str, SplitResult], list[dict[str, Any]]]:
    """Results by evaluation set, and one line a prediction; at most ``limit`` items of a set are asked about.

    Raises:
        WorkError: An answer is no finite number.
    """
    results: dict[str, SplitResult] = {}
    lines: list[dict[str, Any]] = []
    for evaluation in materials.evaluation_sets:
        what = f"evaluating on {evaluation.name}"
        part = evaluation.part(limit)
        examples = [evaluation.examples[index] for index in part]
        raw = answer(examples, lambda done, total, what=what: report(what, done, total))
        if not np.isfinite(raw).all():
            raise WorkError(
                f"{(~np.isfinite(raw)).any(-1).sum():,} of {len(raw):,} answers on {evaluation.name} are not finite "
                "numbers. Lower the learning rate, or set dtype to float32, and run in another folder."
            )
        probabilities = project(raw, evaluation.projection, len(evaluation.task.labels))
        results[evaluation.name] = measure(
            examples,
            probabilities,
            evaluation.task.labels,
            bins=recipe.evaluation.calibration_bins,
        )
        lines += _prediction_lines(evaluation, part, probabilities)
    return results, lines


def _prediction_lines(
    evaluation: EvaluationSet, part: Sequence[int], probabilities: Array
) -> list[dict[str, Any]]:
    labels = evaluation.task.labels
    return [
        {
            "split": evaluation.name,
            "index": index,
            "gold": evaluation.examples[index].label,
            "probabilities": {label: round(float(p), 6) for label, p in zip(labels, row, strict=True)},
        }
        for index, row in zip(part, probabilities, strict=True)
    ]
