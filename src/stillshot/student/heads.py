"""A student's model: a sequence classifier, or a decoder that scores the query behind each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from stillshot.config import Student as StudentSection
from stillshot.errors import ModelError
from stillshot.models import load
from stillshot.models.output import span_log_probabilities
from stillshot.models.resolve import ResolvedModel
from stillshot.prompt.verbalizer import Verbalizer


def resolve_head(section: StudentSection, config: Any) -> str:
    """``label`` or ``channel``.

    Raises:
        ModelError: An encoder is asked for a channel head, which needs a language-model head.
    """
    if section.head == "channel" and load.is_encoder(config):
        raise ModelError(
            f"{section.model} ({config.model_type}) has no language-model head, so head: channel is not "
            "possible. Use head: label, or a decoder."
        )
    return "label" if section.head == "auto" else section.head


def build_label_model(
    resolved: ResolvedModel,
    labels: Sequence[str],
    tokenizer: Any,
    verbalizer: Verbalizer | None,
    dtype: torch.dtype,
) -> Any:
    """A sequence-classification model over the labels.

    A decoder's score layer starts as the rows of the output embedding at the label words (the mean of
    the rows for label words of several tokens), so before training its logits are the zero-shot label
    scores. An encoder's is fresh.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    names = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "pad_token_id": pad,
    }
    rows = None if verbalizer is None else _label_rows(resolved, verbalizer, dtype)
    model: Any = load.load_classifier(resolved, dtype, **names)
    if rows is not None:
        with torch.no_grad():
            model.score.weight.copy_(rows)
    return model


def _label_rows(resolved: ResolvedModel, verbalizer: Verbalizer, dtype: torch.dtype) -> Tensor:
    """Rows of the output embedding at the label words, shape ``(labels, hidden)``."""
    language_model: Any = load.load_causal_lm(resolved, dtype)
    head = language_model.get_output_embeddings()
    return torch.stack([head.weight[list(ids)].mean(0) for ids in verbalizer.token_ids]).detach().clone()


class ChannelClassifier(nn.Module):
    """A decoder that answers by how likely the query is behind each label's words.

    Its logits are log P(text | lead with label words), the scores of a channel teacher without
    context; their softmax is the posterior over labels. It costs one row a label.
    """

    def __init__(self, language_model: Any, num_labels: int) -> None:
        super().__init__()
        self.language_model = language_model
        self.num_labels = num_labels

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.language_model.config

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, scored_from: Tensor
    ) -> SequenceClassifierOutput:
        """Logits over labels.

        Args:
            input_ids: Shape ``(batch, labels, length)``, padded on the right.
            attention_mask: Same shape.
            scored_from: First scored token of each row, shape ``(batch, labels)``.

        Returns:
            Logits of shape ``(batch, labels)``.
        """
        tokens, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        adapted = self.language_model
        plain = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
        hidden = plain.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        lengths, starts = mask.sum(-1).tolist(), scored_from.flatten().tolist()
        spans = [(start - 1, length - 1) for start, length in zip(starts, lengths, strict=True)]
        targets = [tokens[row, start + 1 : end + 1].tolist() for row, (start, end) in enumerate(spans)]
        scores = span_log_probabilities(plain, hidden, spans, targets)
        return SequenceClassifierOutput(logits=scores.view(-1, self.num_labels))  # type: ignore[arg-type]

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recompute activations in the backward pass."""
        self.language_model.activation_checkpointing_enable(**settings)
