"""The paper's claims: each verdict where its rule says so, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixtures import LABELS, cell, make_results, split_result, summary_line, write_run

from stillshot.evaluate.records import Cell, Comparison, Results
from stillshot.report import write_report
from stillshot.report.claims import Claim, claims_markdown, judge
from stillshot.report.paper import is_paper_setting, read_paper

OPT = {"teacher": "facebook/opt-1.3b", "student": "facebook/opt-125m"}
BIG = {"parameters": 1_315_758_080, "model_bytes": 2_631_000_000}
SMALL = {"parameters": 125_240_832, "model_bytes": 250_500_000}
RAW = {"scoring": "direct", "calibration": "none", "num_contexts": 1}
FIGURES = {"in_context": 0.5, "pattern_finetune": 0.2}


def paper_cells(seeds: tuple[int, ...] = (0, 1), **changes: Any) -> list[Cell]:
    """Teacher, student asked in context, and the student trained both ways; ``changes`` for all."""
    own = {**SMALL, **RAW, "teacher": OPT["student"]}
    return [
        made
        for seed in seeds
        for made in (
            cell(
                "in_context",
                seed,
                id=f"teacher-16-s{seed}",
                **{**BIG, **RAW, "teacher": OPT["teacher"], **changes},
            ),
            cell("in_context", seed, id=f"own-16-s{seed}", **{**own, **changes}),
            cell("pattern_finetune", seed, **{**SMALL, "student": OPT["student"], **changes}),
            cell("context_distillation", seed, **{**SMALL, **OPT, **changes}),
        )
    ]


def against(other: str, gain: float | None, bounds: tuple[float, float] | None, seeds: int = 2) -> Comparison:
    return Comparison(
        a="context_distillation-16",
        b=other,
        split="hans",
        seeds=seeds,
        difference=0.1,
        ci95=(0.0, 0.2),
        p=0.05,
        relative=gain,
        relative_ci95=bounds,
    )


def records(cells: list[Cell], comparisons: list[Comparison], **changes: Any) -> Results:
    lines: dict[str, list[Cell]] = {}
    for one in cells:
        lines.setdefault(one.id.rsplit("-s", 1)[0], []).append(one)
    summary = [summary_line(members) for members in lines.values()]
    return make_results(cells=cells, summary=summary, comparisons=comparisons, **changes)


def judged(
    gain: float | None = 0.6, bounds: tuple[float, float] | None = (0.1, 0.9), **changes: Any
) -> dict[str, Claim]:
    compared = [against(other, gain, bounds) for other in ("teacher-16", "own-16", "pattern_finetune-16")]
    return by_kind(judge(records(paper_cells(), compared, **changes)))


def by_kind(claims: list[Claim]) -> dict[str, Claim]:
    kinds = {
        "parameters": "Fewer parameters",
        "size": "at 16 bits",
        "in_context": "over in-context",
        "pattern_finetune": "over pattern-based",
        "memory": "Peak memory of training below",
        "cheap_memory": "Peak memory of training with LoRA",
    }
    found = {kind: [one for one in claims if words in one.text] for kind, words in kinds.items()}
    assert sum(map(len, found.values())) == len(claims)
    return {kind: members[0] for kind, members in found.items()}


# Accuracy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(FIGURES))
@pytest.mark.parametrize(
    ("above", "low", "high", "verdict"),
    [
        (0.1, 0.05, 0.3, "holds"),
        (0.0, 0.05, 0.3, "holds"),  # exactly the paper's figure
        (0.1, -0.6, 0.3, "cannot be tested here"),  # it may be nothing
        (-0.1, -0.15, 0.1, "cannot be tested here"),  # it may be as much as the paper's
        (-0.1, -0.15, -0.01, "does not hold"),
        (-0.9, -1.0, -0.6, "does not hold"),
        (float("nan"), float("nan"), float("nan"), "cannot be tested here"),
    ],
)
def test_verdicts_on_a_gain(kind: str, above: float, low: float, high: float, verdict: str) -> None:
    """Gain and interval are given relative to the paper's figure."""
    figure = FIGURES[kind]
    assert judged(figure + above, (figure + low, figure + high))[kind].verdict == verdict


@given(gain=st.floats(-1, 3), below=st.floats(0, 2), above=st.floats(0, 2))
def test_no_gain_both_holds_and_fails_and_more_never_hurts(gain: float, below: float, above: float) -> None:
    order = ["does not hold", "cannot be tested here", "holds"]
    first = judged(gain, (gain - below, gain + above))["in_context"].verdict
    better = judged(gain + 0.5, (gain - below + 0.5, gain + above + 0.5))["in_context"].verdict
    assert order.index(better) >= order.index(first)
    assert not (first == "holds" and gain < 0.5)


