"""Figures against support examples: when they are drawn, what they show, and the paper behind them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_fixtures import METHODS, Page, cell, make_results, summary_line, write_run

from stillshot.evaluate.records import Cell, Results
from stillshot.report import write_report
from stillshot.report.grid import has_grid, method_series, student_series

BY_METHOD = {"accuracy_by_support", "cost_by_support"}
BY_TUNING = {"accuracy_by_tuning", "cost_by_tuning"}
DASHED = "paper (digitised)"


def tuned_results(budgets: tuple[int, ...] = (4, 16), student: str = "facebook/opt-125m") -> Results:
    """All methods, and three tunings of one student, at every budget."""
    lines: dict[str, list[Cell]] = {}
    for budget in budgets:
        for method in METHODS:
            for tuning in ("full", "lora", "bitfit"):
                trains = method in ("pattern_finetune", "context_distillation")
                if (tuning != "full" and not trains) or (method == "zero_shot" and budget != budgets[0]):
                    continue
                key = f"{method}-{tuning}-n{budget}x1x{budget}" if method != "zero_shot" else "zero_shot-m"
                changes = {"student": student, "tuning": tuning} if trains else {}
                lines[key] = [
                    cell(
                        method,
                        seed,
                        budget,
                        id=f"{key}-s{seed}",
                        peak_memory_bytes=10**8 * (seed + 3),
                        **changes,
                    )
                    for seed in (0, 1)
                ]
    members = [one for line in lines.values() for one in line]
    return make_results(
        cells=members, summary=[summary_line(line) for line in lines.values()], comparisons=[]
    )


def drawn(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "figures").glob("*.svg")}


def texts(folder: Path, name: str) -> list[str]:
    root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


# Which series ------------------------------------------------------------------------------------


def test_a_series_is_a_line_without_its_budget() -> None:
    found = method_series(tuned_results((4, 16, 64)))
    assert [(one.method, [line.labelled for line in one.lines]) for one in found] == [
        ("zero_shot", [0]),
        ("in_context", [4, 16, 64]),
        ("pattern_finetune", [4, 16, 64]),
        ("context_distillation", [4, 16, 64]),
    ]
    assert [one.is_flat for one in found] == [True, False, False, False]
    assert {one.tuning for one in found[2:]} == {"full"}  # the headline's


def test_students_are_told_apart_by_what_differs() -> None:
    found = student_series(tuned_results())
    assert [(one.name, one.tuning) for one in found] == [
        ("all weights", "full"),
        ("LoRA", "lora"),
        ("BitFit", "bitfit"),
    ]
    assert student_series(make_results(budgets=(16, 64))) == []


def test_budgets_with_the_same_number_of_labels_are_curves_of_their_own() -> None:
    lines = [
        summary_line([cell("context_distillation", 0, labelled, id=f"{name}-s0", num_contexts=contexts)])
        for name, labelled, contexts in (("c-n16x1x16", 16, 1), ("c-n16x2x8", 16, 2), ("c-n64x1x16", 64, 1))
    ]
    found = student_series(make_results(summary=lines, cells=[], comparisons=[]))
    assert [[line.key for line in one.lines] for one in found] == [
        ["c-n16x1x16", "c-n64x1x16"],
        ["c-n16x2x8"],
    ]
    assert len({one.name for one in found}) == 2


def test_the_in_context_variants_are_two_series() -> None:
    lines = [
        summary_line(
            [cell("in_context", 0, labelled, id=f"in_context-m-{variant}-n{labelled}x1x8-s0", **asked)]
        )
        for variant, asked in (("raw", {"scoring": "direct", "calibration": "none"}), ("teacher", {}))
        for labelled in (8, 16)
    ]
    found = method_series(make_results(summary=lines, cells=[], comparisons=[]))
    assert [one.name for one in found] == ["In-context learning (direct)", "In-context learning (channel)"]


# When they are drawn -----------------------------------------------------------------------------


def test_one_budget_makes_no_curve(tmp_path: Path) -> None:
    results = tuned_results((16,))
    assert not has_grid(results)
    half = cell("in_context", id="in_context-raw-s0", num_shots=8, labelled=8)  # a context of half the labels
    results = make_results(
        cells=[*results.cells, half], summary=[*results.summary, summary_line([half])], comparisons=[]
    )
    assert not has_grid(results)
    write_report(write_run(tmp_path, results, with_items=False), paper=True)
    assert not drawn(tmp_path) & (BY_METHOD | BY_TUNING)


def test_tunings_need_two_students(tmp_path: Path) -> None:
    write_report(write_run(tmp_path, make_results(budgets=(16, 64)), with_items=False))
    assert drawn(tmp_path) >= BY_METHOD
    assert not drawn(tmp_path) & BY_TUNING


def test_every_figure_is_on_the_page_and_a_file(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path, tuned_results(), with_items=False)).read_text(encoding="utf-8")
    parsed = Page(page)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    assert parsed.unbalanced == []
    for name in BY_METHOD | BY_TUNING:
        assert f'id="{name}-title"' in page
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", list(METHODS))
def test_one_method_alone(tmp_path: Path, method: str) -> None:
    results = make_results(methods=(method,), budgets=(16, 64), seeds=(0,))
    write_report(write_run(tmp_path, results, with_items=False), paper=True)
    assert (drawn(tmp_path) >= BY_METHOD) is (method != "zero_shot")


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        folder = write_run(tmp_path / name, tuned_results(), with_items=False)
        write_report(folder)
        paths = [folder / "report.html", folder / "claims.md", *sorted((folder / "figures").iterdir())]
        written.append([(path.name, path.read_bytes()) for path in paths])
    assert written[0] == written[1]


# What they show ----------------------------------------------------------------------------------


def test_axes_and_legends_say_what_is_drawn(tmp_path: Path) -> None:
    write_report(write_run(tmp_path, tuned_results(student="org/other"), with_items=False))
    found = texts(tmp_path, "accuracy_by_support")
    assert {"4", "16", "In-context learning", "Pattern-based fine-tuning", "Zero-shot"} <= set(found)
    assert any("out-of-domain" in text for text in found)
    assert {"LoRA", "BitFit", "all weights"} <= set(texts(tmp_path, "cost_by_tuning"))
    assert {"Peak memory, MB", "Training time, s", "Model size, MB"} <= set(
        texts(tmp_path, "cost_by_support")
    )
    assert not any(DASHED in text for name in BY_METHOD | BY_TUNING for text in texts(tmp_path, name))


def test_the_paper_stands_behind_its_own_student(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path, tuned_results(), with_items=False)).read_text(encoding="utf-8")
    for name in ("accuracy_by_support", *BY_TUNING):
        assert any(DASHED in text for text in texts(tmp_path, name))
    assert not any(
        DASHED in text for text in texts(tmp_path, "cost_by_support")
    )  # the paper has no such curves
    assert {"1", "4", "8", "16"} <= set(texts(tmp_path, "accuracy_by_support"))
    assert "Dashed, with crosses: arXiv 2412.13243v1" in page


@pytest.mark.parametrize("paper", [False, True])
def test_the_paper_stands_behind_others_on_request(tmp_path: Path, paper: bool) -> None:
    results = make_results(budgets=(16, 64))
    write_report(write_run(tmp_path, results, with_items=False), paper=paper)
    assert any(DASHED in text for text in texts(tmp_path, "accuracy_by_support")) is paper
