"""The students that are served, and what stands beside each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillshot.config import TaskDefinition
from stillshot.deploy.predictor import Predictor, load_predictor
from stillshot.deploy.serving.teacher import RunTeacher
from stillshot.deploy.serving.workers import Workers
from stillshot.errors import ModelError
from stillshot.evaluate.folder import RunFolder
from stillshot.student.features import Feature
from stillshot.student.saved import probabilities
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Dtype, Example, Keep


@dataclass(frozen=True)
class ServedStudent:
    """A student by its name.

    Attributes:
        report: Where the report of its run is, or will be once it is written.
        created: When it was loaded, in seconds since 1970.
    """

    name: str
    predictor: Predictor
    report: Path | None = None
    teacher: RunTeacher | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def task(self) -> TaskDefinition:
        """What it answers."""
        return self.predictor.task

    def read(self, examples: Sequence[Example], keep: Keep = "start") -> list[Feature]:
        """What it computes on; of texts that are too long, the part that ``keep`` says.

        Raises:
            PromptError: An example has nothing to read.
        """
        return self.predictor.featurizer.features(examples, keep)

    def answer(self, features: Sequence[Feature]) -> NDArray[np.float64]:
        """Probabilities, shape ``(features, labels)``; all share one forward pass."""
        return probabilities(self.predictor.logits(self.predictor.featurizer.pad(features)))


def load_students(
    folders: Sequence[Path],
    *,
    with_teachers: bool,
    dtype: Dtype | None = None,
    threads: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[ServedStudent]:
    """Load students, each named after its folder, and on request the teachers of their runs.

    Folders of one name, such as exports of one kind, are named after the folder around them too.

    Args:
        dtype: Of the students' weights, see :func:`load_predictor`.
        threads: Of one batch of an ONNX export; ``None`` is as :meth:`Workers.of` has it.
        report: Told what is loaded now.

    Raises:
        ModelError: A folder holds no student, or two have one name.
        StillshotError: A teacher cannot be had; see :meth:`RunTeacher.of`.
    """
    named: dict[str, Path] = {}
    short = [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, short, strict=True):
        if short.count(name) > 1:
            name = f"{folder.resolve().parent.name}-{name}"
        if name in named:
            raise ModelError(
                f"{named[name]} and {folder} have the same name, by which requests choose. Rename one of the "
                "folders, or serve them apart."
            )
        named[name] = folder
    teachers: dict[str, LocalTeacher] = {}
    students = []
    for name, folder in named.items():
        report(f"loading {name}")
        predictor = load_predictor(folder, dtype, threads or Workers.of().threads)
        teacher = None
        if with_teachers:
            report(f"loading the teacher of {name}")
            teacher = RunTeacher.of(folder, teachers)
        run = RunFolder.around(folder)
        students.append(ServedStudent(name, predictor, run.report if run else None, teacher))
    return students
