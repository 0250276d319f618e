"""Uneven and absent labels are said by ``init``, ``check`` and the report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_calls import TINY, call, refused, write_csv, write_jsonl
from report_fixtures import LABELS, cell, split_result

from stillshot.data.balance import describe_uneven
from stillshot.evaluate.records import Results
from stillshot.report.narrative import tell

ADVICE = "Compare with teacher.calibration: none (or contextual)."


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(*labels: str, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"some words {start + i} here", "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("counts", "uneven"),
    [
        ([50, 50], False),
        ([60, 40], False),
        ([75, 25], True),
        ([3, 1], False),  # as chance may have it
        ([95, 5], True),
        ([100, 0], True),
        ([0, 0], False),
        ([40, 30, 30], False),
        ([60, 20, 20], True),
        ([12, *[9] * 9], False),
    ],
)
def test_labels_are_uneven_where_chance_does_not_explain_it(counts: list[int], uneven: bool) -> None:
    labels = [chr(97 + i) for i in range(len(counts))]
    assert (describe_uneven(dict(zip(labels, counts, strict=True)), labels) is not None) == uneven


def test_init_and_check_warn_of_uneven_labels() -> None:
    write_csv(Path("a.csv"), rows(*(["spam"] + ["ham"] * 9) * 10))
    result = call("init", "a.csv", *TINY)
    assert result.exit_code == 0, result.output
    assert (
        "warning: Labels are uneven: of the labelled examples, 90% of 70 have the label 'ham'."
        in result.stderr
    )
    checked = call("check", "recipe.yaml")
    assert (
        "warning: calibration: of a.train.jsonl, 90% of 70 have the label 'ham'. Batch calibration"
        in checked.stderr
    )
    assert ADVICE in checked.stderr
    for calibration, select, warned in (
        ("none", "false", False),
        ("contextual", "false", False),
        ("none", "true", True),
    ):
        more = ("--set", f"teacher.calibration={calibration}", "--set", f"teacher.select={select}")
        assert ("warning: calibration" in call("check", "recipe.yaml", *more).stderr) == warned
    write_csv(Path("even.csv"), rows(*["spam", "ham"] * 50))
    assert "uneven" not in call("init", "even.csv", *TINY, "-o", "even.yaml").stderr
    assert "calibration" not in call("check", "even.yaml").stderr


def test_labels_that_stand_in_the_pool_tell_of_it() -> None:
    write_csv(Path("a.csv"), rows(*["spam", "ham"] * 50))
    write_jsonl(Path("pool.jsonl"), rows(*(["spam"] + ["ham"] * 9) * 10, start=200))
    assert call("init", "a.csv", *TINY, "--unlabelled", "pool.jsonl").exit_code == 0
    assert (
        "warning: calibration: of pool.jsonl, 90% of 100 have the label 'ham'."
        in call("check", "recipe.yaml").stderr
    )
    write_jsonl(Path("pool.jsonl"), [{"text": row["text"]} for row in rows(*["ham"] * 100, start=200)])
    assert "calibration" not in call("check", "recipe.yaml").stderr


def test_every_class_has_test_items() -> None:
    labels = [*["common"] * 90, *["rare"] * 2, *["other"] * 2]
    write_csv(Path("a.csv"), rows(*labels))
    result = call("init", "a.csv", *TINY, "-o", "out/recipe.yaml")
    assert result.exit_code == 0, result.output
    for part, count in (("test", 28), ("train", 66)):
        lines = Path(f"out/a.{part}.jsonl").read_text().splitlines()
        found = Counter(json.loads(line)["label"] for line in lines)
        assert (set(found), len(lines)) == ({"common", "rare", "other"}, count)
    # Of many classes with three examples each, all have one to test on.
    write_csv(Path("b.csv"), rows(*(f"class {i // 3}" for i in range(60))))
    assert call("init", "b.csv", *TINY, "-o", "b/recipe.yaml").exit_code == 0
    assert len(Path("b/b.test.jsonl").read_text().splitlines()) == 20
    assert "fewer than two different examples of 'rare'" in refused(
        "init", str(write_csv(Path("c.csv"), rows(*labels[:91])))
    )


def test_a_class_without_a_test_item_is_said() -> None:
    write_csv(Path("a.csv"), rows(*["spam", "ham", "eggs"] * 20))
    write_csv(Path("test.csv"), rows(*["spam", "ham"] * 20, start=100))
    result = call("init", "a.csv", *TINY, "--test", "test.csv")
    assert "warning: No test item has the label 'eggs', so nothing will be known of it." in result.stderr
    assert (
        "warning: absent labels: test has no item with the label 'eggs'."
        in call("check", "recipe.yaml").stderr
    )


def results_with(confusion: list[list[int]], **changes: Any) -> Results:
    scores = split_result(0.9).model_copy(update={"confusion": confusion})
    one = cell("in_context", in_domain={"reviews": scores}, **changes)
    return Results(
        name="r", task="t", labels=LABELS, versions={}, hardware={}, cells=[one], summary=[], comparisons=[]
    )


def test_the_report_warns_of_uneven_labels_beside_batch_calibration() -> None:
    uneven, even = [[90, 0, 0], [5, 0, 0], [0, 5, 0]], [[30, 0, 0], [0, 30, 0], [10, 10, 20]]
    (caveat,) = [c for c in tell(results_with(uneven)).caveats if "uneven" in c]
    assert "90% of 100 have the label 'entailment'" in caveat
    assert ADVICE in caveat
    for results in (
        results_with(even),
        results_with(uneven, calibration="none"),
        results_with(uneven, failed="x"),
    ):
        assert not [c for c in tell(results).caveats if "uneven" in c]
