"""Files, splits and references: what is read, from where, and what is said of wrong input. No network."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillshot.config import Source, TaskDefinition
from stillshot.data.sources import read_file, read_reference, read_split
from stillshot.errors import DataError, RecipeError
from stillshot.tasks import builtin_tasks, load_task
from stillshot.types import Example

WORDS = {"positive": "good", "negative": "bad"}
TASK = TaskDefinition.model_validate(
    {
        "name": "mood",
        "labels": ["positive", "negative"],
        "fields": ["text"],
        "groups": ["topic"],
        "drop_labels": ["mixed"],
        "patterns": {"p": {"pattern": "{text}", "label_words": WORDS}},
    }
)

ODD_TEXTS = [
    "He said \"yes\", she said 'no'.",
    "{braces} {0} {{}} %s ${HOME} {text}",
    "line one\nline two\r\nand a\ttab",
    "🙂 👩‍👩‍👧 naïve 日本語",
    "\u202bمرحبا بالعالم\u202c שלום",
    "paragraph\u2028separator\x85and\x0cform feed",
    "  spaces at both ends  ",
    "back\\slash \\n ,;|",
    "long " * 40_000,
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("STILLSHOT_DATA", raising=False)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(path: Path, *rows: object) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def message(action: Callable[[], object], kind: type[Exception] = DataError) -> str:
    with pytest.raises(kind) as error:
        action()
    return str(error.value)


# Files -------------------------------------------------------------------------------------------


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return write(path, "".join(lines))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_keeps_odd_texts(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": text, "label": "positive", "topic": "odd"} for text in ODD_TEXTS]
    examples = read_file(write_rows(tmp_path / f"odd{suffix}", rows), TASK)
    assert [example.fields["text"] for example in examples] == ODD_TEXTS
    assert {example.label for example in examples} == {"positive"}
    assert all(example.groups == {"topic": "odd"} for example in examples)


def test_a_csv_from_a_spreadsheet(tmp_path: Path) -> None:
    path = write(tmp_path / "sheet.CSV", b"\xef\xbb\xbftext,label\r\nfine,positive\r\n\r\nbad,negative\r\n")
    examples = read_file(path, TASK)
    assert [(e.fields["text"], e.label, e.origin) for e in examples] == [
        ("fine", "positive", f"{path}:2"),
        ("bad", "negative", f"{path}:4"),
    ]


def test_the_line_of_a_csv_row_is_where_it_starts(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", 'text,label\n"one\ntwo",positive\nthree,negative\n')
    assert [example.origin for example in read_file(path, TASK)] == [f"{path}:2", f"{path}:4"]


def test_a_gzipped_file(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl.gz", gzip.compress(b'{"text": "fine", "label": "positive"}\n'))
    assert read_file(path, TASK)[0].label == "positive"
    write(path, b"not gzip")
    assert f"{path} cannot be read: " in message(lambda: read_file(path, TASK))


def test_columns_labels_and_groups_are_renamed(tmp_path: Path) -> None:
    source = Source(
        splits={},
        columns={"text": "review", "topic": "about"},
        label_column="stars",
        label_values={"1": "negative", "5": "positive", "3": "mixed"},
    )
    rows = [
        {"review": "a", "stars": 1, "about": 7},
        {"review": "b", "stars": 5.0},
        {"review": "c", "stars": 3},
    ]
    examples = read_file(jsonl(tmp_path / "r.jsonl", *rows), TASK, source=source)
    assert [(e.fields["text"], e.label, dict(e.groups)) for e in examples] == [
        ("a", "negative", {"topic": "7"}),
        ("b", "positive", {}),
    ]


def test_columns_named_as_the_fields_need_no_entry(tmp_path: Path) -> None:
    source = Source(splits={}, columns={"text": "review"}, label_column="stars")
    path = jsonl(tmp_path / "r.jsonl", {"text": "a", "label": "positive"})
    assert read_file(path, TASK, source=source)[0].fields == {"text": "a"}


def test_numbers_become_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "n.jsonl", {"text": 42, "label": "positive"}, {"text": 1.5, "label": "positive"})
    assert [example.fields["text"] for example in read_file(path, TASK)] == ["42", "1.5"]


def test_labels_may_be_absent_where_they_are_not_needed(tmp_path: Path) -> None:
    rows = [
        {"text": "a"},
        {"text": "b", "label": "unheard of"},
        {"text": "c", "label": None},
        {"text": "d", "label": "mixed"},
    ]
    examples = read_file(jsonl(tmp_path / "u.jsonl", *rows), TASK, labels=False)
    assert [(example.fields["text"], example.label) for example in examples] == [
        ("a", None),
        ("b", None),
        ("c", None),
    ]


FINE = b'{"text": "fine", "label": "positive"}\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", "a.jsonl holds no rows. Check that it is the right file."),
        ("a.jsonl", b"\n \n", "a.jsonl holds no rows."),
        ("a.csv", b"text,label\n", "a.csv holds no rows."),
        ("a.csv", b"", "a.csv holds no rows."),
        ("a.jsonl", FINE + b'{"text": "x", \n', "a.jsonl:2 is not valid JSON: "),
        ("a.jsonl", FINE + b"\n" + b"[" * 200_000, "a.jsonl:3 is not valid JSON: "),
        (
            "a.json",
            b"[\n" + FINE + b"]\n",
            "a.json:1 is not valid JSON: Expecting value at column 2. Each line must be",
        ),
        ("a.jsonl", FINE + b'["x", "positive"]\n', "a.jsonl:2 is a JSON list, not an object."),
        (
            "a.jsonl",
            FINE + b'{"txt": "x", "label": "positive"}\n',
            "a.jsonl:2 has no key 'text' for the field 'text'. Did you mean 'txt'? Valid names: label, txt.",
        ),
        (
            "a.csv",
            b"what;which\nx;positive\n",
            "a.csv:1 has the single column 'what;which': its columns seem to be separated by ';'.",
        ),
        (
            "a.jsonl",
            b'{"text": ["x"], "label": "positive"}',
            "a.jsonl:1 has a list in 'text', which must be text.",
        ),
        (
            "a.jsonl",
            b'{"text": true, "label": "positive"}',
            "a.jsonl:1 has a bool in 'text', which must be text.",
        ),
        (
            "a.jsonl",
            b'{"text": null, "label": "positive"}',
            "a.jsonl:1 has no text in 'text'. Fill it in or remove",
        ),
        ("a.jsonl", b'{"text": " \\n", "label": "positive"}', "a.jsonl:1 has no text in 'text'."),
        ("a.csv", b"text,label\n,positive\n", "a.csv:2 has no text in 'text'."),
        (
            "a.csv",
            b"text,label\nx,positiv\n",
            "a.csv:2 has the label 'positiv', which the task 'mood' does not have. "
            "Did you mean 'positive'? Valid names: negative, positive.",
        ),
        ("a.csv", b"text,label\nx,\n", "a.csv:2 has an empty label. Give it one of positive, negative."),
        ("a.jsonl", b'{"text": "x"}', "a.jsonl:1 has no key 'label' for the label. Valid names: text."),
        (
            "a.jsonl",
            FINE + b'{"text": "caf\xe9"}',
            "a.jsonl:2 is not UTF-8 text: invalid continuation byte (byte 0xe9).",
        ),
        ("a.csv", b"text,label\nfine,positive\ncaf\xe9,negative\n", "a.csv:3 is not UTF-8 text"),
        (
            "a.jsonl",
            b'{"text": "a\\u0000b", "label": "positive"}',
            "a.jsonl:1 has a NUL character (U+0000) in 'text'.",
        ),
        ("a.csv", b"text,label\na\0b,positive\n", "a.csv:2 has a NUL character (U+0000) in 'text'."),
        (
            "a.jsonl",
            b'{"text": "a\\ud83d", "label": "positive"}',
            "a.jsonl:1 has half a character (a lone surrogate",
        ),
        (
            "a.csv",
            b"text,label\nx,y,positive\n",
            "a.csv:2 has 3 values, but the header has 2 columns (text, label).",
        ),
        (
            "a.csv",
            b'text,label\nfine,positive\n"open,positive\n',
            "a.csv:3 is malformed: unexpected end of data.",
        ),
        ("a.csv", b"text,label,text\nx,positive,y\n", "a.csv:1 names a column twice: text."),
        ("a.parquet", b"PAR1 but no more", "a.parquet is not a readable Parquet file: "),
        ("a.xlsx", b"PK", "a.xlsx has the suffix .xlsx. It must end in .jsonl, .json,"),
        ("a", b"x", "a has the suffix (none). It must end in "),
        (
            "a.csv",
            b"text,label\nx,mixed\n",
            "a.csv holds only rows whose label the task 'mood' leaves out (mixed).",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_wrong_files(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = write(tmp_path / name, content)
    found = message(lambda: read_file(path, TASK))
    assert found.startswith(f"{tmp_path}{os.sep}{expected}")


def test_a_null_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "n.parquet"
    pq.write_table(pa.table({"text": ["a", None], "label": ["positive", "positive"]}), path)
    assert message(lambda: read_file(path, TASK)).startswith(f"{path}:2 has no text in 'text'.")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert f"{tmp_path}/no.csv does not exist. Check the path" in message(
        lambda: read_file(tmp_path / "no.csv", TASK)
    )
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder, not a file" in message(lambda: read_file(tmp_path / "folder.csv", TASK))


# Splits ------------------------------------------------------------------------------------------


def test_the_embedded_sample_without_neutral_pairs() -> None:
    examples = read_split(load_task("nli-sample"), "train")
    assert {example.label for example in examples} == {"entailment", "contradiction"}
    three_way = read_split(load_task("nli-sample-3way"), "train")
    assert {example.label for example in three_way} == {"entailment", "neutral", "contradiction"}
    unlabelled = read_split(load_task("nli-sample"), "train", labels=False)
    assert [e.key for e in unlabelled] == [e.key for e in examples]
    assert {example.label for example in unlabelled} == {None}


def test_the_generated_split_has_20_pairs_a_subcase() -> None:
    examples = read_split(load_task("hans-style"), "test")
    assert set(Counter(example.groups["subcase"] for example in examples).values()) == {20}
    assert len(examples) == 600
    assert {example.label for example in examples} == {"entailment", "non-entailment"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the Hub: set ``rows`` (what it gives) or ``error``; read ``asked`` back."""
    state: dict[str, Any] = {"rows": [], "error": None, "asked": None}

    def load_dataset(
        path: str, name: str | None, *, split: str, revision: str | None
    ) -> list[dict[str, Any]]:
        state["asked"] = (path, name, split, revision)
        if state["error"] is not None:
            raise state["error"]
        return state["rows"]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return state


