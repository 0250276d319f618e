"""Attention over a prefix that all rows share, registered with transformers under :data:`NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import AttentionMaskInterface

from stillshot.teacher.kernels import PrefixLayer, attention_with_lse, merge_with_prefix

NAME = "stillshot_shared_prefix"
# Plain causal softmax attention through transformers' attention interface.
SUPPORTED_MODEL_TYPES = frozenset(
    {"gpt2", "gpt_neox", "llama", "mistral", "opt", "qwen2", "qwen3", "smollm3"}
)


@dataclass
class SharedPrefix:
    """Keys and values of a prefix, by layer."""

    layers: dict[int, PrefixLayer] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pass:
    """What the attention of one pass through the model is to do besides attending to the rows themselves."""

    prefix: SharedPrefix | None = None
    record: bool = False
    mask: Tensor | None = None


_current: ContextVar[_Pass] = ContextVar("attention_pass", default=_Pass())  # noqa: B039 (it is immutable)


@contextmanager
def attending(
    prefix: SharedPrefix | None, *, record: bool = False, mask: Tensor | None = None
) -> Iterator[None]:
    """Within it, the attention records into ``prefix``, or attends to it besides a row's own tokens.

    ``mask``, boolean, shape ``(rows, 1, length, length)``, says which own tokens a token attends to,
    where that is not simply those before it.
    """
    token = _current.set(_Pass(prefix, record, mask))
    try:
        yield
    finally:
        _current.reset(token)


def supports(config: Any) -> bool:
    """Whether a model's attention is one that the split serves exactly."""
    text = config.get_text_config()
    sliding = "sliding_attention" in (getattr(text, "layer_types", None) or ()) or (
        getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    )
    rescaled = getattr(text, "scale_attn_by_inverse_layer_idx", False)
    return text.model_type in SUPPORTED_MODEL_TYPES and not sliding and not rescaled


def can_repeat(config: Any) -> bool:
    """Whether a prefix can be kept as keys and values alone, and so be copied to every row of a batch."""
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    layers = DynamicCache(config=config).layers
    plain = {DynamicLayer, DynamicSlidingWindowLayer}  # others keep more than keys and values
    return not getattr(kind, "_is_stateful", False) and all(type(layer) in plain for layer in layers)


@torch.compiler.disable  # it looks up what this pass is to do, and calls kernels that are fast as they are
def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention implementation. Shapes are those of transformers' attention interface.

    Rows are padded on the right, so causality alone keeps padding out and no mask is needed.
    """
    current = _current.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    repeats = query.shape[1] // key.shape[1]
    output, lse = attention_with_lse(
        query,
        key.repeat_interleave(repeats, 1) if repeats > 1 else key,
        value.repeat_interleave(repeats, 1) if repeats > 1 else value,
        causal=current.mask is None,
        scale=scale,
        mask=current.mask,
    )
    if current.prefix is not None and current.record:
        current.prefix.layers[module.layer_idx] = PrefixLayer.of(key, value)
    elif current.prefix is not None:
        output = merge_with_prefix(query, output, lse, current.prefix.layers[module.layer_idx], scale)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
