"""Students with plain weights, as exports start from: adapters merged, everything in float32."""

from __future__ import annotations

from pathlib import Path

from stillshot.student.heads import with_language_model_head
from stillshot.student.saved import Student


def load_in_float32(folder: str | Path) -> Student:
    """A saved student on the processor, its arithmetic in float32.

    Weights that were kept in 16 bits stay the same numbers. Exports are compared with this one: 16-bit
    arithmetic alone changes answers from one machine to another.

    Raises:
        ModelError: The folder holds no student.
    """
    student = Student.load(folder)
    student.model.float().cpu()
    return student


def merge(student: Student) -> Student:
    """The student with its LoRA adapters merged into the weights; one without adapters is returned as it is.

    The labels stand in the model's configuration, as ``pipeline("text-classification")`` reads them. The
    adapters of ``student`` itself are gone afterwards.
    """
    model = student.model
    if student.section.tuning == "lora":
        if student.head == "label":
            model = model.merge_and_unload()
        else:
            merged = model.language_model.merge_and_unload()
            model = with_language_model_head(student.head, merged, student.task.labels)
    if student.head == "label":
        model.config.id2label = dict(enumerate(student.task.labels))
        model.config.label2id = {label: index for index, label in enumerate(student.task.labels)}
    section = student.section.model_copy(update={"tuning": "full", "model": _named(student.section.model)})
    return Student(model.eval(), student.tokenizer, student.task, student.prompt, section, student.head)


def _named(model: str) -> str:
    """The model without its place on this machine, which is nobody's business where the export goes."""
    return f"./{Path(model).name}" if Path(model).is_dir() else model
