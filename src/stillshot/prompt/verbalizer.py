"""Label words and their tokens. The label-token rule is written here and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stillshot.errors import PromptError
from stillshot.prompt.encoder import PromptEncoder


def split_target_prefix(target_prefix: str, *, chat: bool = False) -> tuple[str, str]:
    """What ends a prompt, and what starts its label word: ``(prompt tail, leading space)``.

    Spaces at the end of a target prefix belong to the label word, as in running text: byte-pair
    vocabularies have one token for ``" Yes"``, and ``"Yes"`` after a lone space is another one. In a
    chat the label word opens a turn of its own and has no leading space.

    >>> split_target_prefix(" answer: ")
    (' answer:', ' ')
    """
    tail = target_prefix.rstrip(" ")
    return tail, "" if chat or len(tail) == len(target_prefix) else " "


@dataclass(frozen=True)
class Verbalizer:
    """The label words of each label, as they stand in a prompt, and their token ids."""

    labels: tuple[str, ...]
    words: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]

    @property
    def single_token(self) -> bool:
        """Whether every label is one token, so that one row of next-token scores has them all."""
        return all(len(ids) == 1 for ids in self.token_ids)

    @classmethod
    def build(
        cls,
        labels: Sequence[str],
        label_words: Mapping[str, str],
        encoder: PromptEncoder,
        *,
        before: str,
        leading_space: str,
        chat: bool = False,
    ) -> Verbalizer:
        """Find the token ids that label words have behind ``before``.

        Raises:
            PromptError: A label word is empty, merges with the text before it, or two are the same.
        """
        words = tuple(leading_space + label_words[label].strip(" ") for label in labels)
        prompt = encoder.encode(before, chat=chat)
        token_ids = []
        for label, word in zip(labels, words, strict=True):
            whole = encoder.encode(before + word, chat=chat)
            if not word.strip() or whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                raise PromptError(
                    f"The label word {word!r} of {label!r} is not a token sequence of its own behind "
                    f"{before[-20:]!r}. End the pattern's target_prefix with a space or a line break."
                )
            token_ids.append(tuple(whole[len(prompt) :]))
        for (a, ids_a), (b, ids_b) in itertools.combinations(zip(labels, token_ids, strict=True), 2):
            if ids_a == ids_b:
                raise PromptError(
                    f"The labels {a!r} and {b!r} have the same label word: {label_words[a]!r} and "
                    f"{label_words[b]!r} are the tokens {list(ids_a)}. Give each label a word of its own."
                )
        return cls(tuple(labels), words, tuple(token_ids))
