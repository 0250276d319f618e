"""Progress on stderr: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from stillshot.escaping import visible
from stillshot.working import telling

Report = Callable[[str, str, int, int], None]  # (name of the work, what, done, total; 0 is unknown)

LINE_SECONDS = 10.0
FAILED = "failed:"


@contextmanager
def progress(stream: TextIO | None = None, after_seconds: float = 0.0) -> Iterator[Report]:
    """Show what is reported within the block.

    Args:
        stream: Where to; null is stderr.
        after_seconds: Show nothing of a block that is shorter than this.
    """
    shown = stream if stream is not None else sys.stderr
    pieces = Pieces(_Live(shown) if shown.isatty() else _Lines(shown), after_seconds)
    try:
        with telling(pieces.report):
            yield pieces.report
        pieces.end_piece()
    finally:
        pieces.display.close()


class Display(Protocol):
    """How progress is shown."""

    def update(self, name: str, what: str, done: int, total: int, seconds: float) -> None:
        """Show how far a piece of work is."""
        ...

    def line(self, text: str) -> None:
        """Show that a piece has ended."""
        ...

    def close(self) -> None:
        """Leave nothing but whole lines behind."""
        ...


class Pieces:
    """Tells from reports where one piece of work ends and the next begins: at another name, or another what.

    A piece is timed from the end of the one before, so loading its model counts.
    """

    def __init__(self, display: Display, after_seconds: float = 0.0) -> None:
        self.display = display
        self._shown_from = time.monotonic() + after_seconds
        self._piece: tuple[str, str] | None = None
        self._started = time.monotonic()

    def report(self, name: str, what: str, done: int, total: int) -> None:
        """Take a report of the pipeline."""
        if what.startswith(FAILED):
            self._begin(None)
            self.display.line(
                f"{visible(name, keep='')}: failed"
            )  # its reason is told at the end, with all others
            return
        name, what = visible(name, keep=""), visible(what, keep="")
        if self._piece != (name, what):
            self.end_piece()
            self._begin((name, what))
        if time.monotonic() >= self._shown_from:
            self.display.update(name, what, done, total, time.monotonic() - self._started)

    def end_piece(self) -> None:
        """The piece under way is finished."""
        if self._piece is not None and time.monotonic() >= self._shown_from:
            name, what = self._piece
            self.display.line(f"{name}: {what}, {duration(time.monotonic() - self._started)}")
        self._begin(None)

    def _begin(self, piece: tuple[str, str] | None) -> None:
        if piece is None:
            self._started = time.monotonic()
        self._piece = piece


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = time.monotonic()

    def update(self, name: str, what: str, done: int, total: int, seconds: float) -> None:
        if time.monotonic() - self._last >= LINE_SECONDS:
            count = f" {done:,}/{total:,}" if total else f" {done:,}" if done else ""
            left = f", {duration(seconds * (total - done) / done)} left" if 0 < done < total else ""
            self.line(f"{name}: {what}{count}{left} ...")

    def line(self, text: str) -> None:
        self._last = time.monotonic()
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        pass


class _Live:
    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        name = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # gives way where the line is narrow
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[name]}", markup=False, table_column=name),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            expand=True,
            console=Console(file=stream),
            transient=True,
            refresh_per_second=4,
        )
        self._task: Any = None
        self._piece: tuple[str, str] | None = None

    def update(self, name: str, what: str, done: int, total: int, seconds: float) -> None:
        if self._task is None:
            self._task = self._progress.add_task(what, total=None, name=name, count="")
            self._progress.start()
        if self._piece != (name, what):
            self._progress.reset(self._task)
            self._piece = name, what
        count = f"{done:,}/{total:,}" if total else f"{done:,}" if done else ""
        left = f", {duration(seconds * (total - done) / done)} left" if 0 < done < total else ""
        self._progress.update(
            self._task,
            description=what,
            completed=done,
            total=total or None,
            name=name,
            count=count + left,
        )

    def line(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()


def duration(seconds: float) -> str:
    """A time in a few characters.

    >>> duration(0.4), duration(75), duration(7321)
    ('0.4 s', '1 m 15 s', '2 h 02 m')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} m"
