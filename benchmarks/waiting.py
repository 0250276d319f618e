"""What it costs that threads wait for each other by spinning: labelling on idle cores, and beside another program.

    python benchmarks/waiting.py --keep     # about three minutes, on idle cores; into benchmarks/records/waiting.json

``GOMP_SPINCOUNT`` is read when a process begins, so each measurement is a process of its own; the ways take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from measure import finish

from stillshot.cli.main import SPIN_COUNT

SHOTS, QUERIES = 8, 32
WAYS: dict[str, dict[str, str]] = {"as_long_as_usual": {}, "briefly": {"GOMP_SPINCOUNT": SPIN_COUNT}}
SURROUNDINGS = {"idle": 0, "beside_another_program": 1}


def label() -> Iterator[float]:
    """Seconds of labelling, again and again; the work of a process of its own."""
    from workload import TEACHER, Workload

    from stillshot.config import Teacher
    from stillshot.teacher.local import LocalTeacher

    with contextlib.redirect_stdout(sys.stderr):
        load = Workload.read()
    teacher, prompts = LocalTeacher(Teacher(model=TEACHER)), load.prompts(SHOTS, QUERIES)
    while True:
        started = time.perf_counter()
        for _ in teacher.score(prompts, load.label_tokens):
            pass
        yield time.perf_counter() - started


@contextlib.contextmanager
def labelling(environment: dict[str, str]) -> Iterator[Iterator[float]]:
    """A process that labels again and again: the seconds that each round takes it, after the first, a rehearsal."""
    kept = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    command = [sys.executable, "-u", __file__, "--label"]
    with subprocess.Popen(command, env={**kept, **environment}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            rounds = map(float, process.stdout)
            next(rounds)
            yield rounds
        finally:
            process.kill()


def seconds(way: dict[str, str], beside: int) -> float:
    """The median of labelling with threads that wait this way, beside so many programs that label with one thread."""
    with contextlib.ExitStack() as others:
        for _ in range(beside):
            others.enter_context(labelling({"OMP_NUM_THREADS": "1"}))
        with labelling(way) as rounds:
            return statistics.median(itertools.islice(rounds, 5))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/waiting.json")
    parser.add_argument("--label", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.label:
        for duration in label():
            print(duration)
    taken: dict[str, dict[str, list[float]]] = {where: {way: [] for way in WAYS} for where in SURROUNDINGS}
    for _ in range(3):
        for where, programs in SURROUNDINGS.items():
            for way, environment in WAYS.items():
                taken[where][way].append(seconds(environment, programs))
                print(json.dumps({where: {way: taken[where][way][-1]}}), flush=True)
    medians = {w: {way: statistics.median(all_) for way, all_ in ways.items()} for w, ways in taken.items()}
    finish(
        "waiting",
        {f"times_as_fast_{w}": ways["as_long_as_usual"] / ways["briefly"] for w, ways in medians.items()},
        {"shots": SHOTS, "queries": QUERIES, "seconds": medians, "each": taken},
        as_json=arguments.json,
        keep=arguments.keep,
    )


if __name__ == "__main__":
    main()
