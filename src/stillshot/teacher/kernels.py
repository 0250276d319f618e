"""Attention with its log-sum-exp, and attention of many queries over a prefix they share.

Attention over ``[prefix, own]`` is split in two: all queries of a batch against the prefix as one
product, and each query against its own tokens. The two are merged exactly by their log-sum-exp (as in
FlashAttention's split over keys, Dao et al. 2022; the same split as Hydragen, Juravsky et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of the prefix product at a time, over all groups: the exponentials of a chunk stay in the cache, and
# the products are still large enough for several threads.
_CHUNK = 3072
# Keys that a row's largest score over the prefix is estimated from.
_SAMPLED = 16


def attention_with_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float | None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention and the log-sum-exp of its scores.

    Args:
        query: Shape ``(batch, heads, queries, head)``; ``key`` and ``value`` alike with the same heads.
        causal: Whether a query attends to no later key.
        scale: What scores are multiplied by; ``None`` is one over the root of the head's size.
        mask: Which keys a query attends to, boolean, shape ``(batch, 1, queries, keys)``; on the
            processor alone.

    Returns:
        The output, shaped like ``query``, and the log-sum-exp, ``(batch, heads, queries)``, float32.
    """
    heads, queries = query.shape[1], query.shape[2]
    if query.device.type == "cpu":
        bias = (
            None
            if mask is None
            else torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        )
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias, scale=scale
        )
        return output, (lse if lse.shape[1] == heads else lse.transpose(1, 2)).float()
    assert mask is None, "sequences are packed on the processor alone"
    if query.dtype == torch.float32:  # flash attention is for 16 bits
        output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
    else:
        output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=scale
        )
    return output, lse[..., :queries].float()


@dataclass(frozen=True)
class PrefixLayer:
    """Keys and values of a shared prefix in one layer, held once whatever the batch.

    Attributes:
        key: Shape ``(groups, head, prefix)``, or ``(groups, head + 1, prefix)`` with a last row of ones.
        value: Shape ``(groups, prefix, head)``, or ``(groups, prefix, head + 1)`` with a last column of ones.
        sample: Some of the keys, ``(groups, head, sampled)``; ``None`` where there are no ones.
        head: Size of a head.
    """

    key: Tensor
    value: Tensor
    sample: Tensor | None
    head: int

    @classmethod
    def of(cls, key: Tensor, value: Tensor) -> PrefixLayer:
        """Keep keys and values, each of shape ``(1, groups, prefix, head)``, in the form that is read fastest."""
        key, value, head = key[0].detach(), value[0].detach(), key.shape[-1]
        if key.device.type != "cpu" or key.dtype != torch.bfloat16:
            return cls(key.transpose(1, 2).clone(), value.clone(), None, head)
        ones = key.new_ones(*key.shape[:2], 1)
        places = torch.linspace(0, key.shape[1] - 1, min(_SAMPLED, key.shape[1])).long()
        return cls(
            torch.cat([key, ones], -1).transpose(1, 2).contiguous(),
            torch.cat([value, ones], -1),
            key[:, places].transpose(1, 2).contiguous(),
            head,
        )


def merge_with_prefix(
    query: Tensor, own: Tensor, own_lse: Tensor, prefix: PrefixLayer, scale: float
) -> Tensor:
    """Attention over ``[prefix, own]``, given that over the own tokens.

    Args:
        query: Shape ``(batch, heads, length, head)``; heads of one group are neighbours.
        own: The attention over each query's own tokens, same shape.
        own_lse: Its log-sum-exp, ``(batch, heads, length)``.

    Returns:
        Shape ``(batch, heads, length, head)``.
    """
    batch, heads, length, head = query.shape
    groups = prefix.key.shape[0]

    def by_group(values: Tensor) -> Tensor:  # (groups, queries of all rows, ...)
        return values.reshape(batch, groups, heads // groups * length, -1).transpose(0, 1).flatten(1, 2)

    rows, own_rows, lse_rows = by_group(query), by_group(own), by_group(own_lse).squeeze(-1)
    merged = None
    if prefix.sample is not None:
        merged = _merged_by_products(rows, own_rows, lse_rows, prefix, prefix.sample, scale)
    if merged is None:
        # The kernel reads heads as contiguous; only where ones lie beside them is this a copy.
        key = prefix.key[:, :head].transpose(1, 2).contiguous()
        value = prefix.value[..., :head].contiguous()
        far, far_lse = attention_with_lse(rows[None], key[None], value[None], causal=False, scale=scale)
        weight = torch.sigmoid(far_lse[0] - lse_rows).unsqueeze(-1).to(query.dtype)
        merged = torch.lerp(own_rows, far[0], weight)
    return merged.view(groups, batch, -1, head).transpose(0, 1).reshape(batch, heads, length, head)


def _merged_by_products(
    query: Tensor, own: Tensor, own_lse: Tensor, prefix: PrefixLayer, sample: Tensor, scale: float
) -> Tensor | None:
    """The merge by plain matrix products, for processors that are fast at these in bfloat16.

    ``exp(score - shift)`` needs no second pass over the scores where the shift is known before them. Any
    shift gives the same quotient, so an estimate of a row's largest score will do; it is the larger of
    the own log-sum-exp and of the scores of some sampled keys. It is subtracted inside the product, by
    the ones beside the keys, before scores are rounded to 16 bits; the ones beside the values give the
    sums of the exponentials.

    Args:
        query: Shape ``(groups, queries, head)``; ``own`` alike, ``own_lse`` ``(groups, queries)``.

    Returns:
        Shape ``(groups, queries, head)``, or ``None`` where the estimate was too low by so much that an
        exponential overflowed.
    """
    largest = torch.maximum(torch.bmm(query, sample).amax(-1).float() * scale, own_lse)
    shift = (largest / scale).to(query.dtype)
    shifted = torch.cat([query, -shift.unsqueeze(-1)], -1)
    rows = min(query.shape[1], max(32, _CHUNK // query.shape[0]))
    buffer = query.new_empty(query.shape[0], rows, prefix.key.shape[-1])
    parts = []
    for part in shifted.split(rows, 1):
        scores = buffer[:, : part.shape[1]]
        torch.baddbmm(scores, part, prefix.key, beta=0, alpha=scale, out=scores)
        parts.append(torch.bmm(scores.exp_(), prefix.value))
    far = torch.cat(parts, 1).float()
    total = far[..., -1:]
    if not torch.isfinite(total).all():
        return None
    own_share = torch.exp(own_lse - shift.float() * scale).unsqueeze(-1)
    return ((far[..., :-1] + own * own_share) / (total + own_share)).to(query.dtype)
