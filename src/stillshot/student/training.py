"""Train one student on soft labels, on labelled examples, or on both."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from stillshot.checksums import SUMS, is_intact, write_checksums
from stillshot.config import LEARNING_RATES, Prompt, TaskDefinition, Training
from stillshot.config import Student as StudentSection
from stillshot.errors import WorkError
from stillshot.models import load
from stillshot.storage import cannot_write, notices, remove_scratch, scratch_beside
from stillshot.student.features import Feature
from stillshot.student.losses import row_weights
from stillshot.student.saved import Student
from stillshot.student.trainer import (
    ContextDistillationConfig,
    ContextDistillationTrainer,
    collate,
    inputs_of,
)
from stillshot.student.tuning import count_parameters
from stillshot.types import Example

Progress = Callable[[int, int], None]
_SECONDS = "stillshot.seconds"  # in a checkpoint, what it took to get there
_TRIED = 2  # rows that a trained student answers before it is saved


@dataclass(frozen=True)
class TrainingSet:
    """What a student learns from: queries with soft labels, examples with labels, or both.

    ``soft_labels`` has shape ``(queries, labels)`` and rows that sum to one.
    """

    queries: Sequence[Example] = ()
    soft_labels: NDArray[np.float64] | None = None
    labelled: Sequence[Example] = ()

    def rows(self, student: Student, hard_label_weight: float) -> list[Feature]:
        """Rows for :class:`ContextDistillationTrainer`; a sort of rows without weight is left out."""
        labels = student.task.labels
        queries = self.queries if hard_label_weight < 1 or not self.labelled else ()
        labelled = self.labelled if hard_label_weight > 0 or not self.queries else ()
        soft_weight, hard_weight = row_weights(len(queries), len(labelled), hard_label_weight)
        rows = []
        if queries:
            assert self.soft_labels is not None
            for feature, soft in zip(student.featurizer.features(queries), self.soft_labels, strict=True):
                rows.append(
                    {**feature, "soft_labels": soft.tolist(), "label": -100, "row_weight": soft_weight}
                )
        if labelled:
            for feature, example in zip(student.featurizer.features(labelled), labelled, strict=True):
                gold = labels.index(str(example.label))
                one_hot = [float(index == gold) for index in range(len(labels))]
                rows.append({**feature, "soft_labels": one_hot, "label": gold, "row_weight": hard_weight})
        return rows


@dataclass(frozen=True)
class TrainingRecord:
    """What a training took, with all that it was interrupted in."""

    steps: int
    seconds: float
    parameters: int
    trainable_parameters: int


def train_student(
    section: StudentSection,
    task: TaskDefinition,
    prompt: Prompt,
    training: Training,
    data: TrainingSet,
    folder: Path,
    *,
    seed: int,
    progress: Progress | None = None,
    checkpoint_seconds: float = 120.0,
) -> TrainingRecord:
    """Train a student and save it to ``folder``, whole or not at all.

    An interrupted training goes on from its last checkpoint, kept beside ``folder``, to the same
    weights as an uninterrupted one.

    Raises:
        WorkError: The student cannot be written, or its loss, weights or answers are not finite.
    """
    set_seed(seed)
    started = time.perf_counter()
    student = Student.create(section, task, prompt)
    checkpoints = folder.parent / f".{folder.name}.checkpoints"
    rows = data.rows(student, training.hard_label_weight)
    _keep_only_own(checkpoints, [section, training, task, prompt, rows, seed])
    resumed = _last_checkpoint(checkpoints)
    started -= _seconds_before(resumed)
    arguments = training_arguments(
        section, training, student, len(rows), checkpoints, seed, checkpoint_seconds
    )
    trainer = ContextDistillationTrainer(
        model=student.model,
        args=arguments,
        pad=student.featurizer.pad,
        label_tokens=student.label_tokens,
        train_dataset=rows,
        callbacks=[_Clock(checkpoints, started), *([_Reporting(progress)] if progress else [])],
    )
    trainer.remove_callback(PrinterCallback)
    scratch: Path | None = None
    try:
        outcome = trainer.train(resume_from_checkpoint=resumed)
        if not math.isfinite(outcome.training_loss):
            raise WorkError(f"The loss of {folder.name} is not finite. Lower the learning rate.")
        student.model.eval()
        check_finite(student, rows, folder.name)
        remove_scratch(folder.parent)
        scratch = scratch_beside(folder)
        student.save(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise cannot_write(folder, error, "No half student is left") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(checkpoints, ignore_errors=True)
    parameters, trainable = count_parameters(student.model)
    return TrainingRecord(outcome.global_step, time.perf_counter() - started, parameters, trainable)


def check_finite(student: Student, rows: Sequence[Feature], name: str) -> None:
    """See that training has left a student's weights, and its answers to some of what it learned, finite.

    Raises:
        WorkError: They are not.
    """
    for layer, weight in student.model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise WorkError(
                f"Training has left weights of {name} that are not finite ({layer}). Lower the learning rate."
            )
    inputs = collate(rows[:_TRIED], student.featurizer.pad)
    if not torch.isfinite(student.logits(inputs_of(inputs))).all():
        raise WorkError(f"{name} answers with numbers that are not finite. Lower the learning rate.")


def _keep_only_own(checkpoints: Path, training: Sequence[object]) -> None:
    """Remove checkpoints of another training, so that none goes on from what it never began."""
    digest = hashlib.sha256(repr(training).encode("utf-8", "surrogatepass")).hexdigest()
    known = checkpoints / "training.sha256"
    if checkpoints.is_dir() and not (known.is_file() and known.read_bytes() == digest.encode()):
        shutil.rmtree(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    known.write_text(digest, encoding="utf-8")


def _seconds_before(checkpoint: str | None) -> float:
    """What a training had taken when it was interrupted."""
    known = None if checkpoint is None else Path(checkpoint) / _SECONDS
    try:
        return float(known.read_text(encoding="utf-8")) if known is not None and known.is_file() else 0.0
    except ValueError:  # killed while it was written
        return 0.0


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; the list of its checksums is the last file that is written."""
    found: list[tuple[int, str]] = []
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if is_intact(checkpoint):
            found.append((int(checkpoint.name.rpartition("-")[2]), str(checkpoint)))
        elif (checkpoint / SUMS).exists():
            notices.warning("%s is damaged. Training goes on from before it.", checkpoint)
    return max(found, default=(0, None))[1]


