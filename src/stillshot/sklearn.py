"""Context distillation as a scikit-learn classifier over texts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from stillshot.config import Source, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.data.frames import rows_in
from stillshot.data.values import ONE_LABEL_ADVICE, LabelReader, NotOneLabelError, is_missing, label_value
from stillshot.errors import DataError
from stillshot.methods.distilling import distill
from stillshot.student.saved import Student
from stillshot.tasks import load_task, new_task


class ContextDistillationClassifier(ClassifierMixin, BaseEstimator):
    """A small model that learns from a few labelled texts, and from a teacher that has them in its prompt.

    ``X`` is a sequence of texts (a list, an array, a column of a data frame); for a task of several fields, of
    mappings from field to text, or a data frame with the fields as columns.

        classifier = ContextDistillationClassifier()
        classifier.fit(texts, labels, queries=many_more_texts)
        classifier.predict(["not bad at all"])

    Args:
        task: A built-in task, a YAML file or a definition whose labels are those of ``y`` as text; if
            ``None``, one with the labels of ``y`` as label words.
        teacher: A model id, or a whole teacher section.
        student: A model id, or a whole student section.
        num_contexts: Contexts whose calibrated answers are averaged.
        num_shots: Demonstrations a context; if ``None``, as many as are balanced over the labels.
        output_dir: Where student and soft labels are kept; if ``None``, they are with this object alone.
        random_state: Seed of draws and training.
        batch_size: Queries at a time in prediction.

    Attributes:
        classes_: The labels as they are in ``y``, sorted.
        student_: The :class:`stillshot.Student`.
    """

    def __init__(
        self,
        *,
        task: str | TaskDefinition | None = None,
        teacher: str | TeacherSection = "bundled:smollm2-135m",
        student: str | StudentSection = "bundled:minilm-l6",
        num_contexts: int = 4,
        num_shots: int | None = None,
        output_dir: str | Path | None = None,
        random_state: int = 0,
        batch_size: int = 32,
    ) -> None:
        self.task = task
        self.teacher = teacher
        self.student = student
        self.num_contexts = num_contexts
        self.num_shots = num_shots
        self.output_dir = output_dir
        self.random_state = random_state
        self.batch_size = batch_size

    def fit(self, X: Any, y: ArrayLike, queries: Any = None) -> Self:
        """Distil a student.

        Args:
            X: The labelled texts, a few of every label.
            y: Their labels.
            queries: Texts without labels, the more the better; the student learns the teacher's answers to them.

        Raises:
            DataError: There are no queries, or as many labels as texts there are not.
        """
        if queries is None:
            raise DataError(
                "Without queries there is nothing to distil on: fit(X, y, queries=texts_without_labels)."
            )
        labels = _checked_labels(y)
        self.classes_ = _distinct(labels)
        given = rows_in(X)
        definition = load_task(self.task) if self.task is not None else None
        definition = definition or _own_task(given, [_label_name(label) for label in self.classes_])
        reader = LabelReader(definition, Source(splits={}))
        self._names = [_label_name(label, reader) for label in self.classes_]
        rows = _queries(given, definition)
        if len(rows) != len(labels):
            raise DataError(f"There are {len(rows)} texts and {len(labels)} labels. Give one label a text.")
        named = dict(zip(self.classes_.tolist(), self._names, strict=True))
        labelled = [{**row, "label": named[label]} for row, label in zip(rows, labels.tolist(), strict=True)]
        with tempfile.TemporaryDirectory() as scratch:
            self.student_ = distill(
                labelled,
                _queries(rows_in(queries), definition),
                task=definition,
                teacher=self.teacher,
                student=self.student,
                num_contexts=self.num_contexts,
                num_shots=self.num_shots,
                output_dir=scratch if self.output_dir is None else self.output_dir,
                seed=self.random_state,
            )
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities, shape ``(texts, classes)``, in the order of ``classes_``."""
        check_is_fitted(self)
        student: Student = self.student_
        rows = _queries(rows_in(X), student.task)
        found = student.predict_proba(rows, self.batch_size)
        return found[:, [student.task.labels.index(name) for name in self._names]]

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest label of each text, as it is in ``y``."""
        likeliest = self.predict_proba(X).argmax(-1)
        return self.classes_[likeliest]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags


def _checked_labels(y: Any) -> NDArray[Any]:
    """The labels as an array of one dimension, none of them missing.

    Raises:
        DataError: One is missing, or they are lists or one-hot rows.
    """
    values = list(y)
    for position, value in enumerate(values):
        if is_missing(value):
            raise DataError(
                f"y has no label at position {position} ({value!r}). Leave out the texts without a label, or give them as "
                "queries."
            )
    try:
        labels = np.asarray(y)
    except ValueError:  # lists of different lengths
        labels = np.empty((0, 0))
    if labels.ndim != 1:
        raise DataError(
            "y must have one label a text, not lists or one-hot rows (for one-hot rows: y.argmax(axis=1))."
        )
    return labels


def _distinct(labels: NDArray[Any]) -> NDArray[Any]:
    try:
        return np.unique(labels)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels.tolist()})
        raise DataError(f"y mixes labels of {' and '.join(kinds)}. Give labels of one type.") from None


def _label_name(label: Any, reader: LabelReader | None = None) -> str:
    try:
        found = reader.find(label) if reader else None
        return str(found or label_value(label))
    except NotOneLabelError as error:
        raise DataError(f"y has {error}. {ONE_LABEL_ADVICE}") from None


def _own_task(rows: Sequence[Any], labels: Sequence[str]) -> TaskDefinition:
    fields = list(rows[0]) if rows and isinstance(rows[0], Mapping) else ["text"]
    return new_task("texts", fields, labels)


def _queries(rows: Sequence[Any], task: TaskDefinition) -> list[dict[str, str]]:
    """Rows as mappings from the task's fields to text.

    Raises:
        DataError: A row lacks a field, or holds something else than text.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            if len(task.fields) != 1:
                raise DataError(
                    f"The task {task.name!r} reads {', '.join(task.fields)}: give mappings or a data frame."
                )
            row = {task.fields[0]: row}
        missing = [name for name in task.fields if name not in row]
        if missing:
            raise DataError(
                f"There is no column {missing[0]!r}. The task {task.name!r} reads {', '.join(task.fields)}."
            )
        query = {name: row[name] for name in task.fields}
        for value in query.values():
            if is_missing(value):
                raise DataError(
                    f"Text {number} is a {type(value).__name__} ({value!r}), a missing value. Leave it out, with its label, or "
                    "fill it in."
                )
            if not isinstance(value, str):
                raise DataError(f"Text {number} is a {type(value).__name__}. Every text must be a str.")
        found.append(query)
    return found
