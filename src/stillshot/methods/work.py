"""What is done in a process of its own: label a setting's queries, train a cell's student, evaluate a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillshot.config import Prompt, Recipe
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.mending import forget_cell, keep_student_checksums
from stillshot.evaluate.records import Cell
from stillshot.evaluate.resources import latencies, measured
from stillshot.methods.asking import Asking, Interview
from stillshot.methods.cells import CellSpec, Setting, asked_section
from stillshot.methods.evaluating import on_all_sets
from stillshot.methods.experts import OwnExpert, needs_held_out
from stillshot.methods.materials import Materials
from stillshot.methods.selection import held_out_answers, select_asking
from stillshot.models.fingerprints import weights_fingerprints
from stillshot.models.int8 import packed_bytes
from stillshot.models.load import on_load
from stillshot.prompt.writer import Kind
from stillshot.softlabels import SoftLabelStore
from stillshot.storage import notices
from stillshot.student.saved import Student
from stillshot.student.training import TrainingSet, train_student
from stillshot.student.tuning import count_parameters
from stillshot.teacher import answers
from stillshot.teacher.local import LocalTeacher, settle_dtype
from stillshot.types import Context, Example

Report = Callable[[str, int, int], None]
Array = NDArray[np.float64]


def label_setting(recipe: Recipe, path: Path, setting: Setting, report: Report) -> None:
    """Have the teacher label a setting's queries, and write their soft labels."""
    folder, materials = RunFolder(path), Materials(recipe)
    draw = materials.draw(setting.budget, setting.seed, setting.control)
    merits: dict[str, float] = {}
    settle_dtype(recipe.teacher)
    with measured() as usage, on_load(usage.lap):
        interview = _interview(recipe, materials, folder, report)
        asking = Asking(
            recipe.teacher.scoring, recipe.teacher.calibration, recipe.prompt, recipe.teacher.temperature
        )
        if recipe.teacher.select:
            asking, merits = select_asking(
                interview, draw.labelled, setting.budget, recipe.prompt, setting.seed, asking.temperature
            )
        contexts = interview.fitted(asking, draw.contexts, materials.all_asked(draw))
        scores = interview.scores(asking, contexts, draw.queries)
        biases = interview.biases(asking, contexts, scores)
        soft = answers.soft_labels(scores, biases, asking.temperature)
        held_out = None
        if setting.control is None and needs_held_out(recipe, draw.labelled, materials.task.labels):
            held_out = held_out_answers(interview, asking, draw.labelled, setting.budget, setting.seed)
    writer = interview.writer(asking.prompt)
    folder.write_json(
        folder.labels(setting.name),
        {
            "teacher": interview.teacher.fingerprint,
            "setting": asdict(setting) | {"budget": setting.budget.model_dump()},
            "scoring": asking.scoring,
            "calibration": asking.calibration,
            "pattern": writer.pattern_name,
            "channel": writer.channel_name,
            "shots": len(contexts[0]),
            "contexts": [context.key for context in contexts],
            "temperature": asking.temperature,
            "biases": {kind: np.asarray(bias).tolist() for kind, bias in biases.items()},
            "merits": merits,
            "labels": materials.task.labels,
            "queries": [query.key for query in draw.queries],
            "soft_labels": soft.tolist(),
            "held_out": None if held_out is None else held_out.tolist(),
            "query_tokens": interview.query_tokens,
            "label_seconds": interview.seconds,
            "peak_memory_bytes": usage.peak_memory_bytes,
        },
    )


def train_cell(recipe: Recipe, path: Path, spec: CellSpec, checkpoint_seconds: float, report: Report) -> None:
    """Train a cell's student and record what it took."""
    assert spec.student is not None
    folder, materials = RunFolder(path), Materials(recipe)
    folder.check_weights(weights_fingerprints([spec.student]))
    draw = materials.draw(spec.setting.budget, spec.setting.seed)
    prompt, labels, mixed = recipe.prompt, {}, None
    if spec.method == "pattern_finetune":
        data, training = TrainingSet(labelled=draw.labelled), spec.student.finetune
    else:
        labels = _labels(folder, spec.setting)
        prompt = _asked_prompt(prompt, labels)
        labelled = () if spec.setting.control else draw.labelled  # a control is told of no gold label
        data = TrainingSet(draw.queries, np.array(labels["soft_labels"]), labelled)
        training = spec.student.distill
    beside = folder.student(spec.id).with_name(f".{spec.id}.experts")
    own = OwnExpert(spec.student, materials.task, prompt, beside, spec.setting.seed, report)
    with measured() as usage, on_load(usage.lap):
        if spec.student.own_expert and labels.get("held_out"):
            mixed = own.mixed(draw.labelled, draw.queries, labels)
            data = replace(data, soft_labels=mixed.soft_labels)
        record = train_student(
            spec.student,
            materials.task,
            prompt,
            training,
            data,
            folder.student(spec.id),
            seed=spec.setting.seed,
            progress=lambda done, total: report("training", done, total),
            checkpoint_seconds=checkpoint_seconds,
        )
    if not keep_student_checksums(folder, spec.id):
        forget_cell(folder, spec.id)  # what was measured, if anything, was of other weights
    folder.write_json(
        folder.training(spec.id),
        {
            "steps": record.steps,
            "parameters": record.parameters,
            "trainable_parameters": record.trainable_parameters,
            "train_seconds": record.seconds + (mixed.seconds if mixed else 0.0),
            "peak_memory_bytes": usage.peak_memory_bytes,
            "experts": asdict(mixed.mixture) if mixed else None,
        },
    )
    own.done()


