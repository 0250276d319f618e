"""The cells of a recipe: which method, with which model, budget and seed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from stillshot.config import Budget, Method, Recipe, Student
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.student.heads import resolve_head

Variant = Literal["raw", "teacher"]


@dataclass(frozen=True)
class Setting:
    """One budget and one seed: what the draw of examples depends on."""

    budget: Budget
    seed: int

    @property
    def name(self) -> str:
        """Unique within a recipe."""
        return f"n{self.budget.labelled}x{self.budget.num_contexts}x{self.budget.shots}-s{self.seed}"


@dataclass(frozen=True)
class CellSpec:
    """What a cell is before it is measured.

    ``variant`` concerns ``in_context``: ``raw`` is one context, scored directly and not calibrated, as
    in-context learning is usually reported; ``teacher`` is what labels the queries.
    """

    id: str
    method: Method
    model: str
    setting: Setting
    student: Student | None = None
    variant: Variant | None = None


def settings(recipe: Recipe) -> list[Setting]:
    """Every budget with every seed."""
    return [Setting(budget, seed) for budget in recipe.budgets for seed in recipe.seeds]


def cells(recipe: Recipe) -> list[CellSpec]:
    """Every cell of a recipe, in the order in which they run; cells that share a draw are neighbours."""
    found = _zero_shot(recipe) if "zero_shot" in recipe.methods else []
    names = _student_names(recipe)
    for setting in settings(recipe):
        if "in_context" in recipe.methods:
            variants: list[Variant] = ["raw"] if _asks_raw(recipe, setting.budget) else ["raw", "teacher"]
            found += [
                CellSpec(
                    f"in_context-{_short(recipe.teacher.model)}-{variant}-{setting.name}",
                    "in_context",
                    recipe.teacher.model,
                    setting,
                    variant=variant,
                )
                for variant in variants
            ]
        trained: list[Method] = [
            m for m in ("pattern_finetune", "context_distillation") if m in recipe.methods
        ]
        for method in trained:
            for name, student in zip(names, recipe.students, strict=True):
                cell_id = f"{method}-{name}-{setting.name}"
                found.append(CellSpec(cell_id, method, student.model, setting, student=student))
    return found


def asked_settings(recipe: Recipe) -> list[Setting]:
    """Settings whose queries the teacher must label before cells run."""
    if "context_distillation" in recipe.methods or "in_context" in recipe.methods:
        return settings(recipe)
    return []


def _zero_shot(recipe: Recipe) -> list[CellSpec]:
    models = [recipe.teacher.model]
    for student in recipe.students:
        config = load.load_config(resolve_model(student.model, student.revision))
        if student.model not in models and not load.is_encoder(config):
            models.append(student.model)
    first = settings(recipe)[0]
    names = _numbered([f"zero_shot-{_short(model)}" for model in models])
    return [CellSpec(name, "zero_shot", model, first) for name, model in zip(names, models, strict=True)]


def _asks_raw(recipe: Recipe, budget: Budget) -> bool:
    teacher = recipe.teacher
    plain = (teacher.scoring, teacher.calibration, budget.num_contexts) == ("direct", "none", 1)
    return plain and not teacher.select


def _student_names(recipe: Recipe) -> list[str]:
    """A name for each student; those alike in model, head and tuning are numbered."""
    names = []
    for student in recipe.students:
        config = load.load_config(resolve_model(student.model, student.revision))
        names.append(f"{_short(student.model)}-{resolve_head(student, config)}-{student.tuning}")
    return _numbered(names)


def _numbered(names: list[str]) -> list[str]:
    return [n if names.count(n) == 1 else f"{n}-{index}" for index, n in enumerate(names, start=1)]


def _short(model: str) -> str:
    """A model id's last part, fit for file names."""
    return re.sub(r"[^\w.-]+", "-", model.rstrip("/").split("/")[-1].split(":")[-1])
