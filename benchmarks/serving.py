"""A server under load: requests a second and latency, what a flood gets, and whether stopping loses anything.

    python benchmarks/serving.py --quick --json     # seconds each, two minutes
    python benchmarks/serving.py --keep             # a minute of load, into benchmarks/records/

A real server (``stillshot serve``) runs in a process of its own with a MiniLM student; clients send one text a
request over keep-alive connections of this machine, and each checks that the answers are those of its own texts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from measure import finish
from serving_process import Client, ServerProcess
from workload import Workload

from stillshot.config import Prompt
from stillshot.config import Student as StudentSection
from stillshot.models.load import choose_dtype
from stillshot.student.saved import Student

MODEL, CLIENTS, TEXTS = "bundled:minilm-l6", 64, 512
SPREAD = 20.0  # of an untrained head, so that answers to different texts differ by far more than rounding
# How far an answer may be from the text's own, computed alone in float32.
TOLERANCE = {"float32": 1e-4, "auto": 0.02}
FLOOD_REQUESTS, FLOOD_INPUTS, FLOOD_QUEUE = 400, 32, 256


@dataclass
class Load:
    """Texts, the probability of the first label that belongs to each, and how near an answer is to be."""

    inputs: list[Any]
    expected: list[float]
    label: str
    tolerance: float = TOLERANCE["auto"]

    @property
    def told_apart(self) -> float:
        """The share of pairs of texts whose answers would be noticed if they were crossed."""
        pairs = list(itertools.combinations(self.expected, 2))
        return sum(abs(one - other) > self.tolerance for one, other in pairs) / len(pairs)

    def wrong(self, index: int, answer: list[dict[str, Any]]) -> bool:
        """Whether an answer is not that of a text."""
        (score,) = (entry["score"] for entry in answer if entry["label"] == self.label)
        return abs(score - self.expected[index]) > self.tolerance


@dataclass
class Outcome:
    """What clients saw."""

    milliseconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    wrong: int = 0
    broken: int = 0  # requests on connections that ended without a response
    seconds: float = 0.0

    @property
    def figures(self) -> dict[str, float]:
        """Rate, and latency in milliseconds."""
        cuts = statistics.quantiles(self.milliseconds, n=100, method="inclusive")
        rate = len(self.milliseconds) / self.seconds
        return {"requests_per_s": rate, "p50_ms": cuts[49], "p99_ms": cuts[98]}


async def drive(server: ServerProcess, load: Load, clients: int, seconds: float) -> Outcome:
    """Clients that send one request after the other, for some seconds or until the server refuses connections."""
    outcome = Outcome()
    started = time.perf_counter()

    async def one(number: int) -> None:
        client, rng = Client(server.host, server.port), random.Random(number)
        while time.perf_counter() < started + seconds:
            index = rng.randrange(len(load.inputs))
            sent = time.perf_counter()
            try:
                status, answer = await client.post("/predict", {"inputs": load.inputs[index]})
            except (OSError, EOFError):
                outcome.broken += 1
                break
            outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
            if status == 200:
                outcome.milliseconds.append(1000 * (time.perf_counter() - sent))
                outcome.wrong += load.wrong(index, answer)
        client.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    outcome.seconds = time.perf_counter() - started
    return outcome


async def flood(server: ServerProcess, load: Load) -> dict[str, Any]:
    """Many large requests at one time, and one when they are through."""
    batch = [[text] if isinstance(text, str) else text for text in load.inputs[:FLOOD_INPUTS]]

    async def one() -> int:
        client = Client(server.host, server.port)
        status, _ = await client.post("/predict", {"inputs": batch})
        client.close()
        return status

    statuses = await asyncio.gather(*(one() for _ in range(FLOOD_REQUESTS)))
    after, _ = await Client(server.host, server.port).post("/predict", {"inputs": load.inputs[0]})
    counts = {str(status): statuses.count(status) for status in sorted(set(statuses))}
    return {
        "requests": FLOOD_REQUESTS,
        "inputs": FLOOD_INPUTS,
        "queue": FLOOD_QUEUE,
        "statuses": counts,
        "after": after,
    }


async def stopped(server: ServerProcess, load: Load, seconds: float) -> dict[str, Any]:
    """SIGTERM while all clients send: what the server accepted, and what of it clients received."""
    asyncio.get_running_loop().call_later(seconds, server.process.send_signal, signal.SIGTERM)
    outcome = await drive(server, load, CLIENTS, seconds + 60)
    code = await asyncio.to_thread(server.stop)
    accepted, answered = server.counted
    received = sum(outcome.statuses.values())
    return {
        "exit_code": code,
        "accepted": accepted,
        "answered": answered,
        "received": received,
        "lost": accepted - received,
        "wrong": outcome.wrong,
    }


def prepared(folder: Path) -> Load:
    """Save a student whose head is random, and have it answer every text by itself."""
    load = Workload.read(with_encoder=False)
    student = Student.create(StudentSection(model=MODEL), load.task, Prompt())
    torch.manual_seed(0)
    with torch.no_grad():
        student.model.classifier.weight.normal_(std=0.02 * SPREAD)
    student.save(folder)
    examples = load.queries(TEXTS)
    probabilities = Student.load(folder).predict_proba(examples)
    texts = [[example.fields[name] for name in load.task.fields] for example in examples]
    inputs = [row[0] if len(row) == 1 else row for row in texts]
    return Load(inputs, probabilities[:, 0].tolist(), load.task.labels[0])


def measure(folder: Path, load: Load, quick: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures and details of all measurements."""
    long, short = (4.0, 3.0) if quick else (60.0, 15.0)
    rates: dict[str, dict[str, dict[str, float]]] = {}
    wrong = 0
    for dtype, tolerance in TOLERANCE.items():
        checked, option = replace(load, tolerance=tolerance), ("--dtype", dtype)
        with (
            ServerProcess(folder, *option, "--batch", "1") as plain,
            ServerProcess(folder, *option) as server,
        ):
            for warm in (plain, server):
                asyncio.run(drive(warm, checked, CLIENTS, 1.0))
            singles = [asyncio.run(drive(plain, checked, 1, short))]
            together = asyncio.run(drive(server, checked, CLIENTS, long if dtype == "auto" else short))
            singles.append(asyncio.run(drive(plain, checked, 1, short)))
            unbatched = asyncio.run(drive(plain, checked, CLIENTS, short))
        wrong += sum(outcome.wrong for outcome in (*singles, together, unbatched))
        both = Outcome(
            milliseconds=[value for single in singles for value in single.milliseconds],
            seconds=sum(single.seconds for single in singles),
        )
        rates[dtype] = {"single": both.figures, "unbatched": unbatched.figures, "batched": together.figures}
    with ServerProcess(folder) as server:
        end = asyncio.run(stopped(server, load, 2.0 if quick else 10.0))
    with ServerProcess(folder, "--queue", str(FLOOD_QUEUE)) as server:
        flooded = asyncio.run(flood(server, load))
    together = rates["auto"]["batched"]
    figures = {
        "throughput_over_single": together["requests_per_s"] / rates["auto"]["single"]["requests_per_s"],
        "throughput_over_unbatched": together["requests_per_s"]
        / rates["auto"]["unbatched"]["requests_per_s"],
        "throughput_over_float32_single": together["requests_per_s"]
        / rates["float32"]["single"]["requests_per_s"],
        "p99_ms": together["p99_ms"],
        "wrong_answers": wrong + end["wrong"],
        "lost_at_stop": end["lost"],
    }
    details = {
        "model": MODEL,
        "clients": CLIENTS,
        "seconds_of_load": long,
        "auto": str(choose_dtype("auto")).removeprefix("torch."),
        "told_apart": {
            dtype: replace(load, tolerance=value).told_apart for dtype, value in TOLERANCE.items()
        },
        "rates": rates,
        "flood": flooded,
        "stop": end,
    }
    return figures, details


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds of load instead of a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/serving.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "minilm"
        figures, details = measure(folder, prepared(folder), arguments.quick)
    finish("serving", figures, details, as_json=arguments.json, keep=arguments.keep)


if __name__ == "__main__":
    main()
