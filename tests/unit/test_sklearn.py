"""The scikit-learn classifier: labels of any kind, frames, and scikit-learn's own checks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from stillshot.config import Student, Training
from stillshot.errors import DataError
from stillshot.sklearn import ContextDistillationClassifier

TEXTS = [
    "a warm and witty film",
    "dull from start to finish",
    "I laughed all evening",
    "two hours I will not get back",
]
LABELS = ["good", "bad", "good", "bad"]
QUERIES = [f"the {what} was {how}" for what in ("plot", "cast", "score") for how in ("fine", "thin", "loud")]


def classifier(**settings: Any) -> ContextDistillationClassifier:
    student = Student(model="random:tiny-bert", distill=Training(epochs=2), dtype="float32")
    return ContextDistillationClassifier(
        **{"teacher": "random:tiny-llama", "student": student, "num_contexts": 2, **settings}
    )


def test_labels_come_back_as_they_were_given(tmp_path: Path) -> None:
    fitted = classifier(output_dir=tmp_path).fit(TEXTS, LABELS, queries=QUERIES)
    assert fitted.classes_.tolist() == ["bad", "good"]
    probabilities = fitted.predict_proba(QUERIES)
    assert probabilities.shape == (9, 2)
    np.testing.assert_allclose(probabilities.sum(-1), 1)
    assert fitted.predict(QUERIES).tolist() == fitted.classes_[probabilities.argmax(-1)].tolist()
    by_label = fitted.student_.predict(QUERIES)
    np.testing.assert_allclose(probabilities[:, 1], [answer.probabilities["good"] for answer in by_label])
    assert (tmp_path / "student" / "stillshot.json").is_file()
    assert 0 <= fitted.score(TEXTS, LABELS) <= 1


def test_labels_may_be_numbers_and_the_order_of_a_task_another() -> None:
    labels = np.array([10, 9, 10, 9])
    fitted = classifier().fit(np.array(TEXTS), labels, queries=np.array(QUERIES))
    assert fitted.classes_.tolist() == [9, 10]
    assert fitted.student_.task.labels == ["9", "10"]
    of_task = classifier(task="sst2").fit(TEXTS, ["positive", "negative"] * 2, queries=QUERIES)
    assert of_task.classes_.tolist() == ["negative", "positive"]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_frames_and_columns(frame: Any) -> None:
    pairs = frame({"premise": TEXTS, "hypothesis": TEXTS[::-1]})
    queries = frame({"premise": QUERIES, "hypothesis": QUERIES[::-1]})
    fitted = classifier().fit(pairs, frame({"label": LABELS})["label"], queries=queries)
    assert fitted.student_.task.fields == ["premise", "hypothesis"]
    assert fitted.predict(queries).shape == (9,)
    columns = classifier().fit(pairs["premise"], LABELS, queries=queries["premise"])
    assert columns.student_.task.fields == ["text"]


def test_clone_and_pickle() -> None:
    original = classifier(num_shots=2, random_state=3)
    copy = clone(original)
    assert copy.get_params() == original.get_params()
    assert not hasattr(copy, "student_")
    with pytest.raises(NotFittedError):
        copy.predict(QUERIES)
    fitted = copy.fit(TEXTS, LABELS, queries=QUERIES)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(QUERIES), fitted.predict_proba(QUERIES))


@pytest.mark.parametrize(
    ("texts", "y", "queries", "message"),
    [
        (TEXTS, LABELS, None, r"fit\(X, y, queries="),
        (TEXTS, LABELS[:3], QUERIES, "There are 4 texts and 3 labels"),
        ("a text", LABELS, QUERIES, r"\[text\], not text"),
        ([*TEXTS[:3], float("nan")], LABELS, QUERIES, "Text 4 is a float"),
        (
            pd.DataFrame({"text": [*TEXTS[:3], None]}),
            LABELS,
            QUERIES,
            "Text 4 is a NoneType|Text 4 is a float",
        ),
    ],
)
def test_what_is_wrong_is_said(texts: Any, y: Any, queries: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classifier().fit(texts, y, queries=queries)


@pytest.mark.parametrize(
    "name",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_scikit_learns_checks_that_fit_no_numbers(name: str) -> None:
    getattr(estimator_checks, name)("ContextDistillationClassifier", ContextDistillationClassifier())