def test_in_context_learning_is_that_of_the_student_s_size() -> None:
    assert judged()["in_context"].verdict == "holds"
    assert "opt-125m" in judged()["in_context"].compared
    only_larger = [one for one in paper_cells() if not one.id.startswith("own")]
    claims = by_kind(judge(records(only_larger, [against("teacher-16", 0.6, (0.1, 0.9))])))
    assert claims["in_context"].verdict == "cannot be tested here"
    assert claims["in_context"].here == "+60.0%"
    assert "larger teacher" in claims["in_context"].why


def test_in_context_learning_is_as_usually_reported() -> None:
    cells = [
        one.model_copy(update={"calibration": "batch"}) if one.id.startswith("own") else one
        for one in paper_cells()
    ]
    claims = by_kind(judge(records(cells, [against("own-16", 0.6, (0.1, 0.9))])))
    assert claims["in_context"].verdict == "cannot be tested here"
    assert claims["in_context"].here == "–"


def test_older_records_show_the_gain_without_judging_it() -> None:
    claim = judged(None, None)["pattern_finetune"]
    assert (claim.here, claim.interval, claim.verdict) == ("+6.1%", "", "cannot be tested here")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["negative", "positive"]}, "natural language inference"),
        ({"comparisons": []}, "is in this run"),
    ],
)
def test_what_cannot_be_tested(changes: dict[str, Any], words: str) -> None:
    compared = [against(other, 0.6, (0.1, 0.9)) for other in ("own-16", "pattern_finetune-16")]
    results = records(paper_cells(), compared).model_copy(update=changes)
    claim = by_kind(judge(results))["in_context"]
    assert claim.verdict == "cannot be tested here"
    assert words in claim.why


def test_random_weights_can_be_judged_by_their_cost_alone() -> None:
    cells = [
        one.model_copy(
            update={
                "teacher": one.teacher and f"random:{one.teacher}",
                "student": one.student and f"random:{one.student}",
            }
        )
        for one in paper_cells()
    ]
    compared = [against(other, 0.6, (0.1, 0.9)) for other in ("own-16", "pattern_finetune-16")]
    claims = by_kind(judge(records(cells, compared)))
    assert "random weights" in claims["in_context"].why
    assert claims["in_context"].verdict == claims["pattern_finetune"].verdict == "cannot be tested here"
    assert claims["parameters"].verdict == claims["size"].verdict == "holds"


def test_nothing_out_of_domain() -> None:
    cells = paper_cells(out_of_domain={})
    assert "Nothing out-of-domain" in by_kind(judge(records(cells, [])))["in_context"].why


def test_every_out_of_domain_set_has_its_claims() -> None:
    cells = paper_cells(out_of_domain={name: split_result(0.5) for name in ("hans", "rte")})
    claims = judge(records(cells, [against("pattern_finetune-16", 0.3, (0.1, 0.5))]))
    over = [one for one in claims if "over pattern-based" in one.text]
    assert [one.verdict for one in over] == ["holds", "cannot be tested here"]


def test_what_weakens_a_gain_is_said() -> None:
    constant = split_result(0.5).model_copy(update={"predicted": {LABELS[0]: 0.97, LABELS[1]: 0.03}})
    cells = paper_cells(seeds=(0,), out_of_domain={"hans": constant})
    claims = by_kind(judge(records(cells, [against("pattern_finetune-16", 0.3, (0.1, 0.5), seeds=1)])))
    assert "one seed" in claims["pattern_finetune"].compared
    assert "Context distillation gives nearly always the same answer" in claims["pattern_finetune"].compared


def test_controls_are_left_out() -> None:
    control = [
        one.model_copy(update={"num_shots": 0}) if one.method == "context_distillation" else one
        for one in paper_cells()
    ]
    claims = by_kind(judge(records(control, [against("pattern_finetune-16", 0.6, (0.3, 0.9))])))
    assert claims["pattern_finetune"].verdict == claims["memory"].verdict == "cannot be tested here"


# Cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student_bytes", [250_500_000, 500_960_000])
def test_sizes_are_compared_at_one_precision(student_bytes: int) -> None:
    """A student may be kept in 32 bits, and the teacher is in 16 where the processor multiplies in them."""
    cells = [
        one.model_copy(update={"model_bytes": student_bytes}) if one.student else one for one in paper_cells()
    ]
    claims = by_kind(judge(records(cells, [])))
    assert claims["size"].verdict == claims["parameters"].verdict == "holds"
    assert "250 MB (10.5 times smaller)" in claims["size"].here


