"""Soft labels that also hold what the labelled examples say by themselves: a product of experts (Hinton 2002).

The teacher's soft labels are multiplied by those of a second expert, the same student fine-tuned on the labelled examples.
How much each weighs is chosen on labelled examples alone, each answered by a teacher whose context does not show it, and
by a student that was not trained on it. So few examples tell little: the teacher stands alone unless something else is
clearly better on them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from stillshot.config import Prompt, Recipe, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.storage import dump_json, load_json, write_whole
from stillshot.student.saved import Student
from stillshot.student.training import TrainingSet, train_student
from stillshot.types import Example

Array = NDArray[np.float64]
Report = Callable[[str, int, int], None]

# Weights (teacher's, own) that are tried, beside the teacher alone.
_CANDIDATES = ((1.0, 0.25), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0), (0.5, 1.0), (0.0, 1.0))
# What another choice must gain over the teacher alone: nats of the likelihood of all held-out labels together.
_MARGIN = 2.0
_MOST_FOLDS = 4
_LEAST = 1e-6


@dataclass(frozen=True)
class Mixture:
    """How much each expert weighs, and the share of held-out labelled examples that each answers rightly alone."""

    teacher: float
    own: float
    held_out_teacher: float
    held_out_own: float


@dataclass(frozen=True)
class Mixed:
    """Soft labels, shape ``(queries, labels)``, how they were mixed, and the seconds that this took."""

    soft_labels: Array
    mixture: Mixture
    seconds: float


def folds_of(labelled: Sequence[Example], labels: Sequence[str]) -> list[list[int]]:
    """Positions in at most four disjoint parts of about equal size, each with examples of every label.

    Returns:
        Nothing where a label has fewer than two examples, as none could then be held out.
    """
    by_label = [[i for i, e in enumerate(labelled) if e.label == label] for label in labels]
    count = min(_MOST_FOLDS, min(map(len, by_label)))
    return (
        [[i for of_label in by_label for i in of_label[part::count]] for part in range(count)]
        if count > 1
        else []
    )


def needs_held_out(recipe: Recipe, labelled: Sequence[Example], labels: Sequence[str]) -> bool:
    """Whether a teacher is asked about labelled examples: a student wants it, and some can be held out."""
    return any(student.own_expert for student in recipe.students) and bool(folds_of(labelled, labels))


def choose_mixture(teacher: Array, own: Array, gold: NDArray[np.int64]) -> Mixture:
    """The weights under which labelled examples are likeliest, by what both experts say of them when held out.

    Args:
        teacher: Probabilities, shape ``(examples, labels)``.
        own: Those of the second expert, same shape.
        gold: Label indices, shape ``(examples,)``.
    """

    def likelihood(weights: tuple[float, float]) -> float:
        mixed = np.log(product(teacher, own, *weights))
        return float(mixed[np.arange(len(gold)), gold].sum())

    alone = (1.0, 0.0)
    best = max(_CANDIDATES, key=likelihood)
    chosen = best if likelihood(best) >= likelihood(alone) + _MARGIN else alone
    right = [float((found.argmax(-1) == gold).mean()) for found in (teacher, own)]
    return Mixture(*chosen, *right)


def product(teacher: Array, own: Array, teacher_weight: float, own_weight: float) -> Array:
    """Probabilities proportional to the product of both experts' to the powers of their weights; rows sum to one."""
    logs = [np.log(np.clip(found, _LEAST, None)) for found in (teacher, own)]
    return np.exp(log_softmax(teacher_weight * logs[0] + own_weight * logs[1], axis=-1))


@dataclass(frozen=True)
class OwnExpert:
    """A student that is fine-tuned on labelled examples to say what they add to its teacher's soft labels.

    Attributes:
        section: The student, which is fine-tuned as its ``finetune`` says.
        folder: Where it is for a while, and where what was found is kept until the distillation is done.
        seed: Of its trainings.
        report: Is told how far it is.
    """

    section: StudentSection
    task: TaskDefinition
    prompt: Prompt
    folder: Path
    seed: int
    report: Report

    def mixed(
        self, labelled: Sequence[Example], queries: Sequence[Example], labels: Mapping[str, Any]
    ) -> Mixed:
        """Soft labels with what the labelled examples add to them.

        An interrupted training goes on with what was found before it.

        Args:
            labelled: Labelled examples, at least two of every label.
            queries: What the teacher has labelled.
            labels: Its ``soft_labels`` of the queries; ``held_out``, what it says of each labelled example when its context
                does not show it, before any sharpening; and the ``temperature`` of sharpening, which the second expert's
                get too.
        """
        kept = self.folder / "mixed.json"
        if kept.is_file():
            found = load_json(kept.read_bytes())
            return Mixed(np.array(found["soft_labels"]), Mixture(**found["mixture"]), found["seconds"])
        started, soft_labels = time.perf_counter(), np.array(labels["soft_labels"])
        gold = np.array([self.task.labels.index(str(example.label)) for example in labelled])
        mixture = choose_mixture(np.array(labels["held_out"]), self._held_out(labelled), gold)
        if mixture.own:
            self.report("fine-tuning on all labelled examples", 0, 0)
            answers = self._answers(labelled, queries)
            own = product(answers, answers, 1 / labels["temperature"], 0)
            soft_labels = product(soft_labels, own, mixture.teacher, mixture.own)
        found = Mixed(soft_labels, mixture, time.perf_counter() - started)
        content = asdict(found) | {"soft_labels": soft_labels.tolist()}
        write_whole(kept, dump_json(content).encode())
        return found

    def done(self) -> None:
        """Forget what was kept for an interrupted training."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _held_out(self, labelled: Sequence[Example]) -> Array:
        """What students say of the labelled examples that they were not fine-tuned on."""
        found = np.zeros((len(labelled), len(self.task.labels)))
        folds = folds_of(labelled, self.task.labels)
        for done, fold in enumerate(folds):
            self.report("fine-tuning without some labelled examples", done, len(folds))
            rest = [example for position, example in enumerate(labelled) if position not in fold]
            found[fold] = self._answers(rest, [labelled[position] for position in fold])
        return found

    def _answers(self, labelled: Sequence[Example], items: Sequence[Example]) -> Array:
        """Probabilities that the student gives once it is fine-tuned, shape ``(items, labels)``."""
        place, data = self.folder / "student", TrainingSet(labelled=labelled)
        training = self.section.finetune
        train_student(self.section, self.task, self.prompt, training, data, place, seed=self.seed)
        found = Student.load(place).predict_proba(items)
        shutil.rmtree(place)
        return found
