"""What answers queries: a student, or an export of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stillshot.config import TaskDefinition
from stillshot.student.features import Featurizer
from stillshot.student.saved import OnCut, Query, Student
from stillshot.student.sidecar import Sidecar
from stillshot.types import Dtype


class Predictor(Protocol):
    """Answers queries with a distribution over a task's labels.

    Attributes:
        task: What is answered.
        featurizer: Turns queries into token ids, by which they are counted and cut.
        side_by_side: Whether several threads that ask at once are answered sooner than one after the other.
    """

    task: TaskDefinition
    featurizer: Featurizer
    side_by_side: bool

    def predict_proba(
        self, queries: Sequence[Query], batch_size: int = 32, on_cut: OnCut | None = None
    ) -> NDArray[np.float64]:
        """Probabilities over ``task.labels``, shape ``(queries, labels)``.

        ``on_cut`` gets the positions of queries whose texts were longer than the student reads.
        """
        ...

    def logits(self, inputs: dict[str, Tensor], /) -> Tensor:
        """Scores of labels for a batch as the featurizer pads it, shape ``(batch, labels)``.

        Several threads may ask at once.
        """
        ...


def load_predictor(folder: str | Path, dtype: Dtype | None = None, threads: int | None = None) -> Predictor:
    """The student in a folder, run by PyTorch, or an export of one, run by what it was exported to.

    Args:
        dtype: Of a student's weights, see :meth:`Student.load`; those of an ONNX or GGUF export are what it was
            exported with.
        threads: Of one batch's computation, for an ONNX export; see :meth:`OnnxStudent.load`.

    Raises:
        ModelError: The folder holds neither, or what runs the export is not installed.
    """
    exported = Sidecar.read(Path(folder)).exported
    if exported is None:
        return Student.load(folder, dtype)
    if exported.kind == "gguf":
        from stillshot.deploy.gguf_student import GgufStudent

        return GgufStudent.load(folder)
    from stillshot.deploy.onnx_student import OnnxStudent

    return OnnxStudent.load(folder, threads)
