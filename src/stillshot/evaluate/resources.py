"""What a cell takes: memory, time, size; and on what it ran."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from stillshot.memory import give_back_freed


@dataclass
class Usage:
    """What a block of work has taken, complete when it ends. Making one resets the process's peak.

    Attributes:
        seconds: Wall time.
        peak_memory_bytes: The block's peak above what the process held when it began: resident set
            on the processor, plus the allocator's peak on an accelerator. Pages of libraries that were
            loaded before are left out (on Linux): where a process was forked, they become resident again
            as they are touched. They are counted when the block ends and at each :meth:`lap`, so those that
            were touched between a peak and that make it that much too low. Memory that was freed before goes
            back to the system first (with glibc), so that taking it again counts.
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0

    def __post_init__(self) -> None:
        self._libraries = _libraries()
        give_back_freed()
        _reset_peak()
        self._before = _resident_bytes()

    def lap(self) -> None:
        """Take the peak so far, of the resident set alone: the rest of the block has a peak of its own."""
        peak, now = _peak_resident_bytes(), _libraries()
        touched = sum(max(0, now.get(path, 0) - held) for path, held in self._libraries.items())
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak - self._before - touched)
        _reset_peak()


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure a block. A process's peak resident set only grows, so use one process a cell."""
    usage = Usage()
    accelerator_before = _accelerator_peak(reset=True)
    started = time.perf_counter()
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - started
        usage.lap()
        usage.peak_memory_bytes += max(0, _accelerator_peak() - accelerator_before)


def latencies(answer: Callable[[int], object], count: int) -> dict[str, float]:
    """Milliseconds of answering one query at a time: median and 95th percentile of ``count``, after one more."""
    if not count:
        return {}
    answer(0)
    taken = []
    for index in range(count):
        started = time.perf_counter()
        answer(index)
        taken.append((time.perf_counter() - started) * 1000)
    return {"p50": float(np.percentile(taken, 50)), "p95": float(np.percentile(taken, 95))}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    names = ("stillshot", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def hardware() -> dict[str, Any]:
    """The machine, in so far as timings depend on it."""
    import torch

    found: dict[str, Any] = {
        "processor": torch.cpu.get_capabilities().get("cpu_name")
        or platform.processor()
        or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name(0)
    return found


def _reset_peak() -> None:
    """Let the peak begin at the present resident set, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status_bytes(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _resident_bytes() -> int:
    return _status_bytes("VmRSS:") or _peak_resident_bytes()


def _peak_resident_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return _status_bytes("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _libraries() -> dict[str, int]:
    """Resident bytes of files with code that are mapped, by path (Linux; elsewhere none are known)."""
    try:
        lines = Path("/proc/self/smaps").read_text(errors="replace").split("\n")
    except OSError:
        return {}
    resident: dict[str, int] = {}
    with_code = set()
    path = ""
    for line in lines:
        fields = line.split(maxsplit=5)
        if not fields:
            continue
        if not fields[0].endswith(":"):  # a mapping: address, permissions, offset, device, inode, path
            path = fields[5] if len(fields) == 6 else ""
            if "x" in fields[1]:
                with_code.add(path)
        elif fields[0] == "Rss:":
            resident[path] = resident.get(path, 0) + int(fields[1]) * 1024
    return {path: resident[path] for path in with_code if path.startswith("/")}


def _accelerator_peak(*, reset: bool = False) -> int:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    if reset:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return torch.cuda.max_memory_allocated()
