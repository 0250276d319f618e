"""Tables of every dialect, type and gap: no verb ends in a traceback, and no row or column is lost or changed unsaid."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_calls import TINY, call
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from stillshot.config import Prompt
from stillshot.config import Student as StudentSection
from stillshot.student.saved import Student
from stillshot.tasks import new_task

Rows = list[dict[str, Any]]
MISSING = (None, float("nan"), "", " ")
# What separates, quotes and breaks lines, scripts without spaces and from the right, and what JSON escapes.
LETTERS = st.sampled_from(
    [*"ab \"',;\t|\\{}[]", "\n", "\r\n", "é", "語", "ไทย", "שלום", "🎬", "\u2028", "\ufeff", "nan"]
)
TEXTS = st.lists(LETTERS, min_size=1, max_size=12).map("".join).filter(lambda text: bool(text.strip()))
NAMES = [
    "id",
    "prediction",
    "probabilities",
    "probability_a",
    "label",
    "a column",
    "source",
    "x,y",
    'say "x"',
]


@pytest.fixture(scope="module", autouse=True)
def student() -> Iterator[Path]:
    """One student, loaded once."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        made = Student.create(
            StudentSection(model="random:tiny-bert"), new_task("t", ["text"], ["a", "b"]), Prompt()
        )
        made.save(folder)
        patch.setattr("stillshot.deploy.predictor.load_predictor", lambda _: made)
        yield Path(folder)


# Writing -----------------------------------------------------------------------------------------


def as_csv(rows: Rows, path: Path, draw: Callable[..., Any]) -> None:
    """By Python, pandas or Polars, in their dialects; missing values are empty."""
    separator = "\t" if path.suffix == ".tsv" else ","
    cells = [
        {name: "" if value is None or value != value else str(value) for name, value in row.items()}
        for row in rows
    ]
    writer = draw(st.sampled_from(["python", "pandas", "polars", "excel"]))
    if writer == "pandas":
        content = pd.DataFrame(cells, columns=list(rows[0])).to_csv(index=False, sep=separator)
    elif writer == "polars":
        content = pl.DataFrame(cells, schema=dict.fromkeys(rows[0], pl.String)).write_csv(separator=separator)
    else:
        out = io.StringIO(newline="")
        quoting: Any = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
        end = draw(st.sampled_from(["\n", "\r\n"]))
        table = csv.DictWriter(out, list(rows[0]), delimiter=separator, quoting=quoting, lineterminator=end)
        table.writeheader()
        table.writerows(cells)
        content = out.getvalue()
    if writer == "excel":
        path.write_bytes(codecs.BOM_UTF8 + f"sep={separator}\r\n{content}".encode())
    else:
        path.write_bytes(content.encode())


def as_unquoted(rows: Rows, path: Path, draw: Callable[..., Any]) -> None:
    """As GLUE has it: tabs, and quotation marks that are part of the texts."""
    lines = [
        "\t".join(rows[0]),
        *("\t".join("" if v is None else str(v) for v in row.values()) for row in rows),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")


def as_jsonl(rows: Rows, path: Path, draw: Callable[..., Any]) -> None:
    """By Python, which writes NaN, or by pandas, which writes null."""
    ascii_only, compact = draw(st.booleans()), draw(st.booleans())
    separators = (",", ":") if compact else None
    lines = [json.dumps(row, ensure_ascii=ascii_only, separators=separators) for row in rows]
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))


def as_parquet(rows: Rows, path: Path, draw: Callable[..., Any]) -> None:
    """By Arrow or Polars."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if draw(st.booleans()):
        pl.DataFrame(columns, strict=False).write_parquet(path)
    else:
        arrays = {name: pa.array(values, from_pandas=draw(st.booleans())) for name, values in columns.items()}
        pq.write_table(pa.table(arrays), path)


def write(rows: Rows, folder: Path, draw: Callable[..., Any], kinds: list[str]) -> Path:
    kind = draw(st.sampled_from(kinds))
    path = folder / ("in" + {"unquoted": ".tsv"}.get(kind, f".{kind}"))
    by = {"unquoted": as_unquoted, "jsonl": as_jsonl, "parquet": as_parquet}.get(kind, as_csv)
    by(rows, path, draw)
    if kind != "parquet" and draw(st.booleans()):
        zipped = path.with_name(path.name + ".gz")
        zipped.write_bytes(gzip.compress(path.read_bytes()))
        return zipped
    return path


def finished(*arguments: str) -> Any:
    """A command's result: it ends well, or with one message; :func:`call` raises what it did not expect."""
    result = call(*arguments)
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output
    if result.exit_code == 2:
        assert result.stderr.startswith("error: "), result.stderr
    return result


# init and check ----------------------------------------------------------------------------------

