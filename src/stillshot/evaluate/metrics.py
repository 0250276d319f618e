"""What predictions are worth: accuracy, macro-F1, likelihood, calibration, rates, groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score

from stillshot.evaluate.records import GroupResult, SplitResult
from stillshot.evaluate.statistics import accuracy_interval
from stillshot.teacher.answers import batch_calibrated
from stillshot.types import Example


def measure(
    examples: Sequence[Example],
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    *,
    bins: int,
) -> SplitResult:
    """All metrics of one predictor on one evaluation set.

    Args:
        examples: Labelled items.
        probabilities: Over ``labels``, shape ``(examples, labels)``.
        labels: The evaluation set's labels.
    """
    gold = np.array([labels.index(str(example.label)) for example in examples])
    predicted = probabilities.argmax(-1)
    correct = (predicted == gold).astype(float)
    columns = range(len(labels))
    return SplitResult(
        n=len(examples),
        labels=list(labels),
        accuracy=float(correct.mean()),
        ci95=accuracy_interval(correct),
        macro_f1=float(f1_score(gold, predicted, labels=list(columns), average="macro", zero_division=0)),  # pyright: ignore[reportArgumentType]
        nll=negative_log_likelihood(probabilities, gold),
        ece=expected_calibration_error(probabilities, gold, bins),
        calibrated_accuracy=float((batch_calibrated(probabilities).argmax(-1) == gold).mean()),
        predicted={label: float((predicted == index).mean()) for index, label in enumerate(labels)},
        confusion=confusion_matrix(gold, predicted, labels=list(columns)).tolist(),
        by_group=_by_group(examples, correct),
    )


def negative_log_likelihood(probabilities: NDArray[np.float64], gold: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the gold labels, in nats; a probability of 0 counts as 1e-12."""
    return float(-np.log(np.clip(probabilities[np.arange(len(gold)), gold], 1e-12, None)).mean())


def expected_calibration_error(
    probabilities: NDArray[np.float64], gold: NDArray[np.int64], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width confidence bins (Guo et al. 2017, eq. 3).

    >>> expected_calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    0.5
    """
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == gold
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[bin_of == index].mean() - confidence[bin_of == index].mean()) * (bin_of == index).mean()
        for index in np.unique(bin_of)
    ]
    return float(sum(gaps))


def project(
    probabilities: NDArray[np.float64], projection: Sequence[int], num_labels: int
) -> NDArray[np.float64]:
    """Probabilities over a training task's labels as probabilities over an evaluation task's.

    Args:
        probabilities: Shape ``(items, training labels)``.
        projection: For each training label, the evaluation label it is read as.
        num_labels: Number of evaluation labels.

    Returns:
        Shape ``(items, evaluation labels)``; training labels read as the same one are summed.
    """
    result = np.zeros((len(probabilities), num_labels))
    for column, target in enumerate(projection):
        result[:, target] += probabilities[:, column]
    return result


def _by_group(examples: Sequence[Example], correct: NDArray[np.float64]) -> dict[str, dict[str, GroupResult]]:
    found: dict[str, dict[str, list[float]]] = {}
    for example, right in zip(examples, correct, strict=True):
        for name, value in example.groups.items():
            found.setdefault(name, {}).setdefault(value, []).append(float(right))
    return {
        name: {
            value: GroupResult(n=len(rights), accuracy=float(np.mean(rights)))
            for value, rights in sorted(values.items())
        }
        for name, values in found.items()
    }
