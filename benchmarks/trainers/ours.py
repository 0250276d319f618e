"""Trains a student on soft labels as a run does, for benchmarks/training.py."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import peft  # noqa: F401 (a library like the others: loaded before memory is counted)
import torch
from turns import Turns, read_job

from stillshot.config import Lora, Prompt, Student, Training
from stillshot.student.training import TrainingSet, train_student
from stillshot.tasks import load_task
from stillshot.types import Example

job = read_job()
torch.set_num_threads(job["threads"])
turns = Turns()
steps_an_epoch = math.ceil(len(job["rows"]) / job["batch_size"])


def progress(step: int, steps: int) -> None:
    """Report when an epoch ends, and wait before the next."""
    if step % steps_an_epoch == 0:
        turns.report()
        if step < steps:
            turns.wait()


turns.wait()
with tempfile.TemporaryDirectory() as folder:
    train_student(
        Student(
            model=job["student"],
            tuning=job["tuning"],
            lora=Lora(rank=job["lora"]["r"], alpha=job["lora"]["lora_alpha"], layers=job.get("layers")),
        ),
        load_task(job["task"]),
        Prompt(),
        Training(
            epochs=job["epochs"],
            batch_size=job["batch_size"],
            learning_rate=job["learning_rate"],
            **job["arguments"],
        ),
        TrainingSet(
            queries=[Example(row["fields"]) for row in job["rows"]],
            soft_labels=np.array([row["soft_label"] for row in job["rows"]]),
        ),
        Path(folder) / "student",
        seed=0,
        progress=progress,
        checkpoint_seconds=math.inf,  # waiting for one's turn is no reason to save
    )
