"""A student's model: a sequence classifier, or a decoder that keeps its language-model head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from stillshot.config import Student as StudentSection
from stillshot.errors import ModelError, PromptError
from stillshot.models import load
from stillshot.models.output import output_logits, span_log_probabilities
from stillshot.models.resolve import ResolvedModel
from stillshot.prompt.verbalizer import Verbalizer
from stillshot.student.sidecar import HeadName


def resolve_head(section: StudentSection, config: Any) -> HeadName:
    """The head that ``auto`` stands for, or the one that is named.

    Raises:
        ModelError: An encoder is asked for a head that needs a language-model head, or the model has both an encoder
            and a decoder.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{section.model} ({config.model_type}) has an encoder and a decoder, which no head here reads. Use an encoder, "
            "e.g. bundled:minilm-l6, or a decoder, e.g. bundled:smollm2-135m."
        )
    if section.head == "auto":
        return "label"
    if section.head != "label" and load.is_encoder(config):
        raise ModelError(
            f"{section.model} ({config.model_type}) has no language-model head, so head: {section.head} is not "
            "possible. Use head: label, or a decoder."
        )
    return section.head


def check_label_head(model: str, config: Any) -> None:
    """See that a model of this configuration can have a label head; no weights are loaded.

    Raises:
        ModelError: See :func:`build_label_model`.
    """
    with torch.device("meta"):
        made = load.new_classifier(model, config, torch.float32)
    if not load.is_encoder(config):
        _check_score_layer(model, made)


def _check_score_layer(model: str, made: Any) -> None:
    if not isinstance(getattr(made, "score", None), nn.Linear):
        raise ModelError(
            f"{model} ({made.config.model_type}) has no score layer on its last states, so head: label is not "
            "possible. Use head: channel or language_model, or another decoder."
        )


def build_label_model(
    resolved: ResolvedModel,
    labels: Sequence[str],
    tokenizer: Any,
    verbalizer: Verbalizer | None,
    dtype: torch.dtype,
) -> tuple[Any, frozenset[str]]:
    """A sequence-classification model over the labels, and the names of its layers that are fresh.

    A decoder's score layer starts as the rows of the output embedding at the label words (the mean of
    the rows for label words of several tokens), so before training its logits are the zero-shot label
    scores. An encoder's is fresh.

    Raises:
        ModelError: It cannot be a classifier, or is a decoder without such a score layer.
    """
    pad = load.padding_token_id(tokenizer)
    names = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "pad_token_id": pad,
    }
    rows = None if verbalizer is None else _label_rows(resolved, verbalizer, dtype)
    loaded: tuple[Any, frozenset[str]] = load.load_new_classifier(resolved, dtype, **names)
    model, fresh = loaded
    if rows is not None:
        _check_score_layer(resolved.id, model)
        with torch.no_grad():
            model.score.weight.copy_(rows)
    return model, fresh


def _label_rows(resolved: ResolvedModel, verbalizer: Verbalizer, dtype: torch.dtype) -> Tensor:
    """Rows of the output embedding at the label words, shape ``(labels, hidden)``."""
    language_model: Any = load.load_causal_lm(resolved, dtype, check_logits=False)
    head = language_model.get_output_embeddings()
    return torch.stack([head.weight[list(ids)].mean(0) for ids in verbalizer.token_ids]).detach().clone()


class LanguageModelStudent(nn.Module):
    """A decoder that keeps its language-model head, wrapped so that it takes a student's inputs."""

    def __init__(self, language_model: Any, num_labels: int) -> None:
        super().__init__()
        self.language_model = language_model
        self.num_labels = num_labels

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.language_model.config

    def plain(self) -> Any:
        """The language model inside its adapters, if it has any."""
        adapted = self.language_model
        return adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states, shape ``(rows, length, hidden)``."""
        body = self.plain().base_model
        return body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recompute activations in the backward pass."""
        self.language_model.activation_checkpointing_enable(**settings)


class ChannelClassifier(LanguageModelStudent):
    """A decoder that answers by how likely the query is behind each label's words.

    Its logits are log P(text | lead with label words), the scores of a channel teacher without
    context; their softmax is the posterior over labels. It costs one row a label.
    """

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
        hidden = self.hidden_states(tokens, mask)
        lengths, starts = mask.sum(-1).tolist(), scored_from.flatten().tolist()
        spans = [(start - 1, length - 1) for start, length in zip(starts, lengths, strict=True)]
        targets = [tokens[row, start + 1 : end + 1].tolist() for row, (start, end) in enumerate(spans)]
        scores = span_log_probabilities(self.plain(), hidden, spans, targets)
        return SequenceClassifierOutput(logits=scores.view(-1, self.num_labels))  # type: ignore[arg-type]


class NextTokenClassifier(LanguageModelStudent):
    """A decoder that answers by its next token (the head of Duan et al. 2024).

    Its logits are over the whole vocabulary; the answer is the softmax of those at the label words. Only
    the position that predicts is projected, so the largest tensor is ``(batch, vocabulary)``.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Next-token logits behind each prompt, shape ``(batch, vocabulary)``, float32.

        Args:
            input_ids: Shape ``(batch, length)``, padded on the right.
            attention_mask: Same shape.
        """
        hidden = self.hidden_states(input_ids, attention_mask)
        rows = torch.arange(len(hidden), device=hidden.device)
        last = hidden[rows, attention_mask.sum(-1) - 1]
        return SequenceClassifierOutput(logits=output_logits(self.plain(), last))  # type: ignore[arg-type]


def with_language_model_head(
    head: HeadName, language_model: Any, labels: Sequence[str]
) -> LanguageModelStudent:
    """The student of a head that keeps the language model."""
    kind = ChannelClassifier if head == "channel" else NextTokenClassifier
    return kind(language_model, len(labels))


def next_tokens(verbalizer: Verbalizer, model: str) -> list[int]:
    """The token of each label, by which a language-model head answers.

    Raises:
        PromptError: A label word is several tokens.
    """
    for label, word, ids in zip(verbalizer.labels, verbalizer.words, verbalizer.token_ids, strict=True):
        if len(ids) > 1:
            raise PromptError(
                f"head: language_model answers by one next token, but the label word {word!r} of {label!r} is "
                f"{len(ids)} tokens for {model}. Name a pattern with label words of one token (prompt.pattern), or "
                "use head: label."
            )
    return [ids[0] for ids in verbalizer.token_ids]
