"""How the processor is divided among batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar

import torch

from stillshot.models.load import best_device

T = TypeVar("T")
R = TypeVar("R")

# More would only wait for each other: between any two products a worker needs Python's lock, as HTTP does.
_MOST = 8


@dataclass(frozen=True)
class Workers:
    """Batches that are computed at one time, each by an equal part of the threads.

    Passes over few short texts gain little from a second thread, which waits for the first between any two
    products.

    Attributes:
        count: Of batches.
        threads: Of each.
    """

    count: int
    threads: int

    @classmethod
    def of(cls, count: int | None = None) -> Self:
        """So many; ``None`` is one for each of PyTorch's threads (``OMP_NUM_THREADS``), at most 8; one for an accelerator."""
        threads = torch.get_num_threads()
        if count is None:
            count = min(threads, _MOST) if best_device().type == "cpu" else 1
        return cls(count, max(1, threads // count))


class Pool:
    """The threads of some workers, and what is asked of them now. All but the threads belongs to the event loop's."""

    def __init__(self, workers: Workers, name: str) -> None:
        self.size = workers.count
        self.asked = 0  # batches that are computed, or wait for a thread
        self._threads = ThreadPoolExecutor(workers.count, name, _use_threads, (workers.threads,))
        self._watchers: list[asyncio.Event] = []

    def watch(self, event: asyncio.Event) -> None:
        """Set the event whenever a batch is done."""
        self._watchers.append(event)

    async def run(self, work: Callable[[T], R], batch: T) -> R:
        """What the work returns, or raises, in one of the threads."""
        self.asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, batch)
        finally:
            self.asked -= 1
            for event in self._watchers:
                event.set()

    def shutdown(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _use_threads(count: int) -> None:
    # A thread's first question for its number sets that to what another thread chose last.
    torch.get_num_threads()
    torch.set_num_threads(count)
