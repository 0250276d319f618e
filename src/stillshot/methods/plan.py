"""What every cell of a recipe will take, from configurations and data alone: no weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from stillshot.config import Control, Recipe, Training
from stillshot.evaluate.speed import Speed, measure_speed
from stillshot.methods.cells import CellSpec, Setting, asked_section, asked_settings, cells
from stillshot.methods.experts import folds_of
from stillshot.methods.materials import Materials
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.prompt.budget import fitted_contexts, fitted_prompts
from stillshot.prompt.writer import Kind, PromptWriter
from stillshot.student.footprint import StudentFootprint, student_footprint
from stillshot.student.heads import resolve_head
from stillshot.student.training import TrainingSet
from stillshot.teacher import answers
from stillshot.teacher.footprint import PlannedTeacher, TeacherFootprint
from stillshot.types import Context, Example

Stage = Literal["label", "train", "evaluate"]
Report = Callable[[str, int, int], None]
Item = TypeVar("Item")
# Evaluated items whose prompts are written and counted; they stand for all.
_ITEMS = 512


@dataclass(frozen=True)
class PlannedCell:
    """What one kind of work is expected to take; seeds are alike, so one line stands for all of them.

    Attributes:
        stage: The heaviest thing that is done: label a setting's queries, train a student, or ask a model.
        names: Names of the settings or cells that it stands for; all figures are those of one of them.
        num_contexts: Contexts of ``num_shots`` demonstrations with which each query is asked.
        saved_bytes: Of the weights that are written; 0 where none are.
        peak_memory_bytes: As run records have it: above the process with its libraries loaded.
    """

    stage: Stage
    method: str
    model: str
    head: str | None
    tuning: str | None
    labelled: int
    names: tuple[str, ...]
    parameters: int
    trainable_parameters: int
    model_bytes: int
    saved_bytes: int
    peak_memory_bytes: int
    num_contexts: int = 0
    num_shots: int = 0
    control: Control | None = None
    label_seconds: float = 0.0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Of one cell."""
        return self.label_seconds + self.train_seconds + self.evaluate_seconds


def plan(recipe: Recipe, report: Report = lambda *_: None) -> list[PlannedCell]:
    """Predict memory, size and time of all work of a recipe, in the order in which it is done.

    Raises:
        StillshotError: Something that a run would stumble over as well.
    """
    planner = _Planner(recipe, Materials(recipe), measure_speed())
    jobs: list[tuple[Callable[..., PlannedCell], list[Setting] | list[CellSpec]]] = []
    for settings in _alike(asked_settings(recipe), lambda setting: (setting.budget, setting.control)):
        jobs.append((planner.labelling, settings))
    for specs in _alike(cells(recipe), _kind_of_cell):
        jobs.append((planner.student if specs[0].student else planner.teacher, specs))
    found = []
    for done, (job, group) in enumerate(jobs):
        report("planning", done, len(jobs))
        found.append(job(group))
    report("planning", len(jobs), len(jobs))
    return found


def _alike(items: Iterable[Item], kind: Callable[[Item], object]) -> list[list[Item]]:
    """Items by their kind, in the order of their first."""
    groups: list[tuple[object, list[Item]]] = []
    for item in items:
        group = next((members for known, members in groups if known == kind(item)), None)
        if group is None:
            groups.append((kind(item), [item]))
        else:
            group.append(item)
    return [members for _, members in groups]


def _kind_of_cell(spec: CellSpec) -> object:
    return spec.method, spec.model, spec.variant, spec.student, spec.setting.budget, spec.setting.control


def _labels(recipe: Recipe, setting: Setting) -> int:
    """The labelled examples that a setting uses; selection reads them also where no context shows them."""
    shows_none = setting.control == "zero_shot_teacher" and not recipe.teacher.select
    return 0 if shows_none else setting.budget.labelled