def training_arguments(
    section: StudentSection,
    training: Training,
    student: Student,
    num_rows: int,
    checkpoints: Path,
    seed: int,
    checkpoint_seconds: float,
) -> ContextDistillationConfig:
    """What a section of a recipe means for the trainer."""
    on_cpu = load.best_device().type == "cpu"
    is_encoder = load.is_encoder(student.model.config)
    steps = math.ceil(num_rows / training.batch_size) * training.epochs
    half_precision = load.choose_dtype(section.dtype) == torch.bfloat16
    return ContextDistillationConfig(
        output_dir=str(checkpoints),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        learning_rate=training.learning_rate or LEARNING_RATES[section.tuning, is_encoder],
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(steps * training.warmup_ratio),
        weight_decay=training.weight_decay,
        temperature=training.temperature,
        beta=training.beta,
        compile_layers=training.compile_layers,
        activation_checkpointing=training.gradient_checkpointing,
        pass_tokens=training.pass_tokens or _pass_tokens(section, on_cpu=on_cpu),
        bf16=half_precision,
        use_cpu=on_cpu,
        seed=seed,
        data_seed=seed,
        save_strategy="no",
        save_total_limit=1,
        checkpoint_seconds=checkpoint_seconds,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # else a loss that is not finite is left out of the mean, unseen
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )


def _pass_tokens(section: StudentSection, *, on_cpu: bool) -> int:
    """How many tokens go through the model at once, where none is set.

    A processor is as fast at a few hundred. With all weights trained, activations are a small part of the
    memory, and each pass casts the weights anew; an accelerator needs more to be busy.
    """
    return 512 if on_cpu and section.tuning != "full" else 4096


class _Reporting(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps)


class _Clock(TrainerCallback):
    """Keeps with each checkpoint how long the training has taken."""

    def __init__(self, checkpoints: Path, started: float) -> None:
        self.checkpoints, self.started = checkpoints, started

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = self.checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if checkpoint.is_dir():
            write_checksums(checkpoint)
            (checkpoint / _SECONDS).write_text(str(time.perf_counter() - self.started), encoding="utf-8")
