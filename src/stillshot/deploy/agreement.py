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
    """

    queries: int
    share: float
    largest_difference: float

    @classmethod
    def between(cls, expected: NDArray[np.float64], found: NDArray[np.float64]) -> Agreement:
        """Compare two arrays of probabilities, shape ``(queries, labels)``.

        >>> Agreement.between(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.8, 0.2], [0.5, 0.5]]))
        Agreement(queries=2, share=0.5, largest_difference=0.1)
        """
        same = float((expected.argmax(-1) == found.argmax(-1)).mean())
        return cls(len(expected), same, round(float(np.abs(expected - found).max()), 6))
