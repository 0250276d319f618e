"""Intervals and paired comparisons by bootstrap, exact ones where few items decide, Holm's correction.

A bootstrap knows nothing beyond the items it has: where all are answered rightly every resample is alike, and where
five items decide it takes these five for certain. Exact limits and tests stand in, or widen it, where few items do.
Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Correct = Sequence[NDArray[np.float64]]  # one array of 0 and 1 a seed, all over the same items

_SEED = 20_241_213
_AT_ONCE = 1000  # resamples drawn together; bounds memory and changes no result
_RESAMPLES_A_COMPARISON = 200
_FEW_ERRORS = (
    10  # items answered wrongly, or rightly, below which a bootstrap over several seeds is not trusted alone
)
_FEW_DISCORDANT = (
    25  # items on which two predictors differ, below which it is not (the usual limit for McNemar's test)
)


@dataclass(frozen=True)
class Difference:
    """What pairing two predictors says about their accuracies.

    Attributes:
        mean: Accuracy of the first minus that of the second.
        ci95: Percentile bootstrap over seeds and items of ``mean``; where few items differ, widened by exact limits.
        p: Two-sided, from the same bootstrap, so no smaller than ``2 / (samples + 1)``; where few items differ, no
            smaller than that of the exact test over these (:func:`sign_test`).
        relative: Gain of the first as a share of the second's accuracy: 0.5 is one half more. None
            where the second is right so seldom that a resample holds nothing it got right.
        relative_ci95: From the same resamples, and widened likewise.
    """

    mean: float
    ci95: tuple[float, float]
    p: float
    relative: float | None
    relative_ci95: tuple[float, float] | None


def accuracy_interval(correct: NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of an accuracy: Clopper and Pearson's exact limits (1934), which hold for any number of items.

    >>> low, high = accuracy_interval(np.ones(1))
    >>> round(low, 3), high
    (0.025, 1.0)
    """
    return _exact_limits(float(correct.sum()), len(correct))


def seeds_interval(correct: Correct, samples: int) -> tuple[float, float]:
    """95% interval of a mean over seeds and items.

    Of one seed it is that of :func:`accuracy_interval`. Else a bootstrap: seeds are resampled, then items within each;
    all seeds are evaluated on the same items, which are resampled together. Where few items are answered wrongly (or
    rightly) by any seed, it is widened by the exact limits of the mean, as if there were one seed: other items may
    bring errors that none of these did.
    """
    if len(correct) == 1:
        return accuracy_interval(correct[0])
    values = np.stack(correct)
    low, high = _percentiles(_resampled_means(values[None], samples)[0])
    if min((values < 0.5).any(0).sum(), (values > 0.5).any(0).sum()) < _FEW_ERRORS:
        exact = _exact_limits(float(values.mean(0).sum()), values.shape[1])
        low, high = _hull((low, high), exact)
    return low, high


def paired_difference(a: Correct, b: Correct, samples: int) -> Difference:
    """Accuracy of ``a`` against that of ``b``, as a difference and as a relative gain.

    Both were evaluated on the same items with the same seeds, in the same order; the resampling of
    seeds and items is shared, so what both find hard cancels.
    """
    both = np.stack([np.stack(a), np.stack(b)])
    of_a, of_b = _resampled_means(both, samples)
    # Sums of shares that should be equal differ by rounding, which must not count as a difference.
    differences = np.round(of_a - of_b, 12)
    below, above = (differences <= 0).mean(), (differences >= 0).mean()
    p = min(1.0, 2 * (min(below, above) * samples + 1) / (samples + 1))
    interval = _percentiles(differences)
    relative, relative_interval = None, None
    if of_b.min() > 0 and both[1].mean() > 0:
        relative = float(both[0].mean() / both[1].mean() - 1)
        relative_interval = _percentiles(of_a / of_b - 1)
    if (both[0] != both[1]).any(0).sum() < _FEW_DISCORDANT:
        p = max(p, sign_test(a, b))
        exact = _exact_difference(both[0], both[1])
        interval = _hull(interval, exact)
        if relative_interval is not None:
            share = float(both[1].mean())
            relative_interval = _hull(relative_interval, (max(-1.0, exact[0] / share), exact[1] / share))
    mean = float((both[0] - both[1]).mean())
    return Difference(mean, interval, float(p), relative, relative_interval)


def samples_for(comparisons: int, samples: int) -> int:
    """How many resamples a family of comparisons needs, at least ``samples``.

    A bootstrap's p-value is never below ``2 / (samples + 1)``, and Holm's correction multiplies the
    smallest by the size of the family: with too few resamples no comparison of a large family could
    ever reach 0.05. These allow 0.01.
    """
    return max(samples, _RESAMPLES_A_COMPARISON * comparisons)


