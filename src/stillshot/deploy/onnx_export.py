"""From a student to an ONNX file, in float32 or with weights of 8 bits."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from stillshot.errors import ModelError, WorkError
from stillshot.models.output import label_logits
from stillshot.student.heads import NextTokenClassifier
from stillshot.student.saved import Student
from stillshot.types import Example

MODEL_FILE = "model.onnx"
# A protocol buffer holds 2 GiB; what is larger goes into a file beside it.
_LARGEST_FILE_BYTES = 2_000_000_000


def check_onnx(student: Student) -> None:
    """See that a student can be exported to ONNX.

    Raises:
        ModelError: Its head cannot, or the packages for it are not installed.
    """
    if student.head == "channel":
        raise ModelError(
            "A channel head reads the query once a label and scores its tokens, which has no ONNX export. Use "
            "--to merged or --to gguf, or distil a student with head: label."
        )
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  (torch.onnx is built on it)
    except ImportError as error:
        raise ModelError(
            f"ONNX export needs the package {error.name}. Run: pip install 'stillshot[export]'"
        ) from None


def write_onnx(student: Student, file: Path) -> None:
    """Write an ONNX file: token ids in, ``logits`` of shape ``(batch, labels)`` out. Batch and length are free.

    Raises:
        WorkError: PyTorch cannot export this architecture.
    """
    inputs = _example_inputs(student)
    names = list(inputs)
    free = {name: {0: "batch", 1: "length"} for name in names}
    weights_bytes = sum(weight.nbytes for weight in student.model.parameters())
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                _LabelLogits(student).eval(),
                kwargs=inputs,
                f=file,
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=free,
                external_data=weights_bytes > _LARGEST_FILE_BYTES,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise WorkError(
            f"PyTorch could not export {student.model.config.model_type} to ONNX: {reason} Use --to merged."
        ) from error


def write_int8(source: Path, target: Path) -> None:
    """Quantize an ONNX file: weights of matrix products and of word embeddings have 8 bits.

    Products take their inputs in 8 bits too, whose range is found anew for each batch, so nothing needs to
    be calibrated. Weights have a scale for each output channel and use 7 of their 8 bits: on processors
    without VNNI, sums of full 8-bit products overflow.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )


class _LabelLogits(nn.Module):
    """A student's model with named inputs, and logits over labels as its only output."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.model = student.model
        self.label_tokens = student.label_tokens

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        if isinstance(self.model, NextTokenClassifier):
            assert self.label_tokens is not None
            hidden = self.model.hidden_states(input_ids, attention_mask)
            last = hidden[torch.arange(hidden.shape[0]), attention_mask.sum(-1) - 1]
            return label_logits(self.model.plain(), last, self.label_tokens)
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **more).logits


def _example_inputs(student: Student) -> dict[str, Tensor]:
    """Inputs of two queries that differ in length, so that no size is taken for a constant."""
    texts = ["one", "another one, of more words"]
    examples = [Example(dict.fromkeys(student.task.fields, text)) for text in texts]
    return student.featurizer.pad(student.featurizer.features(examples))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what exporters warn of along the way; errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