def test_the_hub_is_asked_with_its_own_names(hub: dict[str, Any]) -> None:
    hub["rows"] = [{"sentence1": "A.", "sentence2": "B.", "label": 1, "idx": 0}]
    examples = read_split(load_task("rte"), "dev")
    assert hub["asked"] == ("nyu-mll/glue", "rte", "validation", None)
    assert examples == [
        Example({"premise": "A.", "hypothesis": "B."}, "non-entailment", {}, "nyu-mll/glue/validation:1")
    ]


def test_a_revision_is_passed_on(hub: dict[str, Any]) -> None:
    row = {
        "premise": "A.",
        "hypothesis": "B.",
        "label": 0,
        "heuristic": "constituent",
        "subcase": "ce_adverb",
    }
    hub["rows"] = [row]
    examples = read_split(load_task("hans"), "test")
    assert hub["asked"] == ("jhu-cogsci/hans", None, "validation", "refs/convert/parquet")
    assert examples[0].groups == {"heuristic": "constituent", "subcase": "ce_adverb"}


def test_rows_of_the_hub_without_text_or_gold_label_are_passed_over(hub: dict[str, Any]) -> None:
    hub["rows"] = [
        {"question1": "", "question2": "B?", "label": 0},
        {"question1": "A?", "question2": "B?", "label": 1},
    ]
    assert [example.label for example in read_split(load_task("qqp"), "train")] == ["duplicate"]
    hub["rows"] = [{"premise": "A.", "hypothesis": "B.", "label": label} for label in (-1, 0, 1, 2)]
    assert [e.label for e in read_split(load_task("snli"), "train")] == ["entailment", "contradiction"]


