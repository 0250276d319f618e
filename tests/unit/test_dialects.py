"""CSV and TSV as programs write them: separators, quotes that are text, headers that are data, lines that are no rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from cli_calls import TINY, call, refused

from stillshot.data.files import read_rows
from stillshot.errors import DataError

KINDS = ["billing", "other", "technical"]
ROWS = [(f"ticket {i} about {KINDS[i % 3]}", KINDS[i % 3]) for i in range(30)]


def table(
    rows: list[tuple[str, ...]], header: tuple[str, ...] | None = ("text", "label"), **dialect: Any
) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, **{"lineterminator": "\n", **dialect})
    writer.writerows([header, *rows] if header else rows)
    return out.getvalue()


def read(tmp_path: Path, name: str, content: str | bytes) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a file and what reading it noted."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    notes: list[str] = []
    found = [dict(row) for _, row in read_rows(path, notes)]
    return found, [note.replace(str(path), name) for note in notes]


def error(tmp_path: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(DataError) as raised:
        read(tmp_path, name, content)
    return str(raised.value).replace(f"{tmp_path}/", "")


# Separators and encodings ------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["sep=;\r\n", "SEP=;\n", '"sep=;"\r\n'])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_line_that_names_the_separator_is_no_header(tmp_path: Path, line: str, mark: str) -> None:
    found, notes = read(tmp_path, "a.csv", mark + line + table(ROWS, delimiter=";"))
    assert [(row["text"], row["label"]) for row in found] == ROWS
    assert notes == []
    assert "a.csv:4 has 3 values" in error(tmp_path, "a.csv", f"{line}text;label\na;b\na;b;c\n")


def test_a_comma_may_be_named_too(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "a.csv", "sep=,\n" + table(ROWS))
    assert len(found) == 30


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_semicolons_are_read_and_said_where_the_header_shows_them(tmp_path: Path, mark: str) -> None:
    """As Excel saves a CSV where the comma is in numbers; commas within values change nothing."""
    content = 'text;label\r\nplain, here;b\r\n"He; said ""so""";a\r\n'
    found, notes = read(tmp_path, "a.csv", mark + content)
    assert [(row["text"], row["label"]) for row in found] == [("plain, here", "b"), ('He; said "so"', "a")]
    assert "a.csv is read with semicolons between its values" in notes[0]
    assert found == read(tmp_path, "b.csv", "sep=;\r\n" + mark + content)[0]


def test_semicolons_without_a_usual_name_are_refused_with_what_helps(tmp_path: Path) -> None:
    content = table(ROWS, delimiter=";").replace("text;label", "what;which", 1)
    assert "Or name the separator in a line above this one: sep=;" in error(tmp_path, "a.csv", content)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16_that_says_so_is_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    found, notes = read(tmp_path, "a.tsv", (mark + table(ROWS, delimiter="\t")).encode(encoding))
    assert len(found) == 30
    assert "as its first bytes say" in notes[0]
    assert "no UTF-8 text" in error(tmp_path, "a.csv", table(ROWS).encode("utf-16-le"))


# Quotation marks ---------------------------------------------------------------------------------


def with_quotes(*changes: tuple[int, str, str], separator: str = "\t") -> str:
    lines = table(ROWS, delimiter=separator).splitlines(keepends=True)
    for row, old, new in changes:
        assert old in lines[row + 1]
        lines[row + 1] = lines[row + 1].replace(old, new)
    return "".join(lines)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            [(4, "ticket", '"ticket'), (20, "technical\t", 'technical"\t')],
            "else lines 6 to 22 would be one row",
        ),
        ([(4, "ticket", '"ticket')], "some cannot enclose a value"),
        ([(4, "ticket", '"ticket"')], "some cannot enclose a value"),
        ([(4, "about", '"about"')], "line 6 has one inside a value that is not enclosed"),
        (
            [(4, "ticket 4 about other", '"ticket 4 about other"')],
            "column 1 has values with and without them",
        ),
    ],
)
def test_quotation_marks_that_are_text_stay(
    tmp_path: Path, changes: list[tuple[int, str, str]], reason: str
) -> None:
    content = with_quotes(*changes)
    found, notes = read(tmp_path, "a.tsv", content)
    assert ["\t".join(row.values()) for row in found] == content.splitlines()[1:]
    assert notes == [f"a.tsv is read without quoting: quotation marks are part of its texts, since {reason}."]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_quotation_marks_that_enclose_are_taken_away(tmp_path: Path, name: str, quoting: Any) -> None:
    odd = [
        'say "hi"',
        '"',
        "a\tb",
        "a\nb",
        "line one\nline two\nline three",
        '""',
        " ",
        "1",
        '"quoted whole"',
        "a, b",
    ]
    rows = [*ROWS, *((text, KINDS[i % 3]) for i, text in enumerate(odd))]
    content = table(rows, delimiter="\t" if name == "a.tsv" else ",", quoting=quoting)
    found, notes = read(tmp_path, name, content)
    assert [(row["text"], row["label"]) for row in found] == rows
    (note,) = notes
    assert note.startswith(
        f"{name}: 2 rows hold line breaks, so 43 lines below the header are 40 rows; the longest"
    )


