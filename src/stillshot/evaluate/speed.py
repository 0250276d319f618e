"""How fast this machine computes, measured in a fraction of a second, and what given work takes on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from stillshot.models import load
from stillshot.models.footprint import Work

# Share of a large product's rate that a whole pass reaches in its products, which are of many shapes.
_EFFICIENCY = 0.7
_ROUNDS = 4


@dataclass(frozen=True)
class Speed:
    """What a machine reaches.

    Attributes:
        product_flops: Floating-point operations a second of a large matrix product, by dtype.
        moved_bytes: Bytes a second that an operation without products reads and writes.
        call_seconds: What calling an operation takes, however small it is.
    """

    moved_bytes: float
    call_seconds: float
    product_flops: dict[torch.dtype, float] = field(default_factory=dict)

    def seconds(self, work: Work) -> float:
        """What work takes; a product in a dtype that was not measured counts as one in float32."""
        single = self.product_flops[torch.float32]
        products = sum(
            flops / (_EFFICIENCY * self.product_flops.get(dtype, single))
            for dtype, flops in work.product_flops.items()
        )
        return products + work.moved_bytes / self.moved_bytes + work.calls * self.call_seconds


def measure_speed() -> Speed:
    """Measure this machine's best device with the threads that are set."""
    device = load.best_device()
    rates = {}
    for dtype in {torch.float32, load.choose_dtype("auto")}:
        left = torch.zeros(1024, 1024, dtype=dtype, device=device)
        right = torch.zeros(1024, 1024, dtype=dtype, device=device)
        rates[dtype] = 2 * 1024**3 / _fastest(lambda left=left, right=right: left @ right)
    block = torch.zeros(2 * 2**20, device=device)  # as large as the activations of a layer
    small = torch.zeros(8, device=device)
    moved = 2 * block.nbytes / _fastest(lambda: block + 1)
    return Speed(moved, _fastest(lambda: small + 1), rates)


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs, after one more."""
    taken = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        run()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
