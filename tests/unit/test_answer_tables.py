"""Answers as tables: what data frames write, `predict` reads; what it writes, they read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.mark.parametrize("given", ["in.csv", "in.parquet"])
def test_a_table_of_no_queries_has_all_columns(student: Student, given: str) -> None:
    frame = pl.DataFrame(schema={"id": pl.Int64, "text": pl.String})
    (frame.write_csv if given == "in.csv" else frame.write_parquet)(given)
    for name, read in (("out.csv", pl.read_csv), ("out.parquet", pl.read_parquet)):
        result = call("predict", "student", given, "-o", name)
        assert result.exit_code == 0, result.output
        assert "holds no queries" in result.stderr
        assert read(name).columns == COLUMNS
        assert not len(read(name))
    assert pl.read_parquet("out.parquet").schema["probability_negative"] == pl.Float64
    Path("own.csv").write_text("text,prediction\n")
    call("predict", "student", "own.csv", "-o", "own.tsv")
    assert Path("own.tsv").read_text().split()[:3] == ["text", "prediction", "prediction_2"]
    Path("none.jsonl").touch()
    call("predict", "student", "none.jsonl", "-o", "none.csv")
    assert Path("none.csv").read_text().strip() == ",".join(COLUMNS[2:])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", "id,words\n1,a film\n", "in.csv:2 has no column 'text'"),
        ("in.csv", 'text\n"a film\n', "in.csv:2 is malformed"),
        ("in.csv", "text,text\n", "in.csv:1 names a column twice"),
        ("in.jsonl", "{not\n", "in.jsonl:1 is not valid JSON"),
        ("in.jsonl", "[1]\n", "in.jsonl:1 is a JSON list"),
    ],
)
def test_a_wrong_file_is_told_before_the_student_is_loaded(
    name: str, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillshot.deploy.predictor.load_predictor", lambda *_: pytest.fail("it was loaded"))
    Path(name).write_text(content)
    assert message in refused("predict", "student", name, "-o", "out.csv")


@pytest.mark.parametrize("name", ["answers.csv.gz", "answers.xlsx", "folder.jsonl"])
def test_what_cannot_be_written_is_refused_before_anything_is(name: str, tmp_path: Path) -> None:
    target = tmp_path / "out" / name
    (tmp_path / "out" / "folder.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match=r"not written as|is a folder"), answer_sink(target):
        pytest.fail("it was opened")
    assert [path.name for path in target.parent.iterdir()] == ["folder.jsonl"]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_files_are_overwritten_only_where_that_is_asked_for(student: Student, name: str) -> None:
    write_csv(Path("in.csv"), [{"text": text} for text in TEXTS])
    Path(name).write_text("mine")
    message = refused("predict", "student", "in.csv", "-o", name)
    assert f"{name} would be overwritten; nothing was changed." in message
    assert "--overwrite" in message
    assert Path(name).read_text() == "mine"
    assert call("predict", "student", "in.csv", "-o", name, "--overwrite").exit_code == 0
    assert "a third, dull film" in Path(name).read_text(encoding="utf-8")
    Path("link.csv").symlink_to("in.csv")
    before = Path("in.csv").read_bytes()
    for target in ("in.csv", "link.csv"):
        message = refused("predict", "student", "in.csv", "-o", target, "--overwrite")
        assert f"{target} is the file with the queries; nothing was changed." in message
    assert Path("in.csv").read_bytes() == before


# Columns as they were ----------------------------------------------------------------------------


def odd_table() -> pa.Table:
    """Columns that Python's types hold in part, or not at all."""
    names = ["a", "b"]
    columns = {
        "text": pa.array(["a film", "another"], pa.large_string()),
        "key": pa.array([2**64 - 1, 1], pa.uint64()),
        "at": pa.array([1_700_000_000_000_000_001, None], pa.timestamp("ns", "Europe/Berlin")),
        "day": pa.array([10**9, -(10**6)], pa.int32()).cast(pa.date32()),
        "share": pa.array([0.1, float("nan")], pa.float32()),
        "price": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
        "took": pa.array([1, 10**18], pa.int64()).cast(pa.duration("us")),
        "hash": pa.array([b"\xff\x00", None]),
        "kind": pa.array(names).dictionary_encode(),
        "nested": pa.array([{"at": 10**9}, None], pa.struct([("at", pa.int32())])).cast(
            pa.struct([("at", pa.date32())])
        ),
        "pairs": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
        "prediction": pa.array(names),
    }
    return pa.table(columns).replace_schema_metadata({"owner": "me"})


