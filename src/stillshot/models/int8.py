"""Linear layers with int8 weights and activations, for teachers on a processor.

Weights have a scale a row, activations one a token, and products are summed in 32 bits (Dettmers et al. 2022, section 2.1,
without their outlier columns). Before they are rounded, both are rotated by blocks of a Hadamard matrix (QuaRot, Ashkboos
et al. 2024): products stay the same, and what is large in few columns is spread over a block, so that it takes no precision
from the rest. No data are needed for it. The products are oneDNN's, through torch. What lies between them (rotations, scales,
roundings, norms, activation functions) takes as long as they do unless it is fused, which ``torch.compile`` does where there
is a C++ compiler.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import math
import mmap
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import scipy.linalg
import torch
from torch import Tensor, nn

from stillshot.errors import ModelError
from stillshot.memory import give_back_freed

logger = logging.getLogger(__name__)

# Of the largest value of a row or token: int8 without its lowest value, so that it is symmetric.
_LARGEST = 127
_LEAST_SCALE = 1e-12
# Columns that are rotated together, at most: more spread better, and take longer.
_BLOCK = 64
# Products of other numbers of rows take up to a fifth longer.
_ROWS = 64
# What graphs cannot hold: weights in oneDNN's own order, with their scales and zero points.
_packed: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
_numbers = itertools.count()


def is_able() -> bool:
    """Whether this processor has products of int8, and torch the library for them."""
    able = torch.cpu.get_capabilities()
    instructions = ("avx512_vnni", "avx_vnni", "amx_int8")
    return torch.backends.mkldnn.is_available() and any(able.get(name) for name in instructions)


class Int8Linear(nn.Module):
    """A linear layer that computes in int8; inputs and outputs are floating-point numbers."""

    signs: Tensor
    number: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        block = math.gcd(self.in_features, _BLOCK)
        turned = (weight.float().view(-1, block) @ _signs(block) / block).view(weight.shape)
        rounded, scale = _rounded(turned)
        number = next(_numbers)
        packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        _packed[number] = (packed, scale.squeeze(1), torch.zeros(len(scale), dtype=torch.int32))
        weakref.finalize(self, _packed.pop, number, None)
        self.weight_bytes = rounded.nbytes
        bias = layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.register_buffer("signs", _signs(block).to(weight.dtype))
        # A tensor, as graphs are made anew for every other number.
        self.register_buffer("number", torch.tensor(number))

    def forward(self, values: Tensor) -> Tensor:
        """Shape ``(..., in_features)`` to ``(..., out_features)``."""
        turned = (values.reshape(-1, len(self.signs)) @ self.signs).view(-1, self.in_features)
        rounded, scale = _rounded(turned.float())
        halved = values.dtype == torch.bfloat16
        products = torch.ops.stillshot.int8_product(rounded, self.number, self.out_features, halved)
        found = products.float() * scale
        if self.bias is not None:
            found = found + self.bias.float()
        return found.to(values.dtype).view(*values.shape[:-1], self.out_features)


@cache
def _signs(size: int) -> Tensor:
    """The Hadamard matrix of a power of two, of ones and minus ones: its square is ``size`` times the identity."""
    return torch.from_numpy(scipy.linalg.hadamard(size)).float()


def _rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as int8, and the scale of each, shape ``(rows, 1)``."""
    scale = (values.abs().amax(1, keepdim=True) / _LARGEST).clamp_min(_LEAST_SCALE)
    return torch.round(values / scale).to(torch.int8), scale


@torch.library.custom_op("stillshot::int8_product", mutates_args=())
def _int8_product(rows: Tensor, number: Tensor, columns: int, halved: bool) -> Tensor:
    """Products of int8 with packed weights, scaled by row of these; bfloat16 where ``halved``, else float32."""
    packed, scale, zero = _packed[int(number)]
    dtype = torch.bfloat16 if halved else torch.float32
    count = len(rows)
    if rest := -count % _ROWS:
        rows = nn.functional.pad(rows, (0, 0, 0, rest))
    found = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, 0, packed, scale, zero, None, 1.0, 0, dtype, "none", [], ""
    )
    return found[:count]


@_int8_product.register_fake
def _(rows: Tensor, number: Tensor, columns: int, halved: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], columns, dtype=torch.bfloat16 if halved else torch.float32)


@torch.no_grad()
def to_int8(model: Any, progress: Callable[[int, int], None] = lambda *_: None) -> None:
    """Turn the linear layers of a causal model's body into int8, in place; the output layer stays.

    One layer after the other, and what was mapped of its old weights is released, so all of them are never in memory
    together.

    Args:
        model: On the processor, with floating-point weights.
        progress: Called with the layers that are done, and of how many.

    Raises:
        ModelError: It has no plain linear layers.
    """
    body = model.base_model
    layers = {name: module for name, module in body.named_modules() if type(module) is nn.Linear}
    if not layers:
        raise ModelError(
            f"{model.config.name_or_path or model.config.model_type} has no plain linear layers that could compute in int8. "
            "Set teacher.dtype to auto."
        )
    for done, (name, layer) in enumerate(layers.items(), 1):
        body.set_submodule(name, Int8Linear(layer))
        release_mapped(layer.weight)
        give_back_freed()
        progress(done, len(layers))


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the weights in int8, which are also their number; they are no parameters of their layers."""
    return sum(layer.weight_bytes for layer in model.modules() if isinstance(layer, Int8Linear))


@cache
def can_compile() -> bool:
    """Whether there is a C++ compiler, as ``torch.compile`` needs for the processor."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return bool(get_cpp_compiler())
    except Exception as error:  # whatever the search raises where there is none
        logger.debug("No C++ compiler: %s", error)
        return False


def release_mapped(tensor: Tensor) -> None:
    """Let go of the pages of a tensor that is mapped from a file (Linux); they are read again if it is used again."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if start >= end or not _is_mapped(start, end):
        return
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _is_mapped(start: int, end: int) -> bool:
    """Whether a range of addresses is mapped from a file: elsewhere, giving it up would lose what it holds."""
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            fields = line.split(maxsplit=5)
            first, last = (int(address, 16) for address in fields[0].split("-"))
            if first <= start and end <= last:
                return len(fields) == 6 and fields[5].startswith("/")
    return False
