"""Telling of long work from where it is done, without handing a callback through every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Tell = Callable[[str, str, int, int], None]  # (name of the work, what, done, total; 0 is unknown)

_tell: ContextVar[Tell | None] = ContextVar("tell", default=None)


@contextmanager
def telling(tell: Tell) -> Iterator[None]:
    """Within it, :func:`tell` calls ``tell``."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def tell(name: str, what: str, done: int, total: int) -> None:
    """Say how far a piece of work is; nothing happens where nobody listens."""
    if listener := _tell.get():
        listener(name, what, done, total)
