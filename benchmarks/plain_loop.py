"""The loop that one writes without Stillshot: whole prompts through the model, in padded batches."""

from __future__ import annotations

from typing import Any

import torch

from stillshot.prompt.writer import ScoredPrompt


class PlainLoop:
    """Labels with plain transformers; the context is read again for every query."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 8) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    @torch.inference_mode()
    def label(self, prompts: list[ScoredPrompt], tokens: list[int]) -> torch.Tensor:
        """Logits of the label tokens, shape ``(prompts, labels)``."""
        implementation = self.model.config._attn_implementation
        self.model.set_attn_implementation("sdpa")
        found = []
        for at in range(0, len(prompts), self.batch_size):
            rows = [list(prompt.sequences[0].ids) for prompt in prompts[at : at + self.batch_size]]
            batch = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
            logits = self.model(**batch, logits_to_keep=1).logits[:, -1]
            found.append(logits[:, tokens].float())
        self.model.set_attn_implementation(implementation)
        return torch.cat(found)