def mcnemar(a: Correct, b: Correct) -> float:
    """Two-sided p-value of McNemar's exact test, over the discordant items of all seeds together.

    A discordant item is one that only one of the two gets right; were both equally good, each would
    win half of them. Seeds are pooled as if they were further items. Where their answers to one item
    are alike, that counts the same evidence several times and the p-value is too small; nor does it
    cover what other seeds would give. With one seed it is exact; with several, go by the bootstrap.
    """
    from scipy.stats import binomtest  # a second to import, for those who compare alone

    first, second = np.stack(a) > 0.5, np.stack(b) > 0.5
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def sign_test(a: Correct, b: Correct) -> float:
    """Two-sided p-value of the exact sign test over items: each counts once, for the predictor that is right in more of its seeds.

    With one seed it is McNemar's exact test; with several it does not count one item's evidence several times, as
    :func:`mcnemar` does.
    """
    from scipy.stats import binomtest

    balance = (np.stack(a) - np.stack(b)).sum(0)
    wins, losses = int((balance > 0).sum()), int((balance < 0).sum())
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family, corrected so that one of its true null hypotheses is rejected in 5% at most.

    Holm's step-down (1979): the smallest is multiplied by their number, the next by one less, and so
    on, and none is smaller than one before it. Needs no independence.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = largest
    return corrected


def _resampled_means(values: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Means over resampled seeds and items.

    Items on which all predictors and seeds do the same are drawn together, by how many of them a
    resample holds: the same distribution as drawing items one by one, in a fraction of the time.

    Args:
        values: Shape ``(predictors, seeds, items)``.

    Returns:
        Shape ``(predictors, samples)``; seeds and items of a sample are the same for all predictors.
    """
    rng = np.random.default_rng(_SEED)
    predictors, seeds, items = values.shape
    patterns, shares = _patterns(values.reshape(predictors * seeds, items))
    patterns = patterns.reshape(predictors, seeds, -1)
    means = np.empty((predictors, samples))
    for start in range(0, samples, _AT_ONCE):
        size = min(_AT_ONCE, samples - start)
        picked = rng.multinomial(seeds, [1 / seeds] * seeds, size) / seeds
        drawn = rng.multinomial(items, shares, size) / items
        for predictor in range(predictors):
            found = np.einsum("ns,ns->n", picked, drawn @ patterns[predictor].T)
            means[predictor, start : start + size] = found
    return means


def _patterns(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The columns that differ, the most frequent first, and the share of each.

    The order does not depend on the values, so that exchanging two predictors changes no draw.
    """
    _, first, counts = np.unique(rows, axis=1, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    return rows[:, first[order]], counts[order] / rows.shape[1]


def _exact_limits(right: float, items: float) -> tuple[float, float]:
    """Clopper and Pearson's 95% limits of a share; ``right`` of ``items`` need not be whole numbers."""
    from scipy.special import betaincinv

    wrong = items - right
    low = 0.0 if right <= 0 else float(betaincinv(right, wrong + 1, 0.025))
    high = 1.0 if wrong <= 0 else float(betaincinv(right + 1, wrong, 0.975))
    return low, high


def _exact_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Limits of the difference of two accuracies on the same items, for when few of these tell the two apart.

    The hull of two intervals, neither of which is enough alone. One takes the items that differ as given, and asks which
    share of them the first wins (exact, so it holds 0 where McNemar's exact test has p over 0.05). The other puts
    exact limits on how often the first alone, and the second alone, is right, and combines them (Newcombe 1998; MOVER):
    it has a width even where no item differs. Seeds are averaged within an item.

    Args:
        a: 0 and 1, shape ``(seeds, items)``; ``b`` alike.
    """
    items = a.shape[1]
    wins, losses = ((one * (1 - other)).mean(0).sum() for one, other in ((a, b), (b, a)))
    share = (
        np.array(_exact_limits(float(wins), float(wins + losses))) if wins + losses else np.array([0.5, 0.5])
    )
    given = (wins + losses) / items * (2 * share - 1)
    (first_low, first_high), (second_low, second_high) = (
        _exact_limits(float(count), items) for count in (wins, losses)
    )
    first, second = wins / items, losses / items
    low = first - second - np.hypot(first - first_low, second_high - second)
    high = first - second + np.hypot(first_high - first, second - second_low)
    return _hull((float(given[0]), float(given[1])), (max(-1.0, float(low)), min(1.0, float(high))))


def _hull(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
