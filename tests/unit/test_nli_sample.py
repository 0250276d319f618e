"""The embedded inference sample is balanced, split cleanly and free of one-sentence shortcuts."""

import json
import re
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline

Row = dict[str, str]

LABELS = ("entailment", "neutral", "contradiction")
TASKS = [
    pytest.param(LABELS, id="three-way"),
    pytest.param(("entailment", "contradiction"), id="two-way"),
]
# How far a one-sentence classifier may be from chance, in accuracy.
MARGINS = [
    pytest.param("hypothesis", 0.08, id="hypothesis-only"),
    pytest.param("premise", 0.10, id="premise-only"),
]


def load(split: str) -> list[Row]:
    """Read one file of the sample."""
    path = files("stillshot.data") / "embedded" / f"nli_sample.{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


TRAIN = load("train")
TEST = load("test")
ALL = TRAIN + TEST


def normalise(text: str) -> str:
    """Lower-case a sentence and drop its punctuation, so that near-copies compare equal."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def classifier() -> Pipeline:
    """A shortcut probe: word uni- and bigrams with logistic regression."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(features, LogisticRegression(max_iter=2000))


def select(rows: list[Row], labels: tuple[str, ...], field: str) -> tuple[list[str], list[str], list[str]]:
    """Texts of one field, labels and groups of the rows that have one of the labels."""
    kept = [row for row in rows if row["label"] in labels]
    return [r[field] for r in kept], [r["label"] for r in kept], [r["hypothesis"] for r in kept]


def test_size() -> None:
    """At least 300 groups, of which at least 90 are for testing."""
    assert len(ALL) >= 900
    assert len(TEST) >= 3 * 90


@pytest.mark.parametrize("rows", [TRAIN, TEST], ids=["train", "test"])
def test_rows_are_well_formed(rows: list[Row]) -> None:
    """Each row has the four fields, none of them empty or padded, and a known label."""
    for row in rows:
        assert set(row) == {"premise", "hypothesis", "label", "topic"}
        assert all(value and value == value.strip() for value in row.values())
        assert row["label"] in LABELS
        assert 5 <= len(row["premise"].split()) <= 25, row["premise"]
        assert 3 <= len(row["hypothesis"].split()) <= 12, row["hypothesis"]


@pytest.mark.parametrize("rows", [TRAIN, TEST], ids=["train", "test"])
def test_labels_are_balanced(rows: list[Row]) -> None:
    """Each label makes up exactly a third of each file."""
    counts = Counter(row["label"] for row in rows)
    assert counts == {label: len(rows) // 3 for label in LABELS}


@pytest.mark.parametrize("rows", [TRAIN, TEST], ids=["train", "test"])
def test_each_hypothesis_has_each_label_once(rows: list[Row]) -> None:
    """The rows of a file form whole contrast groups."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(normalise(row["hypothesis"]), []).append(row["label"])
    assert all(sorted(labels) == sorted(LABELS) for labels in groups.values())


def test_no_premise_is_used_twice() -> None:
    """All premises differ, within and across the files."""
    counts = Counter(normalise(row["premise"]) for row in ALL)
    assert [premise for premise, count in counts.items() if count > 1] == []


def test_no_duplicate_pairs() -> None:
    """No pair occurs twice, and no premise just repeats its hypothesis."""
    pairs = [(normalise(row["premise"]), normalise(row["hypothesis"])) for row in ALL]
    assert len(set(pairs)) == len(pairs)
    assert all(premise != hypothesis for premise, hypothesis in pairs)


@pytest.mark.parametrize("field", ["premise", "hypothesis"])
def test_train_and_test_share_no_sentence(field: str) -> None:
    """Neither premises nor hypotheses of the training file occur in the test file."""
    train = {normalise(row[field]) for row in TRAIN}
    test = {normalise(row[field]) for row in TEST}
    assert train & test == set()


def test_topics_are_in_both_files() -> None:
    """The split is spread over all topics, and no topic makes up more than a third."""
    assert {row["topic"] for row in TRAIN} == {row["topic"] for row in TEST}
    counts = Counter(row["topic"] for row in ALL)
    assert len(counts) >= 20
    assert max(counts.values()) <= len(ALL) / 3


@pytest.mark.parametrize("labels", TASKS)
@pytest.mark.parametrize(("field", "margin"), MARGINS)
def test_one_sentence_is_near_chance_on_the_test_file(
    field: str, margin: float, labels: tuple[str, ...]
) -> None:
    """Trained on the training file, a one-sentence classifier is near chance on the test file."""
    train_texts, train_labels, _ = select(TRAIN, labels, field)
    test_texts, test_labels, _ = select(TEST, labels, field)
    accuracy = classifier().fit(train_texts, train_labels).score(test_texts, test_labels)
    assert abs(accuracy - 1 / len(labels)) <= margin


@pytest.mark.parametrize("labels", TASKS)
@pytest.mark.parametrize(("field", "margin"), MARGINS)
def test_one_sentence_is_near_chance_in_cross_validation(
    field: str, margin: float, labels: tuple[str, ...]
) -> None:
    """The same holds in 5-fold cross-validation over all pairs, with whole groups held out."""
    texts, gold, groups = select(ALL, labels, field)
    x, y = np.array(texts, dtype=object), np.array(gold)
    hits = 0
    for fit, held_out in GroupKFold(n_splits=5, shuffle=True, random_state=0).split(x, y, groups):
        predicted = classifier().fit(x[fit], y[fit]).predict(x[held_out])
        hits += int((predicted == y[held_out]).sum())
    assert abs(hits / len(y) - 1 / len(labels)) <= margin
