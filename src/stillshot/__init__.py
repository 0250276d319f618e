"""Stillshot turns a few-shot prompt into a small model.

    from stillshot import distill

    student = distill(labelled, queries, task="sst2")
    student.predict(["a stirring film"])

Names are imported when first used, so that ``import stillshot`` loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillshot.config import Budget, Recipe, TaskDefinition, Training
    from stillshot.config_files import load_recipe
    from stillshot.data.hans import generate_hans
    from stillshot.errors import StillshotError
    from stillshot.methods.distilling import distill
    from stillshot.pipeline import run
    from stillshot.softlabels import SoftLabelStore
    from stillshot.student.saved import Student
    from stillshot.student.trainer import ContextDistillationConfig, ContextDistillationTrainer
    from stillshot.tasks import load_task, new_task
    from stillshot.teacher.local import LocalTeacher
    from stillshot.teacher.protocol import Teacher
    from stillshot.types import Context, Example, Prediction

__version__ = "0.1.0"

_HOME = {
    "Budget": "config",
    "Context": "types",
    "ContextDistillationConfig": "student.trainer",
    "ContextDistillationTrainer": "student.trainer",
    "Example": "types",
    "LocalTeacher": "teacher.local",
    "Prediction": "types",
    "Recipe": "config",
    "SoftLabelStore": "softlabels",
    "StillshotError": "errors",
    "Student": "student.saved",
    "TaskDefinition": "config",
    "Teacher": "teacher.protocol",
    "Training": "config",
    "distill": "methods.distilling",
    "generate_hans": "data.hans",
    "load_recipe": "config_files",
    "load_task": "tasks",
    "new_task": "tasks",
    "run": "pipeline",
}

__all__ = [
    "Budget",
    "Context",
    "ContextDistillationConfig",
    "ContextDistillationTrainer",
    "Example",
    "LocalTeacher",
    "Prediction",
    "Recipe",
    "SoftLabelStore",
    "StillshotError",
    "Student",
    "TaskDefinition",
    "Teacher",
    "Training",
    "distill",
    "generate_hans",
    "load_recipe",
    "load_task",
    "new_task",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stillshot' has no attribute {name!r}")
    return getattr(import_module(f"stillshot.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