def test_parquet_comes_back_as_it_was(student: Student) -> None:
    pq.write_table(odd_table(), "in.parquet")
    before = pq.read_table("in.parquet")
    result = call("predict", "student", "in.parquet", "-o", "out.parquet")
    assert result.exit_code == 0, result.output
    assert "a column 'prediction' of their own, so the answers are in 'prediction_2'" in result.stderr
    after = pq.read_table("out.parquet")
    assert after.select(before.column_names).schema.equals(before.schema, check_metadata=True)
    assert repr(after.select(before.column_names)) == repr(before)  # in which NaN is like NaN
    assert after.column_names[len(before.column_names) :] == ["prediction_2", *COLUMNS[3:]]


def test_any_column_of_parquet_is_sensible_json(student: Student) -> None:
    pq.write_table(odd_table(), "in.parquet")
    result = call("predict", "student", "in.parquet")
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines())
    assert (first["key"], first["share"], first["price"]) == (2**64 - 1, 0.1, "1.00")
    assert first["at"] == "2023-11-14T23:13:20.000000001+0100"
    assert (first["day"], second["day"]) == ("1000000000 d since 1970", "-0768-02-04")
    assert (first["took"], second["took"]) == ("PT0.000001S", "PT1000000000000S")
    assert (first["hash"], second["hash"], second["share"], second["at"]) == ("/wA=", None, None, None)
    assert (first["nested"], first["pairs"], second["pairs"]) == (
        {"at": "1000000000 d since 1970"},
        {"k": 1},
        None,
    )
    assert (first["kind"], first["prediction"]) == ("a", "a")
    assert "are written as null in 1 row." in result.stderr
    call("predict", "student", "in.parquet", "-o", "out.csv")
    assert len(pd.read_csv("out.csv")) == 2


def test_lines_come_back_as_they_are_written(student: Student) -> None:
    line = '{"text":"a film",  "n": 1.10, "big": 12345678901234567890123, "e": 1e400, "u": "\\u00e9\\ud83d"}'
    Path("in.jsonl").write_text(line + "\n")
    assert call("predict", "student", "in.jsonl").stdout.startswith(line[:-1] + ', "prediction": ')
    Path("in.jsonl").write_text('{"text": "a film", "x": NaN, "y": [-Infinity, 1]}\n')
    result = call("predict", "student", "in.jsonl")
    answer = json.loads(result.stdout, parse_constant=pytest.fail)
    assert (answer["x"], answer["y"]) == (None, [None, 1])
    assert "NaN and Infinity, which JSON does not have, are written as null in 1 row." in result.stderr


def test_own_columns_are_never_written_over(student: Student) -> None:
    row = {"text": "a film", "prediction": "mine", "prediction_2": 2, "probabilities": {"a": 1}}
    write_jsonl(Path("in.jsonl"), [row])
    answer = json.loads(call("predict", "student", "in.jsonl").stdout)
    assert {name: answer[name] for name in row} == row
    assert answer["prediction_3"] in ("negative", "positive")
    assert set(answer["probabilities_2"]) == {"negative", "positive"}
    write_csv(Path("in.csv"), [{"text": "a film", "probability_negative": "mine"}])
    call("predict", "student", "in.csv", "-o", "out.csv")
    (row,) = csv.DictReader(Path("out.csv").read_text(encoding="utf-8").splitlines())
    assert row["probability_negative"] == "mine"
    assert float(row["probability_negative_2"]) + float(row["probability_positive"]) == pytest.approx(
        1, abs=1e-5
    )
    write_jsonl(Path("late.jsonl"), [{"text": "a"}] * 300 + [{"text": "b", "prediction": "mine"}])
    message = refused("predict", "student", "late.jsonl", "-o", "out.jsonl")
    assert "late.jsonl:301 has a column 'prediction' of its own" in message


