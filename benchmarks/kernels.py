"""Attention of a batch over a shared prefix: the flash kernel, and plain products, against the bare product.

python benchmarks/kernels.py --keep     # seconds; into benchmarks/records/kernels.json
"""

from __future__ import annotations

import argparse

import torch
from measure import finish, interleaved, roofline

from stillshot.teacher.kernels import PrefixLayer, merge_with_prefix

# One layer of SmolLM2-135M: 3 groups of 3 heads; 64 queries of 32 tokens behind a prefix of 970.
GROUPS, REPEATS, HEAD, ROWS, LENGTH, PREFIX = 3, 3, 64, 64, 32, 970


def training_attention(length: int, tokens: int = 1024, heads: int = 9) -> dict[str, float]:
    """Milliseconds of attention forward and backward in one layer: the flash kernel, and plain products."""
    query, key, value, gradient = (
        torch.randn(tokens // length, heads, length, HEAD).bfloat16() for _ in range(4)
    )
    for tensor in (query, key, value):
        tensor.requires_grad_()
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    mask = torch.zeros(length, length).masked_fill(later, torch.finfo(torch.bfloat16).min).bfloat16()

    def flash() -> None:
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output.backward(gradient)

    def plain() -> None:
        scores = query @ key.transpose(2, 3) * HEAD**-0.5 + mask
        (scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value).backward(gradient)

    seconds = interleaved({"flash": flash, "plain": plain}, rounds=15)
    return {"length": length, **{f"{name}_ms": 1000 * taken for name, taken in seconds.items()}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/kernels.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dtype, heads, scale = torch.bfloat16, GROUPS * REPEATS, HEAD**-0.5
    # Heads last but one in memory, as models leave them.
    query, own = (torch.randn(ROWS, LENGTH, heads, HEAD).to(dtype).transpose(1, 2) for _ in range(2))
    key, value = (torch.randn(1, GROUPS, PREFIX, HEAD).to(dtype) for _ in range(2))
    own_lse = torch.randn(ROWS, heads, LENGTH)
    products = PrefixLayer.of(key, value)
    flash = PrefixLayer(key[0].transpose(1, 2), value[0], None)  # without samples, the flash kernel is used
    seconds = interleaved(
        {
            "flash": lambda: merge_with_prefix(query, own, own_lse, flash, scale),
            "products": lambda: merge_with_prefix(query, own, own_lse, products, scale),
        },
        rounds=50,
    )
    operations = 4 * ROWS * heads * LENGTH * PREFIX * HEAD
    machine = roofline(dtype)
    finish(
        "kernels",
        {
            "flash_over_bare_product": operations / seconds["flash"] / machine["product_flops"],
            "products_over_bare_product": operations / seconds["products"] / machine["product_flops"],
            "products_over_flash": seconds["flash"] / seconds["products"],
        },
        {
            "roofline": machine,
            "threads": torch.get_num_threads(),
            "training_attention": [training_attention(length) for length in (16, 32, 64, 128, 256, 512)],
        },
        as_json=arguments.json,
        keep=arguments.keep,
    )


if __name__ == "__main__":
    main()