def test_other_models_do_not_test_the_claims_on_size() -> None:
    claims = by_kind(judge(make_results()))
    assert claims["parameters"].verdict == claims["size"].verdict == "cannot be tested here"
    assert claims["parameters"].here == "135 M → 22.7 M (5.9 times smaller)"


@pytest.mark.parametrize(
    ("distilled", "here", "verdict"),
    [
        (400, "up to −60.0%", "holds"),
        (401, "up to −59.9%", "does not hold"),
        (1100, "at best +10.0%", "does not hold"),
        (0, "–", "cannot be tested here"),
    ],
)
def test_verdicts_on_memory(distilled: int, here: str, verdict: str) -> None:
    peaks = {"context_distillation": distilled, "pattern_finetune": 1000}
    cells = [one.model_copy(update={"peak_memory_bytes": peaks.get(one.method, 5)}) for one in paper_cells()]
    claim = by_kind(judge(records(cells, [against("pattern_finetune-16", 0.3, (0.1, 0.5))])))["memory"]
    assert (claim.here, claim.verdict) == (here, verdict)


@pytest.mark.parametrize(("tuning", "verdict"), [("lora", "holds"), ("full", "cannot be tested here")])
def test_memory_is_compared_between_tunings_in_a_claim_of_its_own(tuning: str, verdict: str) -> None:
    peaks = {"context_distillation": 390, "pattern_finetune": 1000}
    cells = [
        one.model_copy(
            update={
                "peak_memory_bytes": peaks.get(one.method, 5),
                "tuning": tuning if one.method == "context_distillation" else one.tuning,
            }
        )
        for one in paper_cells()
    ]
    claims = by_kind(judge(records(cells, [against("pattern_finetune-16", 0.3, (0.1, 0.5))])))
    assert claims["cheap_memory"].verdict == verdict
    if tuning == "lora":
        assert claims["cheap_memory"].here == "up to −61.0%"
        assert claims["memory"].verdict == claims["pattern_finetune"].verdict == "cannot be tested here"


# Where they are shown ----------------------------------------------------------------------------


def test_claims_stand_on_the_page_and_in_the_folder(tmp_path: Path) -> None:
    compared = [against(other, 0.6, (0.1, 0.9)) for other in ("own-16", "pattern_finetune-16")]
    results = records(paper_cells(), compared)
    page = write_report(write_run(tmp_path, results, with_items=False)).read_text(encoding="utf-8")
    written = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert written == claims_markdown(judge(results))
    assert 'id="claims"' in page
    assert read_paper().source in page
    assert read_paper().source in written
    for claim in judge(results):
        assert f"| {claim.text} |" in written
        assert claim.text in page
    assert "+60.0%, 95% interval 10.0 to 90.0 | **holds** | The gain is at least" in written


def test_claims_are_for_language_inference_or_on_request(tmp_path: Path) -> None:
    results = make_results(labels=["negative", "positive"])
    folder = write_run(tmp_path, results, with_items=False)
    write_report(folder, paper=True)
    assert "cannot be tested here" in (folder / "claims.md").read_text(encoding="utf-8")
    page = write_report(folder).read_text(encoding="utf-8")
    assert not (folder / "claims.md").exists()
    assert 'id="claims"' not in page


def test_nothing_finished_tests_nothing() -> None:
    claims = judge(make_results(cells=[], summary=[], comparisons=[]))
    assert {one.verdict for one in claims} == {"cannot be tested here"}


def test_the_reference_is_whole() -> None:
    paper = read_paper()
    assert "digitised" in paper.source
    curves = [
        values
        for part in (
            paper.figure_1.in_domain,
            paper.figure_1.out_of_domain,
            paper.figure_5.in_domain,
            paper.figure_5.out_of_domain,
            paper.figure_6.peak_memory_gb,
            paper.figure_6.train_seconds,
        )
        for values in part.values()
    ]
    assert len(curves) == 2 * 4 + 4 * 3
    assert {len(values) for values in curves} == {len(paper.support_examples)}


def test_the_paper_s_setting_is_its_task_with_its_student() -> None:
    assert is_paper_setting(records(paper_cells(), []))
    assert not is_paper_setting(make_results())
    assert not is_paper_setting(records(paper_cells(), [], labels=["negative", "positive"]))
