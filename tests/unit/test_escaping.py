"""Names with markup or control characters: in model cards, in reports, and on the terminal."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_calls import call, write_jsonl
from doubles import LABELS, SENTIMENT
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from saved_students import save_student, write_queries, write_run

from stillshot.cli import console
from stillshot.cli.progress import progress
from stillshot.config import TaskDefinition
from stillshot.deploy.exporting import export_student
from stillshot.escaping import code_literal, markdown_code, markdown_text, visible
from stillshot.report import write_report

ODD = [
    "<b>", "a|b", "`tick`", "``", "---", "one\ntwo", "\n---\nlicense: mit", "*star*", "_under_", "[x](https://e.example)",
    "&amp;", "<script>alert(1)</script>", "<!-- x", "\\", "\\|", "|", " pad ", "$x$", "~~x~~", "# head", "- item",
    "\x1b[31mred", "\u202eevil", "\ud800", "日本語", "É", '"', "'", "{{ 1 }}", "{% x %}", "```\ncode", "https://e.example",
]  # fmt: skip
MARKDOWN = MarkdownIt("gfm-like", {"html": True, "linkify": False})


def shown_text(rendered: str) -> str:
    """What a reader sees of HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", rendered))


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    plain = visible(name, keep="")
    table = f"| a | b |\n| --- | --- |\n| {markdown_code(name)} | {markdown_text(name)} |\n"
    rendered = MARKDOWN.render(table)
    first, second = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert shown_text(first) == plain
    assert shown_text(second) == visible(" ".join(name.split()), keep="")
    assert set(re.findall(r"<(\w+)", rendered)) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    for markdown in (f"A task {markdown_code(name)}.", f"A file {markdown_text(name)}."):
        rendered = MARKDOWN.render(markdown)
        assert set(re.findall(r"<(\w+)", rendered)) <= {"p", "code"}
        assert "\n" not in rendered.strip()
    assert json.loads(code_literal(name)) == name
    assert eval(code_literal(name)) == name or "\\ud800" in code_literal(name)


def test_ordinary_names_are_not_touched() -> None:
    assert markdown_code("very-bad_1 (x)") == "`very-bad_1 (x)`"
    assert markdown_text("SST-2: films, good or bad (GLUE).") == "SST-2: films, good or bad (GLUE)."
    assert visible("naïve\n日本 👩‍🚀") == "naïve\n日本 👩‍🚀"


def odd_task(labels: list[str]) -> TaskDefinition:
    words = dict(zip(labels, ["No", "Yes"], strict=True))
    pattern = SENTIMENT.patterns["yes-no"].model_copy(update={"label_words": words})
    return SENTIMENT.model_copy(
        update={
            "name": "a`b|c\n---",
            "description": "Films.\n\n---\n# <img src=x onerror=alert(1)> | \x1b[31m",
            "labels": labels,
            "patterns": {"od|d`": pattern},
            "channels": {},
        }
    )


@pytest.mark.parametrize(
    "labels", [["<b>", "a|b"], ["`", "one\ntwo"], ["---", "\n---\nlicense: mit"], ["\x1b[31m", "\u202e"]]
)
def test_a_card_shows_odd_names_and_stays_a_card(tmp_path: Path, labels: list[str]) -> None:
    folder = save_student(tmp_path / 'it\'s "<i>" | `here`', "random:tiny-bert", odd_task(labels))
    queries = write_queries(tmp_path / "held|<out>.jsonl")
    (made,) = export_student(folder, ["merged"], tmp_path / "out", queries=queries)
    written = (made.folder / "README.md").read_text(encoding="utf-8")
    card = ModelCard.load(made.folder / "README.md")
    front = yaml.safe_load(written.split("\n---\n")[0])
    assert (card.data.pipeline_tag, front["pipeline_tag"], "license" in front) == (
        "text-classification",
    ) * 2 + (False,)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", written)
    rendered = MARKDOWN.render(card.text)
    for name in labels:
        assert f"<code>{html.escape(visible(name, keep=''))}</code>" in rendered.replace(
            "&#60;", "&lt;"
        ).replace("&#62;", "&gt;")
    assert not re.search(r"<(?:img|script|b|i)\b", rendered)
    assert rendered.count("<h1>") == 1
    (row,) = re.findall(r"<td>Labels</td>\s*<td>(.*?)</td>", rendered, re.DOTALL)
    assert shown_text(row) == f"{visible(labels[0], keep='')} and {visible(labels[1], keep='')}"
    (code,) = re.findall(r"```python\n(.*?)```", written, re.DOTALL)
    compile(code, "card", "exec")


