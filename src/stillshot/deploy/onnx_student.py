"""A student exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from stillshot.config import TaskDefinition
from stillshot.errors import ModelError
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.student.features import Featurizer
from stillshot.student.saved import Query, answer_in_batches, build_featurizer, gathered
from stillshot.student.sidecar import Sidecar


class OnnxStudent:
    """Answers as the student does that was exported; see :class:`stillshot.deploy.predictor.Predictor`.

    Queries become the same tokens: the featurizer is the student's own.
    """

    def __init__(self, session: Any, task: TaskDefinition, featurizer: Featurizer) -> None:
        self.session, self.task, self.featurizer = session, task, featurizer

    @classmethod
    def load(cls, folder: str | Path, threads: int | None = None) -> Self:
        """An export in a folder.

        Args:
            folder: What ``stillshot export --to onnx`` or ``onnx-int8`` has written.
            threads: Of one query's computation; if ``None``, as many as PyTorch uses (``OMP_NUM_THREADS``).

        Raises:
            ModelError: The folder holds no such export, or ONNX Runtime is not installed.
        """
        folder = Path(folder)
        sidecar = Sidecar.read(folder)
        if sidecar.exported is None or sidecar.exported.kind == "gguf":
            raise ModelError(f"{folder} holds no ONNX export. Make one: stillshot export {folder} --to onnx")
        try:
            import onnxruntime
        except ImportError:
            raise ModelError(
                f"{folder} is run by ONNX Runtime, which is not installed. Run: pip install 'stillshot[export]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(
                folder / sidecar.exported.file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no class in common
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{folder / sidecar.exported.file} cannot be read: {reason} Export it again."
            ) from error
        resolved = resolve_model(str(folder))
        featurizer = build_featurizer(
            sidecar.task,
            sidecar.prompt,
            sidecar.section,
            sidecar.head,
            load.load_tokenizer(resolved),
            load.load_config(resolved),
        )
        return cls(session, sidecar.task, featurizer)

    def predict_proba(self, queries: Sequence[Query], batch_size: int = 32) -> NDArray[np.float64]:
        """Probabilities over ``task.labels``, shape ``(queries, labels)``."""
        batches = answer_in_batches(queries, self.task, self.featurizer, batch_size, self._logits)
        return gathered(batches, len(queries), len(self.task.labels))

    def _logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        (logits,) = self.session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
        return torch.from_numpy(logits)
