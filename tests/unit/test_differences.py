"""Paired differences in a report: when one is called better, and what correction leaves of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_fixtures import make_results, write_run

from stillshot.evaluate.records import Comparison, Results
from stillshot.report import tables, write_report
from stillshot.report.narrative import tell


def comparison(low: float, high: float) -> Comparison:
    return Comparison(a="a", b="b", split="snli", difference=(low + high) / 2, ci95=(low, high), p=0.05)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (0.0, 0.2, "no clear difference"),
        (-0.2, 0.0, "no clear difference"),
        (-0.1, 0.3, "no clear difference"),
        (float("nan"), float("nan"), "no clear difference"),
    ],
)
def test_better_only_where_the_interval_excludes_zero(low: float, high: float, word: str) -> None:
    assert tables.verdict(comparison(low, high)) == word


@pytest.mark.parametrize(
    ("bounds", "p_holm", "lost"),
    [
        ((0.01, 0.2), 0.05, True),
        ((0.01, 0.2), 0.049, False),
        ((0.01, 0.2), float("nan"), True),
        ((0.01, 0.2), None, False),  # an older record says nothing of it
        ((-0.01, 0.2), 0.5, False),  # nothing is claimed that could be lost
    ],
)
def test_what_does_not_stand_after_correction_is_said(
    bounds: tuple[float, float], p_holm: float | None, lost: bool
) -> None:
    found = comparison(*bounds).model_copy(update={"p_holm": p_holm})
    assert tables.is_lost_to_correction(found) is lost
    table = tables.differences_table(make_results(comparisons=[found]))
    assert table is not None
    assert table.rows[0].entries[-1].detail == ("not after Holm’s correction" if lost else "")


def test_the_headline_says_what_does_not_stand_after_correction(tmp_path: Path) -> None:
    made = make_results()
    comparisons = [one.model_copy(update={"p_holm": 0.08}) for one in made.comparisons]
    results = made.model_copy(update={"comparisons": comparisons})
    said = {one.verdict: one.correction for finding in tell(results).findings for one in finding.statements}
    assert said["better than"] == said["worse than"] == "not after Holm’s correction, p = 0.080"
    assert said["no clear difference from"] == ""
    page = write_report(write_run(tmp_path, results)).read_text(encoding="utf-8")
    assert page.count("; not after Holm’s correction, p = 0.080)") == 3


def test_records_from_before_the_correction_are_read(tmp_path: Path) -> None:
    written = make_results().model_dump(by_alias=True, mode="json")
    for one in written["comparisons"]:
        for key in ("p_holm", "p_mcnemar", "relative", "relative_ci95"):
            del one[key]
    read = Results.model_validate(written)
    assert read.schema_ == 1
    assert read.comparisons[0].p_holm is None


def test_a_relative_gain_read_from_the_other_side() -> None:
    found = comparison(0.1, 0.3).model_copy(update={"relative": 0.5, "relative_ci95": (0.25, 1.0)})
    seen = tables.reversed_comparison(found)
    assert seen.relative == pytest.approx(-1 / 3)
    assert seen.relative_ci95 == pytest.approx((-0.5, -0.2))
    back = tables.reversed_comparison(seen)
    assert (back.relative, back.relative_ci95) == (pytest.approx(0.5), pytest.approx((0.25, 1.0)))
    never = tables.reversed_comparison(
        found.model_copy(update={"relative": -1.0, "relative_ci95": (-1.0, -0.9)})
    )
    assert (never.relative, never.relative_ci95) == (None, None)


def test_a_comparison_read_from_the_other_side() -> None:
    seen = tables.reversed_comparison(comparison(0.01, 0.2))
    assert (seen.a, seen.b, seen.ci95) == ("b", "a", (-0.2, -0.01))
    assert tables.verdict(seen) == "worse"
