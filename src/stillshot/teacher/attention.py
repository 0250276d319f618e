"""Attention of many queries over one shared prefix, without copying the prefix per query.

Attention over ``[prefix, own]`` is split in two: all queries of a batch against the prefix as one
product, and each query against its own tokens. Both return their log-sum-exp, by which they are
merged exactly (as in FlashAttention's split over keys, Dao et al. 2022; the same split as Hydragen,
Juravsky et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

NAME = "stillshot_shared_prefix"
# Plain causal softmax attention through transformers' attention interface.
SUPPORTED_MODEL_TYPES = frozenset(
    {"gpt2", "gpt_neox", "llama", "mistral", "opt", "qwen2", "qwen3", "smollm3"}
)


@dataclass
class SharedPrefix:
    """Keys and values of a prefix, by layer, each of shape ``(1, key heads, prefix, head)``."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    recording: bool = False


_active: ContextVar[SharedPrefix | None] = ContextVar("shared_prefix", default=None)


@contextmanager
def using_prefix(prefix: SharedPrefix, *, recording: bool = False) -> Iterator[None]:
    """Within it, the attention records into ``prefix``, or attends to it."""
    prefix.recording = recording
    token = _active.set(prefix)
    try:
        yield
    finally:
        _active.reset(token)


def supports(config: Any) -> bool:
    """Whether a model's attention is one that the split serves exactly."""
    text = config.get_text_config()
    sliding = "sliding_attention" in (getattr(text, "layer_types", None) or ()) or (
        getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    )
    rescaled = getattr(text, "scale_attn_by_inverse_layer_idx", False)
    return text.model_type in SUPPORTED_MODEL_TYPES and not sliding and not rescaled


def attention_with_lse(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Softmax attention and the log-sum-exp of its scores.

    Args:
        query: Shape ``(batch, heads, queries, head)``; ``key`` and ``value`` alike with the same heads.

    Returns:
        The output, shaped like ``query``, and the log-sum-exp, ``(batch, heads, queries)``, float32.
    """
    if query.device.type == "cpu":
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=None, scale=scale
        )
        return output, (lse if lse.shape[1] == query.shape[1] else lse.transpose(1, 2)).float()
    factor = scale if scale is not None else query.shape[-1] ** -0.5
    scores = (query.float() @ key.float().transpose(-1, -2)) * factor
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return (scores.softmax(-1) @ value.float()).to(query.dtype), scores.logsumexp(-1)


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention implementation registered with transformers under :data:`NAME`.

    Rows are padded on the right, so causality alone keeps padding out and no mask is needed.
    """
    prefix = _active.get()
    batch, heads, length, dim = query.shape
    groups = key.shape[1]
    repeats = heads // groups
    own, own_lse = attention_with_lse(
        query,
        key.repeat_interleave(repeats, 1),
        value.repeat_interleave(repeats, 1),
        causal=True,
        scale=scaling,
    )
    if prefix is not None and prefix.recording:
        prefix.layers[module.layer_idx] = (key.detach().clone(), value.detach().clone())
    elif prefix is not None:
        prefix_key, prefix_value = prefix.layers[module.layer_idx]
        stacked = query.view(batch, groups, repeats, length, dim).permute(1, 2, 0, 3, 4)
        far, far_lse = attention_with_lse(
            stacked.reshape(1, groups, repeats * batch * length, dim),
            prefix_key,
            prefix_value,
            causal=False,
            scale=scaling,
        )
        far = far.view(groups, repeats, batch, length, dim).permute(2, 0, 1, 3, 4)
        far_lse = far_lse.view(groups, repeats, batch, length).permute(2, 0, 1, 3)
        far = far.reshape(batch, heads, length, dim)
        weight = torch.sigmoid(far_lse.reshape(batch, heads, length) - own_lse).unsqueeze(-1).to(query.dtype)
        own = torch.lerp(own, far, weight)
    return own.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
