"""What a student reads: token ids of the query alone, and how a batch of them is padded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stillshot.config import TaskDefinition
from stillshot.errors import PromptError
from stillshot.prompt.long_texts import MOST_CHARACTERS_A_TOKEN, readable_example
from stillshot.prompt.writer import PromptWriter
from stillshot.types import Context, Example, Keep

logger = logging.getLogger(__name__)
Feature = dict[str, Any]
_ENCODER_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


class Featurizer(Protocol):
    """Turns examples into model inputs. A query over ``max_tokens`` is cut in its longest text."""

    max_tokens: int

    def features(self, examples: Sequence[Example], keep: Keep = "start") -> list[Feature]:
        """Unpadded inputs, one an example; each has ``length``, its tokens, and ``cut`` where a text of it was cut.

        One of several sequences has their number as ``sequences``, the longest one's tokens as ``length``, and the tokens of
        them all as ``tokens``. ``keep`` says which part of a text that is cut is read.
        """
        ...

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """Inputs of a batch, padded on the right."""
        ...


class EncoderFeaturizer:
    """An encoder reads the task's fields as they are: a text, or a pair of texts.

    Of a pair over ``max_tokens``, the longer text is cut first, as ``longest_first`` of transformers does.
    """

    def __init__(self, task: TaskDefinition, tokenizer: Any, max_tokens: int) -> None:
        if tokenizer.pad_token_id is None:  # rows are then filled up with the end token, which is masked
            tokenizer.pad_token = tokenizer.eos_token
        self.task, self.tokenizer = task, tokenizer
        self.max_tokens = min(max_tokens, tokenizer.model_max_length)

    def features(self, examples: Sequence[Example], keep: Keep = "start") -> list[Feature]:
        """See :class:`Featurizer`."""
        first, *rest = self.task.fields
        # Of a pair, the tokenizer keeps every combination of what it cuts off, which soon is more than all else.
        least = self.max_tokens if rest else None
        parts = _readable(examples, self.tokenizer, self.max_tokens, keep, least)
        texts = [part.fields[first] for part in parts]
        others = [" ".join(part.fields[name] for name in rest) for part in parts] if rest else None
        side = self.tokenizer.truncation_side
        try:
            self.tokenizer.truncation_side = "right" if keep == "start" else "left"
            tokenized = self.tokenizer(
                texts,
                others,
                truncation=True,
                max_length=self.max_tokens,
                split_special_tokens=True,
                verbose=False,
            )
        finally:
            self.tokenizer.truncation_side = side
        names = [name for name in _ENCODER_INPUTS if name in tokenized]
        rows: list[Feature] = []
        for i, (example, part) in enumerate(zip(examples, parts, strict=True)):
            row: Feature = {name: tokenized[name][i] for name in names}
            row["length"] = len(row["input_ids"])
            full = row["length"] >= self.max_tokens
            if part is not example or (full and self._overflows(tokenized, i, texts, others)):
                row["cut"] = True
            rows.append(row)
        _log_cut(rows, self.max_tokens)
        return rows

    def _overflows(self, tokenized: Any, row: int, texts: list[str], others: list[str] | None) -> bool:
        """Whether a full row has lost tokens; tokenizers that are not fast ones tokenize it again to know."""
        if tokenized.encodings is not None:
            return bool(tokenized.encodings[row].overflowing)
        whole = self.tokenizer(texts[row], others[row] if others else None, verbose=False)["input_ids"]
        return len(whole) > self.max_tokens

    def pad(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """See :class:`Featurizer`."""
        kept = [{name: row[name] for name in _ENCODER_INPUTS if name in row} for row in features]
        return dict(self.tokenizer.pad(kept, return_tensors="pt"))


class DecoderFeaturizer:
    """A decoder with a label head reads the query's prompt, and answers at its last token."""

    def __init__(self, writer: PromptWriter, pad_token_id: int, max_tokens: int) -> None:
        self.writer, self.pad_token_id, self.max_tokens = writer, pad_token_id, max_tokens

    def features(self, examples: Sequence[Example], keep: Keep = "start") -> list[Feature]:
        """See :class:`Featurizer`.

        Raises:
            PromptError: A prompt ends in the padding token, by which its last token is found.
        """
        encoder, chat = self.writer.encoder, self.writer.prompt.chat

        def encode(part: Sequence[Example]) -> list[Feature]:
            texts = [self.writer.query_text(example) for example in part]
            return [{"input_ids": row, "length": len(row)} for row in encoder.encode_all(texts, chat=chat)]

        rows = _fitted(examples, encode, self.writer, self.max_tokens, keep)
        for example, row in zip(examples, rows, strict=True):
            if row["input_ids"][-1] == self.pad_token_id:
                raise PromptError(
                    f"The prompt of {example.origin or 'an example'} ends in the padding token, which marks where "
                    "a prompt ends. Choose a pattern that ends in other text."
                )
        return rows

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

    def features(self, examples: Sequence[Example], keep: Keep = "start") -> list[Feature]:
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

        return _fitted(examples, encode, self.writer, self.max_tokens, keep)

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
    encode: Callable[[Sequence[Example]], list[Feature]],
    writer: PromptWriter,
    max_tokens: int,
    keep: Keep,
) -> list[Feature]:
    """Encoded examples, those over ``max_tokens`` cut in the text of most tokens, never in the pattern.

    A text loses what is over ``max_tokens`` first, so that the result does not depend on how much of it was tokenized; and
    then at most half at a time, since another may be the longest by then.
    """
    encoder = writer.encoder
    parts = _readable(examples, encoder.tokenizer, max_tokens, keep)
    rows = encode(parts)
    for index, (example, part) in enumerate(zip(examples, parts, strict=True)):
        shortened = part
        while (excess := rows[index]["length"] - max_tokens) > 0:
            spans = encoder.token_spans([shortened.fields[field] for field in writer.task.fields])
            length, name = max(
                zip(map(len, spans), writer.task.fields, strict=True), key=lambda pair: pair[0]
            )
            kept = max_tokens if length > max_tokens else max(length - excess, length // 2)
            shorter = encoder.shortened(shortened.fields[name], kept, keep)
            if not shorter.strip():
                raise _nothing_left(part.origin, shorter, max_tokens, keep)
            shortened = Example({**shortened.fields, name: shorter}, part.label, part.groups, part.origin)
            rows[index] = encode([shortened])[0]
        if shortened is not example:
            rows[index]["cut"] = True
    _log_cut(rows, max_tokens)
    return rows


def _readable(
    examples: Sequence[Example], tokenizer: Any, max_tokens: int, keep: Keep, least: int | None = None
) -> list[Example]:
    """The examples with no more of any text than a student may read."""
    most = MOST_CHARACTERS_A_TOKEN * max_tokens
    return [
        readable_example(tokenizer, example, max_tokens, keep, most=most, least=least) for example in examples
    ]


def _nothing_left(origin: str, left: str, max_tokens: int, keep: Keep) -> PromptError:
    """The error for a query of which the budget leaves no text: white space alone, or nothing beside the pattern."""
    which = origin or "an example"
    if left:
        place = "begins" if keep == "start" else "ends"
        return PromptError(
            f"The text of {which} {place} with more white space than the student reads ({max_tokens} tokens). "
            "Remove the white space."
        )
    return PromptError(
        f"The pattern alone takes more than max_tokens {max_tokens} for {which}. Raise the student's max_tokens."
    )


def _log_cut(rows: Sequence[Feature], max_tokens: int) -> None:
    if cut := sum(row.get("cut", False) for row in rows):
        logger.info("%d of %d queries were cut to the student's %d tokens.", cut, len(rows), max_tokens)
