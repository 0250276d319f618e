"""From a student to an ONNX file, in float32 or with weights of 8 bits."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillshot.errors import ModelError, NoSuchExportError, WorkError
from stillshot.models.output import label_logits
from stillshot.student.heads import NextTokenClassifier
from stillshot.student.saved import Student
from stillshot.types import Example

MODEL_FILE = "model.onnx"
# A protocol buffer holds 2 GiB; the weights of what is larger go into a file beside it.
LARGEST_FILE_BYTES = 2_000_000_000
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "onnxruntime.quantization.matmul_nbits_quantizer", "root")
_BLOCK = 32  # inputs of a matrix that share a scale


def check_onnx(student: Student) -> None:
    """See that a student can be exported to ONNX.

    Raises:
        ModelError: Its head cannot, or the packages for it are not installed.
    """
    if student.head == "channel":
        raise NoSuchExportError(
            "A channel head reads the query once a label and scores its tokens, which has no ONNX export.",
            "Use --to merged or --to gguf, or distil a student with head: label.",
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

    Weights of more than :data:`LARGEST_FILE_BYTES` (PyTorch draws its own line lower) lie beside it; see
    :func:`files_beside`.

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
                external_data=weights_bytes > LARGEST_FILE_BYTES,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise WorkError(
            f"PyTorch could not export {student.model.config.model_type} to ONNX: {reason} Use --to merged."
        ) from error


def write_int8(source: Path, target: Path, *, decoder: bool) -> None:
    """Quantize an ONNX file: weights of matrix products and of word embeddings have 8 bits.

    Products of an encoder take their inputs in 8 bits too, whose range is found anew for each batch, so
    nothing needs to be calibrated. Weights have a scale for each output channel and use 7 of their 8 bits: on
    processors without VNNI, sums of full 8-bit products overflow. A decoder's states have a few channels far
    larger than all others, which leave the others no digits in one range; its products have a scale for every
    block of inputs and weights instead, and are slower. So have an encoder's products that narrow, the second of each
    feed-forward layer: what its activation function lets through is as uneven.

    Args:
        source: What :func:`write_onnx` has written, with its weights in the file or beside it.
        target: The file to write; beside it go weights that are too large for it also in 8 bits.
        decoder: Whether the model is one.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = [] if decoder else ["MatMul", "Gemm"]
    source_bytes = sum(file.stat().st_size for file in (source, *files_beside(source)))
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        quantized = Path(folder) / MODEL_FILE
        quantize_dynamic(
            source,
            quantized,
            op_types_to_quantize=["Gather", *products],
            weight_type=QuantType.QInt8,
            per_channel=not decoder,
            reduce_range=not decoder,
            nodes_to_exclude=_narrowing(source),
            # A decoder's products still have 32 bits here.
            use_external_data_format=source_bytes > LARGEST_FILE_BYTES,
        )
        written = _in_blocks(onnx.load(quantized))
        written.save_model_to_file(str(target), _weights_bytes(written.model) > LARGEST_FILE_BYTES)


def files_beside(file: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, where it does not hold them itself.

    They are told by their names, ``model.onnx.data``, by which the file refers to them.
    """
    return sorted(file.parent.glob(f"{file.name}.*"))


def _weights_bytes(model: Any) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    weights = model.graph.initializer
    return sum(math.prod(w.dims) * tensor_dtype_to_np_dtype(w.data_type).itemsize for w in weights)


def _narrowing(file: Path) -> list[str]:
    """The products with weights that have more inputs than outputs.

    Only those of kind MatMul: ONNX Runtime (1.32) renames a Gemm before it looks for names to leave out.
    """
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    narrow = {w.name for w in graph.initializer if len(w.dims) == 2 and w.dims[0] > w.dims[1]}
    return [node.name for node in graph.node if node.op_type == "MatMul" and narrow & set(node.input)]


def _in_blocks(model: Any) -> Any:
    """The model with those matrix products in blocks that are not quantized yet, weights and inputs alike."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    in_8_bits = 4  # ONNX Runtime's level of accuracy at which inputs have 8 bits
    settings = DefaultWeightOnlyQuantConfig(
        block_size=_BLOCK, is_symmetric=True, accuracy_level=in_8_bits, bits=8
    )
    quantizer: Any = MatMulNBitsQuantizer(model, algo_config=settings)
    quantizer.process()
    return quantizer.model


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
    loggers = [logging.getLogger(name) for name in _LOGGERS]
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
