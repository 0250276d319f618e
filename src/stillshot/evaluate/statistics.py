"""Intervals and paired comparisons by bootstrap. Everything is seeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SEED = 20_241_213


def accuracy_interval(correct: NDArray[np.float64], samples: int) -> tuple[float, float]:
    """95% percentile bootstrap of a mean over items."""
    rng = np.random.default_rng(_SEED)
    means = rng.binomial(len(correct), correct.mean(), samples) / len(correct)
    return _percentiles(means)


def seeds_interval(correct: Sequence[NDArray[np.float64]], samples: int) -> tuple[float, float]:
    """95% bootstrap of a mean over seeds and items.

    Seeds are resampled, then items within each; all seeds are evaluated on the same items, which are
    resampled together.

    Args:
        correct: One array of 0 and 1 a seed, over the same items.
    """
    return _percentiles(_resampled_means(np.stack(correct), samples))


def paired_difference(
    a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]], samples: int
) -> tuple[float, tuple[float, float], float]:
    """Mean accuracy of ``a`` minus that of ``b``, its 95% interval, and a two-sided p-value.

    Both were evaluated on the same items with the same seeds, in the same order; the resampling of
    seeds and items is shared, so what both find hard cancels.
    """
    difference = np.stack(a) - np.stack(b)
    means = _resampled_means(difference, samples)
    below, above = (means <= 0).mean(), (means >= 0).mean()
    p = min(1.0, 2 * (min(below, above) * samples + 1) / (samples + 1))
    return float(difference.mean()), _percentiles(means), float(p)


def _resampled_means(values: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Means of resampled ``values``, shape ``(seeds, items)``; result of shape ``(samples,)``."""
    rng = np.random.default_rng(_SEED)
    seeds, items = values.shape
    means = np.empty(samples)
    for sample in range(samples):
        picked_seeds = rng.integers(seeds, size=seeds)
        counts = np.bincount(rng.integers(items, size=items), minlength=items)
        means[sample] = values[picked_seeds].mean(0) @ counts / items
    return means


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
