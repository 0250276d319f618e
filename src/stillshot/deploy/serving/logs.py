"""Logs that no client can flood."""

from __future__ import annotations

import logging
import time

_MOST_KINDS = 256
_KIND_CHARACTERS = 40  # of a message; what follows may be an address or a number


class Sparing(logging.Filter):
    """Lets some messages of a kind through in a while; the next that is let through tells how many were not.

    Messages are of one kind if logger, level and beginning are the same.

    Args:
        most: Messages of a kind in a while.
        seconds: How long a while is.
    """

    def __init__(self, most: int = 5, seconds: float = 60.0) -> None:
        super().__init__()
        self._most, self._seconds = most, seconds
        self._kinds: dict[
            tuple[str, int, str], tuple[float, int]
        ] = {}  # when a while began, and messages since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is written."""
        kind = record.name, record.levelno, str(record.msg)[:_KIND_CHARACTERS]
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            kind = record.name, record.levelno, ""
        now = time.monotonic()
        began, count = self._kinds.get(kind, (now, 0))
        if now - began >= self._seconds:
            if count > self._most:
                record.msg = f"{record.getMessage()} ({count - self._most:,} more like it were not written)"
                record.args = ()
            began, count = now, 0
        self._kinds[kind] = began, count + 1
        return count < self._most
