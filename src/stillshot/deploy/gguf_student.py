"""A student exported to GGUF, run by llama.cpp where it is installed, else by transformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from stillshot.config import TaskDefinition
from stillshot.errors import ModelError
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.student.features import Featurizer
from stillshot.student.heads import with_language_model_head
from stillshot.student.saved import Query, answer_in_batches, build_featurizer, gathered
from stillshot.student.sidecar import Sidecar

Logits = Callable[[dict[str, Tensor]], Tensor]  # of a batch's inputs, shape (batch, labels)


class GgufStudent:
    """Answers as the student does that was exported; see :class:`stillshot.deploy.predictor.Predictor`.

    The featurizer is the student's own, and its tokens are what llama.cpp is given. Transformers reads the
    same file into PyTorch, which takes more memory.
    """

    def __init__(self, logits: Logits, task: TaskDefinition, featurizer: Featurizer) -> None:
        self.logits, self.task, self.featurizer = logits, task, featurizer

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """An export in a folder.

        Raises:
            ModelError: The folder holds no such export.
        """
        folder = Path(folder)
        sidecar = Sidecar.read(folder)
        if sidecar.exported is None or sidecar.exported.kind != "gguf":
            raise ModelError(f"{folder} holds no GGUF export. Make one: stillshot export {folder} --to gguf")
        resolved = resolve_model(str(folder))
        featurizer = build_featurizer(
            sidecar.task,
            sidecar.prompt,
            sidecar.section,
            sidecar.head,
            load.load_tokenizer(resolved),
            load.load_config(resolved),
        )
        installed = importlib.util.find_spec("llama_cpp") is not None
        logits = _by_llama_cpp(folder, sidecar) if installed else _by_transformers(folder, sidecar)
        return cls(logits, sidecar.task, featurizer)

    def predict_proba(self, queries: Sequence[Query], batch_size: int = 32) -> NDArray[np.float64]:
        """Probabilities over ``task.labels``, shape ``(queries, labels)``."""
        batches = answer_in_batches(queries, self.task, self.featurizer, batch_size, self.logits)
        return gathered(batches, len(queries), len(self.task.labels))


def _by_transformers(folder: Path, sidecar: Sidecar) -> Logits:
    from transformers import AutoModelForCausalLM, GgufConfig

    assert sidecar.exported is not None
    tokens = sidecar.exported.label_tokens
    language_model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=sidecar.exported.file,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    head = "channel" if tokens is None else "language_model"
    model = with_language_model_head(head, language_model.eval(), sidecar.task.labels)

    def logits(inputs: dict[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            found = model(**inputs).logits
        return found if tokens is None else found[:, tokens]

    return logits


def _by_llama_cpp(folder: Path, sidecar: Sidecar) -> Logits:
    assert sidecar.exported is not None
    tokens = sidecar.exported.label_tokens
    model = _LlamaCpp(folder / sidecar.exported.file, sidecar.section.max_tokens)

    def logits(inputs: dict[str, Tensor]) -> Tensor:
        lengths = inputs["attention_mask"].sum(-1)
        if tokens is not None:
            rows = zip(inputs["input_ids"], lengths, strict=True)
            found = [model.next_logits(ids[:length].tolist())[tokens] for ids, length in rows]
            return torch.from_numpy(np.array(found))
        scores = [
            [
                model.log_probability(ids[:length].tolist(), int(start))
                for ids, length, start in zip(*query, strict=True)
            ]
            for query in zip(inputs["input_ids"], lengths, inputs["scored_from"], strict=True)
        ]
        return torch.tensor(scores)

    return logits


class _LlamaCpp:
    """A model in llama.cpp that reads one sequence at a time."""

    def __init__(self, file: Path, window: int) -> None:
        import llama_cpp

        self._model: Any = llama_cpp.Llama(
            str(file), n_ctx=window, n_batch=window, n_ubatch=window, n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(), logits_all=True, verbose=False,
        )  # fmt: skip

    def next_logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits behind the last token, shape ``(vocabulary,)``."""
        return self._read(ids)[-1].copy()

    def log_probability(self, ids: list[int], start: int) -> float:
        """Of the tokens from ``start`` on, behind those before."""
        rows = log_softmax(self._read(ids)[start - 1 : -1].astype(np.float64), axis=-1)
        return float(rows[np.arange(len(rows)), ids[start:]].sum())

    def _read(self, ids: list[int]) -> NDArray[np.float32]:
        self._model.reset()
        self._model.eval(ids)
        return self._model.scores[: len(ids)]
