"""Names and texts of others, written so that they can only be read: by a terminal, and by Markdown with HTML in it."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_BIDI = {"\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
_LINE_ENDS = {"\u2028", "\u2029"}
# What a code span of Markdown shows as it is, in a table too.
_PLAIN_CODE = re.compile(r"[^\s`|<>&\\](?:[^`|<>&\\\n]*[^\s`|<>&\\])?")
_MARKUP = re.compile(r"[\\`*_\[\]<>&|~$#]|(?<=:)//|@(?=\w)")


def visible(text: str, keep: str = "\n\t") -> str:
    r"""The text with escapes for what a terminal or browser acts on instead of showing it.

    These are control characters other than ``keep``, characters that turn the direction of writing, and halves
    of characters. Other text stays as it is. In JSON the escapes mean the characters.

    >>> visible("a\x1b[31mb\u202ec\n")
    'a\\u001b[31mb\\u202ec\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"\\u{ord(character):04x}" if _acts(character) and character not in keep else character
        for character in text
    )


def code_literal(value: Any, indent: int | None = None) -> str:
    """A value as JSON and Python write it, strings and their lists and mappings alone, without hidden characters."""
    return visible(json.dumps(value, ensure_ascii=False, indent=indent))


def markdown_code(text: str) -> str:
    r"""A name as code in Markdown, in a table or outside; one with markup of its own as HTML.

    >>> markdown_code("positive"), markdown_code("<b>|")
    ('`positive`', '<code>&#60;b&#62;&#124;</code>')
    """
    shown = visible(text, keep="")
    if _PLAIN_CODE.fullmatch(shown):
        return f"`{shown}`"
    return f"<code>{_entities(shown)}</code>"


def markdown_text(text: str) -> str:
    r"""A text as Markdown that shows it on one line: no markup, no HTML, no cell of a table ends in it.

    >>> markdown_text("see\n---\n<b>*this*")
    'see --- &#60;b&#62;&#42;this&#42;'
    """
    shown = visible(" ".join(text.split()), keep="")
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), shown)


def _entities(text: str) -> str:
    return "".join(
        character
        if character.isalnum() or character == " " or ord(character) > 127
        else f"&#{ord(character)};"
        for character in text
    )


def _acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI or character in _LINE_ENDS
