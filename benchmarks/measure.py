"""What both benchmarks use: interleaved timings, memory, what the machine reaches, and records."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from stillshot.evaluate.resources import hardware, versions

Run = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)
RECORDS = Path(__file__).parent / "records"


def interleaved(
    runs: Mapping[Name, Run], rounds: int, budget_seconds: float = float("inf")
) -> dict[Name, float]:
    """Median seconds of each run, all run once a round, so that a slow minute is everyone's.

    Rounds end early where another one would not fit the budget; there is always one.
    """
    taken: dict[Name, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for done in range(rounds):
        spent = time.perf_counter() - began
        if done and spent * (done + 1) / done > budget_seconds:
            break
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def paused_for(
    long: Iterable[int], total: int, runs: Mapping[Name, Run], rounds: int
) -> tuple[float, dict[Name, float]]:
    """Seconds of one long run, and median seconds of short runs, for which it is paused ``rounds`` times.

    ``long`` gives how many of its ``total`` items each of its steps has done.
    """
    taken: dict[Name, list[float]] = {name: [] for name in runs}
    done, spent, resumed = 0, 0.0, time.perf_counter()
    for count in long:
        done += count
        if done * (rounds + 1) < total * (1 + min(map(len, taken.values()))):
            continue
        spent += time.perf_counter() - resumed
        if done < total:
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - started)
        resumed = time.perf_counter()
    return spent, {name: statistics.median(values) for name, values in taken.items()}


def roofline(dtype: torch.dtype) -> dict[str, float]:
    """What this machine's matrix product and memory reach, with the threads that are set."""
    left, right = torch.randn(2048, 1024).to(dtype), torch.randn(1536, 1024).to(dtype)
    block = torch.zeros(512 * 2**20, dtype=torch.uint8)  # larger than caches
    seconds = interleaved(
        {
            "product": lambda: torch.nn.functional.linear(left, right),
            "memory": lambda: block.view(torch.int64).sum(),
        },
        rounds=15,
    )
    return {
        "product_flops": 2 * 2048 * 1024 * 1536 / seconds["product"],
        "memory_bytes_per_s": block.numel() / seconds["memory"],
    }


def machine() -> dict[str, Any]:
    """Hardware and versions, for a record."""
    return {"hardware": hardware(), "versions": versions()}


def kept(name: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures and details of a record that this machine made with these versions.

    Raises:
        SystemExit: There is none.
    """
    path = RECORDS / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if any(record.pop(key, None) != value for key, value in machine().items()):
        raise SystemExit(f"{path} was made elsewhere, or is not there: measure all tables.")
    return record.pop("figures"), record


def finish(
    name: str, figures: Mapping[str, float], details: Mapping[str, Any], *, as_json: bool, keep: bool
) -> None:
    """Print the figures (one line of JSON at the end, if asked), and keep the record if asked."""
    for key, value in figures.items():
        print(f"{key:32} {value:.3g}")
    if keep:
        RECORDS.mkdir(exist_ok=True)
        record = {**machine(), "figures": dict(figures), **details}
        (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps({**figures, **details}))
