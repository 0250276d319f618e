"""Training trains, and what it made useless is told: no warm-up without end, no weights or answers that are no numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import LABELS, SENTIMENT, reviews
from scipy.special import softmax

from stillshot.config import Prompt, Training
from stillshot.config import Student as StudentSection
from stillshot.errors import WorkError
from stillshot.student.saved import Student
from stillshot.student.trainer import ContextDistillationConfig, ContextDistillationTrainer
from stillshot.student.training import TrainingSet, train_student
from stillshot.types import Example

Lively = Callable[[str], str]


def training_set(queries: int) -> TrainingSet:
    asked = [Example(query.fields) for query in reviews(queries, seed=5)]
    soft = softmax(np.random.default_rng(0).normal(size=(queries, len(LABELS))), axis=-1)
    return TrainingSet(asked, soft)


def train(folder: Path, model: str, queries: int = 8, **settings: Any) -> int:
    training = Training(**{"epochs": 1, "batch_size": 8, "hard_label_weight": 0.0, **settings})
    section = StudentSection(model=model, dtype="float32")
    return train_student(section, SENTIMENT, Prompt(), training, training_set(queries), folder, seed=0).steps


def weights_of(model: Any) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("warmup_ratio", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_warm_up_ends_before_the_last_step(
    lively: Lively, tmp_path: Path, steps: int, warmup_ratio: float
) -> None:
    """So that one step, too, changes the student."""
    model = lively("opt")
    done = train(tmp_path / "s", model, 8 * steps, warmup_ratio=warmup_ratio, learning_rate=0.01)
    assert done == steps
    fresh = Student.create(StudentSection(model=model, dtype="float32"), SENTIMENT, Prompt())
    trained = Student.load(tmp_path / "s")
    assert (weights_of(trained.model) - weights_of(fresh.model)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("steps", "asked", "used"), [(1, 1, 0), (4, 1, 1), (4, 4, 3), (4, 9, 3), (4, 0.5, 2), (4, 0, 0)]
)
def test_the_trainer_itself_never_warms_up_through_all_steps(
    lively: Lively, tmp_path: Path, steps: int, asked: float, used: int
) -> None:
    student = Student.create(StudentSection(model=lively("opt"), dtype="float32"), SENTIMENT, Prompt())
    arguments = ContextDistillationConfig(
        output_dir=str(tmp_path), warmup_steps=asked, use_cpu=True, learning_rate=1.0
    )
    trainer = ContextDistillationTrainer(model=student.model, args=arguments, pad=student.featurizer.pad)
    trainer.create_optimizer()
    schedule = trainer.create_scheduler(steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        trainer.optimizer.step()  # type: ignore[union-attr]
        schedule.step()
    assert rates.index(max(rates)) == used
    assert rates[used] == 1.0
    assert all(rates[used:])


@pytest.mark.parametrize(
    ("learning_rate", "message"),
    [(1e39, "weights of s that are not finite"), (1e25, "s answers with numbers that are not finite")],
)
def test_a_last_step_that_makes_a_student_useless_is_an_error(
    lively: Lively, tmp_path: Path, learning_rate: float, message: str
) -> None:
    """The loss of each step was taken before it, and is finite."""
    with pytest.raises(WorkError, match=rf"{message}.*Lower the learning rate"):
        train(tmp_path / "s", lively("opt"), learning_rate=learning_rate, weight_decay=0.0)
    assert list(tmp_path.glob("s*")) == []
    assert list(tmp_path.glob(".s.*.tmp")) == []


@pytest.mark.parametrize(
    "damage", ["trained.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"]
)
@pytest.mark.parametrize("how", ["empty", "flipped", "gone"])
def test_training_does_not_go_on_from_a_damaged_checkpoint(
    lively: Lively, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, how: str
) -> None:
    section, training = StudentSection(model=lively("opt"), dtype="float32"), Training(epochs=1, batch_size=8)

    def steps(stop_at: int | None) -> list[int]:
        done: list[int] = []

        def note(step: int, _: int) -> None:
            if step == stop_at:
                raise KeyboardInterrupt
            done.append(step)

        data = training_set(32)
        folder = tmp_path / "s"
        train_student(
            section,
            SENTIMENT,
            Prompt(),
            training,
            data,
            folder,
            seed=0,
            progress=note,
            checkpoint_seconds=0.0,
        )
        return done

    with pytest.raises(KeyboardInterrupt):
        steps(3)
    (file,) = (tmp_path / ".s.checkpoints").glob(f"checkpoint-*/{damage}")
    if how == "gone":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x01
        file.write_bytes(content if how == "flipped" else b"")
    assert steps(None) == [1, 2, 3, 4]  # from the beginning
    assert "checkpoint-2 is damaged" in caplog.text