WORDS = ["spam", "ham", "eggs, fried"]
LABELS: dict[str, list[Any]] = {
    "words": [WORDS[0], WORDS[1], WORDS[2]],
    "numbers": [0, 1, 2],
    "floats": [0.0, 1.0, 2.5],
    "truths": [True, False, True],
    "two spellings": ["1", "1.0", "2,0"],
    "lists of one": [["spam"], ["ham"], ["spam"]],
    "lists": [["spam"], ["ham"], ["spam", "ham"]],
    "one-hot": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "objects": [{"value": "spam"}, {"value": "ham"}, {"value": "spam"}],
    "mixed": ["spam", 1, 2],
}
NO_CLASSES = {"lists", "one-hot", "objects"}


@st.composite
def labelled_rows(draw: Callable[..., Any]) -> tuple[str, Rows]:
    """12 to 30 rows with different texts, some gaps, and labels of one kind of which some are rare or absent."""
    kind = draw(st.sampled_from(sorted(LABELS)))
    texts = draw(st.lists(TEXTS, min_size=12, max_size=30, unique_by=str.strip))
    share = draw(st.sampled_from([2, 3, 9]))  # of 9 rows, one has another label than the first
    labels = [LABELS[kind][(i % 9 == 0) if share == 9 else i % share] for i in range(len(texts))]
    rows: Rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    for row in rows:
        if draw(st.integers(0, 19)) == 19:
            row[draw(st.sampled_from(["text", "label"]))] = None
    if draw(st.booleans()):
        rows = [{"id": i, **row} for i, row in enumerate(rows)]
    return kind, rows


@settings(max_examples=90)
@given(data=st.data(), table=labelled_rows())
def test_init_and_check_lose_no_row_unsaid(data: st.DataObject, table: tuple[str, Rows]) -> None:
    kind, rows = table
    plain = not any(re.search(r"[\t\r\n\x85\u2028]", row["text"] or "") for row in rows)
    kinds = [
        "csv",
        "tsv",
        "jsonl",
        *(["parquet"] if kind != "mixed" else []),
        *(["unquoted"] if plain else []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = write(rows, Path(folder), data.draw, kinds)
        recipe = Path(folder) / "out" / "recipe.yaml"
        result = finished("init", str(path), "--text", "text", "--label", "label", *TINY, "-o", str(recipe))
        if kind in NO_CLASSES and any(LABELS[kind][2] == row["label"] for row in rows):
            assert result.exit_code == 2, result.output
        counts = Counter(str(row["label"]) for row in rows if row["text"] and row["label"] is not None)
        if kind == "words" and path.suffix == ".jsonl" and len(counts) > 1 and min(counts.values()) >= 4:
            assert result.exit_code == 0, result.output
        if result.exit_code == 2:
            assert not recipe.exists()
            return
        kept = [row for row in rows if row["text"] is not None and row["label"] is not None]
        parts = [
            json.loads(line) for file in recipe.parent.glob("*.jsonl") for line in file.open(encoding="utf-8")
        ]
        assert Counter(part["text"] for part in parts) == Counter(row["text"] for row in kept)
        gaps = len(rows) - len(kept)
        assert (f"{gaps} of {len(rows)} rows" in result.stderr) == bool(gaps), result.stderr
        assert not {"nan", "None", ""} & {part["label"] for part in parts}
        checked = finished("check", str(recipe))
        assert checked.exit_code == 0, checked.output


@settings(max_examples=40)
@given(
    content=st.binary(max_size=60)
    | st.text(alphabet='ab,;\t"\r\n{}[]:\0textlabel', max_size=80).map(str.encode)
)
def test_any_content_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("in.csv", "in.tsv", "in.jsonl", "in.parquet", "in.csv.gz"):
            path = Path(folder) / name
            path.write_bytes(content)
            finished("init", str(path), *TINY, "-o", f"{folder}/recipe.yaml")


# predict -----------------------------------------------------------------------------------------

INTEGERS = st.integers(-(2**63), 2**63 - 1)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ARROW: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.int8(), st.integers(-128, 127)),
    (pa.float32(), st.floats(width=32)),
    (pa.float16(), st.floats(width=16)),
    (pa.bool_(), st.booleans()),
    (pa.decimal128(30, 3), st.decimals(-1000, 1000, places=3)),
    (pa.large_string(), st.text(max_size=4)),
    (pa.binary(), st.binary(max_size=4)),
    (pa.null(), st.none()),
    (pa.list_(pa.uint64()), st.lists(st.integers(0, 2**64 - 1), max_size=2)),
    (
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        st.fixed_dictionaries({"a": INTEGERS, "b": st.text(max_size=2)}),
    ),
    (
        pa.map_(pa.string(), pa.int32()),
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=2),
    ),
]
# Made of whole numbers, of which Python's own types hold a part.
COUNTED = [
    pa.timestamp("s"),
    pa.timestamp("ns"),
    pa.timestamp("us", "Europe/Berlin"),
    pa.duration("ns"),
    pa.duration("s"),
]


