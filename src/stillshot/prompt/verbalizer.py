"""Label words and their tokens. The label-token rule is written here and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    """The label words of each label, as they stand in a prompt, and their token ids.

    Attributes:
        labels: The task's labels.
        words: Their label words, with a leading space where one belongs to them.
        token_ids: The tokens of each label's words.
        ending: What is scored behind the words of every label where those of one begin those of another; else
            empty. Without it the longer could never be likelier than the shorter: P("delivery complaint") is P("delivery")
            times another probability.
    """

    labels: tuple[str, ...]
    words: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    ending: tuple[int, ...] = ()

    @property
    def scored_ids(self) -> tuple[tuple[int, ...], ...]:
        """What is scored for each label: its words' tokens, and the ending."""
        return tuple((*ids, *self.ending) for ids in self.token_ids)

    @property
    def beginnings(self) -> list[tuple[str, str]]:
        """Pairs of labels of which the first one's words begin those of the second."""
        named = list(zip(self.labels, self.token_ids, strict=True))
        return [(a, b) for a, ids_a in named for b, ids_b in named if a != b and ids_b[: len(ids_a)] == ids_a]

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
        behind: str,
        chat: bool = False,
    ) -> Verbalizer:
        """Find the token ids that label words have behind ``before``.

        Args:
            labels: The task's labels.
            label_words: The words of each.
            encoder: Of the model that scores them.
            before: The end of a prompt.
            leading_space: What label words begin with, if anything.
            behind: What follows label words within a context, and ends them where one begins another.
            chat: Whether prompts are in chat form.

        Raises:
            PromptError: A label word is empty, merges with the text before it, or two are the same; or one begins
                another, and nothing ends it.
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
        found = cls(tuple(labels), words, tuple(token_ids))
        if not found.beginnings:
            return found
        return replace(found, ending=_ending(found, encoder, before, behind, chat))


def _ending(
    found: Verbalizer, encoder: PromptEncoder, before: str, behind: str, chat: bool
) -> tuple[int, ...]:
    """The one token that ends every label's words: the first of what follows them in a context, else the end token."""
    candidates: set[int | None] = set()
    for word, ids in zip(found.words, found.token_ids, strict=True):
        start = len(encoder.encode(before, chat=chat)) + len(ids)
        whole = encoder.encode(before + word + behind + "x", chat=chat)
        kept = whole[:start] == encoder.encode(before + word, chat=chat)
        candidates.add(whole[start] if behind and kept and len(whole) > start + 1 else None)
    (token,) = candidates if len(candidates) == 1 else (None,)
    continued = {
        longer[len(ids)] for ids in found.token_ids for longer in found.token_ids if len(longer) > len(ids)
    }
    if token is None or token in continued:
        token = encoder.tokenizer.eos_token_id
    if token is None:
        a, b = found.beginnings[0]
        raise PromptError(
            f"The label words of {a!r} begin those of {b!r}, which could then never be chosen, and nothing ends them: the "
            "tokenizer has no end-of-sequence token. Set prompt.separator to a line break, or choose other label words."
        )
    return (token,)
