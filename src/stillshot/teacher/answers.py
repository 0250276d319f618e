"""From raw label scores to soft labels: calibration, ensembling, temperature.

All functions are pure and work on stored scores, so trying another setting never asks the teacher
again. Scores are numpy arrays whose last axis is the label.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, softmax

from stillshot.config import Scoring
from stillshot.prompt.writer import Kind

Scores = NDArray[np.float64]


def kinds_of(scoring: Scoring) -> tuple[Kind, ...]:
    """Which ways of asking a scoring consists of."""
    return ("direct", "channel") if scoring == "both" else (scoring,)


def batch_bias(label_scores: Scores) -> Scores:
    """The bias that a context puts on the label set, as seen over a pool (batch calibration, Zhou et al. 2024).

    The mean predicted distribution over the pool is taken as the bias, so a pool must resemble the
    queries the student will meet; it needs no labels.

    Args:
        label_scores: Log-scores, shape ``(..., queries, labels)``.

    Returns:
        Log of the mean distribution, shape ``(..., 1, labels)``.
    """
    normalised = log_softmax(label_scores, axis=-1)
    return logsumexp(normalised, axis=-2, keepdims=True) - np.log(label_scores.shape[-2])


def calibrate(label_scores: Scores, bias: Scores | float) -> Scores:
    """Divide a bias out of label scores.

    Args:
        label_scores: Log-scores, shape ``(..., queries, labels)``.
        bias: Log-distribution that broadcasts to it: :func:`batch_bias`, the scores of a query without
            content (contextual calibration, Zhao et al. 2021), or 0 for none.

    Returns:
        Log-probabilities, same shape; each row sums to one after ``exp``.
    """
    return log_softmax(log_softmax(label_scores, axis=-1) - bias, axis=-1)


def batch_calibrated(probabilities: Scores) -> Scores:
    """A predictor's probabilities without its bias towards some labels, as seen over all of them together.

    What :func:`batch_bias` takes for bias is how often labels are predicted beyond an equal share. Where they are not
    about equally frequent in truth, that is not all bias, and is divided out all the same.

    Args:
        probabilities: Of a whole set of queries, shape ``(queries, labels)``; 0 counts as 1e-12.

    Returns:
        Same shape, rows sum to one.

    >>> batch_calibrated(np.array([[0.9, 0.1], [0.6, 0.4]])).round(2).tolist()
    [[0.75, 0.25], [0.33, 0.67]]
    """
    scores = np.log(np.clip(probabilities, 1e-12, None))
    return np.exp(calibrate(scores, batch_bias(scores)))


def ensemble(log_probabilities: Scores) -> Scores:
    """Mean distribution over contexts: shape ``(contexts, queries, labels)`` to ``(queries, labels)``, in logs."""
    return logsumexp(log_probabilities, axis=0) - np.log(log_probabilities.shape[0])


def soft_labels(
    scores: Mapping[Kind, Scores], biases: Mapping[Kind, Scores | float], temperature: float = 1.0
) -> Scores:
    """Probabilities over labels, shape ``(queries, labels)``.

    Each kind's scores, shape ``(contexts, queries, labels)``, are calibrated context by context and
    averaged over contexts; kinds are multiplied (a product of experts).
    """
    total = sum(ensemble(calibrate(values, biases[kind])) for kind, values in scores.items())
    return softmax(np.asarray(total) / temperature, axis=-1)
