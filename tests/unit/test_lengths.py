"""Budgets of texts: tokens, whatever the script; cuts are the last resort, are said, and merge no texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cli_calls import TINY, call, refused, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from stillshot.cli.lengths import fit_to_window
from stillshot.config_files import load_recipe
from stillshot.methods.check import check
from stillshot.methods.materials import Materials
from stillshot.models.load import load_tokenizer
from stillshot.models.resolve import resolve_model
from stillshot.prompt.budget import first_tokens
from stillshot.prompt.encoder import PromptEncoder

ENCODER = PromptEncoder(load_tokenizer(resolve_model("random:tiny-llama")))  # a token a byte
CHINESE = "里没过人就多方去年作对么时者中可中主之与于三前当上生之定他分那然二之对十自起看子军"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def texts(text: str, count: int = 60, label: Any = lambda i: "ab"[i % 2]) -> list[dict[str, Any]]:
    return [{"text": f"{i} {text} {i}", "label": label(i)} for i in range(count)]


@given(
    text=st.text(alphabet=st.sampled_from("ab \n语é🎬ก"), min_size=1, max_size=40).filter(str.strip),
    most=st.integers(1, 30),
)
def test_first_tokens_are_the_beginning_and_no_more(text: str, most: int) -> None:
    cut = first_tokens(ENCODER, text, most)
    tokens = len(ENCODER.encode(cut)) - len(ENCODER.encode(""))
    if len(ENCODER.encode(text)) - len(ENCODER.encode("")) <= most:
        assert cut == text
    else:
        assert text.lstrip().startswith(cut.strip())
        assert cut.strip()
        assert tokens <= most or len(cut) == 1  # one character may have more tokens than there are


@pytest.mark.parametrize(
    "text",
    [CHINESE * 15, "สวัสดีครับผมชื่อสมชาย" * 40, "これは長い文章です" * 60, "word " * 500, "x" * 3000],
    ids=["chinese", "thai", "japanese", "words", "letters"],
)
@pytest.mark.parametrize("models", [TINY, ()], ids=["tiny", "bundled"])
def test_a_drafted_recipe_for_long_texts_passes_the_check(
    text: str, models: tuple[str, ...], bundled_teacher: str, bundled_encoder: str
) -> None:
    write_jsonl(Path("a.jsonl"), texts(text))
    result = call("init", "a.jsonl", *models)
    assert result.exit_code == 0, result.output
    checked = call("check", "recipe.yaml")
    assert checked.exit_code == 0, checked.output
    limit = load_recipe("recipe.yaml").data.max_tokens
    assert (limit is not None) == ("are cut to data.max_tokens" in checked.stderr)
    assert (limit is not None) == ("after which it is cut (data.max_tokens)" in result.stderr)
    if models == ():
        assert limit is None  # the teacher's whole window comes before any cut


def test_a_few_long_texts_do_not_cost_the_others_their_demonstrations() -> None:
    write_jsonl(Path("a.jsonl"), [*texts("short", 100), {"text": CHINESE * 40, "label": "a"}])
    result = call("init", "a.jsonl", *TINY)
    recipe = load_recipe("recipe.yaml")
    assert recipe.budgets[0].num_shots == 8
    assert recipe.data.max_tokens is not None
    assert "warning: 1 of 101 examples have a text of more than" in result.stderr


def test_without_the_tokenizer_tokens_are_estimated() -> None:
    from stillshot.cli.drafting import Sizes
    from stillshot.tasks import new_task
    from stillshot.types import Example

    examples = [Example({"text": CHINESE * 40})] * 3
    fit = fit_to_window(Sizes(16, 4, 8, 50), new_task("t", ["text"], ["a", "b"]), "owner/not-here", examples)
    assert fit.estimated
    assert fit.sizes.num_shots == 1
    assert fit.sizes.max_tokens is not None
    short = fit_to_window(
        Sizes(16, 4, 8, 50), new_task("t", ["text"], ["a", "b"]), "owner/not-here", [Example({"text": "a"})]
    )
    assert short.sizes.max_tokens is None


def recipe_of(rows: list[dict[str, Any]], tested: list[dict[str, Any]], **data: Any) -> Path:
    write_jsonl(Path("a.jsonl"), rows)
    write_jsonl(Path("test.jsonl"), tested)
    result = call("init", "a.jsonl", "--test", "test.jsonl", *TINY)
    assert result.exit_code == 0, result.output
    for key, value in data.items():
        text = Path("recipe.yaml").read_text()
        text = re.sub(r"^  max_tokens:.*\n", "", text, flags=re.MULTILINE)
        Path("recipe.yaml").write_text(text.replace("data:\n", f"data:\n  {key}: {value}\n", 1))
    return Path("recipe.yaml")


@pytest.mark.parametrize("key", ["max_tokens", "max_words"])
def test_texts_that_differ_behind_the_cut_stay_two(key: str) -> None:
    rows = [{"text": f"the same words at first and then {i}", "label": "ab"[i % 2]} for i in range(60)]
    tested = [{"text": f"the same words at first and then {i}", "label": "ab"[i % 2]} for i in range(60, 90)]
    path = recipe_of(rows, tested, **{key: 5})
    materials = Materials(load_recipe(path))
    findings = {finding.what: finding.detail for finding in check(load_recipe(path), materials)}
    assert findings["evaluation"] == "test: 30 items, in-domain"
    assert "of 60 different texts in a.jsonl" in findings["labelled"]
    assert (
        f"a.jsonl: 60 of 60 examples have texts that are cut to data.{key} 5. 59 of them then read like another"
        in "".join(materials.notes)
    )
    [evaluation] = materials.evaluation_sets
    assert len({example.fields["text"] for example in evaluation.examples}) == 1
    # One that is in both files is one text, also where it is cut.
    write_jsonl(Path("test.jsonl"), [*tested, rows[0]])
    again = Materials(load_recipe(path))
    shared = {e.identity for e in again.labelled} & {e.identity for e in again.evaluation_sets[0].examples}
    assert shared == {again.labelled[0].identity}


def test_a_cut_that_merges_no_texts_changes_no_draw() -> None:
    rows = [{"text": f"{i} words and some more of them", "label": "ab"[i % 2]} for i in range(60)]
    path = recipe_of(rows, texts("tested", 30), max_words=3)
    cut = Materials(load_recipe(path))
    shortened = [{**row, "text": " ".join(row["text"].split()[:3])} for row in rows]
    drawn = [example.fields for example in cut.draw(cut.recipe.budgets[0], 0).labelled]
    write_jsonl(Path("a.jsonl"), shortened)
    alone = Materials(load_recipe(path))
    assert [example.fields for example in alone.draw(alone.recipe.budgets[0], 0).labelled] == drawn


def test_what_a_message_advises_works() -> None:
    labelled, tested = texts(CHINESE * 4, 60), texts("测试" + CHINESE * 4, 30)
    path = recipe_of(labelled, tested, max_tokens=100_000)
    budget = "budgets=[{labelled: 16, num_contexts: 2, num_shots: 8}]"
    arguments = ("check", str(path), "--set", budget, "--set", "data.num_unlabelled=20")
    message = refused(*arguments)
    found = re.search(r"a query of about ([\d,]+)\)\..*data\.max_tokens: (\d+)\)", message)
    assert found, message
    longest = max(len(row["text"].encode()) for row in [*labelled, *tested])
    assert int(found[1].replace(",", "")) == longest
    assert "Use fewer shots (budgets.num_shots)" in message
    assert call(*arguments, "--set", f"data.max_tokens={found[2]}").exit_code == 0
    assert call(*arguments, "--set", "prompt.drop_to_fit=true").exit_code == 0
    # A query that fits no prompt at all is helped by a cut alone.
    write_jsonl(Path("test.jsonl"), texts("测试" + CHINESE * 40, 30))
    message = refused(*arguments)
    assert "fewer shots" not in message
    assert "drop_to_fit" not in message
    assert "Cut texts to their first" in message


def test_words_are_said_not_to_be_counted_where_there_are_no_spaces() -> None:
    path = recipe_of(texts(CHINESE * 4, 60), texts("测试" + CHINESE * 4, 30), max_words=20)
    budget = "budgets=[{labelled: 4, num_contexts: 2, num_shots: 2}]"
    warned = call("check", str(path), "--set", budget, "--set", "data.num_unlabelled=20").stderr
    assert "data.max_words 20 counts words between spaces, and 60 texts have hardly any" in warned


@pytest.mark.parametrize(
    "head",
    ["{model: random:tiny-bert}", "{model: random:tiny-llama}", "{model: random:tiny-llama, head: channel}"],
)
def test_texts_that_a_student_does_not_read_whole_are_counted(head: str) -> None:
    path = recipe_of(texts("short", 60), texts("tested " + CHINESE * 3, 10), max_tokens=1000)
    arguments = ("check", str(path), "--set", "data.num_unlabelled=20", "--set")
    warned = call(*arguments, f"students=[{head}]").stderr
    assert re.search(
        r"reads 256 tokens, and 10 of 30 texts are longer.* Raise its max_tokens, up to \d", warned
    ), warned
    assert "long texts" not in call(*arguments, f"students=[{head[:-1]}, max_tokens: 1024}}]").stderr


def test_pairs_of_texts_without_spaces_are_pairs() -> None:
    rows = [
        {
            "id": f"a-{i}-{'f' * 30}",
            "premise": f"{CHINESE}{i}",
            "hypothesis": f"{CHINESE[:12]}{i}",
            "label": "ab"[i % 2],
        }
        for i in range(60)
    ]
    write_jsonl(Path("a.jsonl"), rows)
    result = call("init", "a.jsonl", *TINY)
    assert "Texts from premise, hypothesis; labels from label: a, b." in result.stdout
    assert call("check", "recipe.yaml").exit_code == 0
