"""The names that other people's code imports, and `distill`, which most of it will call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from doubles import SENTIMENT

import stillshot
from stillshot.config import Lora, Student, Training
from stillshot.errors import DataError, ModelError

LABELLED = [
    {"text": "a warm and witty film", "label": "positive"},
    {"text": "dull from start to finish", "label": "negative"},
    {"text": "I laughed all evening", "label": "positive"},
    {"text": "two hours I will not get back", "label": "negative"},
]
QUERIES = [f"the {what} was {how}" for what in ("plot", "cast", "score") for how in ("fine", "thin", "loud")]


def test_every_public_name_can_be_imported() -> None:
    for name in stillshot.__all__:
        assert getattr(stillshot, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        stillshot.destill  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import stillshot, sys; print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _student(tmp_path: Path, **settings: object) -> stillshot.Student:
    section = Student.model_validate(
        {"model": "random:tiny-bert", "distill": Training(epochs=2), "dtype": "float32", **settings}
    )
    return stillshot.distill(
        LABELLED,
        QUERIES,
        task=SENTIMENT,
        teacher="random:tiny-llama",
        student=section,
        num_contexts=2,
        output_dir=tmp_path / "out",
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "random:tiny-opt", "tuning": "bitfit"},
        {"model": "random:tiny-qwen2", "tuning": "lora", "head": "channel", "lora": Lora(layers=1)},
    ],
    ids=["encoder", "bitfit", "channel-lora"],
)
def test_distill_gives_a_student_that_is_saved(tmp_path: Path, settings: dict[str, object]) -> None:
    student = _student(tmp_path, **settings)
    again = stillshot.Student.load(tmp_path / "out" / "student")
    answers = student.predict(["a fine film"])
    assert answers == again.predict([{"text": "a fine film"}])
    assert set(answers[0].probabilities) == set(SENTIMENT.labels)
    assert sum(answers[0].probabilities.values()) == pytest.approx(1)


def test_a_second_student_asks_the_teacher_nothing_new(tmp_path: Path) -> None:
    _student(tmp_path)
    shards = set((tmp_path / "out" / "softlabels").iterdir())
    _student(tmp_path, model="random:tiny-opt")
    assert set((tmp_path / "out" / "softlabels").iterdir()) == shards


@pytest.mark.parametrize(
    ("labelled", "queries", "message"),
    [
        ([{"text": "x", "label": "postive"}], QUERIES, "Did you mean 'positive'"),
        ([{"text": "x", "label": "positive"}], QUERIES, "Every label needs an example: negative, positive"),
        (LABELLED, [], "There are no queries"),
        (LABELLED, "a film", r"given as a list.*\[text\], not text"),
        (LABELLED, [3], "not int"),
        ([("a", "positive")], QUERIES, "Labelled example 1 is a tuple"),
        (LABELLED, [{"review": "x"}], "lacks the field 'text'"),
    ],
)
def test_distill_says_what_is_wrong(
    tmp_path: Path, labelled: list[dict[str, str]], queries: list[object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        stillshot.distill(labelled, queries, task=SENTIMENT, teacher="random:tiny-llama", output_dir=tmp_path)  # type: ignore[arg-type]


def test_distill_says_which_number_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"num_contexts=.*greater than or equal to 1"):
        stillshot.distill(LABELLED, QUERIES, task=SENTIMENT, num_contexts=0, output_dir=tmp_path)


def test_more_adapted_layers_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model has 2 layers"):
        _student(tmp_path, model="random:tiny-qwen2", tuning="lora", lora=Lora(layers=3))


def test_adapters_are_in_the_last_layers_alone(tmp_path: Path) -> None:
    student = _student(tmp_path, model="random:tiny-qwen2", tuning="lora", lora=Lora(layers=1))
    adapted = {name.split("layers.")[1][0] for name, _ in student.model.named_parameters() if "lora_" in name}
    assert adapted == {"1"}
