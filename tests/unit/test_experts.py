"""Soft labels as a product of two experts: what weighs how much, and what both are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import SENTIMENT, reviews

from stillshot.config import Budget, Prompt, Student, Teacher
from stillshot.methods import experts
from stillshot.methods.asking import Asking, Interview
from stillshot.methods.experts import Mixture, OwnExpert, choose_mixture, folds_of, product
from stillshot.methods.selection import held_out_answers
from stillshot.softlabels import SoftLabelStore
from stillshot.teacher.local import LocalTeacher

GOLD = np.arange(16) % 2
SURE = np.where(np.arange(2) == GOLD[:, None], 0.9, 0.1)  # right on every example
UNSURE = np.full((16, 2), 0.5)
LABELS = list(SENTIMENT.labels)


@pytest.mark.parametrize(
    ("teacher", "own", "expected"),
    [
        (SURE, UNSURE, (1.0, 0.0)),  # nothing is added
        (SURE, 1 - SURE, (1.0, 0.0)),
        (UNSURE, UNSURE, (1.0, 0.0)),
        ((1 - SURE) ** 2, SURE, (0.0, 1.0)),  # a teacher that is always wrong, and sure of it
    ],
)
def test_the_teacher_stands_alone_unless_labels_are_clearly_likelier(
    teacher: np.ndarray, own: np.ndarray, expected: tuple[float, float]
) -> None:
    found = choose_mixture(teacher, own, GOLD)
    assert (found.teacher, found.own) == expected
    assert found.held_out_teacher == (teacher.argmax(-1) == GOLD).mean()


def test_what_a_better_expert_knows_is_added() -> None:
    found = choose_mixture(np.where(np.arange(2) == GOLD[:, None], 0.55, 0.45), SURE, GOLD)
    assert found.own >= 1
    assert (found.held_out_teacher, found.held_out_own) == (1, 1)


def test_a_gain_that_chance_would_give_is_none() -> None:
    own = UNSURE.copy()
    own[:2] = SURE[:2]  # two right answers, and no opinion on the others
    assert choose_mixture(UNSURE, own, GOLD).own == 0


def test_a_product_multiplies_odds() -> None:
    found = product(np.array([[0.8, 0.2]]), np.array([[0.25, 0.75]]), 1, 2)
    assert found[0, 0] / found[0, 1] == pytest.approx(4 / 9)
    assert found.sum() == pytest.approx(1)
    assert product(np.array([[0.8, 0.2]]), np.array([[0.0, 1.0]]), 1, 0)[0] == pytest.approx([0.8, 0.2])


@pytest.mark.parametrize(("counts", "folds"), [((8, 8), 4), ((2, 9), 2), ((1, 5), 0)])
def test_folds_are_disjoint_and_have_every_label(counts: tuple[int, int], folds: int) -> None:
    examples = [e for label, count in zip(LABELS, counts, strict=True) for e in _of(label, count)]
    found = folds_of(examples, LABELS)
    assert len(found) == folds
    assert sorted(i for fold in found for i in fold) == (list(range(len(examples))) if folds else [])
    assert all({examples[i].label for i in fold} == set(LABELS) for fold in found)


def _of(label: str, count: int) -> list[Any]:
    return [e for e in reviews(60, 5) if e.label == label][:count]


def test_the_teacher_answers_each_example_without_having_seen_it(
    lively: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = [*_of(LABELS[0], 3), *_of(LABELS[1], 3)]
    teacher = LocalTeacher(Teacher(model=lively("llama"), dtype="float32"))
    interview = Interview(teacher, SENTIMENT, SoftLabelStore(tmp_path / "store"))
    shown: list[tuple[set[str], set[str]]] = []
    asked = Interview.scores

    def noted(self: Interview, asking: Asking, contexts: Any, queries: Any) -> Any:
        shown.append(({d.key for c in contexts for d in c.demonstrations}, {q.key for q in queries}))
        return asked(self, asking, contexts, queries)

    monkeypatch.setattr(Interview, "scores", noted)
    budget = Budget(labelled=6, num_contexts=1)
    found = held_out_answers(interview, Asking("direct", "batch", Prompt()), labelled, budget, 0)
    assert found.shape == (6, 2)
    assert found.sum(-1) == pytest.approx(np.ones(6))
    assert all(not context & queries for context, queries in shown)
    assert {key for _, queries in shown for key in queries} >= {e.key for e in labelled}


def own_expert(folder: Path) -> OwnExpert:
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01}
    section = Student(model="random:tiny-opt", dtype="float32", finetune=training)  # type: ignore[arg-type]
    return OwnExpert(section, SENTIMENT, Prompt(), folder, 0, lambda *_: None)


def test_an_example_is_answered_by_students_that_were_not_trained_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled, queries = [*_of(LABELS[0], 4), *_of(LABELS[1], 4)], reviews(6, 9)
    trained: list[tuple[list[str], list[str]]] = []
    answers = OwnExpert._answers

    def noted(self: OwnExpert, part: Any, items: Any) -> Any:
        trained.append(([e.key for e in part], [e.key for e in items]))
        return answers(self, part, items)

    monkeypatch.setattr(OwnExpert, "_answers", noted)
    monkeypatch.setattr(experts, "choose_mixture", lambda *_: Mixture(1.0, 1.0, 0.5, 0.5))
    soft = np.full((6, 2), 0.5)
    labels = {"soft_labels": soft, "held_out": np.full((8, 2), 0.5), "temperature": 0.5}
    own = own_expert(tmp_path / "experts")
    found = own.mixed(labelled, queries, labels)
    *folds, (whole, asked) = trained
    assert len(folds) == 4
    assert all(not set(part) & set(items) for part, items in folds)
    assert (set(whole), asked) == ({e.key for e in labelled}, [e.key for e in queries])
    assert not np.allclose(found.soft_labels, soft)
    assert found.soft_labels.sum(-1) == pytest.approx(np.ones(6))
    again = own.mixed(labelled, queries, labels)  # after an interruption, nothing is trained anew
    assert len(trained) == 5
    assert np.array_equal(again.soft_labels, found.soft_labels)
    assert again.mixture == found.mixture
    own.done()
    assert not list(tmp_path.iterdir())