def test_nested_values_that_parquet_has_no_type_for_are_json_text(student: Student) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "meta": {}, "d": {"a": 1}, "n": 2**64 - 1},
        {"text": "b", "d": {"b": [1]}, "n": 0},
    ]
    write_jsonl(Path("in.jsonl"), rows)
    result = call("predict", "student", "in.jsonl", "-o", "out.parquet")
    assert result.exit_code == 0, result.output
    assert "the column 'd' is written as JSON text, since Parquet has no type for it" in result.stderr
    table = pq.read_table("out.parquet")
    assert table["d"].to_pylist() == ['{"a": 1}', '{"b": [1]}']
    assert table["meta"].to_pylist() == ["{}", None]
    assert table["n"].to_pylist() == [2**64 - 1, 0]
    write_jsonl(Path("in.jsonl"), [{"text": "a", "n": 2**64}])
    assert "whole numbers of more than 64 bits" in refused(
        "predict", "student", "in.jsonl", "-o", "out.parquet", "--overwrite"
    )


@pytest.mark.parametrize("gap", [None, float("nan"), " "])
def test_a_missing_text_is_not_answered(student: Student, gap: Any) -> None:
    write_jsonl(Path("in.jsonl"), [{"text": "a film"}, {"text": gap}])
    assert "in.jsonl:2 has no text in 'text'" in refused("predict", "student", "in.jsonl", "-o", "out.jsonl")
    pl.DataFrame({"text": ["a film", None]}).write_parquet("in.parquet")
    assert "in.parquet:2 has no text in 'text'" in refused("predict", "student", "in.parquet")


def test_texts_that_are_a_printed_gap_are_answered_and_told(student: Student) -> None:
    write_jsonl(Path("one.jsonl"), [{"text": "a film"}, {"text": "NaN"}])
    result = call("predict", "student", "one.jsonl")
    assert len(result.stdout.splitlines()) == 2
    said = "is the word nan, as other tools print a missing text (one.jsonl:2). Each was answered as a text."
    assert f"note: 1 text {said}\n" in result.stderr
    write_jsonl(Path("two.jsonl"), [{"text": "nan"}, {"text": "NaN"}])
    assert "note: 2 texts are the word nan" in call("predict", "student", "two.jsonl").stderr


def test_columns_that_are_no_text_are_refused_as_texts(student: Student) -> None:
    for values, what in (
        (pa.array([1, 2], pa.date32()), "a value of time"),
        (pa.array([b"\xff", b"a"]), "a value of bytes"),
        (pa.array([["a"], ["b"]]), "a list"),
    ):
        pq.write_table(pa.table({"text": values}), "in.parquet")
        assert f"in.parquet:1 has {what} in 'text', which must be text." in refused(
            "predict", "student", "in.parquet"
        )
    pq.write_table(
        pa.table({"text": pa.array([b"a film", "né".encode()])}), "in.parquet"
    )  # as older programs write texts
    answers = [json.loads(line) for line in call("predict", "student", "in.parquet").stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["a film", "né"]


def test_times_in_the_old_form_of_spark_keep_their_years(student: Student) -> None:
    year_9999 = pa.array([253_402_214_400], pa.timestamp("s"))
    table = pa.table({"text": ["a film"], "until": year_9999, "days": pa.array([[1.5, None]])})
    pq.write_table(table, "in.parquet", use_deprecated_int96_timestamps=True)
    answer = json.loads(call("predict", "student", "in.parquet").stdout)
    assert (answer["until"], answer["days"]) == ("9999-12-31T00:00:00.000000", [1.5, None])
    call("predict", "student", "in.parquet", "-o", "out.parquet")
    assert pq.read_table("out.parquet")["until"].cast(pa.timestamp("s")).to_pylist() == year_9999.to_pylist()
