"""How the processor is divided among batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import torch

from stillshot.models.load import best_device


@dataclass(frozen=True)
class Workers:
    """Batches that are computed at one time, each by an equal part of the threads.

    Passes over few short texts gain little from a second thread, which waits for the first between any two
    products; two batches side by side gain twofold.

    Attributes:
        count: Of batches.
        threads: Of each.
    """

    count: int
    threads: int

    @classmethod
    def of(cls, count: int | None = None) -> Self:
        """So many; ``None`` is one for each of PyTorch's threads (``OMP_NUM_THREADS``), and one for an accelerator."""
        threads = torch.get_num_threads()
        if count is None:
            count = threads if best_device().type == "cpu" else 1
        return cls(count, max(1, threads // count))

    def executor(self, name: str) -> ThreadPoolExecutor:
        """Threads of this name that compute the batches."""
        return ThreadPoolExecutor(self.count, name, torch.set_num_threads, (self.threads,))
