"""A student exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from stillshot.config import TaskDefinition
from stillshot.deploy.exported_student import ExportedStudent, find_file, load_featurizer, unreadable
from stillshot.errors import ModelError
from stillshot.student.features import Featurizer
from stillshot.student.saved import Logits
from stillshot.student.sidecar import Sidecar


class OnnxStudent(ExportedStudent):
    """An exported student whose logits ONNX Runtime computes."""

    def __init__(self, session: Any, logits: Logits, task: TaskDefinition, featurizer: Featurizer) -> None:
        super().__init__(logits, task, featurizer)
        self.session = session

    @classmethod
    def load(cls, folder: str | Path, threads: int | None = None) -> Self:
        """An export in a folder.

        Args:
            folder: What ``stillshot export --to onnx`` or ``onnx-int8`` has written.
            threads: Of one query's computation; if ``None``, as many as PyTorch uses (``OMP_NUM_THREADS``).

        Raises:
            ModelError: The folder holds no such export, a file of it is missing or damaged, or ONNX Runtime is
                not installed.
        """
        folder = Path(folder)
        sidecar = Sidecar.read(folder)
        exported = sidecar.exported
        if exported is None or exported.kind == "gguf":
            raise ModelError(f"{folder} holds no ONNX export. Make one: stillshot export {folder} --to onnx")
        try:
            import onnxruntime
        except ImportError:
            raise ModelError(
                f"{folder} is run by ONNX Runtime, which is not installed. Run: pip install 'stillshot[export]'"
            ) from None
        featurizer = load_featurizer(folder, sidecar)
        file = find_file(folder, exported)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class in common
            raise unreadable(file, exported, error) from error

        def logits(inputs: dict[str, Tensor]) -> Tensor:
            try:
                (found,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
            except Exception as error:  # damage that only shows when the file is run
                raise unreadable(file, exported, error) from error
            return torch.from_numpy(found)

        return cls(session, logits, sidecar.task, featurizer)
