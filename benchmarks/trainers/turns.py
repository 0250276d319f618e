"""What a process that trains for a benchmark says after each epoch; it goes on when it is told to.

Several such processes wait for one another, so that their epochs are interleaved without loading
anything anew. Only one of them works at a time.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


def memory(name: str) -> int:
    """Bytes of this process: ``VmRSS`` resident now, ``VmHWM`` the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


class Turns(TrainerCallback):
    """Reports each epoch's seconds, and the peak of memory above what the libraries took.

    Make one when all libraries are imported and nothing else has been done.
    """

    def __init__(self) -> None:
        gc.collect()
        self.libraries = memory("VmRSS")
        self.started = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Wait for one's turn."""
        self.wait()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Report."""
        self.report()

    def wait(self) -> None:
        """Until a line comes in; the clock starts then."""
        sys.stdin.readline()
        self.started = time.perf_counter()

    def report(self) -> None:
        """The seconds since, as a line of JSON after a mark."""
        seconds = time.perf_counter() - self.started
        peak = memory("VmHWM") - self.libraries
        print("EPOCH " + json.dumps({"seconds": seconds, "peak_memory_bytes": peak}), flush=True)


def read_job() -> dict[str, Any]:
    """What to train: the file named on the command line."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
