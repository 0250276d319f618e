"""The playground in a browser: Debian's Chromium, driven by Playwright.

With ``--update-golden`` the pictures in docs/images are taken anew, of a run with the bundled models.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_doubles import label_and_train, save_tiny

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from serving_process import ServerProcess  # noqa: E402

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `dev`)")
Open = Callable[..., Any]
TakePicture = Callable[[Any, str], None]


REAL_MODELS = {
    "teacher": {"model": "bundled:smollm2-135m"},
    "students": [{"model": "bundled:minilm-l6"}],
}


@pytest.fixture(scope="module")
def server(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[ServerProcess]:
    """A student in a run with its teacher and a report."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    name = label_and_train(run, **(REAL_MODELS if pytestconfig.getoption("--update-golden") else {}))
    (run / "report.html").write_text(
        "<!DOCTYPE html><title>The report</title><h1>The report</h1>", encoding="utf-8"
    )
    with ServerProcess(run / "students" / name, "--teacher") as running:
        yield running


def shares(panel: Any) -> dict[str, float]:
    """The percentages of a panel by label."""
    rows = [row.inner_text().split("\n") for row in panel.locator(".bars li").all()]
    return {row[0].strip(): float(row[1].strip().rstrip("%")) for row in rows}


def asked(page: Any, text: str) -> Any:
    """The panels of the answers to one text, asked with the keyboard alone."""
    page.get_by_label("text", exact=True).fill(text)
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator(".answer .bars")).to_have_count(2)
    return page.locator(".answer")


def test_student_and_teacher_side_by_side(
    server: ServerProcess, open_page: Open, take_picture: TakePicture
) -> None:
    page = open_page(server.url)
    panels = asked(page, "a bright film, warm and fine")
    student, teacher = panels.nth(0), panels.nth(1)
    for panel in (student, teacher):
        assert list(shares(panel)) == ["negative", "positive"]
        assert sum(shares(panel).values()) == pytest.approx(100, abs=0.2)
        assert " tokens · " in panel.inner_text()
    answer = page.request.post(
        f"{server.url}/predict", data={"inputs": "a bright film, warm and fine"}
    ).json()
    assert shares(student)[answer[0]["label"]] == pytest.approx(100 * answer[0]["score"], abs=0.06)
    assert "with its context" in teacher.inner_text()
    assert page.request.get(f"{server.url}/v1/models").json()["data"][0]["teacher"] in teacher.inner_text()
    assert shares(teacher) != shares(student)
    take_picture(page, "playground-light")


def test_the_report_is_one_click_away(server: ServerProcess, open_page: Open) -> None:
    page = open_page(server.url)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Report of its run").click()
    sync_api.expect(opened.value.get_by_role("heading", name="The report")).to_be_visible()


def labelled(page: Any, file: Path) -> tuple[str, str]:
    """Name and content of what labelling a file gives."""
    page.get_by_label("CSV or JSONL file", exact=True).set_input_files(file)
    page.get_by_role("button", name="Label").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes().decode("utf-8")


def test_a_csv_comes_back_labelled(server: ServerProcess, open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    texts = [
        'He said "well, no", 🎬',
        "two\nlines",
        "שלום; fine",
        " spaces ",
        "=1+1",
        *(f"film {i}" for i in range(70)),
    ]
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "text"])
        table.writerows(enumerate(texts))
    page = open_page(server.url)
    name, content = labelled(page, file)
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert name == "reviews-labelled.csv"
    assert [(row["id"], row["text"]) for row in rows] == [(str(i), text) for i, text in enumerate(texts)]
    answers = page.request.post(f"{server.url}/predict", data={"inputs": [[text] for text in texts]}).json()
    assert [row["prediction"] for row in rows] == [answer[0]["label"] for answer in answers]
    for row, answer in zip(rows, answers, strict=True):
        for entry in answer:
            assert float(row[f"probability_{entry['label']}"]) == pytest.approx(entry["score"], abs=1e-5)
    assert page.get_by_text("Done: 75 rows are labelled.").is_visible()


