"""Text to token ids, the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from stillshot.errors import PromptError
from stillshot.types import Keep


class PromptEncoder:
    """Turns whole prompts into token ids.

    Special tokens spelled out in the data stay plain text (an ``<|im_end|>`` in a review never ends a
    turn), except in chat form, where the template's own must be read. A prompt starts with the
    tokenizer's begin-of-sequence token where the tokenizer itself would put one; a chat starts with
    what its template writes.

    Args:
        tokenizer: A fast transformers tokenizer.

    Attributes:
        start: The begin-of-sequence token, or nothing.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise PromptError(
                f"The tokenizer of {tokenizer.name_or_path!r} is not a fast one; Stillshot needs token "
                "offsets. Use a model whose repository has a tokenizer.json."
            )
        self.tokenizer = tokenizer
        probe = tokenizer("a").input_ids
        bos = tokenizer.bos_token_id
        self.start = [bos] if bos is not None and probe and probe[0] == bos else []

    def encode_all(self, texts: Sequence[str], *, chat: bool = False) -> list[list[int]]:
        """Token ids of each text."""
        ids = self._tokenize(texts, chat)["input_ids"]
        return ids if chat else [[*self.start, *row] for row in ids]

    def without_start(self, text: str) -> list[int]:
        """Token ids of one text, without the begin-of-sequence token."""
        return self._tokenize([text], chat=False)["input_ids"][0]

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """Token ids of one text."""
        return self.encode_all([text], chat=chat)[0]

    def encode_with_boundaries(
        self, texts: Sequence[str], boundaries: Sequence[int]
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of each text, and the index of the first token that reaches past a character.

        Tokens are those of the whole text; one that straddles the boundary counts as past it.
        """
        tokenized = self._tokenize(texts, chat=False, offsets=True)
        shift = len(self.start)
        starts = []
        for offsets, boundary in zip(tokenized["offset_mapping"], boundaries, strict=True):
            past = (index for index, (_, end) in enumerate(offsets) if end > boundary)
            starts.append(next(past, len(offsets)) + shift)
        return [[*self.start, *row] for row in tokenized["input_ids"]], starts

    def token_spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The characters, from and to, that each token of each text stands for; no special tokens."""
        return self._tokenize(texts, chat=False, offsets=True)["offset_mapping"]

    def shortened(self, text: str, tokens: int, keep: Keep = "start") -> str:
        """The first ``tokens`` tokens of a text that has more; with ``keep="end"``, the last.

        A character of which a token goes (byte-level tokenizers split rare ones) goes whole.
        """
        offsets = self._tokenize([text], chat=False, offsets=True)["offset_mapping"][0]
        if tokens >= len(offsets):
            return text
        if not tokens:
            return ""
        if keep == "start":
            return text[: min(offsets[tokens - 1][1], offsets[tokens][0])]
        return text[max(offsets[-tokens][0], offsets[-tokens - 1][1]) :]

    @cached_property
    def _special_tokens(self) -> list[str]:
        """All that the tokenizer reads as special in a chat, also what its map of special tokens does not name."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return list(dict.fromkeys([*self.tokenizer.all_special_tokens, *added]))

    def refuse_special_tokens(self, text: str, origin: str) -> None:
        """Refuse data that would end or start a turn of a chat.

        Raises:
            PromptError: The text spells out a special token of the tokenizer.
        """
        for token in self._special_tokens:
            if token in text:
                raise PromptError(
                    f"{origin or 'An example'} contains {token!r}, a special token of the chat template. "
                    "Remove it from the data, or set prompt.chat to false, where it is plain text."
                )

    def _tokenize(self, texts: Sequence[str], chat: bool, offsets: bool = False) -> Any:
        return self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=not chat,
            return_offsets_mapping=offsets,
            return_attention_mask=False,
            verbose=False,
        )
