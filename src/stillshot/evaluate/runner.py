"""Run a piece of work in a process of its own: its memory is its own, and its failure stays in it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from stillshot.errors import StillshotError, WorkError
from stillshot.working import telling

Report = Callable[[str, int, int], None]  # (what, done, total)

# Loaded once by the server that processes are forked from, so that a cell starts in milliseconds.
_PRELOADED = ["stillshot.student.training", "stillshot.teacher.local", "sklearn.metrics"]


def run_isolated(work: Callable[..., Any], *arguments: Any, report: Report | None = None) -> Any:
    """Call ``work(*arguments, report)`` in a new process and return what it returns.

    The process ends with this one, however this one ends. Arguments and results are pickled.

    Raises:
        StillshotError: As ``work`` raised it.
        WorkError: ``work`` raised something else, or its process was killed (e.g. out of memory).
    """
    context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        context.set_forkserver_preload(_PRELOADED)
        _start_tracker_quietly()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        return _outcome(process, receiver, report or (lambda *_: None))
    finally:
        if process.is_alive():
            process.terminate()
        process.join()
        receiver.close()


def _start_tracker_quietly() -> None:
    """Start the process that tracks semaphores, without its closing warning.

    Libraries in the server make locks when they are imported and free them at exit; a server that is told
    to end does not get there, and the tracker would warn of a leak that it then mends itself.
    """
    silence = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(silence)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(silence)


def _outcome(process: Any, receiver: Connection, report: Report) -> Any:
    while True:
        try:
            kind, *content = receiver.recv()
        except (EOFError, OSError):  # OSError: killed in the middle of a message
            process.join()
            raise WorkError(
                f"A process ended without a result (exit code {process.exitcode}); killed, or out of memory. "
                "Run the same command again to go on; lower batch_size or batch_tokens if it recurs."
            ) from None
        if kind == "progress":
            report(*content)
        elif kind == "result":
            return content[0]
        elif kind == "error":
            raise content[0]
        else:
            raise WorkError(f"The work failed unexpectedly; this is a bug in Stillshot:\n{content[0]}")


def _child(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    logging.getLogger("stillshot").setLevel(logging.ERROR)  # a run's check has said what is to be said once
    last = (0, 0)

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if (done, total) != last:
            last = (done, total)
            sender.send(("progress", what, done, total))

    try:
        with telling(lambda _, what, done, total: report(what, done, total)):
            sender.send(("result", work(*arguments, report)))
    except StillshotError as error:
        sender.send(("error", error))
    except BaseException:
        sender.send(("crash", traceback.format_exc()))
    finally:
        sender.close()


def quiet_libraries() -> None:
    """Leave progress and warnings of the libraries out: Stillshot shows its own progress."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    reading: Any = modeling_gguf_pytorch_utils  # has a bar that its own library does not switch off
    if hasattr(reading, "tqdm"):
        reading.tqdm = partial(reading.tqdm, disable=True)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
