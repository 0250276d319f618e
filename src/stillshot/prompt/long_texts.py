"""Long texts: only the part of a text that a model may read is tokenized."""

from __future__ import annotations

from typing import Any

from stillshot.types import Example, Keep

# Of a long text, so many characters for each token of the window are tokenized: about four times what prose takes.
CHARACTERS_A_TOKEN = 16
# Near a cut, tokens may differ from those of the whole text: a word is split by what follows it, and WordPiece makes a
# word of more than 100 characters one unknown token. Tokens so near do not count.
MARGIN = 256
# A student reads no more of a text, however few tokens it makes: megabytes of white space, or of one word that WordPiece
# does not know, are two or three tokens and take seconds.
MOST_CHARACTERS_A_TOKEN = 400
_GROWTH = 6


def readable_part(
    tokenizer: Any,
    text: str,
    tokens: int,
    keep: Keep = "start",
    *,
    most: int | None = None,
    least: int | None = None,
) -> str:
    """The start (or end) of a text in which its first (or last) ``tokens`` tokens lie; a short text is returned as it is.

    The part is cut where white space stands, if there is any near, and grows until it has that many tokens
    farther than ``MARGIN`` characters from the cut. So the kept tokens are those of the whole text, except in runs of
    hundreds of characters without white space whose split depends on where the run begins. Tokenizing takes
    time and memory by the window, not by the text. A part that is not the whole text lacks at least one token, or is ``most``
    characters long.

    Args:
        most: Characters beyond which the part does not grow though it has fewer tokens; ``None`` is without end.
        least: Texts up to so many characters are returned untried; ``None`` is what prose takes, four times.
    """
    size = CHARACTERS_A_TOKEN * tokens + 2 * MARGIN
    if len(text) <= (size if least is None else least):
        return text
    while True:
        part = _part(text, size, keep) if size < len(text) else text
        needed = _characters_needed(tokenizer, part, tokens, keep, is_cut=len(part) < len(text))
        if needed is not None:
            return part[:needed] if keep == "start" else part[-needed:]
        if len(part) == len(text) or (most is not None and size >= most):
            return part
        size = size * _GROWTH if most is None else min(size * _GROWTH, max(most, size + 1))


def readable_example(
    tokenizer: Any,
    example: Example,
    tokens: int,
    keep: Keep = "start",
    *,
    most: int | None = None,
    least: int | None = None,
) -> Example:
    """The example with the :func:`readable_part` of each text; the same object where all are short."""
    cut = {
        name: part
        for name, text in example.fields.items()
        if len(part := readable_part(tokenizer, text, tokens, keep, most=most, least=least)) < len(text)
    }
    if not cut:
        return example
    return Example({**example.fields, **cut}, example.label, example.groups, example.origin)


def _part(text: str, size: int, keep: Keep) -> str:
    if keep == "start":
        near = text[size - MARGIN : size]
        space = next((i for i in range(len(near) - 1, -1, -1) if near[i].isspace()), len(near))
        return text[: size - MARGIN + space]
    near = text[len(text) - size : len(text) - size + MARGIN]
    space = next((i for i, character in enumerate(near) if character.isspace()), 0)
    return text[len(text) - size + space :]


def _characters_needed(tokenizer: Any, part: str, tokens: int, keep: Keep, *, is_cut: bool) -> int | None:
    """Characters of a part up to ``MARGIN`` behind its first (or last) ``tokens`` tokens; ``None`` if it has too few."""
    if not tokenizer.is_fast:  # it has no offsets: the part is kept whole once it has enough tokens
        ids = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        return len(part) if len(ids) >= tokens + (1 if is_cut else 0) else None
    offsets = tokenizer(
        part,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )["offset_mapping"]
    if len(offsets) < tokens:
        return None
    ends_at = offsets[tokens - 1][1] if keep == "start" else len(part) - offsets[-tokens][0]
    needed = ends_at + MARGIN
    if needed < len(part):
        return needed
    return None if is_cut else len(part)
