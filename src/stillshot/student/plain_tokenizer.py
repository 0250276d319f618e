"""The tokenizer as a student's folder holds it: plain transformers then reads what the student reads.

A student's queries begin with the token that its tokenizer puts first, and nothing is put behind them; in chat form
the template writes all special tokens itself. Tokenizers differ in what they add to a text by themselves, so without
this a ``pipeline`` on the folder would read other tokens than the student was trained on.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from stillshot.prompt.encoder import PromptEncoder


def plain_tokenizer(tokenizer: Any, *, chat: bool) -> Any:
    """A copy that turns a decoder's prompt into the tokens that the student reads.

    It has a padding token, reads special tokens that a text spells out as plain text (not in chat form, where
    the template's are read), and adds the begin-of-sequence token alone (in chat form nothing).

    Args:
        tokenizer: A fast tokenizer.
        chat: Whether prompts are in chat form.
    """
    encoder = PromptEncoder(tokenizer)
    begin = [] if chat else encoder.start
    plain = _with_padding(tokenizer)
    _set(plain, "split_special_tokens", not chat)
    if _added(plain, encoder) == begin:
        return plain
    for name, value in (("add_bos_token", bool(begin)), ("add_eos_token", False)):
        if hasattr(plain, name):
            setattr(plain, name, value)
    if _added(plain, encoder) != begin:
        plain.backend_tokenizer.post_processor = _adding(plain, begin)
    return plain


def encoder_tokenizer(tokenizer: Any) -> Any:
    """A copy that reads texts as an encoder student does: it pads, and special tokens in a text are plain text."""
    plain = _with_padding(tokenizer)
    _set(plain, "split_special_tokens", True)
    return plain


def _with_padding(tokenizer: Any) -> Any:
    plain = copy.deepcopy(tokenizer)
    if plain.pad_token_id is None:
        plain.pad_token = plain.eos_token
    _set(plain, "padding_side", "right")
    return plain


def _set(tokenizer: Any, name: str, value: Any) -> None:
    """Set what is to be saved: transformers writes what a tokenizer was made with, not what was set later."""
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value


def _added(tokenizer: Any, encoder: PromptEncoder) -> list[int] | None:
    """Tokens that are put before a text; none stand behind it, else null."""
    text = encoder.without_start("a")
    whole = tokenizer("a").input_ids
    return whole[: len(whole) - len(text)] if whole[len(whole) - len(text) :] == text else None


def _adding(tokenizer: Any, begin: list[int]) -> Any:
    """A step behind the model that adds these tokens; what is there of offsets is kept."""
    from tokenizers import processors

    present = json.loads(tokenizer.backend_tokenizer.to_str())["post_processor"] or {}
    steps = present.get("processors", [present])
    trims = [step["trim_offsets"] for step in steps if "trim_offsets" in step]
    kept: list[Any] = [processors.ByteLevel(trim_offsets=trims[0])] if trims else []
    names = tokenizer.convert_ids_to_tokens(begin)
    front = "".join(f"{name} " for name in names)
    added = processors.TemplateProcessing(
        single=f"{front}$A", pair=f"{front}$A {front}$B", special_tokens=list(zip(names, begin, strict=True))
    )
    return processors.Sequence([*kept, added])
