"""How many floating-point operations labelling takes, from the configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stillshot.prompt.writer import ScoredPrompt


@dataclass(frozen=True)
class Operations:
    """Operations of a decoder: those of its linear layers a token, and those of attention a pair of tokens."""

    linear: float
    attention: float

    @classmethod
    def of(cls, model: Any) -> Operations:
        """Counted from a model: two a weight of every linear layer but the output, four a channel and layer."""
        output = model.get_output_embeddings()
        weights = sum(
            module.weight.numel()
            for module in model.modules()
            if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
            and module is not output
        )
        config = model.config.get_text_config()
        return cls(2.0 * weights, 4.0 * config.hidden_size * config.num_hidden_layers)

    def bound(self, context_tokens: int) -> float:
        """The rate with a shared context, as a share of that without: what the operations allow."""
        return self.linear / (self.linear + self.attention * context_tokens)

    def labelling(self, prompts: Sequence[ScoredPrompt], context_tokens: int) -> float:
        """Operations of labelling prompts that share their first tokens, the context read once."""
        context = self.sequence(context_tokens, 0)
        return context + sum(
            self.sequence(len(prompt.sequences[0].ids) - context_tokens, context_tokens) for prompt in prompts
        )

    def sequence(self, tokens: int, before: int) -> float:
        """Operations of ``tokens`` tokens that follow ``before`` others."""
        pairs = tokens * before + tokens * (tokens + 1) / 2
        return self.linear * tokens + self.attention * pairs