@dataclass
class _Planner:
    recipe: Recipe
    materials: Materials
    speed: Speed

    @cached_property
    def _items(self) -> list[Example]:
        """Evaluated items, the longest and others evenly."""
        return _sample([e for s in self.materials.evaluation_sets for e in s.examples])

    def _item_share(self, limit: int | None = None) -> float:
        """How many items each of the sample stands for, where a set has ``limit`` items at most."""
        count = sum(len(s.part(limit)) for s in self.materials.evaluation_sets)
        return count / max(1, len(self._items))

    def labelling(self, group: Sequence[Setting]) -> PlannedCell:
        """A setting's queries, labelled by the teacher."""
        setting, teacher = group[0], self.recipe.teacher
        draw = self.materials.draw(setting.budget, setting.seed, setting.control)
        kinds = answers.kinds_of(teacher.scoring)
        parts = self._asked(teacher.model, kinds, draw.contexts, draw.queries)
        return self._told(
            parts,
            stage="label",
            method="label queries",
            labelled=_labels(self.recipe, setting),
            names=tuple(setting.name for setting in group),
            model=teacher.model,
            num_contexts=len(draw.contexts) if draw.contexts[0] else 0,
            num_shots=len(draw.contexts[0]),
            control=setting.control,
            label_seconds=len(draw.contexts) * self._seconds(parts),
        )

    def teacher(self, group: Sequence[CellSpec]) -> PlannedCell:
        """A cell that asks a model about every evaluated item."""
        spec = group[0]
        draw = self.materials.draw(spec.setting.budget, spec.setting.seed)
        contexts: Sequence[Context] = [Context()]
        kinds: Sequence[Kind] = ["direct"]
        in_context = spec.method == "in_context"
        if in_context:
            contexts = draw.contexts if spec.variant == "teacher" else draw.contexts[:1]
        if spec.variant == "teacher":
            kinds = answers.kinds_of(self.recipe.teacher.scoring)
        limit = self.recipe.evaluation.teacher_items if spec.model == self.recipe.teacher.model else None
        parts = self._asked(spec.model, kinds, contexts, self._items)
        return self._told(
            parts,
            stage="evaluate",
            method=spec.method,
            labelled=spec.setting.budget.labelled if in_context else 0,
            names=tuple(spec.id for spec in group),
            model=spec.model,
            num_contexts=len(contexts) if in_context else 0,
            num_shots=spec.setting.budget.shots if in_context else 0,
            evaluate_seconds=len(contexts) * self._item_share(limit) * self._seconds(parts),
        )

    def student(self, group: Sequence[CellSpec]) -> PlannedCell:
        """A student's training, and its evaluation."""
        spec = group[0]
        assert spec.student is not None
        section = spec.student
        footprint = self._trained(
            spec, section.finetune if spec.method == "pattern_finetune" else section.distill
        )
        seconds, peak = self.speed.seconds(footprint.train_work), footprint.train_peak_bytes
        if section.own_expert and spec.method == "context_distillation" and spec.setting.control is None:
            own_seconds, own_peak = self._own_expert(spec)
            seconds, peak = seconds + own_seconds, max(peak, own_peak)
        config = load.load_config(resolve_model(section.model, section.revision))
        return PlannedCell(
            stage="train",
            method=spec.method,
            model=section.model,
            head=resolve_head(section, config),
            tuning=section.tuning,
            labelled=_labels(self.recipe, spec.setting),
            names=tuple(spec.id for spec in group),
            parameters=footprint.parameters,
            trainable_parameters=footprint.trainable_parameters,
            model_bytes=footprint.model_bytes,
            saved_bytes=footprint.saved_bytes,
            peak_memory_bytes=peak,
            control=spec.setting.control,
            train_seconds=seconds,
            evaluate_seconds=self._item_share() * self.speed.seconds(footprint.ask_work),
        )

    def _own_expert(self, spec: CellSpec) -> tuple[float, int]:
        """Seconds, at most, and peak memory of fine-tuning a student's own expert and asking it about all queries."""
        assert spec.student is not None
        draw = self.materials.draw(spec.setting.budget, spec.setting.seed)
        footprint = self._trained(replace(spec, method="pattern_finetune"), spec.student.finetune)
        trainings = len(folds_of(draw.labelled, self.materials.task.labels)) + 1
        asked = len(draw.queries) / max(1, len(self._items))
        seconds = trainings * self.speed.seconds(footprint.train_work)
        return seconds + asked * self.speed.seconds(footprint.ask_work), footprint.train_peak_bytes

    def _trained(self, spec: CellSpec, training: Training) -> StudentFootprint:
        assert spec.student is not None
        draw = self.materials.draw(spec.setting.budget, spec.setting.seed, spec.setting.control)
        labelled = () if spec.setting.control else draw.labelled  # a control is told of no gold label
        labels = len(self.materials.task.labels)
        data = TrainingSet(labelled=labelled)
        if spec.method == "context_distillation":
            soft = np.full((len(draw.queries), labels), 1 / labels)
            data = TrainingSet(draw.queries, soft, labelled)
        return student_footprint(
            spec.student,
            self.materials.task,
            self.recipe.prompt,
            training,
            data,
            self._items,
            batch_size=self.recipe.evaluation.batch_size,
            seed=spec.setting.seed,
        )

    def _asked(
        self, model: str, kinds: Sequence[Kind], contexts: Sequence[Context], queries: Sequence[Example]
    ) -> list[TeacherFootprint]:
        """What asking with one of the contexts takes, by kind of scoring; a model is loaded once for all."""
        teacher = PlannedTeacher(asked_section(self.recipe, model))
        writer = PromptWriter(self.materials.task, self.recipe.prompt, teacher.encoder)
        context = fitted_contexts(writer, kinds, contexts, queries, teacher.window)[0]
        words = writer.verbalizer
        tokens = [ids[0] for ids in words.token_ids] if words.single_token else None
        return [
            teacher.footprint(
                fitted_prompts(writer, kind, context, queries, teacher.window),
                tokens if kind == "direct" else None,
                contexts=len(contexts),
            )
            for kind in kinds
        ]

    def _seconds(self, parts: Sequence[TeacherFootprint]) -> float:
        return sum(self.speed.seconds(part.work) for part in parts)

    def _told(self, parts: Sequence[TeacherFootprint], **known: object) -> PlannedCell:
        first = parts[0]
        return PlannedCell(
            head=None,
            tuning=None,
            parameters=first.parameters,
            trainable_parameters=0,
            model_bytes=first.model_bytes,
            saved_bytes=0,
            peak_memory_bytes=max(part.peak_bytes for part in parts),
            **known,  # type: ignore[arg-type]
        )


def _sample(examples: Sequence[Example]) -> list[Example]:
    """At most so many examples: the longest few, and others evenly."""
    if len(examples) <= _ITEMS:
        return list(examples)
    by_length = sorted(examples, key=lambda e: sum(map(len, e.fields.values())), reverse=True)
    longest, others = by_length[:32], by_length[32:]
    step = len(others) / (_ITEMS - len(longest))
    return longest + [others[int(at * step)] for at in range(_ITEMS - len(longest))]
