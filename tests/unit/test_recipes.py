"""Recipes: every problem is named with its place and the nearest valid name; what is written is read back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stillshot import yaml_files
from stillshot.config import Data, Recipe
from stillshot.config_files import dump_recipe, load_recipe, validated
from stillshot.errors import RecipeError

RECIPE: dict[str, Any] = {"name": "r", "task": "sst2"}


def refused(**changes: Any) -> str:
    with pytest.raises(RecipeError) as raised:
        validated(Recipe, {**RECIPE, **changes}, "r.yaml")
    assert raised.value.exit_code == 2
    return str(raised.value)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"bugdets": []}, ["bugdets: unknown key. Did you mean 'budgets'?"]),
        ({"teacher": {"modell": "x"}}, ["teacher.modell: unknown key. Did you mean 'model'?"]),
        ({"students": [{}, {"tunning": "lora"}]}, ["students.1.tunning: unknown key. Did you mean 'tuning'?"]),
        ({"students": [{"distill": {"epoch": 3}}]}, ["students.0.distill.epoch: unknown key. Did you mean 'epochs'?"]),
        ({"students": [{"lora": {"r": 4}}]}, ["students.0.lora.r: unknown key", "rank"]),
        ({"data": {"num_unlabelled": "many"}}, ["data.num_unlabelled: ", "integer", "'many'"]),
        ({"data": {"num_unlabelled": 0}}, ["data.num_unlabelled: ", "greater than or equal to 1"]),
        ({"teacher": {"scoring": "indirect"}}, ["teacher.scoring: ", "'direct', 'channel' or 'both'"]),
        ({"students": [{"tuning": "prefix"}]}, ["students.0.tuning: ", "'full', 'lora' or 'bitfit'"]),
        ({"students": []}, ["students: ", "at least 1"]),
        ({"students": {"model": "x"}}, ["students: ", "valid list", "Put `- ` before its first key"]),
        ({"methods": "zero_shot"}, ["methods: ", "valid list", "Put it between brackets: [zero_shot]."]),
        ({"seeds": 3}, ["seeds: must be a list: [3] for the one seed 3, [0, 1, 2] for 3 seeds"]),
        ({"seeds": 0}, ["seeds: must be a list: [0] for the one seed 0 (got '0')."]),
        ({"seeds": [0, 1, 0]}, ["seeds: given twice: 0"]),
        ({"seeds": [0, -1]}, ["seeds.1: Input should be greater than or equal to 0"]),
        ({"budgets": [{"labelled": 4, "num_shots": 8}]}, ["num_shots 8 is more than the 4 labelled examples"]),
        ({"data": {"in_domain": {"a": "x"}, "out_of_domain": {"a": "y"}}}, ["evaluation sets named twice: ['a']"]),
        ({"data": {"in_domain": {"a": "x"}, "max_evaluation": {"b": 2}}}, ["max_evaluation names 'b'", "no evaluation set"]),
        ({"name": None}, ["name: "]),
        ({"teacher": "bundled:smollm2-135m"}, ["teacher: "]),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(changes: dict[str, Any], messages: list[str]) -> None:
    found = refused(**changes)
    assert found.startswith("r.yaml is not a valid Recipe:")
    for message in messages:
        assert message in found


def test_all_problems_are_in_one_message() -> None:
    found = refused(teacher={"modell": "x", "dtype": "int4"}, seeds="all")
    for key in ("teacher.modell", "teacher.dtype", "seeds"):
        assert f"\n  {key}: " in found


def test_a_missing_key_is_required() -> None:
    with pytest.raises(RecipeError, match="task: this key is required"):
        validated(Recipe, {"name": "r"}, "r.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold a mapping"),
        (b"- one\n- two\n", "must hold a mapping of keys to values, not list"),
        (b"name: [\n", "is not valid YAML"),
        (b"name: \xff\n", "cannot be read as UTF-8"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"There is no file .*r\.yaml\. Check the path"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    recipe = validated(Recipe, {**RECIPE, "description": "🙂 {x}: no", "seeds": [3, 0]}, "r.yaml")
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml") == recipe
    assert yaml.safe_load(dump_recipe(recipe))["teacher"]["model"] == recipe.teacher.model  # every default


# What YAML makes of a text --------------------------------------------------------------------------

TASK_TEXT = """\
name: r
task:
  name: t
  labels: [{labels}]
  fields: [text]
  patterns: {{p: {{pattern: "{{text}}", label_words: {{{words}}}}}}}
