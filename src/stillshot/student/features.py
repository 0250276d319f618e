"""What a student reads: token ids of the query alone, and how a batch of them is padded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stillshot.config import TaskDefinition
from stillshot.errors import PromptError
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import PromptWriter
from stillshot.types import Context, Example

logger = logging.getLogger(__name__)
Feature = dict[str, Any]


class Featurizer(Protocol):
    """Turns examples into model inputs. A query over ``max_tokens`` is cut in its longest text."""

    max_tokens: int

    def features(self, examples: Sequence[Example]) -> list[Feature]:
        """Unpadded inputs, one an example; each has ``length``, its tokens.

        One of several sequences has their number as ``sequences``, the longest one's tokens as ``length``, and the tokens of
        them all as ``tokens``.
        """
        ...

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """Inputs of a batch, padded on the right."""
        ...


class EncoderFeaturizer:
    """An encoder reads the task's fields as they are: a text, or a pair of texts."""

    def __init__(self, task: TaskDefinition, tokenizer: Any, max_tokens: int) -> None:
        if (
            tokenizer.pad_token_id is None
        ):  # then it is filled up with the token that ends a text, which is masked
            tokenizer.pad_token = tokenizer.eos_token
        self.task, self.tokenizer = task, tokenizer
        self.max_tokens = min(max_tokens, tokenizer.model_max_length)

    def features(self, examples: Sequence[Example]) -> list[Feature]:
        """See :class:`Featurizer`."""
        first, *rest = self.task.fields
        texts = [example.fields[first] for example in examples]
        others = [" ".join(example.fields[name] for name in rest) for example in examples] if rest else None
        tokenized = self.tokenizer(
            texts,
            others,
            truncation=True,
            max_length=self.max_tokens,
            split_special_tokens=True,
            verbose=False,
        )
        names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in tokenized]
        rows = [{name: tokenized[name][i] for name in names} for i in range(len(examples))]
        return [{**row, "length": len(row["input_ids"])} for row in rows]

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """See :class:`Featurizer`."""
        kept = [{name: value for name, value in row.items() if name != "length"} for row in features]
        return dict(self.tokenizer.pad(kept, return_tensors="pt"))


class DecoderFeaturizer:
    """A decoder with a label head reads the query's prompt, and answers at its last token."""

    def __init__(self, writer: PromptWriter, pad_token_id: int, max_tokens: int) -> None:
        self.writer, self.pad_token_id, self.max_tokens = writer, pad_token_id, max_tokens

    def features(self, examples: Sequence[Example]) -> list[Feature]:
        """See :class:`Featurizer`.

        Raises:
            PromptError: A prompt ends in the padding token, by which its last token is found.
        """
        encoder, chat = self.writer.encoder, self.writer.prompt.chat

        def encode(part: Sequence[Example]) -> list[list[int]]:
            return encoder.encode_all([self.writer.query_text(example) for example in part], chat=chat)

        rows = _fitted(examples, encode, lambda row: len(row), encoder, self.max_tokens)
        for example, row in zip(examples, rows, strict=True):
            if row[-1] == self.pad_token_id:
                raise PromptError(
                    f"The prompt of {example.origin or 'an example'} ends in the padding token, which marks where "
                    "a prompt ends. Choose a pattern that ends in other text."
                )
        return [{"input_ids": row, "length": len(row)} for row in rows]

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """See :class:`Featurizer`."""
        rows = [torch.tensor(feature["input_ids"]) for feature in features]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_token_id)
        mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(-1)).long()
        return {"input_ids": ids, "attention_mask": mask}


class ChannelFeaturizer:
    """A decoder with a channel head reads, for each label, its words and then the query's text."""

    def __init__(self, writer: PromptWriter, pad_token_id: int, max_tokens: int) -> None:
        self.writer, self.pad_token_id, self.max_tokens = writer, pad_token_id, max_tokens

    def features(self, examples: Sequence[Example]) -> list[Feature]:
        """See :class:`Featurizer`."""

        def encode(part: Sequence[Example]) -> list[Feature]:
            prompts = self.writer.prompts("channel", Context(), part)
            return [
                {
                    "input_ids": [list(sequence.ids) for sequence in prompt.sequences],
                    "scored_from": [sequence.scored_from for sequence in prompt.sequences],
                    "length": max(len(sequence.ids) for sequence in prompt.sequences),
                    "sequences": len(prompt.sequences),
                    "tokens": sum(len(sequence.ids) for sequence in prompt.sequences),
                }
                for prompt in prompts
            ]

        return _fitted(examples, encode, lambda row: row["length"], self.writer.encoder, self.max_tokens)

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """See :class:`Featurizer`."""
        longest = max(feature["length"] for feature in features)
        labels = len(self.writer.task.labels)
        ids = torch.full((len(features), labels, longest), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, feature in enumerate(features):
            for j, row in enumerate(feature["input_ids"]):
                ids[i, j, : len(row)] = torch.tensor(row)
                mask[i, j, : len(row)] = 1
        starts = torch.tensor([feature["scored_from"] for feature in features])
        return {"input_ids": ids, "attention_mask": mask, "scored_from": starts}


def _fitted(
    examples: Sequence[Example],
    encode: Callable[[Sequence[Example]], list[Any]],
    length_of: Callable[[Any], int],
    encoder: PromptEncoder,
    max_tokens: int,
) -> list[Any]:
    """Encoded examples, those over ``max_tokens`` cut at the end of their longest text, never in the pattern.

    The longest may be another text once half of it is gone.
    """
    rows = encode(examples)
    cut = 0
    for index, example in enumerate(examples):
        shortened = example
        while (excess := length_of(rows[index]) - max_tokens) > 0:
            name = max(shortened.fields, key=lambda field: len(shortened.fields[field]))
            shorter = encoder.without_last(shortened.fields[name], excess)
            if not shorter.strip():
                raise PromptError(
                    f"The pattern alone takes more than max_tokens {max_tokens} for {example.origin or 'an example'}. "
                    "Raise the student's max_tokens."
                )
            shortened = Example(
                {**shortened.fields, name: shorter}, example.label, example.groups, example.origin
            )
            rows[index] = encode([shortened])[0]
        cut += shortened is not example
    if cut:
        logger.info("%d of %d queries were cut to the student's %d tokens.", cut, len(examples), max_tokens)
    return rows
