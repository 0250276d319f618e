"""Patterns: texts with ``{field}`` placeholders, filled in one pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stillshot.errors import PromptError
from stillshot.tasks import PLACEHOLDER

_LONGEST, _MOST_PLACEHOLDERS = 200_000, 100


@dataclass(frozen=True)
class Template:
    """A text with placeholders.

    Filling replaces each placeholder once and never looks at what it put in, so braces in the data
    stay as they are (``str.format`` over an assembled prompt would not keep them).

    >>> Template("{premise} {hypothesis} ?").fill({"premise": "a {b}", "hypothesis": "c"})
    'a {b} c ?'
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse a pattern that would grow without bound: it may come with a stranger's student."""
        if len(self.text) > _LONGEST or len(PLACEHOLDER.findall(self.text)) > _MOST_PLACEHOLDERS:
            raise PromptError(
                f"A pattern has more than {_LONGEST:,} characters or {_MOST_PLACEHOLDERS} placeholders: "
                f"{self.text[:40]!r}... Shorten it."
            )

    @property
    def tail(self) -> str:
        """The text behind the last placeholder: what label words directly follow."""
        return PLACEHOLDER.split(self.text)[-1]

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with every placeholder replaced.

        Raises:
            PromptError: A placeholder has no value.
        """

        def value(match: re.Match[str]) -> str:
            try:
                return values[match[1]]
            except KeyError:
                raise PromptError(
                    f"The pattern {self.text!r} names the field {match[1]!r}, which the example does not have "
                    f"(it has {', '.join(sorted(values))}). Correct the pattern or the task's fields."
                ) from None

        return PLACEHOLDER.sub(value, self.text)