"""


def refused_text(tmp_path: Path, text: str) -> str:
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as raised:
        load_recipe(tmp_path / "r.yaml")
    return str(raised.value)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("yes", "true or false"), ("No", "true or false"), ("on", "true or false"), ("1", "a number"), ("0x10", "a number"),
        ("1_000", "a number"), ("1.50", "a number"), ("12:30", "a number"), ("2024-01-31", "a date"),
    ],
)  # fmt: skip
def test_a_label_that_is_no_text_to_yaml_is_quoted_as_it_is_written(
    tmp_path: Path, written: str, kind: str
) -> None:
    text = TASK_TEXT.format(labels=f"{written}, other", words=f"{written}: a, other: {written}")
    found = refused_text(tmp_path, text)
    advice = f'is {kind} to YAML, where a text is needed. Put it in quotes: "{written}".'
    assert f"task.labels.0: {written} in line 4 {advice}" in found
    assert f"task.patterns.p.label_words: the key {written} in line 6 {advice}" in found
    assert f"label_words.other: {written} in line 6 {advice}" in found


def test_quoted_labels_are_read_as_they_are(tmp_path: Path) -> None:
    text = TASK_TEXT.format(labels='"yes", "1"', words='"yes": a, "1": b')
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    task = load_recipe(tmp_path / "r.yaml").task
    assert not isinstance(task, str)
    assert task.labels == ["yes", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntask: sst2\nname: b\n", "the key 'name' stands twice, in line 1 and in line 3"),
        ("name: a\ntask: sst2\ndata: {labelled: x, labelled: y}\n", "the key 'labelled' stands twice"),
        ("name: a\ntask: sst2\n? [a, b]\n: c\n", "line 3: a key is a list or a mapping"),
        ("name: a\ntask: " + "[" * 60 + "]" * 60 + "\n", "nested more than 50 levels"),
        ("name: a\ntask: " + "[" * 5000 + "]" * 5000 + "\n", "nested more than 50 levels"),
        ("name: a\ntask: &t [*t]\n", "r.yaml"),
        ("name: 2024-13-45\ntask: sst2\n", "r.yaml"),
        ("name: !!python/object:os.system x\ntask: sst2\n", "is not valid YAML"),
        (f"name: {'a' * 5_000_000}\ntask: sst2\n", "has more than 4 MiB"),
    ],
    ids=lambda value: value[:24],
)
def test_yaml_that_repeats_itself_or_never_ends(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused_text(tmp_path, text)


def test_references_are_counted_as_often_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_files, "MOST_VALUES", 30)
    lines = "name: a\ntask: sst2\na: &a [x, x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b]\n"
    assert "has more than 30 values" in refused_text(tmp_path, lines)


def test_an_override_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: a\ntask: sst2\n")
    with pytest.raises(RecipeError, match="stands twice"):
        load_recipe(tmp_path / "r.yaml", ("data={labelled: a, labelled: b}",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/b"], "names a file and cannot be 'a/b'"),
        (["a\nb"], "must be printable"),
        (["\x1b[2J"], "must be printable"),
        (["x" * 151], "of at most 150 bytes"),
        (["é" * 76], "of at most 150 bytes"),
        (["test", "Test"], "must differ in more than case"),
    ],
)
def test_names_that_files_cannot_have_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Data(in_domain=dict.fromkeys(names, "test"))


def test_names_of_any_script_are_fine() -> None:
    assert Data(in_domain={"été 1": "test", "测试": "dev"}).in_domain == {"été 1": "test", "测试": "dev"}
