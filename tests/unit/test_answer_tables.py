"""Answers as tables: what data frames write, `predict` reads; what it writes, they read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from cli_calls import call, refused, write_csv, write_jsonl
from saved_students import save_student

from stillshot.cli.answers import answer_sink
from stillshot.errors import DataError
from stillshot.student.saved import Student

TEXTS = ['He said "fine", 🎬', "שלום\nof two lines", "a third, dull film", "x\ty"]
COLUMNS = ["id", "text", "prediction", "probability_negative", "probability_positive"]


@pytest.fixture(autouse=True)
def student(lively: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Student:
    monkeypatch.chdir(tmp_path)
    return Student.load(save_student(Path("student"), lively("bert")))


def assert_answers(student: Student, rows: list[dict[str, Any]]) -> None:
    expected = student.predict(TEXTS)
    assert [row["text"] for row in rows] == TEXTS
    assert [row["prediction"] for row in rows] == [answer.label for answer in expected]
    for row, answer in zip(rows, expected, strict=True):
        for label, probability in answer.probabilities.items():
            assert float(row[f"probability_{label}"]) == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pandas_and_polars_frames_are_labelled(
    student: Student, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("stillshot.cli.predict.CHUNK_LINES", 3)
    frame = pd.DataFrame({"id": range(len(TEXTS)), "text": TEXTS})
    if suffix == "csv":
        frame.to_csv("in.csv", index=False)
    else:
        pl.from_pandas(frame).write_parquet("in.parquet")
    result = call("predict", "student", f"in.{suffix}", "-o", f"out.{suffix}")
    assert (result.exit_code, result.stdout) == (0, "")
    read: Any = {"csv": pd.read_csv, "parquet": pd.read_parquet}[suffix]
    labelled = read(f"out.{suffix}")
    assert list(labelled.columns) == COLUMNS
    assert labelled["id"].tolist() == [0, 1, 2, 3]
    assert_answers(student, labelled.to_dict("records"))
    read = {"csv": pl.read_csv, "parquet": pl.read_parquet}[suffix]
    assert_answers(student, read(f"out.{suffix}").to_dicts())


def test_tabs_lists_and_missing_columns(student: Student) -> None:
    rows: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    rows[0] |= {"tags": ["a", "b"], "seen": True}
    write_jsonl(Path("in.jsonl"), rows)
    call("predict", "student", "in.jsonl", "-o", "out.tsv")
    with Path("out.tsv").open(encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file, delimiter="\t"))
    assert_answers(student, answers)
    assert (answers[0]["tags"], answers[0]["seen"]) == ('["a", "b"]', "true")
    assert (answers[1]["tags"], answers[1]["seen"]) == ("", "")


def test_a_column_that_no_table_holds_is_named_and_nothing_is_left(student: Student) -> None:
    write_jsonl(Path("in.jsonl"), [{"text": "a", "id": 1}, {"text": "b", "id": "two"}])
    message = refused("predict", "student", "in.jsonl", "-o", "out.parquet")
    assert "out.parquet: the column 'id' cannot be one of a Parquet file" in message
    assert "Write to a .jsonl file instead." in message
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl", "student"]


def test_a_table_of_no_queries_is_empty(student: Student) -> None:
    write_csv(Path("in.csv"), [{"text": ""}])
    Path("in.csv").write_text("text\n")
    for name in ("out.csv", "out.parquet"):
        result = call("predict", "student", "in.csv", "-o", name)
        assert result.exit_code == 0
        assert "holds no queries" in result.stderr
        assert Path(name).is_file()


@pytest.mark.parametrize("name", ["answers.csv.gz", "answers.xlsx", "folder.jsonl"])
def test_what_cannot_be_written_is_refused_before_anything_is(name: str, tmp_path: Path) -> None:
    target = tmp_path / "out" / name
    (tmp_path / "out" / "folder.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match=r"not written as|is a folder"), answer_sink(target):
        pytest.fail("it was opened")
    assert [path.name for path in target.parent.iterdir()] == ["folder.jsonl"]
