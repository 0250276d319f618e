"""Distill in three lines of Python, without a recipe file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stillshot.config import Budget, Prompt, Source, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.data.frames import rows_in
from stillshot.data.values import ONE_LABEL_ADVICE, LabelReader, NotOneLabelError
from stillshot.errors import DataError, did_you_mean
from stillshot.methods.asking import Asking, Interview
from stillshot.methods.experts import OwnExpert, folds_of
from stillshot.methods.selection import held_out_answers, select_asking
from stillshot.prompt.demonstrations import draw_contexts
from stillshot.softlabels import SoftLabelStore
from stillshot.student.saved import Query, Student, as_example, as_examples
from stillshot.student.training import TrainingSet, train_student
from stillshot.tasks import load_task
from stillshot.teacher import answers
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Example

Report = Callable[[str, int, int], None]


def distill(
    labelled: Sequence[Mapping[str, str] | Example],
    queries: Sequence[Query],
    *,
    task: str | TaskDefinition,
    teacher: str | TeacherSection = "bundled:smollm2-135m",
    student: str | StudentSection = "bundled:minilm-l6",
    num_contexts: int = 4,
    num_shots: int | None = None,
    prompt: Prompt | None = None,
    output_dir: str | Path = "stillshot-student",
    seed: int = 0,
    report: Report | None = None,
) -> Student:
    """Turn a few labelled examples and a heap of texts into a small model.

    The teacher, with contexts made of the labelled examples, labels the queries; the student learns
    those soft labels and the labelled examples, and answers without any context. Soft labels are kept
    in ``output_dir``, so a call that was interrupted, or has another student, asks only what is missing.

    Args:
        labelled: Mappings with the task's fields and ``label``, or examples; a few of every label. A data frame, an
            Arrow table or a data set with such columns will do.
        queries: Texts (for a task of one field), mappings or examples, or a table of them; labels are not read.
        task: A built-in task, a YAML file, or a definition (:func:`stillshot.tasks.new_task`).
        teacher: A model id, or a whole teacher section.
        student: A model id, or a whole student section.
        num_contexts: Contexts whose calibrated answers are averaged.
        num_shots: Demonstrations a context; if ``None``, as many as are balanced over the labels.
        output_dir: Where the student (``student/``) and soft labels (``softlabels/``) are written.
        report: Called with what is done, how much of it, and of how much.

    Raises:
        DataError: A label is unknown or has too few examples, a query lacks a field, or a number cannot be.
        ModelError: A model is not found, or cannot do what is asked of it.

    Returns:
        The trained student, loaded from where it was saved.
    """
    definition = load_task(task)
    prompt = prompt or Prompt()
    show = report or (lambda *_: None)
    known = _labelled_examples(labelled, definition)
    shown = list({example.key: example for example in known}.values())
    fewest = min(sum(example.label == label for example in shown) for label in definition.labels)
    if fewest == 0:
        raise DataError(f"Every label needs an example: {', '.join(definition.labels)}. Add one of each.")
    asked = [replace(example, label=None) for example in as_examples(rows_in(queries), definition)]
    keys = {example.key for example in shown}
    asked = [example for example in asked if example.key not in keys]
    if not asked:
        raise DataError(
            "There are no queries to distill on. Give some texts that are not among the labelled."
        )
    try:
        budget = Budget(
            labelled=len(shown),
            num_contexts=num_contexts,
            num_shots=fewest * len(definition.labels) if num_shots is None else num_shots,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "num_shots"
        raise DataError(f"distill({where}=...): {first['msg']}.") from None
    section = TeacherSection(model=teacher) if isinstance(teacher, str) else teacher
    folder = Path(output_dir)
    interview = Interview(LocalTeacher(section), definition, SoftLabelStore(folder / "softlabels"), show)
    asking = Asking(section.scoring, section.calibration, prompt, section.temperature)
    if section.select:
        asking, _ = select_asking(interview, shown, budget, prompt, seed, section.temperature)
    contexts = interview.fitted(asking, draw_contexts(shown, definition.labels, budget, seed), asked)
    scores = interview.scores(asking, contexts, asked)
    soft = answers.soft_labels(scores, interview.biases(asking, contexts, scores), asking.temperature)
    settings = StudentSection(model=student) if isinstance(student, str) else student
    held_out = None
    if settings.own_expert and folds_of(shown, definition.labels):
        held_out = held_out_answers(interview, asking, shown, budget, seed)
    del interview  # the teacher's weights are gone before the student's are loaded
    if held_out is not None:
        labels = {"soft_labels": soft, "held_out": held_out, "temperature": asking.temperature}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".experts.") as scratch:
            own = OwnExpert(settings, definition, asking.prompt, Path(scratch), seed, show)
            soft = own.mixed(shown, asked, labels).soft_labels
    train_student(
        settings,
        definition,
        asking.prompt,
        settings.distill,
        TrainingSet(asked, soft, shown),
        folder / "student",
        seed=seed,
        progress=lambda done, total: show("training", done, total),
    )
    return Student.load(folder / "student")


def _labelled_examples(given: Any, task: TaskDefinition) -> list[Example]:
    reader, found = LabelReader(task, Source(splits={})), []
    for number, row in enumerate(rows_in(given), start=1):
        if not isinstance(row, Mapping | Example):
            raise DataError(
                f"Labelled example {number} is a {type(row).__name__}; give a mapping with the task's fields and label."
            )
        raw = row.label if isinstance(row, Example) else row.get("label")
        try:
            label = reader.find(raw)
        except NotOneLabelError as error:
            raise DataError(
                f"Labelled example {number} has {error} as its label. {ONE_LABEL_ADVICE}"
            ) from None
        if label not in task.labels:
            raise DataError(
                f"Labelled example {number} has the label {raw!r}. {did_you_mean(str(raw), task.labels)}"
            )
        found.append(replace(as_example(row, task), label=label, origin=f"labelled example {number}"))
    return found
