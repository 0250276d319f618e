"""Where the layers of a transformers model are."""

from __future__ import annotations

from typing import Any

from torch import nn


def layers_of(model: Any) -> nn.ModuleList | None:
    """The stack of a model's layers, all alike; ``None`` where it cannot be told."""
    count = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return stacks[0] if len(stacks) == 1 else None
