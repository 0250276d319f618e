"""What a block of work is said to take."""

from __future__ import annotations

import importlib
import mmap
import os
import platform
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from stillshot.evaluate.resources import _resident_bytes, measured
from stillshot.evaluate.runner import run_isolated
from stillshot.memory import keeping_freed

SIZE = 64 * 2**20
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").is_file() or not os.access("/proc/self/clear_refs", os.W_OK),
    reason="needs Linux's records of memory, and leave to reset a peak",
)


def isolated(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a process of its own, as cells run: what other tests left free in the heap would be taken again."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        run_isolated(_call, test.__module__, test.__name__, fixtures)

    return run


def _call(module: str, name: str, fixtures: dict[str, Any], report: object) -> None:
    test: Any = getattr(importlib.import_module(module), name)
    test.__wrapped__(**fixtures)


def mapped(path: Path, protection: int = mmap.PROT_READ) -> mmap.mmap:
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=protection)


def touch(pages: mmap.mmap) -> None:
    assert sum(pages[at] for at in range(0, SIZE, mmap.PAGESIZE)) == 0


@isolated
def test_what_a_block_allocates_is_counted_also_where_it_is_freed_again() -> None:
    with measured() as usage:
        held = b"x" * SIZE
        del held
    assert 0.9 * SIZE < usage.peak_memory_bytes < 1.2 * SIZE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries hold nothing free")
@isolated
def test_memory_that_was_freed_before_is_counted_as_it_is_taken_again() -> None:
    freed = [b"x" * 100_000 for _ in range(SIZE // 50_000)]
    above = b"x" * 100_000  # keeps the heap from shrinking
    del freed
    with measured() as usage:
        held = b"x" * SIZE
        del held
    del above
    assert 0.9 * SIZE < usage.peak_memory_bytes < 1.2 * SIZE


@isolated
def test_pages_of_a_library_that_become_resident_are_no_work(tmp_path: Path) -> None:
    library = mapped(tmp_path / "a library.so", mmap.PROT_READ | mmap.PROT_EXEC)
    with measured() as usage:
        touch(library)
    assert usage.peak_memory_bytes < 0.2 * SIZE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries hold nothing free")
@isolated
def test_freed_memory_is_kept_for_as_long_as_it_is_asked_for() -> None:
    def left() -> int:
        before = _resident_bytes()
        held = b"x" * SIZE
        del held
        return _resident_bytes() - before

    with keeping_freed():
        assert left() > 0.9 * SIZE
    assert left() < 0.1 * SIZE


@isolated
def test_a_peak_before_a_lap_stands_whatever_libraries_are_touched_after_it(tmp_path: Path) -> None:
    library = mapped(tmp_path / "a library.so", mmap.PROT_READ | mmap.PROT_EXEC)
    with measured() as usage:
        held = b"x" * SIZE
        del held
        usage.lap()
        held = b"x" * (SIZE // 2)
        touch(library)
        del held
    assert 0.9 * SIZE < usage.peak_memory_bytes < 1.2 * SIZE


@isolated
def test_weights_that_were_mapped_before_are_counted_as_they_are_read(tmp_path: Path) -> None:
    weights = mapped(tmp_path / "weights")
    with measured() as usage:
        touch(weights)
    assert usage.peak_memory_bytes > 0.9 * SIZE


@isolated
def test_a_file_that_the_work_maps_is_counted(tmp_path: Path) -> None:
    with measured() as usage:
        weights = mapped(tmp_path / "weights")
        touch(weights)
    assert usage.peak_memory_bytes > 0.9 * SIZE
