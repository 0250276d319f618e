"""Labels as files have them: lists, numbers, gaps, class names. What is meant is read and said; what is no class is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from cli_calls import TINY, call, refused, write_csv, write_jsonl
from datasets import ClassLabel, Dataset, Features, Value

from stillshot.config import Source
from stillshot.config_files import load_recipe
from stillshot.data.files import read_file
from stillshot.data.frames import rows_in
from stillshot.data.values import LabelReader, is_missing, label_value
from stillshot.errors import DataError
from stillshot.methods.distilling import _labelled_examples, distill
from stillshot.sklearn import ContextDistillationClassifier, _label_name
from stillshot.tasks import load_task, new_task

KINDS = ["billing", "other", "technical"]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(label: Any, count: int = 60, name: str = "label") -> list[dict[str, Any]]:
    return [{"text": f"ticket {i} about {KINDS[i % 3]} things", name: label(i)} for i in range(count)]


def labels_of(recipe: str) -> list[str]:
    return load_task(load_recipe(recipe).task).labels


def written(recipe: str) -> list[str]:
    """The labels of the files that ``init`` wrote beside a recipe, as their task reads them."""
    task = load_task(load_recipe(recipe).task)
    files = Path(recipe).parent.glob("*.jsonl")
    return [str(e.label) for file in files for e in read_file(file, task, source=task.sources.local)]


# Lists, one-hot, objects -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label", "accept"])
def test_lists_of_one_label_are_that_label(name: str) -> None:
    write_jsonl(Path("doccano.jsonl"), rows(lambda i: [KINDS[i % 3]], name=name))
    result = call("init", "doccano.jsonl", *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    assert "60 labels are lists of one label, which is read as the label." in result.stderr
    assert labels_of("out/recipe.yaml") == KINDS
    assert sorted(set(written("out/recipe.yaml"))) == KINDS


def test_lists_that_a_csv_has_printed_are_lists() -> None:
    write_csv(Path("one.csv"), rows(lambda i: f"['{KINDS[i % 3]}']"))
    assert call("init", "one.csv", *TINY).exit_code == 0
    assert labels_of("recipe.yaml") == KINDS
    write_csv(Path("two.csv"), rows(lambda i: f'["{KINDS[i % 3]}", "urgent"]'))
    assert "two.csv:2 has a list of 2 values: ['billing', 'urgent']" in refused(
        "init", "two.csv", "-o", "b.yaml"
    )


@pytest.mark.parametrize(
    ("label", "found"),
    [
        (
            lambda i: ["urgent", KINDS[i % 3]] if i % 4 == 0 else [KINDS[i % 3]],
            "15 of 60 rows have something else in",
        ),
        (
            lambda i: [int(i % 3 == k) for k in range(3)],
            "a list of 3 numbers, one label in one-hot form: [1, 0, 0]",
        ),
        (lambda i: {"value": KINDS[i % 3], "user": 1}, "an object with the keys value, user"),
        (lambda i: [{"value": KINDS[i % 3], "user": 1}], "a list of an object"),
    ],
)
def test_what_is_no_single_label_is_refused_in_one_message(label: Any, found: str) -> None:
    write_jsonl(Path("a.jsonl"), rows(label))
    message = refused("init", "a.jsonl", *TINY)
    assert found in message
    assert "Every row needs exactly one label" in message
    assert message.count("\n") == 1
    task = new_task("t", ["text"], KINDS)
    with pytest.raises(DataError, match=r"in the label column 'label'\. Every row needs exactly one label"):
        read_file("a.jsonl", task)


def test_labels_joined_in_one_value_are_refused() -> None:
    write_csv(Path("a.csv"), rows(lambda i: "billing|other" if i % 5 == 0 else KINDS[i % 3]))
    message = refused("init", "a.csv", *TINY)
    assert (
        "several labels in one value of the column 'label': 'billing|other' (a.csv:2, a.csv:7, a.csv:12 and 9 more)"
        in message
    )
    assert call("init", "a.csv", *TINY, "--label-name", "billing|other=both").exit_code == 0
    assert labels_of("recipe.yaml") == ["billing", "both", "other", "technical"]


def test_one_hot_columns_are_refused_as_one_label() -> None:
    table = [
        {"text": row["text"], **{kind: int(row["label"] == kind) for kind in KINDS}}
        for row in rows(lambda i: KINDS[i % 3])
    ]
    write_csv(Path("a.csv"), table)
    assert "of the columns billing, other, technical exactly one is 1 in every row" in refused(
        "init", "a.csv"
    )
    for row in table:  # several may be set: no one label
        row["other"] = 1
    write_csv(Path("b.csv"), table)
    assert "several columns that could be the label" in refused("init", "b.csv")


# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spellings", "labels"),
    [
        (["0", "1.0", "2", "0.0", "1", "2.0"], ["0", "1", "2"]),
        (["0.0", "1.0", "2.0"], ["0", "1", "2"]),
        (["0", "1,0", "2,50"], ["0", "1", "2.5"]),
    ],
)
def test_numbers_written_in_several_ways_are_one_label_each(spellings: list[str], labels: list[str]) -> None:
    write_csv(Path("a.csv"), rows(lambda i: spellings[i % len(spellings)]))
    result = call("init", "a.csv", *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    assert "Labels that are numbers are read in their shortest form: " in result.stderr
    assert labels_of("out/recipe.yaml") == labels
    assert sorted(set(written("out/recipe.yaml"))) == labels
    assert len(written("out/recipe.yaml")) == 60
    named = call("init", "a.csv", *TINY, "--label-name", "1=one", "-o", "named/recipe.yaml")
    assert named.exit_code == 0, named.output
    assert "one" in labels_of("named/recipe.yaml")
    assert call("check", "out/recipe.yaml").exit_code == 0


def test_labels_that_all_have_a_comma_stay_texts() -> None:
    spellings = ["0,1", "1,0"]
    write_csv(Path("a.csv"), rows(lambda i: spellings[i % 2]))
    result = call("init", "a.csv", *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    assert (
        "Labels with a comma are read as texts, since none is a number without one: 0,1; 1,0."
        in result.stderr
    )
    assert "--label-name 0,1=0.1" in result.stderr
    assert labels_of("out/recipe.yaml") == spellings
    assert sorted(set(written("out/recipe.yaml"))) == spellings
    named = call(
        "init", "a.csv", *TINY, "--label-name", "1,0=1", "--label-name", "0,1=0", "-o", "b/recipe.yaml"
    )
    assert named.exit_code == 0, named.output
    assert "Labels with a comma" not in named.stderr
    assert sorted(set(written("b/recipe.yaml"))) == ["0", "1"]


def test_a_text_that_is_a_label_of_the_task_is_not_parsed() -> None:
    task = new_task("t", ["text"], ["[1]", "1", "1,0"])
    write_jsonl(Path("a.jsonl"), rows(lambda i: ["[1]", "1", "1,0"][i % 3], 3))
    notes: list[str] = []
    assert [e.label for e in read_file("a.jsonl", task, notes=notes)] == ["[1]", "1", "1,0"]
    assert not notes
    write_csv(Path("b.csv"), rows(lambda i: ["[1]", "[2]"][i % 2]))
    named = ("--label-name", "[1]=one", "--label-name", "[2]=two")
    result = call("init", "b.csv", *TINY, *named, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    assert sorted(set(written("out/recipe.yaml"))) == ["one", "two"]


def test_distill_takes_labels_in_brackets_as_they_are() -> None:
    labelled = [{"text": f"text {i}", "label": ["[1]", "[2]"][i % 2]} for i in range(4)]
    task = new_task("t", ["text"], ["[1]", "[2]"])
    assert [e.label for e in _labelled_examples(labelled, task)] == ["[1]", "[2]"] * 2
    reader = LabelReader(task, Source(splits={}))
    assert [_label_name(np.str_(label), reader) for label in ("[1]", "[2]")] == ["[1]", "[2]"]


def test_numbers_with_zeros_in_front_are_not_guessed_to_be_others() -> None:
    write_csv(Path("a.csv"), rows(lambda i: ("1", "01", "2")[i % 3]))
    assert "differ only in how a number or character is written: '1' at a.csv:2" in refused(
        "init", "a.csv", *TINY
    )
    large = [10**30 + i for i in range(3)]
    write_jsonl(Path("large.jsonl"), rows(lambda i: large[i % 3]))
    assert call("init", "large.jsonl", *TINY).exit_code == 0
    assert labels_of("recipe.yaml") == list(map(str, large))


def test_a_test_file_may_write_the_numbers_in_another_way() -> None:
    write_jsonl(Path("a.jsonl"), rows(lambda i: i % 3))
    write_csv(Path("test.csv"), [{"text": f"another {i}", "label": f"{i % 3}.0"} for i in range(30)])
    result = call("init", "a.jsonl", *TINY, "--test", "test.csv")
    assert result.exit_code == 0, result.output
    assert (
        "test.csv: labels that are numbers written in another way are read as those: '0.0' as '0'"
        in result.stderr
    )
    checked = call("check", "recipe.yaml")
    assert checked.exit_code == 0
    assert "warning: data: test.csv: labels that are numbers" in checked.stderr


# Gaps --------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize("gap", [NAN, None, "nan", "<NA>", "", " "])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_gap_is_no_label(gap: Any, suffix: str) -> None:
    table = rows(lambda i: gap if i % 10 == 0 else KINDS[i % 3])
    path = Path(f"a.{suffix}")
    if suffix == "parquet":
        pl.DataFrame(
            [{**row, "label": None if row["label"] != row["label"] else row["label"]} for row in table]
        ).write_parquet(path)
    else:
        (write_csv if suffix == "csv" else write_jsonl)(path, table)
    result = call("init", str(path), *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    assert f"{path}: 6 of 60 rows are left out. 6 have no label in 'label' ({path}:" in result.stderr
    assert labels_of("out/recipe.yaml") == KINDS
    assert len(written("out/recipe.yaml")) == 54
    assert "6 rows have no label in 'label'" in refused(
        "init", str(path), *TINY, "--strict", "-o", "b/r.yaml"
    )


def test_floats_with_nan_in_parquet_are_whole_numbers_with_gaps() -> None:
    pl.DataFrame(rows(lambda i: float(i % 3) if i % 7 else NAN)).write_parquet("a.parquet")
    assert call("init", "a.parquet", *TINY).exit_code == 0
    assert labels_of("recipe.yaml") == ["0", "1", "2"]


@pytest.mark.parametrize("gap", [NAN, None, "", " \n"])
def test_one_missing_text_does_not_stop_init_or_check(gap: Any) -> None:
    table = rows(lambda i: KINDS[i % 3], 100)
    table[17]["text"] = gap
    write_jsonl(Path("a.jsonl"), table)
    write_jsonl(Path("plain.jsonl"), [{"text": gap if i == 5 else f"plain {i}"} for i in range(40)])
    write_jsonl(
        Path("test.jsonl"),
        [{"text": gap if i == 3 else f"tested {i}", "label": KINDS[i % 3]} for i in range(40)],
    )
    more = ("--unlabelled", "plain.jsonl", "--test", "test.jsonl")
    result = call("init", "a.jsonl", *TINY, *more)
    assert result.exit_code == 0, result.output
    for name, line, count in (("a.jsonl", 18, 100), ("plain.jsonl", 6, 40), ("test.jsonl", 4, 40)):
        note = f"{name}: 1 of {count} rows is left out. 1 has no text in 'text' ({name}:{line})."
        assert note in result.stderr
        assert f"warning: data: {note}" in call("check", "recipe.yaml").stderr
    assert "a.jsonl:18 has no text in 'text'" in refused(
        "init", "a.jsonl", *TINY, *more, "--strict", "-o", "s.yaml"
    )
    write_jsonl(Path("a.jsonl"), [row for row in table if row["text"] != gap and row["text"] == row["text"]])
    write_jsonl(Path("plain.jsonl"), [{"text": f"plain {i}"} for i in range(40)])
    write_jsonl(Path("test.jsonl"), [{"text": f"tested {i}", "label": KINDS[i % 3]} for i in range(40)])
    assert call("init", "a.jsonl", *TINY, *more, "--strict", "-o", "s.yaml").exit_code == 0
    write_jsonl(Path("plain.jsonl"), [{"text": gap if i == 5 else f"plain {i}"} for i in range(40)])
    assert "plain.jsonl:6 has no text in 'text'" in refused("check", "s.yaml")


def test_every_kind_of_missing_value_is_known() -> None:
    for value in (None, NAN, np.float32("nan"), pd.NA, pd.NaT, pd.Timestamp("NaT")):
        assert is_missing(value)
        assert label_value(value) is None
    for value in ("", 0, False, [], {}, np.array([1.0, NAN]), pd.Timestamp(0)):
        assert not is_missing(value)


# Class names -------------------------------------------------------------------------------------


def tickets(label: Any = lambda i: i % 3) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=KINDS)})
    return Dataset.from_list(rows(label), features=features)


def test_class_names_in_parquet_are_the_labels() -> None:
    tickets(lambda i: i % 3 if i else -1).to_parquet("a.parquet")
    result = call("init", "a.parquet", *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    assert "Texts from text; labels from label: billing, other, technical." in result.stdout
    assert "1 of 60 rows is left out. 1 has no label" in result.stderr  # -1 stands for none
    task = new_task("t", ["text"], KINDS)
    tickets().to_parquet("b.parquet")
    assert [e.label for e in read_file("b.parquet", task)] == [KINDS[i % 3] for i in range(60)]
    # Numbers that a source gives other names keep them.
    numbered = new_task("t", ["text"], ["a", "b", "c"])
    source = Source(splits={}, label_values={"0": "a", "1": "b", "2": "c"})
    assert [e.label for e in read_file("b.parquet", numbered, source=source)][:3] == ["a", "b", "c"]
    plain = new_task("t", ["text"], ["0", "1", "2"])
    assert [e.label for e in read_file("b.parquet", plain)][:3] == ["0", "1", "2"]


# Python ------------------------------------------------------------------------------------------


def test_rows_come_out_of_all_that_holds_tables() -> None:
    table = rows(lambda i: KINDS[i % 3], 6)
    assert (
        rows_in(pd.DataFrame(table))
        == rows_in(pl.DataFrame(table))
        == rows_in(pa.Table.from_pylist(table))
        == table
    )
    assert rows_in(tickets())[0]["label"] == "billing"
    assert rows_in(np.array(["a", "b"])) == ["a", "b"]
    frame = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(DataError, match="names a column twice: text"):
        rows_in(frame)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "b", NAN, "b"], "y has no label at position 2"),
        (pd.Series(["a", "b", None, "b"]), "y has no label at position 2"),
        (pd.Series([1, 2, None, 2], dtype="Int64"), "y has no label at position 2"),
        ([["a"], ["b"], ["a", "b"], ["b"]], "y must have one label a text"),
        (np.eye(4), "y must have one label a text"),
        (np.array(["a", 1, "b", 2], dtype=object), "y mixes labels of int and str"),
    ],
)
def test_a_classifier_refuses_what_is_no_label(y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ContextDistillationClassifier().fit(["one", "two", "three", "four"], y, queries=["five"])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (NAN, "Labelled example 1 has the label nan"),
        (["a", "b"], r"Labelled example 1 has a list of 2 values: \['a', 'b'\] as its label"),
        ({"value": "a"}, "Labelled example 1 has an object with the keys value"),
    ],
)
def test_distill_refuses_what_is_no_label(label: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        distill([{"text": "one", "label": label}], ["two"], task=new_task("t", ["text"], ["a", "b"]))


def test_distill_refuses_a_missing_text() -> None:
    labelled = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    with pytest.raises(DataError, match="A query has nothing in the field 'text'"):
        distill(labelled, [{"text": NAN}], task=new_task("t", ["text"], ["a", "b"]))


def test_the_labels_written_are_strict_json() -> None:
    write_jsonl(Path("a.jsonl"), rows(lambda i: KINDS[i % 3] if i else NAN))
    assert call("init", "a.jsonl", *TINY, "-o", "out/recipe.yaml").exit_code == 0
    for file in Path("out").glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert json.loads(line, parse_constant=pytest.fail)["label"] in KINDS