def evaluate_cell(recipe: Recipe, path: Path, spec: CellSpec, report: Report) -> None:
    """Evaluate a cell on every evaluation set and write its record and predictions."""
    folder, materials = RunFolder(path), Materials(recipe)
    if spec.student is not None:
        record, predictions = _evaluate_student(recipe, folder, materials, spec, report)
    else:
        record, predictions = _evaluate_teacher(recipe, folder, materials, spec, report)
    folder.write_lines(folder.predictions(spec.id), predictions)
    folder.write_json(folder.cell(spec.id), record.model_dump(mode="json"))


# Students ----------------------------------------------------------------------------------------


def _evaluate_student(
    recipe: Recipe, folder: RunFolder, materials: Materials, spec: CellSpec, report: Report
) -> tuple[Cell, list[dict[str, Any]]]:
    assert spec.student is not None
    distilled, control = spec.method == "context_distillation", spec.setting.control
    # Selection reads the labelled examples even where no context shows them.
    shows_none = control == "zero_shot_teacher" and not recipe.teacher.select
    training = folder.read_json(folder.training(spec.id))
    labels = _labels(folder, spec.setting) if distilled else None
    with measured() as usage, on_load(usage.lap):
        student = Student.load(folder.student(spec.id))
        results, predictions = on_all_sets(
            recipe,
            materials,
            lambda examples, progress: _student_answers(
                student, examples, recipe.evaluation.batch_size, progress
            ),
            report,
        )
    queries = [q for s in materials.evaluation_sets[:1] for q in s.examples]
    record = Cell(
        id=spec.id,
        method=spec.method,
        teacher=recipe.teacher.model if distilled else None,
        student=spec.student.model,
        head=student.head,
        tuning=spec.student.tuning,
        pattern=labels["pattern"] if labels else None,
        scoring=labels["scoring"] if labels else None,
        calibration=labels["calibration"] if labels else None,
        channel=labels["channel"] if labels and labels["scoring"] != "direct" else None,
        num_shots=labels["shots"] if labels else 0,
        num_contexts=spec.setting.budget.num_contexts if distilled and control != "zero_shot_teacher" else 0,
        control=control,
        seed=spec.setting.seed,
        labelled=0 if shows_none else spec.setting.budget.labelled,
        unlabelled=recipe.data.num_unlabelled if distilled else 0,
        in_domain={s.name: results[s.name] for s in materials.evaluation_sets if s.in_domain},
        out_of_domain={s.name: results[s.name] for s in materials.evaluation_sets if not s.in_domain},
        parameters=training["parameters"],
        trainable_parameters=training["trainable_parameters"],
        model_bytes=_model_bytes(student.model),
        peak_memory_bytes=training["peak_memory_bytes"],
        experts=training.get("experts"),
        train_steps=training["steps"],
        train_seconds=training["train_seconds"],
        label_seconds=labels["label_seconds"] if labels else 0.0,
        evaluate_seconds=usage.seconds,
        query_tokens=labels["query_tokens"] if labels else 0,
        latency_ms=latencies(
            lambda i: student.predict_proba([queries[i % len(queries)]]),
            recipe.evaluation.latency_queries if queries else 0,
        ),
    )
    return record, predictions


def _student_answers(
    student: Student, examples: Sequence[Example], batch_size: int, progress: Callable[[int, int], None]
) -> Array:
    result = np.zeros((len(examples), len(student.task.labels)))
    done = 0
    for positions, rows in student.predict_batches(examples, batch_size):
        result[positions] = rows
        done += len(positions)
        progress(done, len(examples))
    return result


# Teachers ----------------------------------------------------------------------------------------


