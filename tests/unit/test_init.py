"""``stillshot init``: the recipe it writes, what it refuses, and what it warns of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_calls import TINY, call, refused, reviews, write_csv, write_jsonl

from stillshot.config_files import load_recipe
from stillshot.data.files import read_file
from stillshot.tasks import load_task, new_task


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_init_from_csv_writes_a_recipe_that_passes_the_check() -> None:
    rows = reviews(40, text="Review text", label="rating")
    write_csv(Path("my reviews.csv"), [{"id": str(i), **row} for i, row in enumerate(rows)])
    result = call("init", "my reviews.csv", *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    assert "Texts from Review text; labels from rating: very-bad, very_good." in result.stdout
    recipe = load_recipe("out/recipe.yaml")
    task = load_task(recipe.task)
    assert task.fields == ["Review_text"]
    assert task.patterns["plain"].label_words == {"very-bad": "very bad", "very_good": "very good"}
    assert recipe.teacher.model == "random:tiny-llama"
    parts = {
        part: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for part in ("train", "test")
        for path in [Path(f"out/my reviews.{part}.jsonl")]
    }
    assert len(parts["test"]) == 12
    assert sorted(row["Review text"] for part in parts.values() for row in part) == sorted(
        row["Review text"] for row in rows
    )
    checked = call("check", "out/recipe.yaml", "--json")
    assert checked.exit_code == 0, checked.output
    found = {row["what"]: row["detail"] for row in json.loads(checked.stdout)["findings"]}
    assert found["evaluation"] == "test: 12 items, in-domain"
    before = Path("out/recipe.yaml").read_bytes()
    assert "would be overwritten" in refused("init", "my reviews.csv", "-o", "out/recipe.yaml")
    assert Path("out/recipe.yaml").read_bytes() == before


def test_a_recipe_with_the_bundled_models_passes_the_check(
    bundled_teacher: str, bundled_encoder: str
) -> None:
    write_csv(Path("reviews.csv"), reviews(30))
    assert call("init", "reviews.csv").exit_code == 0
    recipe = load_recipe("recipe.yaml")
    assert (recipe.teacher.model, recipe.students[0].model) == (bundled_teacher, bundled_encoder)
    result = call("check", "recipe.yaml")
    assert result.exit_code == 0, result.output
    assert re.search(r"^student +bundled:minilm-l6, label head, full$", result.stdout, flags=re.MULTILINE)


def test_init_from_pairs_with_named_labels_and_files_of_their_own() -> None:
    pairs = [
        {
            "uid": f"u{i}",
            "premise": f"A man sleeps on sofa {i} today",
            "hypothesis": f"He {i} rests",
            "y": i % 2,
        }
        for i in range(30)
    ]
    write_jsonl(Path("pairs.jsonl"), pairs[:20])
    write_jsonl(Path("test.jsonl"), pairs[20:])
    plain = [{"premise": f"A dog {i}", "hypothesis": f"It barks {i}"} for i in range(50)]
    write_jsonl(Path("plain.jsonl"), plain)
    named = ("--label-name", "0=no", "--label-name", "1=yes")
    files = ("--test", "test.jsonl", "--unlabelled", "plain.jsonl")
    result = call("init", "pairs.jsonl", *files, *named, *TINY, "--name", "own pairs")
    assert result.exit_code == 0, result.output
    recipe = load_recipe("recipe.yaml")
    task = load_task(recipe.task)
    assert (recipe.name, task.fields, task.labels) == ("own pairs", ["premise", "hypothesis"], ["no", "yes"])
    assert recipe.data.num_unlabelled == 50
    assert recipe.budgets[0].labelled == 16
    assert not list(Path().glob("*.train.jsonl"))
    assert call("check", "recipe.yaml").exit_code == 0


def test_an_archive_may_hold_the_labelled_and_the_tested_texts() -> None:
    rows = reviews(60)
    write_jsonl(Path("own.jsonl"), rows)
    archive = [{"text": row["text"]} for row in rows] + [{"text": f"one more text, {i}"} for i in range(20)]
    write_jsonl(Path("archive.jsonl"), archive)
    assert call("init", "own.jsonl", "--unlabelled", "archive.jsonl", *TINY).exit_code == 0
    assert load_recipe("recipe.yaml").data.num_unlabelled == 20
    result = call("check", "recipe.yaml")
    assert result.exit_code == 0, result.output


def test_init_says_what_it_found_where_it_cannot_guess() -> None:
    rows = [{"text": f"some words {i}", "a": str(i % 3), "b": str(i % 2)} for i in range(20)]
    write_csv(Path("many.csv"), rows)
    message = refused("init", "many.csv")
    assert "several columns that could be the label. Name it with --label COLUMN." in message
    assert "a (no text, 3 different values); b (no text, 2 different values)" in message
    assert "Did you mean 'text'?" in refused("init", "many.csv", "--label", "a", "--text", "txt")
    assert "no column 'kind'" in refused("init", "many.csv", "--label", "kind")
    write_csv(Path("numbers.csv"), [{"x": str(i), "label": str(i % 2)} for i in range(9)])
    assert "no column with texts" in refused("init", "numbers.csv")
    write_csv(Path("one.csv"), [{"text": f"words {i}", "label": "a"} for i in range(9)])
    assert "all examples have the label 'a'" in refused("init", "one.csv")
    write_csv(Path("gap.csv"), [{"text": f"words {i}", "label": "ab"[i % 2] if i else ""} for i in range(9)])
    assert "1 rows have no label in 'label', e.g. gap.csv:2." in refused("init", "gap.csv", "--strict")
    write_csv(Path("few.csv"), reviews(3))
    assert "fewer than two different examples of 'very_good'" in refused("init", "few.csv")
    assert not list(Path().glob("*.yaml"))
    assert not list(Path().glob("*.jsonl"))


def test_labels_that_yaml_would_read_as_something_else() -> None:
    rows = [{"text": f"words {i} and more", "label": ("no", "yes", "null", "1.5")[i % 4]} for i in range(40)]
    write_csv(Path("odd.csv"), rows)
    assert call("init", "odd.csv", *TINY).exit_code == 0
    assert load_task(load_recipe("recipe.yaml").task).labels == ["1.5", "no", "null", "yes"]
    assert "random:tiny-llama" in yaml.safe_load(Path("recipe.yaml").read_text())["teacher"]["model"]


def test_labels_that_are_numbers_come_with_advice() -> None:
    write_csv(Path("n.csv"), [{"text": f"words {i} and more", "label": str(i % 12)} for i in range(120)])
    result = call("init", "n.csv", *TINY)
    assert "--label-name 0=NAME" in result.stderr
    assert "These labels are numbers" in Path("recipe.yaml").read_text()
    assert load_task(load_recipe("recipe.yaml").task).labels == [str(i) for i in range(12)]


def test_a_new_task_has_patterns_for_one_field_and_for_pairs() -> None:
    one = new_task("t", ["text"], ["a_b", "a-b"])
    assert one.patterns["plain"].pattern == "{text}"
    assert one.patterns["plain"].label_words == {"a_b": "a_b", "a-b": "a-b"}  # else both were "a b"
    assert (one.channels["plain"].lead, one.channels["plain"].text) == ("Label: {label_words}\n", "{text}")
    two = new_task("t", ["premise", "hypothesis"], ["x", "y"], {"x": "Yes", "y": "No"}, {"premise": "s 1"})
    assert two.patterns["plain"].pattern == "Premise: {premise}\nHypothesis: {hypothesis}"
    assert two.channels["plain"].lead == "Premise: {premise}\nLabel: {label_words}\nHypothesis:"
    assert two.channels["plain"].text == " {hypothesis}"
    assert two.sources.local is not None
    assert two.sources.local.columns == {"premise": "s 1"}


# Doubtful data -----------------------------------------------------------------------------------


def labelled(*labels: str, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"some words {start + i} here", "label": label} for i, label in enumerate(labels)]


def nothing_written() -> bool:
    return not [*Path().rglob("*.yaml"), *Path().rglob("*.jsonl")]


def test_the_space_around_labels_is_no_part_of_them() -> None:
    write_csv(Path("a.csv"), labelled(*[" spam ", "ham"] * 20))
    write_csv(Path("test.csv"), labelled(*[" spam ", "ham"] * 20, start=50))
    for out, more in (("own", ()), ("split", ("--test", "test.csv"))):
        result = call("init", "a.csv", *TINY, *more, "-o", f"{out}/recipe.yaml")
        assert result.exit_code == 0, result.output
        recipe = load_recipe(f"{out}/recipe.yaml")
        task = load_task(recipe.task)
        assert task.labels == ["ham", "spam"]
        for path in (recipe.data.labelled, *recipe.data.in_domain.values()):
            assert {e.label for e in read_file(path, task, source=task.sources.local)} == {"ham", "spam"}


@pytest.mark.parametrize(
    ("labels", "message", "mended"),
    [
        (
            ["Spam", "spam", "ham", "spam", "ham"] * 8,
            "'Spam' at a.csv:2, a.csv:7, a.csv:12 and 5 more; 'spam' at a.csv:3, a.csv:5, a.csv:8 and 13 more. "
            "If they are the same, add --label-name Spam=spam;",
            "Spam=spam",
        ),
        (
            ["spam", "spam ", "ham", "spam", "ham"] * 8,
            "'spam ' at a.csv:3, a.csv:8, a.csv:13 and 5 more. If they are the same, add --label-name 'spam =spam';",
            "spam =spam",
        ),
    ],
)
def test_labels_that_differ_only_in_case_or_space_stop_it(
    labels: list[str], message: str, mended: str
) -> None:
    write_csv(Path("a.csv"), labelled(*labels))
    found = refused("init", "a.csv", *TINY)
    assert "a.csv has labels that differ only in case or in the space around them: " in found
    assert message in found
    assert nothing_written()
    assert call("init", "a.csv", *TINY, "--label-name", mended).exit_code == 0
    assert load_task(load_recipe("recipe.yaml").task).labels in (["ham", "spam"], ["spam", "ham"])
    assert call("check", "recipe.yaml").exit_code == 0


def test_values_may_be_given_one_name_on_purpose() -> None:
    write_csv(Path("a.csv"), labelled(*["1", "2", "3"] * 15))
    names = [part for pair in ("1=bad", "2=good", "3=good") for part in ("--label-name", pair)]
    assert call("init", "a.csv", *TINY, *names).exit_code == 0
    assert load_task(load_recipe("recipe.yaml").task).labels == ["bad", "good"]
    assert "--label-name: a.csv has no label '4'." in refused(
        "init", "a.csv", "--label-name", "4=x", "-o", "b/r.yaml"
    )


def test_the_test_file_is_not_the_file_to_learn_from() -> None:
    write_csv(Path("a.csv"), reviews(40))
    message = refused("init", "a.csv", *TINY, "--test", str(Path("a.csv").resolve()))
    assert "is the file with the examples to learn from. Give another one" in message
    assert nothing_written()


def test_a_bundled_model_must_be_one() -> None:
    write_csv(Path("a.csv"), reviews(40))
    message = refused("init", "a.csv", "--teacher", "bundled:smollm2")
    assert "There is no bundled model 'smollm2'. Did you mean 'smollm2-135m'?" in message
    assert "Did you mean 'minilm-l6'?" in refused("init", "a.csv", "--student", "bundled:minilm")
    assert nothing_written()


def test_columns_that_commas_do_not_separate() -> None:
    Path("a.csv").write_text("what;which\nwell, well;good\n")
    assert "a.csv:1 has the single column 'what;which': its columns seem to be separated by ';'." in refused(
        "init", "a.csv"
    )
    Path("b.csv").write_text("text\tlabel\na film\tgood\n")
    assert "seem to be separated by tabs. Save the file with commas (.csv) or with tabs (.tsv)." in refused(
        "init", "b.csv"
    )


def test_repeated_and_contradicting_texts_are_told_of() -> None:
    rows = labelled(*["spam", "ham"] * 60)
    rows += [rows[0], rows[2], rows[2], {**rows[4], "label": "ham"}]
    write_csv(Path("a.csv"), rows)
    result = call("init", "a.csv", *TINY)
    assert result.exit_code == 0, result.output
    warnings = result.stderr.splitlines()
    assert warnings == [
        "warning: a.csv: 2 texts occur more than once, e.g. a.csv:2 and a.csv:122. Only the first of each is used.",
        "warning: a.csv: 1 text occurs with contradicting labels, e.g. a.csv:6 and a.csv:125 ('spam' and 'ham'). "
        "Only the first of each is used; remove the wrong ones.",
    ]


def test_a_small_test_part_is_told_of() -> None:
    write_csv(Path("a.csv"), labelled(*["spam", "ham"] * 20))
    assert (
        "warning: There are only 12 test items, so one of them is 8 points"
        in call("init", "a.csv", *TINY).stderr
    )
    for count, warned in ((29, True), (30, False)):
        write_csv(Path("test.csv"), labelled(*["spam", "ham", *["spam"] * (count - 2)], start=100))
        result = call("init", "a.csv", *TINY, "--test", "test.csv", "-o", f"{count}.yaml")
        assert result.exit_code == 0, result.output
        assert (f"only {count} test items" in result.stderr) == warned
