"""Work in a process of its own: results, errors, crashes and kills come back as what they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stillshot.errors import DataError, WorkError
from stillshot.evaluate.runner import run_isolated
from stillshot.working import tell

Report = Callable[[str, int, int], None]


# Module-level, so that the other process can import them.
def add(a: int, b: int, report: Report) -> tuple[int, int]:
    return a + b, os.getpid()


def count(report: Report) -> None:
    for done in (0, 1, 1, 2):
        report("counting", done, 2)


def round_weights(report: Report) -> None:
    tell("a model", "rounding", 1, 2)


def refuse(report: Report) -> None:
    raise DataError("train.jsonl:3 has no label. Add one.")


def crash(report: Report) -> None:
    report("crashing", 1, 2)
    raise ZeroDivisionError("one over nothing")


def die(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(report: Report) -> None:
    sys.exit(3)


def answer_with_a_function(report: Report) -> Callable[[], None]:
    return lambda: None


def test_the_result_comes_back_from_another_process() -> None:
    total, pid = run_isolated(add, 2, 3)
    assert total == 5
    assert pid != os.getpid()


def test_progress_is_reported_once_a_change() -> None:
    seen: list[tuple[str, int, int]] = []
    run_isolated(count, report=lambda *what: seen.append(what))
    assert seen == [("counting", 0, 2), ("counting", 1, 2), ("counting", 2, 2)]


def test_what_is_told_deep_down_is_reported_too() -> None:
    """Loading a model tells of itself, whoever it is loaded for."""
    seen: list[tuple[str, int, int]] = []
    run_isolated(round_weights, report=lambda *what: seen.append(what))
    assert seen == [("rounding", 1, 2)]


def test_an_error_of_ours_is_raised_as_it_was() -> None:
    with pytest.raises(DataError, match=r"^train\.jsonl:3 has no label\. Add one\.$") as raised:
        run_isolated(refuse)
    assert raised.value.exit_code == 2


def test_any_other_error_shows_its_traceback() -> None:
    with pytest.raises(
        WorkError, match=r"(?s)bug in Stillshot.*in crash.*ZeroDivisionError: one over nothing"
    ) as raised:
        run_isolated(crash)
    assert raised.value.exit_code == 1


def test_a_killed_process_is_told_from_a_crash() -> None:
    with pytest.raises(WorkError, match=r"exit code -9\).*out of memory.*same command again"):
        run_isolated(die)


@pytest.mark.parametrize("work", [leave, answer_with_a_function])
def test_whatever_happens_the_caller_hears_of_it(work: Callable[..., object]) -> None:
    with pytest.raises(WorkError):
        run_isolated(work)


def test_an_error_in_reporting_ends_the_process() -> None:
    """E.g. Ctrl-C in the parent while the child works."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_isolated(count, report=interrupted)
    assert run_isolated(add, 1, 1)[0] == 2


ORPHAN = """
import os, sys, time
from pathlib import Path
from stillshot.evaluate.runner import run_isolated

def work(path, report):
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)

if __name__ == "__main__":
    run_isolated(work, sys.argv[1])
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_a_process_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    script, told = tmp_path / "orphan.py", tmp_path / "pid"
    script.write_text(ORPHAN)
    parent = subprocess.Popen([sys.executable, str(script), str(told)], start_new_session=True)
    try:
        wait_until(lambda: told.exists() and told.read_text() != "")
        parent.kill()
        wait_until(lambda: not runs(int(told.read_text())))
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