@st.composite
def arrow_column(draw: Callable[..., Any], count: int) -> pa.Array:
    """A column of any type that Parquet holds, with gaps."""
    if draw(st.booleans()):
        kind = draw(st.sampled_from(COUNTED))
        numbers = draw(st.lists(INTEGERS | st.none(), min_size=count, max_size=count))
        return pa.array(numbers, pa.int64()).cast(kind)
    if draw(st.integers(0, 4)) == 4:
        days = draw(st.lists(st.integers(-(2**31), 2**31 - 1) | st.none(), min_size=count, max_size=count))
        return pa.array(days, pa.int32()).cast(pa.date32())
    if draw(st.integers(0, 4)) == 4:
        return pa.array(
            draw(st.lists(st.sampled_from(["x", "y", None]), min_size=count, max_size=count))
        ).dictionary_encode()
    kind, values = draw(st.sampled_from(ARROW))
    found = draw(st.lists(values | st.none(), min_size=count, max_size=count))
    if pa.types.is_float16(kind):
        import numpy as np

        return pa.array([None if value is None else np.float16(value) for value in found], kind)
    return pa.array(found, kind)


def strict_lines(text: str) -> Rows:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.split("\n") if line]


# Texts, and the names of columns beside them.
queries = given(
    data=st.data(),
    texts=st.lists(TEXTS, min_size=1, max_size=4),
    names=st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
)


@settings(max_examples=40)
@queries
def test_predict_gives_parquet_back_as_it_was(
    data: st.DataObject, texts: list[str], names: list[str], student: Path
) -> None:
    columns = {name: data.draw(arrow_column(len(texts)), label=name) for name in names}
    table = pa.table({**columns, "text": pa.array(texts)}).replace_schema_metadata({"owner": "me"})
    with tempfile.TemporaryDirectory() as folder:
        try:
            pq.write_table(table, f"{folder}/in.parquet")
        except pa.ArrowException:  # a time that Parquet has no room for
            reject()
        before = pq.ParquetFile(f"{folder}/in.parquet").read()
        result = finished("predict", str(student), f"{folder}/in.parquet", "-o", f"{folder}/out.parquet")
        assert result.exit_code == 0, result.output
        after = pq.ParquetFile(f"{folder}/out.parquet").read()
        assert after.column_names[: len(before.column_names)] == before.column_names
        assert len(after.column_names) == len(before.column_names) + 3
        assert after.select(before.column_names).schema.equals(before.schema, check_metadata=True)
        assert repr(after.select(before.column_names)) == repr(before)  # in which NaN is like NaN
        lines = finished("predict", str(student), f"{folder}/in.parquet")
        assert lines.exit_code == 0, lines.output
        rows = strict_lines(lines.stdout)
        assert [row["text"] for row in rows] == texts
        assert all(set(before.column_names) < set(row) for row in rows)
        for suffix in ("csv", "tsv"):
            assert (
                finished(
                    "predict", str(student), f"{folder}/in.parquet", "-o", f"{folder}/out.{suffix}"
                ).exit_code
                == 0
            )


def null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [null_for_nan(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


@settings(max_examples=60)
@queries
def test_predict_gives_json_lines_back_as_they_were(
    data: st.DataObject, texts: list[str], names: list[str], student: Path
) -> None:
    rows: Rows = [{**{name: data.draw(JSON_VALUES) for name in names}, "text": text} for text in texts]
    gap = data.draw(st.sampled_from([False, False, False, True]))
    if gap:
        rows[-1]["text"] = data.draw(st.sampled_from(MISSING))
    with tempfile.TemporaryDirectory() as folder:
        path = write(rows, Path(folder), data.draw, ["jsonl"])
        result = finished("predict", str(student), str(path))
        assert (result.exit_code == 2) == gap, result.output
        if gap:
            return
        answers = strict_lines(result.stdout)
        assert [{name: row[name] for name in rows[0]} for row in answers] == null_for_nan(rows)
        assert all(len(row) == len(rows[0]) + 2 for row in answers)
        for suffix in ("csv", "parquet"):  # Parquet has one type a column
            assert finished("predict", str(student), str(path), "-o", f"{folder}/out.{suffix}").exit_code in (
                0,
                2,
            )


@settings(max_examples=60)
@given(
    data=st.data(),
    texts=st.lists(TEXTS, min_size=1, max_size=6),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
)
def test_predict_gives_tables_back_as_they_were(
    data: st.DataObject, texts: list[str], names: list[str], student: Path
) -> None:
    values = (
        st.none()
        | st.integers()
        | st.text(alphabet="ab\"',;\t\n ", max_size=4)
        | st.decimals(allow_nan=False).map(Decimal)
    )
    rows: Rows = [{**{name: data.draw(values) for name in names}, "text": text} for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = write(rows, Path(folder), data.draw, ["csv", "tsv"])
        target = f"{folder}/out.{'tsv' if '.tsv' in path.name else 'csv'}"
        result = finished("predict", str(student), str(path), "-o", target)
        assert result.exit_code == 0, result.output
        with Path(target).open(encoding="utf-8", newline="") as file:
            header, *answers = csv.reader(file, delimiter="\t" if target.endswith("tsv") else ",")
        assert header[: len(rows[0])] == list(rows[0])
        cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
        assert [row[: len(rows[0])] for row in answers] == cells
        assert len(header) == len(set(header)) == len(rows[0]) + 3
