"""Whether labels are about equally frequent, as batch calibration takes them to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stillshot.types import Example

# Labels are called uneven where this share of them would have to change, and chance does not explain it.
UNEVEN_DISTANCE = 0.2
UNEVEN_P = 0.01

UNEVEN_ADVICE = (
    "Batch calibration takes all labels for equally frequent, and so pulls the teacher's answers towards the rare ones. "
    "Compare with teacher.calibration: none (or contextual)."
)


def count_labels(examples: Iterable[Example]) -> dict[str, int]:
    """How many different texts have each label."""
    distinct = {example.identity: example.label for example in examples if example.label is not None}
    return dict(Counter(str(label) for label in distinct.values()))


def describe_uneven(counts: Mapping[str, int], labels: Sequence[str]) -> str | None:
    """Which label is how frequent, where labels are clearly not equally frequent; else ``None``.

    >>> describe_uneven({"a": 95, "b": 5}, ["a", "b"])
    "95% of 100 have the label 'a'"
    >>> describe_uneven({"a": 3, "b": 1}, ["a", "b"]) is None
    True
    """
    from scipy.special import chdtrc

    total = sum(counts.get(label, 0) for label in labels)
    if not total or len(labels) < 2:
        return None
    even = total / len(labels)
    distance = sum(abs(counts.get(label, 0) - even) for label in labels) / (2 * total)
    statistic = sum((counts.get(label, 0) - even) ** 2 / even for label in labels)
    if distance < UNEVEN_DISTANCE or chdtrc(len(labels) - 1, statistic) >= UNEVEN_P:
        return None
    frequent = max(labels, key=lambda label: counts.get(label, 0))
    return f"{counts[frequent] / total:.0%} of {total:,} have the label {frequent!r}"


def absent_labels(counts: Mapping[str, int], labels: Sequence[str]) -> list[str]:
    """The labels that no item has."""
    return [label for label in labels if not counts.get(label)]
