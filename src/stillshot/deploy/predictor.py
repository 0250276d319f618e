"""What answers queries: a student, or an export of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stillshot.config import TaskDefinition
from stillshot.student.features import Featurizer
from stillshot.student.saved import Query, Student


class Predictor(Protocol):
    """Answers queries with a distribution over a task's labels.

    ``featurizer`` turns queries into token ids, by which they are counted and cut.
    """

    task: TaskDefinition
    featurizer: Featurizer

    def predict_proba(self, queries: Sequence[Query], batch_size: int = 32) -> NDArray[np.float64]:
        """Probabilities over ``task.labels``, shape ``(queries, labels)``."""
        ...


def load_predictor(folder: str | Path) -> Predictor:
    """The student in a folder, run by PyTorch.

    Raises:
        ModelError: The folder holds no student.
    """
    return Student.load(folder)