def test_the_local_copy_comes_before_the_hub(
    tmp_path: Path, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(tmp_path / "qqp.train.jsonl", {"premise": "A?", "hypothesis": "B?", "label": "duplicate"})
    expected = {"question1": "A?", "question2": "B?"}
    assert read_split(load_task("qqp"), "train", tmp_path)[0].fields == expected
    monkeypatch.setenv("STILLSHOT_DATA", str(tmp_path))
    assert read_split(load_task("qqp"), "train")[0].fields == expected
    assert hub["asked"] is None


def test_an_unreachable_hub_says_how_to_give_a_local_copy(tmp_path: Path, hub: dict[str, Any]) -> None:
    hub["error"] = ConnectionError("Couldn't reach the Hub")
    found = message(lambda: read_split(load_task("mnli"), "train"))
    assert (
        "data set nyu-mll/glue (mnli) could not be read from the Hugging Face Hub: ConnectionError: Couldn't"
        in found
    )
    assert "Set STILLSHOT_DATA or data.root to a folder with a local copy named mnli.train.jsonl." in found
    found = message(lambda: read_split(load_task("mnli"), "train", tmp_path))
    assert "nyu-mll/glue (mnli) could not be read" in found
    assert f"There is no file mnli.train.jsonl in {tmp_path}: put a copy there" in found
    found = message(lambda: read_split(load_task("imdb"), "train"))
    assert "Save its rows as a file and name that file in place of the split." in found


def test_the_hub_itself_offline() -> None:
    # In a process of its own: huggingface_hub reads the variable when it is first imported.
    code = """
from stillshot.data.sources import read_split
from stillshot.errors import DataError
from stillshot.tasks import load_task
try:
    read_split(load_task("mnli"), "train")
except DataError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": os.devnull + "/none"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "nyu-mll/glue (mnli) could not be read from the Hugging Face Hub" in done.stdout


def test_a_split_that_only_a_local_copy_has(tmp_path: Path) -> None:
    found = message(lambda: read_split(load_task("paws_qqp"), "test"))
    assert "The split 'test' of task 'paws_qqp' was not found. Set STILLSHOT_DATA or data.root" in found
    assert "local copy named paws_qqp.dev_and_test.jsonl" in found
    found = message(lambda: read_split(load_task("paws_qqp"), "test", tmp_path))
    assert f"There is no file paws_qqp.dev_and_test.jsonl in {tmp_path}: put a copy there" in found


def test_an_unknown_split() -> None:
    found = message(lambda: read_split(load_task("mnli"), "devel"))
    assert (
        "The task 'mnli' has no split 'devel'. Did you mean 'dev'? Valid names: dev, dev_mismatched, train."
        in found
    )


def test_a_root_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = message(lambda: read_split(load_task("mnli"), "train", tmp_path / "no"))
    assert f"data.root is {tmp_path}/no, which is not a folder" in found
    monkeypatch.setenv("STILLSHOT_DATA", "/no/such/folder")
    assert "STILLSHOT_DATA is /no/such/folder" in message(lambda: read_split(load_task("mnli"), "train"))


# References --------------------------------------------------------------------------------------


def test_a_reference_to_a_split_of_the_task_and_of_another() -> None:
    task = load_task("nli-sample")
    owner, examples = read_reference("test", task)
    assert owner is task
    assert examples
    owner, examples = read_reference("hans-style:test", task)
    assert (owner.name, len(examples)) == ("hans-style", 600)


def test_a_reference_to_a_file_uses_the_columns_of_local_copies(tmp_path: Path) -> None:
    task = load_task("qqp")
    path = jsonl(tmp_path / "mine.jsonl", {"premise": "A?", "hypothesis": "B?", "label": "duplicate"})
    owner, examples = read_reference(str(path), task)
    assert owner is task
    assert examples[0].fields == {"question1": "A?", "question2": "B?"}
    path = write(tmp_path / "own.csv", "question1,question2\nA?,B?\n")
    assert read_reference(str(path), task, labels=False)[1][0].label is None


def test_a_reference_to_a_task_file(tmp_path: Path) -> None:
    jsonl(tmp_path / "rows.jsonl", {"text": "fine", "label": "positive"})
    sources = {"local": {"splits": {"test": "rows.jsonl"}}}
    definition = {**TASK.model_dump(exclude={"sources"}), "sources": sources}
    task_file = write(tmp_path / "mood.yaml", json.dumps(definition))  # JSON is YAML
    owner, examples = read_reference(f"{task_file}:test", load_task("sst2"), tmp_path)
    assert (owner.name, len(examples)) == ("mood", 1)


def test_wrong_references(tmp_path: Path) -> None:
    task = load_task("nli-sample")
    assert "no built-in task 'hanz'" in message(lambda: read_reference("hanz:test", task), RecipeError)
    assert "has no split 'tests'. Did you mean 'test'?" in message(lambda: read_reference("tests", task))
    assert "my/data.csv does not exist" in message(lambda: read_reference("my/data.csv", task))
    assert "has the suffix .txt" in message(lambda: read_reference("my/data.txt", task))


def test_importing_loads_neither_torch_nor_datasets() -> None:
    code = (
        "import sys, stillshot.tasks, stillshot.data.sources, stillshot.data.splits\n"
        "print([m for m in ('torch', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Local copies ------------------------------------------------------------------------------------

LOCAL_COPIES = os.environ.get("STILLSHOT_DATA")


@pytest.mark.skipif(not LOCAL_COPIES, reason="STILLSHOT_DATA is not set: no local copies of public data sets")
@pytest.mark.parametrize("name", [name for name in builtin_tasks() if load_task(name).sources.local])
def test_local_copies(name: str) -> None:
    task = load_task(name)
    root = Path(str(LOCAL_COPIES))
    assert task.sources.local
    at_hand = [split for split, file in task.sources.local.splits.items() if (root / str(file)).is_file()]
    if not at_hand:
        pytest.skip(f"{root} has no copies for {name}")
    for split in at_hand:
        examples = read_split(task, split, root)
        assert {example.label for example in examples} == set(task.labels)
