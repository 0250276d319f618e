"""What makes a training lean: passes bounded by tokens, no copies in float32, attention for short queries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

# Up to this length the processor's flash kernel takes 2 to 9 times as long as plain products
# (benchmarks/kernels.py), and the scores of all heads are small beside the other activations.
_SHORT = 128


@contextmanager
def lean(
    model: torch.nn.Module,
    *,
    longest: int,
    autocast: bool,
    on_cpu: bool,
    compiled: Sequence[torch.nn.Module] = (),
) -> Iterator[None]:
    """Within it, a model trains without what its training does not need. Results stay the same up to rounding.

    Args:
        longest: Tokens of the longest row.
        autocast: Whether products are done in 16 bits. Adapters then take inputs as they are: PEFT would
            copy them to the adapters' float32 first, and autocast back, for every adapter.
        on_cpu: Whether it trains on the processor.
        compiled: Layers to compile. They are alike, so that one is compiled for all.
    """
    with ExitStack() as stack:
        if autocast:
            stack.enter_context(_without_input_casts(model))
        if on_cpu and longest <= _SHORT:
            stack.enter_context(_with_attention(model, "eager"))
        stack.enter_context(_compiled(compiled))
        yield


@contextmanager
def _compiled(layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    try:
        for layer in layers:
            layer.compile(dynamic=True)
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


@contextmanager
def _without_input_casts(model: torch.nn.Module) -> Iterator[None]:
    # `peft.helpers.disable_input_dtype_casting` stops at adapters that have no such switch.
    adapters = [m for m in model.modules() if getattr(m, "cast_input_dtype_enabled", False)]
    try:
        for adapter in adapters:
            adapter.cast_input_dtype_enabled = False  # type: ignore[assignment]
        yield
    finally:
        for adapter in adapters:
            adapter.cast_input_dtype_enabled = True  # type: ignore[assignment]


@contextmanager
def _with_attention(model: torch.nn.Module, implementation: str) -> Iterator[None]:
    transformer = transformer_of(model)
    # Another one was chosen on purpose, or is the only one that the model has.
    if transformer is None or transformer.config._attn_implementation != "sdpa":
        yield
        return
    transformer.set_attn_implementation(implementation)
    try:
        yield
    finally:
        transformer.set_attn_implementation("sdpa")


def transformer_of(model: torch.nn.Module) -> PreTrainedModel | None:
    """The transformers model inside adapters and heads."""
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)


def passes(inputs: Mapping[str, Tensor], tokens: int, whole: Collection[str]) -> list[dict[str, Tensor]]:
    """A batch in parts of at most ``tokens`` tokens with padding (or one row), whose gradients add up to its own.

    Rows of similar length come together, and a part is as wide as its longest row.

    Args:
        inputs: A batch from :func:`stillshot.student.trainer.collate`, padded on the right. A loss that is the
            mean over a batch's rows times their ``row_weight`` is the sum of its parts' losses.
        whole: Names of what has no tokens, and is never cut.
    """
    mask = inputs["attention_mask"]
    lengths = mask.sum(-1).flatten(1).amax(1) if mask.dim() > 2 else mask.sum(-1)
    rows_each = mask[0].numel() // mask.shape[-1]
    order = lengths.argsort(descending=True, stable=True).tolist()
    parts: list[list[int]] = []
    for row in order:
        width = int(lengths[parts[-1][0]]) if parts else 0
        if not parts or (len(parts[-1]) + 1) * rows_each * width > tokens:
            parts.append([])
        parts[-1].append(row)
    found = []
    for rows in parts:
        width = int(lengths[rows[0]])
        part = {
            name: value[rows][..., :width] if name not in whole and value.shape == mask.shape else value[rows]
            for name, value in inputs.items()
        }
        part["row_weight"] = part["row_weight"] * (len(rows) / len(order))
        found.append(part)
    return found
