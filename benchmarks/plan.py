"""What `stillshot plan` predicts beside what is measured: peak memory and time.

    python benchmarks/plan.py                # minutes
    python benchmarks/plan.py --keep         # also into benchmarks/records/plan.json
    python benchmarks/plan.py --large        # a teacher of 1.3 billion weights too; 3 GB, half an hour

Each measurement has a process of its own, which begins with the libraries that a cell's process has loaded. The
constants of ``stillshot.models.footprint`` were fitted to these trainings and to longer ones of the same models.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.metrics  # noqa: F401 (loaded before memory is counted, as for a cell)
import torch
from measure import finish
from workload import Workload

from stillshot.config import Prompt, Student, Training
from stillshot.config import Teacher as TeacherSection
from stillshot.evaluate.resources import measured
from stillshot.evaluate.runner import quiet_libraries
from stillshot.evaluate.speed import measure_speed
from stillshot.models.load import on_load
from stillshot.prompt.budget import fitted_prompts
from stillshot.prompt.writer import PromptWriter, ScoredPrompt
from stillshot.softlabels import SoftLabelStore, label_queries
from stillshot.student.footprint import student_footprint
from stillshot.student.training import TrainingSet, train_student
from stillshot.teacher.footprint import PlannedTeacher
from stillshot.teacher.local import LocalTeacher


@dataclass(frozen=True)
class Job:
    """A training (where it has a tuning), or a labelling."""

    model: str
    queries: int
    tuning: str | None = None
    kind: str = "direct"
    dtype: str = "auto"

    @property
    def name(self) -> str:
        """Short, and unique among the jobs."""
        what = f"{self.tuning} training" if self.tuning else f"{self.kind} labelling"
        return f"{self.model.split('/')[-1].split(':')[-1]} {what}, {self.queries}"


OPT, SMOLLM2, MINILM = "random:facebook/opt-125m", "bundled:smollm2-135m", "bundled:minilm-l6"
JOBS = (
    Job(MINILM, 64, "full"),
    Job(MINILM, 512, "full"),
    Job(SMOLLM2, 64, "lora"),
    Job(OPT, 64, "lora"),
    Job(OPT, 64, "bitfit"),
    Job(OPT, 64, "full"),
    Job(SMOLLM2, 64),
    Job(SMOLLM2, 64, kind="channel"),
    Job(OPT, 64, dtype="bfloat16"),
)
LARGE = (Job("random:facebook/opt-1.3b", 16, dtype="bfloat16"),)
SHOTS = 8


def training_of(job: Job, load: Workload) -> tuple[Student, Training, TrainingSet]:
    """One epoch over the first queries, in batches of 16."""
    queries, labels = load.examples[: job.queries], len(load.task.labels)
    student = Student(model=job.model, tuning=job.tuning, dtype=job.dtype)  # type: ignore[arg-type]
    data = TrainingSet(queries, np.full((len(queries), labels), 1 / labels))
    return student, Training(epochs=1, batch_size=16), data


def asked_of(
    job: Job, teacher: PlannedTeacher, load: Workload
) -> tuple[list[ScoredPrompt], list[int] | None]:
    """Prompts of the last queries behind one context, and what is scored."""
    writer = PromptWriter(load.task, Prompt(), teacher.encoder)
    context, queries = load.context(SHOTS), load.examples[-job.queries :]
    prompts = fitted_prompts(writer, job.kind, context, queries, teacher.window)  # type: ignore[arg-type]
    words = writer.verbalizer
    direct = job.kind == "direct" and words.single_token
    return prompts, [ids[0] for ids in words.token_ids] if direct else None


def measure(job: Job, load: Workload) -> dict[str, float]:
    """Do the job."""
    with measured() as usage, on_load(usage.lap):
        if job.tuning:
            section, training, data = training_of(job, load)
            with tempfile.TemporaryDirectory() as folder:
                train_student(section, load.task, Prompt(), training, data, Path(folder) / "student", seed=0)
        else:
            _label(job, load)
    return {"peak_memory_bytes": usage.peak_memory_bytes, "seconds": usage.seconds}


def _label(job: Job, load: Workload) -> None:
    """Label the last queries behind one context, into a store."""
    teacher = LocalTeacher(TeacherSection(model=job.model, dtype=job.dtype))  # type: ignore[arg-type]
    writer = PromptWriter(load.task, Prompt(), teacher.encoder)
    with tempfile.TemporaryDirectory() as folder:
        store = SoftLabelStore(Path(folder))
        label_queries(teacher, writer, job.kind, load.context(SHOTS), load.examples[-job.queries :], store)  # type: ignore[arg-type]


def predict(job: Job, load: Workload) -> dict[str, float]:
    """Plan the job."""
    speed = measure_speed()
    started = time.perf_counter()
    if job.tuning:
        section, training, data = training_of(job, load)
        found = student_footprint(section, load.task, Prompt(), training, data, (), batch_size=32)
        peak, work = found.train_peak_bytes, found.train_work
    else:
        teacher = PlannedTeacher(TeacherSection(model=job.model, dtype=job.dtype))  # type: ignore[arg-type]
        footprint = teacher.footprint(*asked_of(job, teacher, load))
        peak, work = footprint.peak_bytes, footprint.work
    planning = time.perf_counter() - started
    return {
        "peak_memory_bytes": peak,
        "seconds": speed.seconds(work),
        "planning_seconds": planning,
        "product_flops": sum(work.product_flops.values()),
        "moved_bytes": work.moved_bytes,
        "calls": work.calls,
    }


def in_own_process(job: Job, what: str) -> dict[str, float]:
    """Measure or predict a job in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--one", what, json.dumps(asdict(job))],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{job.name}: {what} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Both of each job, printed as they come."""
    print(f"{'':36} {'memory, MB':>24} {'time, s':>22}")
    print(f"{'':36} {'predicted':>9} {'measured':>9} {'ratio':>5} {'predicted':>9} {'measured':>9} ratio")
    found = {}
    for job in jobs:
        planned, taken = in_own_process(job, "predict"), in_own_process(job, "measure")
        memory = planned["peak_memory_bytes"] / taken["peak_memory_bytes"]
        seconds = planned["seconds"] / taken["seconds"]
        found[job.name] = {
            **asdict(job),
            "predicted": planned,
            "measured": taken,
            "memory_ratio": memory,
            "time_ratio": seconds,
        }
        print(
            f"{job.name:36} {planned['peak_memory_bytes'] / 1e6:9.0f} {taken['peak_memory_bytes'] / 1e6:9.0f} "
            f"{memory:5.2f} {planned['seconds']:9.1f} {taken['seconds']:9.1f} {seconds:5.2f}",
            flush=True,
        )
    return found


def main() -> None:
    """Parse arguments, predict, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="also a teacher of 1.3 billion weights")
    parser.add_argument("--only", default="", help="jobs with this in their name")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/plan.json")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "JOB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only and arguments.keep:
        parser.error("--only leaves jobs out, so there would be a record of some alone: leave out --keep")
    if arguments.one:
        quiet_libraries()
        what, job = arguments.one
        load = Workload.read(with_encoder=False)
        print(json.dumps((measure if what == "measure" else predict)(Job(**json.loads(job)), load)))
        return
    chosen = [job for job in (*JOBS, *(LARGE if arguments.large else ())) if arguments.only in job.name]
    found = compare(chosen)
    ratios = [row["memory_ratio"] for row in found.values()]
    figures = {"largest_memory_error": max((abs(ratio - 1) for ratio in ratios), default=0.0)}
    details = {"threads": torch.get_num_threads(), "jobs": found}
    finish("plan", figures, details, as_json=arguments.json, keep=arguments.keep)


if __name__ == "__main__":
    main()
