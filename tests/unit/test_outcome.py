"""What a run shows at its end."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from report_fixtures import cell, make_results, split_result, summary_line

from stillshot.cli.outcome import best_student, better_finetuned, show_results
from stillshot.report import markdown_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_a_terminal_and_keeps_its_numbers(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    raw = cell("in_context", id="raw-s0", num_contexts=1, calibration="none", latency_ms={"p50": 2997.4})
    tuned = cell(
        "context_distillation", id="t-s0", student="bundled:smollm2-135m", tuning="lora", head="channel"
    )
    results = make_results()
    results = results.model_copy(
        update={"summary": [*results.summary, summary_line([raw]), summary_line([tuned])]}
    )
    shown = Terminal()
    show_results(results, shown)
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("snli", "hans", "out-of-", "SmolLM2-135M", "2,997 ms", "66.0", "44.0"):
        assert word in text
    if width == 100:  # a line each, and the headings
        assert len([line for line in lines if line.strip()]) == 3 + 1 + len(results.summary)
        assert re.search(r"Context distillation +16 +MiniLM-L6 +66\.0 +52\.0 +3\.4 ms", text)
        for word in ("In-context, 4x16, batch", "In-context, 1x16, raw", "SmolLM2-135M, channel, LoRA"):
            assert word in text


def test_names_from_data_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    odd = cell("zero_shot", in_domain={"[red]x[/red]": split_result(0.5)}, teacher="me/[bold]m")
    shown = Terminal()
    show_results(make_results(cells=[odd], summary=[summary_line([odd])], comparisons=[]), shown)
    assert "[red]x[/red]" in shown.getvalue()
    assert "[bold]m" in shown.getvalue()


def test_what_is_piped_is_markdown() -> None:
    shown = io.StringIO()
    show_results(make_results(), shown)
    assert shown.getvalue() == markdown_table(make_results()) + "\n"


def test_the_best_student_is_the_distilled_one_with_the_highest_accuracy(tmp_path: Path) -> None:
    cells = [
        cell("context_distillation", seed, id=f"s{seed}", gain=gain, failed=failed)
        for seed, gain, failed in ((0, 0.0, None), (1, 0.1, None), (2, 0.2, "It failed."), (3, 0.3, None))
    ]
    cells.append(cell("context_distillation", id="control", gain=0.3, control="zero_shot_teacher"))
    results = make_results(cells=[*cells, cell("pattern_finetune", id="other", gain=0.4)])
    for name in ("s0", "s1", "s2", "other", "control"):  # s3 was removed
        (tmp_path / "students" / name).mkdir(parents=True)
    assert best_student(results, tmp_path) == tmp_path / "students" / "s1"
    assert best_student(make_results(cells=[cell("zero_shot")]), tmp_path) is None


def test_a_fine_tuned_student_that_is_better_is_named(tmp_path: Path) -> None:
    cells = [
        cell("context_distillation", id="taught", in_domain={"snli": split_result(0.6)}),
        cell("pattern_finetune", id="tuned", in_domain={"snli": split_result(0.7)}),
        cell("pattern_finetune", id="of-more-labels", in_domain={"snli": split_result(0.9)}, labelled=96),
        cell("pattern_finetune", 1, id="of-another-seed", in_domain={"snli": split_result(0.9)}),
        cell("pattern_finetune", id="gone", in_domain={"snli": split_result(0.9)}),
    ]
    for name in ("taught", "tuned", "of-more-labels", "of-another-seed"):
        (tmp_path / "students" / name).mkdir(parents=True)
    student = best_student(make_results(cells=cells), tmp_path)
    assert student is not None
    said = better_finetuned(make_results(cells=cells), tmp_path, student)
    assert said is not None
    assert said.startswith("MiniLM-L6, fine-tuned on the same 16 labels alone, was right more often")
    assert str(tmp_path / "students" / "tuned") in said
    assert "(70.0 % against 60.0 %)" in said
    without = [
        cells[0],
        *cells[2:],
        cell("pattern_finetune", id="tuned", in_domain={"snli": split_result(0.6)}),
    ]
    assert better_finetuned(make_results(cells=without), tmp_path, student) is None
