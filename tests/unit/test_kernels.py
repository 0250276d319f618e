"""Attention over a shared prefix, against attention over all keys at once in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stillshot.teacher.kernels import PrefixLayer, attention_with_lse, merge_with_prefix


def drawn(groups: int, repeats: int, prefix: int, length: int, head: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, own keys and values by head, and the prefix's keys and values by group."""
    rng = torch.Generator().manual_seed(0)
    heads = groups * repeats
    shapes = [(2, heads, length, head)] * 3 + [(1, groups, prefix, head)] * 2
    return [torch.randn(shape, generator=rng).to(dtype) for shape in shapes]


def in_full(query: Tensor, key: Tensor, value: Tensor, far_key: Tensor, far_value: Tensor) -> Tensor:
    repeats = query.shape[1] // far_key.shape[1]

    def all_of(far: Tensor, own: Tensor) -> Tensor:
        rows = far.float().repeat_interleave(repeats, 1).expand(len(own), -1, -1, -1)
        return torch.cat([rows, own.float()], 2)

    keys, values = all_of(far_key, key), all_of(far_value, value)
    length, prefix = query.shape[2], far_key.shape[2]
    seen = torch.ones(length, prefix + length, dtype=torch.bool).tril(prefix)
    return torch.nn.functional.scaled_dot_product_attention(query.float(), keys, values, attn_mask=seen)


def merged(query: Tensor, key: Tensor, value: Tensor, far_key: Tensor, far_value: Tensor) -> Tensor:
    scale = query.shape[-1] ** -0.5
    own, lse = attention_with_lse(query, key, value, causal=True, scale=scale)
    return merge_with_prefix(query, own, lse, PrefixLayer.of(far_key, far_value), scale)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("prefix", [1, 3, 300])
@pytest.mark.parametrize(("groups", "repeats", "length", "head"), [(3, 3, 7, 64), (96, 1, 50, 80)])
def test_the_merge_is_attention_over_everything(
    dtype: torch.dtype, tolerance: float, prefix: int, groups: int, repeats: int, length: int, head: int
) -> None:
    tensors = drawn(groups, repeats, prefix, length, head, dtype)
    error = (merged(*tensors).float() - in_full(*tensors)).abs()
    assert error.max() < tolerance


def test_a_score_far_above_the_estimate_is_still_right() -> None:
    """A key between the sampled ones whose score would overflow an exponential."""
    query, key, value, far_key, far_value = drawn(1, 1, 300, 4, 64, torch.bfloat16)
    query[:] = 4.0
    far_key[0, 0, 5] = 8.0  # a score of 4 * 8 * 64 / 8 = 256
    result = merged(query, key, value, far_key, far_value)
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result, far_value[:, :, 5:6].expand_as(result), atol=1e-2, rtol=0)