def test_a_cards_evaluation_sets_are_escaped(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "random:tiny-bert")
    path = tmp_path / "run" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    name = "te|st\n---\n<b>"
    for cell in results["cells"]:
        cell["in_domain"] = {name: cell["in_domain"]["test"]}
        cell["pattern"] = "p`|"
    path.write_text(json.dumps(results), encoding="utf-8")
    (made,) = export_student(folder, ["merged"], tmp_path / "out")
    card = ModelCard.load(made.folder / "README.md")
    assert card.data.eval_results is not None
    assert card.data.eval_results[0].dataset_type == visible(name, keep="")
    rendered = MARKDOWN.render(card.text)
    (cell,) = re.findall(r"<td>(te.*?)</td>", rendered, re.DOTALL)
    assert shown_text(cell) == "te|st --- <b>"


def test_a_report_escapes_names(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "random:tiny-bert")
    path = tmp_path / "run" / "results.json"
    text = path.read_text(encoding="utf-8")
    for label, odd in zip(LABELS, ("<img src=x>", '"><script>alert(1)</script>'), strict=True):
        text = text.replace(json.dumps(label), json.dumps(odd))
    path.write_text(text.replace('"test"', '"<i>te</i>st"'), encoding="utf-8")
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert not re.search(r"<(?:img|script|i)\b", page)


def test_a_report_escapes_what_turns_the_direction_of_writing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "random:tiny-bert")
    path = tmp_path / "run" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(results | {"name": "\u202eevil", "task": "ta\u2067sk"}), encoding="utf-8")
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert not re.search("[\u202a-\u202e\u2066\u2067]", page)
    assert r"<title>\u202eevil " in page
    assert r"<bdi>ta\u2067sk</bdi>" in page


# The terminal ------------------------------------------------------------------------------------


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[31m\u202eb\x9b2J.jsonl"
    messages = [
        call("predict", str(tmp_path / "no\x1b[2Jstudent"), stdin="{}").stderr,
        call("init", str(odd)).stderr,
        call("check", str(tmp_path / "re\x07cipe.yaml")).stderr,
        call("report", str(tmp_path / "r\u2066un")).stderr,
    ]
    for message in messages:
        assert message.startswith("error: ")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", message)
    assert r"no\u001b[2Jstudent" in messages[0]


def test_a_label_with_control_characters_is_shown_with_escapes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"film {i}", "label": ("go\x1b[1mod", "bad")[i % 2]} for i in range(40)
    ]
    result = call("init", str(write_jsonl(tmp_path / "x.jsonl", rows)), "-o", str(tmp_path / "r.yaml"))
    assert "\x1b" not in result.output


def test_a_line_of_a_name_cannot_pass_for_another_message(tmp_path: Path) -> None:
    message = call("predict", str(tmp_path / "x\nReport: all is well"), stdin="{}").stderr
    assert "\n  Report: all is well" in message
    assert "\nReport" not in message


def test_progress_shows_names_with_escapes() -> None:
    stream = io.StringIO()
    with progress(stream) as report:
        report("na\x1b[31mme", "wh\nat", 0, 0)
        report("na\x1b[31mme", "more", 0, 0)
        report("na\x1b[31mme", "failed: because", 0, 0)
    assert stream.getvalue().startswith(r"na\u001b[31mme: wh\u000aat, ")
    assert stream.getvalue().endswith("na\\u001b[31mme: failed\n")
    assert "\x1b" not in stream.getvalue()


def test_every_command_prints_through_one_place() -> None:
    folder = Path(console.__file__).parent
    direct = [
        p.name
        for p in folder.glob("*.py")
        if p.name != "console.py"
        and re.search(
            r"\btyper\.echo\(|\bprint\(",
            p.read_text("utf-8").replace("console.print(", "").replace(").print(", ""),
        )
    ]
    assert direct == []