def _evaluate_teacher(
    recipe: Recipe, folder: RunFolder, materials: Materials, spec: CellSpec, report: Report
) -> tuple[Cell, list[dict[str, Any]]]:
    contexts, asking, biases = _how_asked(recipe, folder, materials, spec)
    in_context = spec.method == "in_context"
    settle_dtype(asked_section(recipe, spec.model))
    with measured() as usage, on_load(usage.lap):
        interview = _interview(recipe, materials, folder, report, spec.model)
        if spec.needs_labels:
            _compare_teachers(folder, spec.setting, interview.teacher.fingerprint)
        if in_context:
            draw = materials.draw(spec.setting.budget, spec.setting.seed)
            contexts = interview.fitted(asking, contexts, materials.all_asked(draw))

        def answer(examples: Sequence[Example], progress: Callable[[int, int], None]) -> Array:
            interview.report = lambda _, done, total: progress(done, total)
            scores = interview.scores(asking, contexts, examples)
            return answers.soft_labels(scores, biases, asking.temperature)  # type: ignore[arg-type]

        limit = recipe.evaluation.teacher_items if spec.model == recipe.teacher.model else None
        results, predictions = on_all_sets(recipe, materials, answer, report, limit)
        teacher: Any = interview.teacher
        queries = [q for s in materials.evaluation_sets[:1] for q in s.examples]

        def ask(index: int) -> None:
            _ask_alone(interview, asking, contexts, queries[index % len(queries)])

        if queries and not teacher.is_loaded:  # all scores were stored before, so nothing was measured yet
            ask(0)
        parameters = count_parameters(teacher.model)[0] + packed_bytes(teacher.model)
    passes = len(contexts) * len(answers.kinds_of(asking.scoring))
    times = max(3, recipe.evaluation.latency_queries // (4 * passes)) if queries else 0
    writer = interview.writer(asking.prompt)
    record = Cell(
        id=spec.id,
        method=spec.method,
        teacher=spec.model,
        pattern=writer.pattern_name,
        channel=writer.channel_name if asking.scoring != "direct" else None,
        scoring=asking.scoring,
        calibration=asking.calibration,
        num_shots=len(contexts[0]),
        num_contexts=len(contexts) if in_context else 0,
        seed=spec.setting.seed,
        labelled=(len({d.key for c in contexts for d in c.demonstrations}) if in_context else 0),
        in_domain={s.name: results[s.name] for s in materials.evaluation_sets if s.in_domain},
        out_of_domain={s.name: results[s.name] for s in materials.evaluation_sets if not s.in_domain},
        parameters=parameters,
        model_bytes=_model_bytes(teacher.model) + packed_bytes(teacher.model),
        peak_memory_bytes=usage.peak_memory_bytes,
        evaluate_seconds=interview.seconds,  # also of scores that were stored before
        query_tokens=interview.query_tokens,
        latency_ms=latencies(ask, times),
    )
    return record, predictions


def _compare_teachers(folder: RunFolder, setting: Setting, fingerprint: str) -> None:
    """Say where a teacher is not quite the one that labelled, e.g. at another commit of the Hub, or another dtype."""
    labelled_by = _labels(folder, setting).get("teacher", fingerprint)
    if labelled_by != fingerprint:
        notices.warning(
            "%s was labelled by %s, and is evaluated with %s.", setting.name, labelled_by, fingerprint
        )


def _how_asked(
    recipe: Recipe, folder: RunFolder, materials: Materials, spec: CellSpec
) -> tuple[Sequence[Context], Asking, dict[Kind, Any]]:
    """The contexts of a cell that asks a teacher, how it is asked, and what calibration divides out."""
    if spec.method == "zero_shot":
        return [Context()], Asking("direct", "none", recipe.prompt), {"direct": 0.0}
    draw = materials.draw(spec.setting.budget, spec.setting.seed)
    if spec.variant == "raw":
        return draw.contexts[:1], Asking("direct", "none", recipe.prompt), {"direct": 0.0}
    return draw.contexts, *asked_as(recipe, folder, spec.setting)


def asked_as(recipe: Recipe, folder: RunFolder, setting: Setting) -> tuple[Asking, dict[Kind, Any]]:
    """How the queries of a labelled setting were asked, and what calibration divided out, by kind."""
    labels = _labels(folder, setting)
    asking = Asking(
        labels["scoring"], labels["calibration"], _asked_prompt(recipe.prompt, labels), labels["temperature"]
    )
    return asking, {kind: np.array(bias) for kind, bias in labels["biases"].items()}


def _ask_alone(interview: Interview, asking: Asking, contexts: Sequence[Context], query: Example) -> None:
    """Ask one query: every context is read again, as without a prefix cache."""
    writer, teacher = interview.writer(asking.prompt), interview.teacher
    tokens = [ids[0] for ids in writer.verbalizer.token_ids] if writer.verbalizer.single_token else None
    for kind in answers.kinds_of(asking.scoring):
        for context in contexts:
            prompts = writer.prompts(kind, context, [query])
            list(teacher.score(prompts, tokens if kind == "direct" else None))


# Shared ------------------------------------------------------------------------------------------


def _interview(
    recipe: Recipe, materials: Materials, folder: RunFolder, report: Report, model: str | None = None
) -> Interview:
    section = asked_section(recipe, model)
    folder.check_weights(weights_fingerprints([section]))
    shared = recipe.teacher.store
    store = SoftLabelStore(shared or folder.softlabels, shared=shared is not None)
    return Interview(LocalTeacher(section), materials.task, store, report)


def _labels(folder: RunFolder, setting: Setting) -> dict[str, Any]:
    return folder.read_json(folder.labels(setting.name))


def _asked_prompt(prompt: Prompt, labels: dict[str, Any]) -> Prompt:
    return prompt.model_copy(update={"pattern": labels["pattern"], "channel": labels["channel"]})


def _model_bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