def test_jsonl_comes_back_with_all_it_had(server: ServerProcess, open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(
        '{"text": "a film", "id": 12345678901234567890}\n\n{"text": "b", "prediction": 0}\n', "utf-8"
    )
    page = open_page(server.url)
    name, content = labelled(page, file)
    first, second = map(json.loads, content.splitlines())
    assert name == "queries-labelled.jsonl"
    assert first["id"] == 12345678901234567890
    assert set(first["probabilities"]) == {"negative", "positive"}
    assert (second["prediction"], "prediction" in first) == (0, False)  # a column of the file's own
    assert second["prediction_2"] in first["probabilities"]
    assert page.get_by_text("Your column “prediction” stays; the answers are in “prediction_2”.").is_visible()


def test_texts_of_a_file_that_were_cut_are_counted(
    server: ServerProcess, open_page: Open, tmp_path: Path
) -> None:
    file = tmp_path / "queries.jsonl"
    rows = [{"text": "a film"}, {"text": "a film, warm and fine " * 2000}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    page = open_page(server.url)
    labelled(page, file)
    assert page.get_by_text("1 had texts that were cut to what the student reads.").is_visible()


def test_pasted_text_with_semicolons(server: ServerProcess, open_page: Open) -> None:
    page = open_page(server.url)
    page.get_by_text("Or paste its text").click()
    page.get_by_label("Text of a CSV or JSONL file").fill("Text;note\na film;x, y\n")
    page.get_by_role("button", name="Label").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download labelled.csv").click()
    lines = Path(download.value.path()).read_text("utf-8").splitlines()
    assert lines[0] == "Text;note;prediction;probability_negative;probability_positive"
    assert lines[1].startswith("a film;x, y;")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "There is no text in it."),
        ("a.csv", b"text\n", "There are no rows below line 1"),
        (
            "a.csv",
            b"id,review\n1,x\n",
            "Line 1 must name the columns, and “text” is none of them: “id”, “review”.",
        ),
        ("a.csv", b'id,text\n1,"x\ny"\n2,"open\n3,z\n', "Line 4: a quote is opened and never closed."),
        ("a.csv", b"id,text\n1,x\n2,y,z\n", "Line 3 has 3 cells, but line 1 names 2 columns."),
        ("a.csv", b'id,text\n1,"x" y\n', "Line 2: there is text behind a closing quote."),
        ("a.csv", b"id,text\n1,x\n2,caf\xe9\n", "Line 3 is not UTF-8 text."),
        ("a.csv", b"PK\x00\x01", "It is not a text file."),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "Line 2 is not valid JSON."),
        ("a.jsonl", b'{"text": "x"}\n["y"]\n', "Line 2 is not an object."),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": 3}\n', "Line 3 lacks the text “text”."),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "Line 1 holds half a character."),
        (
            "a.csv",
            b"text\nx\n" + b"y" * 2_000_100 + b"\nz\n",
            "Line 3: The body is larger than 2,000,000 bytes.",
        ),
    ],
)
def test_a_bad_file_is_told_of_with_its_line(
    server: ServerProcess, open_page: Open, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    page = open_page(server.url)
    page.get_by_label("CSV or JSONL file", exact=True).set_input_files(file)
    page.get_by_role("button", name="Label").click()
    sync_api.expect(page.locator("#label-problem")).to_contain_text(said)
    assert page.locator("#label-problem").get_attribute("role") == "alert"
    assert page.get_by_role("link", name="Download").count() == 0


def test_the_keyboard_reaches_everything_in_order(server: ServerProcess, open_page: Open) -> None:
    page = open_page(server.url)
    sync_api.expect(page.get_by_label("text", exact=True)).to_be_visible()
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.tagName.toLowerCase()")
        )
    assert reached == ["report", "field-0", "answer", "file", "summary", "start", "pre"]
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, textarea, select')].filter((e) => !e.labels.length).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(server: ServerProcess, open_page: Open, take_picture: TakePicture, scheme: str) -> None:
    page = open_page(
        server.url, viewport={"width": 360, "height": 740}, color_scheme=scheme, device_scale_factor=2
    )
    asked(page, f"a grim film, {'really' * 20}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    assert (_light(ink) > _light(paper)) == (scheme == "dark")
    take_picture(page, f"playground-phone-{scheme}")


def _light(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_several_students_and_a_token(open_page: Open, tmp_path: Path) -> None:
    first, second = save_tiny(tmp_path / "first"), save_tiny(tmp_path / "second")
    with ServerProcess(first, second, "--token", "sesame") as running:
        page = open_page(running.url)
        page.get_by_label("Token of this server").fill("wrong")
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("#problem")).to_contain_text("not this server’s token")
        page.get_by_label("Token of this server").fill(" sesame ")
        page.keyboard.press("Enter")
        page.get_by_label("Student", exact=True).select_option("second")
        page.get_by_label("text", exact=True).fill("a film")
        page.get_by_role("button", name="Answer").click()
        sync_api.expect(page.locator(".answer .bars")).to_have_count(1)
        sync_api.expect(page.locator(".answer .note").first).to_have_text("second")
        sync_api.expect(page.locator("#program")).to_contain_text('"model": "second"')


def enter(page: Any, token: str) -> None:
    page.get_by_label("Token of this server").fill(token)
    page.keyboard.press("Enter")


def kept(page: Any) -> int:
    """How many tokens the page keeps."""
    return page.evaluate("sessionStorage.length")


def test_a_mistyped_token_locks_nobody_out(open_page: Open, tmp_path: Path) -> None:
    with ServerProcess(save_tiny(tmp_path / "tiny"), "--token", "sesame") as running:
        page = open_page(running.url)
        for token in ("ses\u200bame", "sesame…", "sésame", "open sesame", " "):
            enter(page, token)
            sync_api.expect(page.locator("#problem")).to_contain_text("A token is ASCII without spaces.")
            assert kept(page) == 0
        page.route("**/v1/models", lambda route: route.abort())
        enter(page, "sesame")
        sync_api.expect(page.locator("#problem")).to_contain_text("cannot be reached")
        assert kept(page) == 0
        page.unroute("**/v1/models")
        enter(page, "wrong")
        sync_api.expect(page.locator("#problem")).to_contain_text("not this server’s token")
        assert kept(page) == 0
        page.reload()
        enter(page, "sesame")
        sync_api.expect(page.get_by_label("text", exact=True)).to_be_visible()
        sync_api.expect(page.locator("#problem")).to_be_hidden()
        page.reload()  # one that opened the server is kept
        sync_api.expect(page.get_by_label("text", exact=True)).to_be_visible()


def test_only_a_text_that_was_cut_is_said_to_be(open_page: Open, tmp_path: Path) -> None:
    student = save_tiny(tmp_path / "tiny", model="random:tiny-llama", head="channel", max_tokens=64)
    with ServerProcess(student) as running:
        page = open_page(running.url)
        # Of the first, only the sequences of all labels together have more tokens than the student reads.
        for text, is_cut in (("a film, warm and fine", False), ("a film, warm and fine " * 9, True)):
            page.get_by_label("text", exact=True).fill(text)
            page.keyboard.press("Control+Enter")
            note = page.locator(".answer .note").last
            sync_api.expect(note).to_contain_text(" tokens")
            said = note.inner_text()
            assert int(said.split(" ")[0]) > 64
            assert ("to which the text was cut" in said) == is_cut