def test_rows_between_two_stray_quotation_marks_of_a_csv_are_not_swallowed(tmp_path: Path) -> None:
    content = with_quotes((4, "ticket", '"ticket'), (20, "technical,", 'technical",'), separator=",")
    message = error(tmp_path, "a.csv", content)
    assert (
        "a.csv:6 opens a quotation mark that closes in line 22, and the lines between look like rows"
        in message
    )
    assert "a.csv:6 is malformed" in error(
        tmp_path, "a.csv", with_quotes((4, "ticket", '"ticket'), separator=",")
    )


def test_an_unquoted_table_is_answered_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.tsv").write_text(with_quotes((4, "ticket", '"ticket'), (20, "technical\t", 'technical"\t')))
    result = call("init", "a.tsv", *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0
    assert "warning: a.tsv is read without quoting" in result.stderr
    assert sum(len(file.read_text().splitlines()) for file in Path("out").glob("*.jsonl")) == 30


# Headers and lines -------------------------------------------------------------------------------


def test_a_first_row_of_data_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for rows in (ROWS, [(text, str(len(label) % 2)) for text, label in ROWS]):
        Path("a.csv").write_text(table(rows, None))
        message = refused("init", "a.csv", *TINY)
        assert "a.csv:1 seems to be a row of data, not the names of the columns" in message
        assert "Put a line above it that names the columns, e.g. text,label." in message
    # Names that are values too: of a column that is usually named so, or once among many.
    for header, more in ((("text", "spam"), ("text", "spam")), (("remark", "kind"), ("remark", "x"))):
        found, _ = read(tmp_path, "b.csv", table([*ROWS, *ROWS, ("a", more[1]), (more[0], "b")], header))
        assert len(found) == 62


def test_a_repeated_header_is_no_row(tmp_path: Path) -> None:
    message = error(tmp_path, "a.csv", table(ROWS) + table(ROWS))
    assert "a.csv:32 repeats the header (text, label). Were files put together? Remove the line." in message


def test_blank_lines_and_empty_columns_are_said(tmp_path: Path) -> None:
    found, notes = read(tmp_path, "a.csv", "text,label\na,b\n\n\nc,d\n\n")
    assert (len(found), notes) == (2, ["a.csv: 2 blank lines are passed over."])
    found, notes = read(tmp_path, "b.csv", "text\na\n\nb\n\n")  # the last may be an empty text
    assert (len(found), notes) == (2, ["b.csv: 2 blank lines are passed over."])
    found, notes = read(tmp_path, "c.csv", "text,label,,\na,b,,\nc,d,, \n")
    assert found == [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]
    assert notes == ["c.csv: 2 empty columns without a name are left out."]
    message = error(tmp_path, "d.csv", "text,label,,\na,b,,\nc,d,,x\n")
    assert "d.csv:1 gives 2 columns no name, of which column 4 has values, e.g. in line 3." in message


def test_a_key_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    assert "a.jsonl:2 names the key 'text' twice" in error(
        tmp_path, "a.jsonl", '{"a": 1}\n{"text": "a", "text": "b"}\n'
    )


def test_a_json_array_is_refused_with_what_helps(tmp_path: Path) -> None:
    assert "`jq -c '.[]' a.json` makes such lines" in error(tmp_path, "a.json", '[{"text": "a"}]')
    assert "`jq -c '.[]' a.json` makes such lines" in error(tmp_path, "a.json", '[\n{"text": "a"}\n]')
