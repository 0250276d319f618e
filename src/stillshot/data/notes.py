"""What reading a file found that its owner should know, though nothing is refused for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Collects notes for a command to show; where a caller gives none, notes are logged as warnings.
Notes = list[str] | None

MOST_PLACES = 3


def add_note(notes: Notes, text: str) -> None:
    """Collect a note, or log it where nobody collects."""
    if notes is None:
        logger.warning("%s", text)
    elif text not in notes:
        notes.append(text)


def places(origins: Sequence[str]) -> str:
    """The first places of a list, and how many more there are.

    >>> places(["a:1", "a:2", "a:3", "a:4"])
    'a:1, a:2, a:3 and 1 more'
    """
    more = f" and {len(origins) - MOST_PLACES:,} more" if len(origins) > MOST_PLACES else ""
    return ", ".join(origins[:MOST_PLACES]) + more
