"""Whether an export answers as the student does that it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """What a comparison on the same queries gave.

    Attributes:
        queries: How many were compared.
        share: Of them, those with the same likeliest label.
        largest_difference: Of any label's probability for any query.
        largest_turned: Of the answers that differ, the most by which what is compared with preferred its own label.
    """

    queries: int
    share: float
    largest_difference: float
    largest_turned: float

    @classmethod
    def between(cls, expected: NDArray[np.float64], found: NDArray[np.float64]) -> Agreement:
        """Compare two arrays of probabilities, shape ``(queries, labels)``.

        >>> Agreement.between(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.8, 0.2], [0.5, 0.5]]))
        Agreement(queries=2, share=0.5, largest_difference=0.1, largest_turned=0.2)
        """
        same = expected.argmax(-1) == found.argmax(-1)
        turned = np.diff(np.sort(expected[~same], axis=-1), axis=-1)[:, -1]
        return cls(
            len(expected),
            float(same.mean()),
            round(float(np.abs(expected - found).max()), 6),
            round(float(turned.max(initial=0.0)), 6),
        )
