"""Attention with its log-sum-exp, and attention of many queries over a prefix they share.

Attention over ``[prefix, own]`` is split in two: all queries of a batch against the prefix as one
product, and each query against its own tokens. The two are merged exactly by their log-sum-exp (as in
FlashAttention's split over keys, Dao et al. 2022; the same split as Hydragen, Juravsky et al. 2024).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of the prefix product at a time, over some groups of heads: their scores stay in the cache, and the
# products are still large enough for several threads.
_ROWS, _GROUPS = 3072, 12
# Keys that a row's largest score over the prefix is estimated from.
_SAMPLED = 16
# Sums of exponentials above it may have overflowed, or may once multiplied by values.
_LARGEST_SUM = 1e30


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
        value: Shape ``(groups, prefix, head)``.
        sample: Some of the keys above a row of zeros, ``(groups, head + 1, sampled)``; ``None`` where there
            are no ones.
    """

    key: Tensor
    value: Tensor
    sample: Tensor | None

    @classmethod
    def of(cls, key: Tensor, value: Tensor) -> PrefixLayer:
        """Keep keys and values, each of shape ``(1, groups, prefix, head)``, in the form that is read fastest."""
        key, value = key[0].detach(), value[0].detach()
        if key.device.type != "cpu" or key.dtype != torch.bfloat16:
            return cls(key.transpose(1, 2).clone(), value.clone(), None)
        places = torch.linspace(0, key.shape[1] - 1, min(_SAMPLED, key.shape[1])).long()
        return cls(_above(key, 1.0), value.clone(), _above(key[:, places], 0.0))


def _above(key: Tensor, last: float) -> Tensor:
    """Keys as columns, ``(groups, head + 1, keys)``, above a row of one value."""
    row = key.new_full((key.shape[0], 1, key.shape[1]), last)
    return torch.cat([key.transpose(1, 2), row], 1)


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

    def by_group(values: Tensor) -> Tensor:  # (groups, tokens of all rows, heads of a group, ...)
        tokens = values.transpose(1, 2).reshape(batch * length, groups, heads // groups, -1)
        return tokens.transpose(0, 1)

    rows, own_rows, lse_rows = by_group(query), by_group(own), by_group(own_lse).squeeze(-1)
    merged = query.new_empty(batch * length, groups, heads // groups, head)
    target = merged.transpose(0, 1)
    if prefix.sample is None or not _merge_by_products(
        rows, own_rows, lse_rows, prefix, prefix.sample, scale, target
    ):
        # The kernel reads heads as contiguous; only where ones lie below the keys is this a copy.
        key = prefix.key[:, :head].transpose(1, 2).contiguous()
        flat = rows.flatten(1, 2)
        far, far_lse = attention_with_lse(
            flat[None], key[None], prefix.value[None], causal=False, scale=scale
        )
        weight = torch.sigmoid(far_lse[0].view_as(lse_rows) - lse_rows).unsqueeze(-1).to(query.dtype)
        target.copy_(torch.lerp(own_rows, far[0].view_as(own_rows), weight))
    return merged.view(batch, length, heads, head).transpose(1, 2)


def _merge_by_products(
    query: Tensor,
    own: Tensor,
    own_lse: Tensor,
    prefix: PrefixLayer,
    sample: Tensor,
    scale: float,
    target: Tensor,
) -> bool:
    """The merge by plain matrix products, for processors that are fast at these in bfloat16.

    ``exp(score - shift)`` needs no second pass over the scores where the shift is known before them. Any
    shift gives the same quotient, so an estimate of a row's largest score will do; it is the larger of
    the own log-sum-exp and of the scores of some sampled keys. It is subtracted inside the product, by
    the ones below the keys, before scores are rounded to 16 bits.

    Args:
        query: Shape ``(groups, tokens, heads of a group, head)``; ``own`` alike, ``own_lse`` without ``head``.
        target: Where the result goes, shaped like ``query``.

    Returns:
        Whether it did: not where an estimate was too low by so much that an exponential overflowed.
    """
    groups, tokens, heads, head = query.shape
    some = min(groups, _GROUPS)
    step = min(tokens, max(32, _ROWS // some // heads))
    row_buffer = query.new_zeros(some * step * heads * (head + 1))
    score_buffer = query.new_empty(some * step * heads * prefix.key.shape[-1])
    for group, token in itertools.product(range(0, groups, some), range(0, tokens, step)):
        of = slice(group, group + some)
        part = (of, slice(token, token + step))
        lse = own_lse[part].flatten(1, 2)
        shape = query[part].shape
        rows = row_buffer[: lse.numel() * (head + 1)].view(*lse.shape, head + 1)
        rows[..., :head].view(shape).copy_(query[part])
        rows[..., head] = 0  # beside the zeros below the sample; what was there may be no number
        largest = torch.maximum(torch.bmm(rows, sample[of]).amax(-1).float() * scale, lse)
        shift = (largest / scale).to(query.dtype)
        rows[..., head] = -shift
        scores = score_buffer[: lse.numel() * prefix.key.shape[-1]].view(*lse.shape, -1)
        torch.baddbmm(scores, rows, prefix.key[of], beta=0, alpha=scale, out=scores)
        total = scores.exp_().sum(-1).float()
        if not (total < _LARGEST_SUM).all():
            return False
        own_share = torch.exp(lse - shift.float() * scale)
        norm = (1 / (total + own_share)).unsqueeze(-1)
        far = torch.bmm(scores, prefix.value[of]).float().mul_(norm)
        own_part = own[part].float() * (norm.squeeze(-1) * own_share).view(*shape[:-1], 1)
        target[part] = own_part.add_(far.view(shape))
    return True
