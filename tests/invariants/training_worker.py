"""Train a few steps in one process or in several, and keep the weights: ``training_worker.py CASES OUTPUT``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from doubles import SENTIMENT, reviews
from scipy.special import softmax

from stillshot.config import Prompt
from stillshot.config import Student as StudentSection
from stillshot.student.saved import Student
from stillshot.student.trainer import ContextDistillationConfig, ContextDistillationTrainer
from stillshot.student.training import TrainingSet
from stillshot.types import Example


@dataclass(frozen=True)
class Case:
    """A student, and how the eight rows of a step are cut into parts."""

    model: str  # a folder
    head: str
    tuning: str
    size: int
    accumulated: int = 1


def trained_weights(case: Case, folder: Path) -> torch.Tensor:
    """All weights after six steps of plain gradient descent without clipping, so that a wrong scale shows."""
    torch.manual_seed(0)  # an encoder's score layer and LoRA's A are drawn
    section = StudentSection.model_validate(
        {"model": case.model, "head": case.head, "tuning": case.tuning, "dtype": "float32"}
    )
    student = Student.create(section, SENTIMENT, Prompt())
    for module in student.model.modules():
        for name in ("p", "dropout", "attention_dropout", "hidden_dropout", "attn_pdrop", "resid_pdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    arguments = ContextDistillationConfig(
        output_dir=str(folder), num_train_epochs=2, report_to="none", disable_tqdm=True, use_cpu=True,
        save_strategy="no", logging_strategy="no", max_grad_norm=0.0,
        per_device_train_batch_size=case.size, gradient_accumulation_steps=case.accumulated,
    )  # fmt: skip
    weights = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.05)
    asked = [Example(query.fields) for query in reviews(20, seed=5)]
    soft = softmax(np.random.default_rng(0).normal(size=(20, 2)), axis=-1)
    trainer: Any = ContextDistillationTrainer(
        model=student.model,
        args=arguments,
        pad=student.featurizer.pad,
        label_tokens=student.label_tokens,
        train_dataset=TrainingSet(asked, soft, reviews(4, seed=6)).rows(student, 0.3),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
    )
    assert trainer.train().global_step == 6
    return torch.cat([weight.detach().flatten() for weight in weights])


def main() -> None:
    """Train every case, and let the first process write the weights."""
    cases = [Case(**case) for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))]
    torch.set_num_threads(1)
    output = Path(sys.argv[2])
    found = [trained_weights(case, output.parent) for case in cases]
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(found, output)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
