"""The cells of a recipe: which method, with which model, budget and seed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from stillshot.config import Budget, Control, Method, Recipe, Student
from stillshot.config import Teacher as TeacherSection
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.student.heads import resolve_head

Variant = Literal["raw", "teacher"]


@dataclass(frozen=True)
class Setting:
    """One budget and one seed, on which the draw of examples depends; and which control, if it is one."""

    budget: Budget
    seed: int
    control: Control | None = None

    @property
    def draw(self) -> str:
        """The name of its draw, which a control shares with what it stands beside."""
        return f"n{self.budget.labelled}x{self.budget.num_contexts}x{self.budget.shots}-s{self.seed}"

    @property
    def name(self) -> str:
        """Unique within a recipe."""
        return f"{self.control}-{self.draw}" if self.control else self.draw


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

    @property
    def needs_labels(self) -> bool:
        """Whether its setting's queries must be labelled first."""
        return self.method == "context_distillation" or self.variant == "teacher"


def settings(recipe: Recipe) -> list[Setting]:
    """Every budget with every seed, each followed by its controls.

    One demonstration has no label to change places with, so a context of one is not shuffled.
    """
    return [
        Setting(budget, seed, control)
        for budget in recipe.budgets
        for seed in recipe.seeds
        for control in (None, *recipe.controls)
        if not (control == "shuffled_labels" and budget.shots == 1)
    ]


def find_setting(recipe: Recipe, cell_id: str, control: Control | None) -> Setting | None:
    """The setting of a trained student's cell, by the id that :func:`cells` gave it; no model is looked at.

    Args:
        recipe: What was run.
        cell_id: The cell's, which ends in the name of its draw.
        control: Which control it is, if it is one; a control shares its draw with what it stands beside.

    Returns:
        ``None`` where the recipe has no such setting.
    """
    return next(
        (
            setting
            for setting in settings(recipe)
            if setting.control == control and cell_id.endswith(f"-{setting.draw}")
        ),
        None,
    )


def cells(recipe: Recipe) -> list[CellSpec]:
    """Every cell of a recipe, in the order in which they run; cells that share a draw are neighbours."""
    found = _zero_shot(recipe) if "zero_shot" in recipe.methods else []
    names = _student_names(recipe)
    trained: list[Method] = [m for m in ("pattern_finetune", "context_distillation") if m in recipe.methods]
    for setting in settings(recipe):
        if setting.control is None and "in_context" in recipe.methods:
            found += _in_context(recipe, setting)
        for method in trained:
            if setting.control is not None and method != "context_distillation":
                continue
            for name, student in zip(names, recipe.students, strict=True):
                cell_id = f"{setting.control or method}-{name}-{setting.draw}"
                found.append(CellSpec(cell_id, method, student.model, setting, student=student))
    return found


def asked_settings(recipe: Recipe) -> list[Setting]:
    """Settings whose queries the teacher must label before cells run."""
    needed = {spec.setting.name for spec in cells(recipe) if spec.needs_labels}
    return [setting for setting in settings(recipe) if setting.name in needed]


def asked_section(recipe: Recipe, model: str | None) -> TeacherSection:
    """The teacher's section, or that of another model which is asked as the teacher is."""
    section = recipe.teacher
    if model is None or model == section.model:
        return section
    revision = next((s.revision for s in recipe.students if s.model == model), None)
    return section.model_copy(update={"model": model, "revision": revision, "prefix": "auto"})


def _in_context(recipe: Recipe, setting: Setting) -> list[CellSpec]:
    """The teacher raw and as it labels the queries, and on request other models, raw."""
    asked: list[tuple[str, Variant]] = []
    if "teacher" in recipe.in_context_models:
        asked.append((recipe.teacher.model, "raw"))
        if not _asks_raw(recipe, setting.budget):
            asked.append((recipe.teacher.model, "teacher"))
    if "students" in recipe.in_context_models:
        for model in student_decoders(recipe):
            if (model, "raw") not in asked:
                asked.append((model, "raw"))
    names = _numbered([f"in_context-{_short(model)}-{variant}" for model, variant in asked])
    return [
        CellSpec(f"{name}-{setting.name}", "in_context", model, setting, variant=variant)
        for name, (model, variant) in zip(names, asked, strict=True)
    ]


def student_decoders(recipe: Recipe) -> list[str]:
    """The models of students that can be asked without training, each once."""
    decoders = [
        student.model
        for student in recipe.students
        if not load.is_encoder(load.load_config(resolve_model(student.model, student.revision)))
    ]
    return list(dict.fromkeys(decoders))


def _zero_shot(recipe: Recipe) -> list[CellSpec]:
    models = list(dict.fromkeys([recipe.teacher.model, *student_decoders(recipe)]))
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
