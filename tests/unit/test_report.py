"""The report: what it says, what it must not say, and what it must not let through."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import LABELS, METHODS, Page, cell, make_results, split_result, summary_line, write_run

from stillshot.errors import RunFolderError
from stillshot.evaluate.assemble import line_key
from stillshot.evaluate.records import Cell, Interval, Results
from stillshot.report import markdown_table, names, tables, write_report
from stillshot.report.breakdowns import CALIBRATED, calibration_table, group_tables, predicted_tables
from stillshot.report.examples import choose_examples, paired_cells
from stillshot.report.lines import cells_of, headline, ordered_lines
from stillshot.report.names import NOT_APPLICABLE
from stillshot.report.narrative import tell

NASTY = "<script>alert(\"1\")</script> & 'quotes' 😀 שלום $x_1$ --> \x00 \ud800"
NASTY_LABEL = '<b>ja</b> & "nein" 😀 שלום $a_b$ -->'


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), make_results())
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text(encoding="utf-8")


def nasty_results() -> Results:
    """Records whose every text from outside tries to be something else."""
    labels = [NASTY_LABEL, "nein"]
    result = split_result(0.5, labels, groups=True)
    cells = [
        cell(method, 0, in_domain={"<i>set</i>": result}, out_of_domain={}, teacher_agreement={})
        for method in ("in_context", "context_distillation")
    ]
    failed = cell("pattern_finetune", failed="<script>failed()</script>")
    return make_results(
        name="<script>name</script>",
        description="<img src=x onerror=alert(1)>",
        labels=labels,
        cells=[*cells, failed],
        summary=[summary_line([one]) for one in cells],
        comparisons=[],
        hardware={"<b>cpu</b>": "</dd><script>x</script>"},
    )


# The page ----------------------------------------------------------------------------------------


def test_every_method_and_section_is_there(page: str) -> None:
    for method in METHODS:
        assert names.method_name(method) in page
    headings = re.findall(r'<h2 id="([a-z]+)"', page)
    assert headings == [
        "result",
        "methods",
        "figures",
        "groups",
        "differences",
        "claims",
        "examples",
        "calibration",
        "reproduce",
    ]
    assert "SmolLM2-135M" in page
    assert "lexical_overlap" in page


def test_the_page_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "img"} & set(parsed.tags)
    assert not [value for value in parsed.values("src") + parsed.values("href") if not value.startswith("#")]
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]


def test_the_page_is_well_formed_and_accessible(page: str) -> None:
    parsed = Page(page)
    assert parsed.unbalanced == []
    assert parsed.open == []
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#([\w.-]+)', page)
    references += [name for value in parsed.values("aria-labelledby") for name in value.split()]
    assert set(references) <= set(ids)
    assert ("html", "lang", "en") in parsed.attributes
    assert parsed.tags.count("table") == parsed.tags.count("caption")
    assert parsed.tags.count("h1") == 1
    assert all(f'id="{name}-title"' in page for name in ("accuracy", "cost", "confusion"))


def test_figures_are_files_too(run_dir: Path) -> None:
    for name in ("accuracy", "cost", "confusion"):
        assert (run_dir / "figures" / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
        assert (run_dir / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    results = make_results(budgets=(16, 64))
    written = []
    for name in ("first", "second"):
        folder = write_run(tmp_path / name, results)
        write_report(folder)
        write_report(folder)
        paths = [folder / "report.html", *sorted((folder / "figures").iterdir())]
        written.append([(path.name, path.read_bytes()) for path in paths])
    assert written[0] == written[1]


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    folder = write_run(tmp_path, nasty_results(), with_items=False)
    (folder / "recipe.yaml").write_text("name: </code></pre><script>recipe()</script>", encoding="utf-8")
    page = write_report(folder).read_text(encoding="utf-8")
    parsed = Page(page)
    assert not {"script", "img", "i"} & set(parsed.tags)
    assert parsed.unbalanced == []
    assert "&lt;script&gt;recipe()" in page
    assert "&lt;script&gt;failed()" in page
    assert "$a_b$" in page


def test_texts_of_items_are_escaped_and_shortened(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_results(), text=NASTY + "long " * 20_000)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "script" not in Page(page).tags
    assert "&lt;script&gt;alert" in page
    assert "😀 שלום" in page
    assert "\x00" not in page
    assert max(map(len, re.findall(r'<dd dir="auto">([^<]*)</dd>', page))) < 500
    assert len(page) < 300_000


# What may be missing -----------------------------------------------------------------------------


def test_without_optional_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path, make_results(), with_items=False)
    (folder / "recipe.yaml").unlink()
    page = write_report(folder).read_text(encoding="utf-8")
    assert "no examples are shown" in page
    assert "holds no <code>recipe.yaml</code>" in page


def test_broken_predictions_are_no_error(tmp_path: Path) -> None:
    results = make_results()
    folder = write_run(tmp_path, results)
    (folder / "cells" / "context_distillation-16-s0.predictions.jsonl").write_text('{"split": 1}\n[]\n')
    assert choose_examples(folder, results).missing.startswith("The answers to single items cannot be read")
    write_report(folder)


def test_texts_that_are_missing_are_no_error(tmp_path: Path) -> None:
    results = make_results()
    folder = write_run(tmp_path, results)
    for path in (folder / "evaluation").iterdir():
        path.write_text('{"index": 0, "fields": "not a mapping"}\n')
    assert "were not kept" in choose_examples(folder, results).missing
    write_report(folder)


def test_no_cells_at_all(tmp_path: Path) -> None:
    results = make_results(cells=[], summary=[], comparisons=[])
    page = write_report(write_run(tmp_path, results)).read_text(encoding="utf-8")
    assert "No cell has finished" in page
    assert "<figure>" not in page


def test_figures_that_no_longer_apply_are_removed(tmp_path: Path) -> None:
    write_report(write_run(tmp_path, make_results()))
    write_report(write_run(tmp_path, make_results(methods=("pattern_finetune",))))
    assert not (tmp_path / "figures" / "confusion.svg").exists()
    assert (tmp_path / "figures" / "accuracy.svg").exists()


@pytest.mark.parametrize("method", METHODS)
def test_one_method_alone(tmp_path: Path, method: str) -> None:
    results = make_results(methods=(method,), seeds=(0,))
    page = write_report(write_run(tmp_path, results)).read_text(encoding="utf-8")
    assert names.method_name(method) in page


def test_numbers_that_are_not_finite() -> None:
    broken = split_result(0.5).model_copy(update={"nll": float("nan"), "ece": float("inf")})
    one = cell("context_distillation", in_domain={"snli": broken}, latency_ms={"p50": float("nan")})
    results = make_results(cells=[one], summary=[summary_line([one])], comparisons=[])
    shown = f"{tables.comparison_table(results)} {calibration_table(results)}".lower()
    assert "nan" not in shown
    assert "'inf'" not in shown


def test_what_calibration_on_a_set_gives_is_told_where_records_have_it() -> None:
    results = make_results()
    table = calibration_table(results)
    assert table is not None
    assert all("calibrated" not in column.detail for column in table.columns)
    split, found = next(iter(results.cells[0].in_domain.items()))
    newer = found.model_copy(update={"calibrated_accuracy": 0.875})
    key = results.summary[0].key
    cells = [
        one.model_copy(update={"in_domain": {split: newer}}) if line_key(one.id) == key else one
        for one in results.cells
    ]
    table = calibration_table(results.model_copy(update={"cells": cells}))
    assert table is not None
    (place,) = [i for i, column in enumerate(table.columns) if column.detail == CALIBRATED]
    assert sorted({row.entries[place].text for row in table.rows}) == ["87.5", NOT_APPLICABLE]
    older = next(place for place, one in enumerate(cells) if line_key(one.id) == key)
    cells[older] = results.cells[older]  # of another version, so the mean over seeds is not known
    assert calibration_table(results.model_copy(update={"cells": cells})) == calibration_table(results)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"schema": 1}', "\udcff"])
def test_records_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunFolderError, match="stillshot run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_records_of_another_schema(tmp_path: Path) -> None:
    write_run(tmp_path, make_results(schema_=99))
    with pytest.raises(RunFolderError, match="schema 99"):
        write_report(tmp_path)


def test_failed_cells_are_named_with_their_reason(tmp_path: Path) -> None:
    results = make_results()
    failed = cell("context_distillation", 7, failed="The loss is not finite at step 12.")
    results = results.model_copy(update={"cells": [*results.cells, failed]})
    page = write_report(write_run(tmp_path, results)).read_text(encoding="utf-8")
    assert "The loss is not finite at step 12." in page
    assert "with 2 seeds" in tell(results).setup


# What is claimed ---------------------------------------------------------------------------------


def test_the_headline_says_what_the_comparisons_say() -> None:
    story = tell(make_results())
    told = {(one.split, said.other): said.verdict for one in story.findings for said in one.statements}
    assert told == {
        ("snli", "in-context learning"): "no clear difference from",
        ("snli", "pattern-based fine-tuning"): "better than",
        ("hans", "in-context learning"): "better than",
        ("hans", "pattern-based fine-tuning"): "worse than",
    }
    assert "snli (in-domain, 300 items) and hans (out-of-domain, 300 items)" in story.setup


def test_without_comparisons_nothing_is_called_better() -> None:
    story = tell(make_results(comparisons=[], seeds=(0,)))
    assert all(not finding.statements for finding in story.findings)
    assert any("no paired comparison" in caveat for caveat in story.caveats)
    assert any("one seed" in caveat for caveat in story.caveats)


def test_the_headline_is_not_chosen_by_its_outcome() -> None:
    story = tell(make_results(budgets=(16, 64)))
    assert story.subject == "context distillation (16 labels)"
    assert any("not the best one" in caveat for caveat in story.caveats)


def test_bold_only_where_intervals_are_apart() -> None:
    def at(mean: float, half: float) -> Interval:
        return Interval(mean=mean, ci95=(mean - half, mean + half), seeds=2)

    assert tables.clear_best([at(0.5, 0.1), None, at(0.8, 0.1)]) == 2
    assert tables.clear_best([at(0.5, 0.1), at(0.6, 0.1)]) is None
    assert tables.clear_best([at(0.5, 0.1), None]) is None
    assert tables.clear_best([]) is None


def test_a_constant_predictor_shows() -> None:
    constant = split_result(1 / 3).model_copy(
        update={"predicted": dict(zip(LABELS, (0.99, 0.01, 0), strict=True))}
    )
    one = cell("zero_shot", in_domain={"snli": constant}, out_of_domain={})
    table = predicted_tables(make_results(cells=[one], summary=[summary_line([one])], comparisons=[]))[0]
    assert [entry.text for entry in table.rows[0].entries] == ["33.3", "33.3", "33.3"]
    assert [entry.text for entry in table.rows[1].entries] == ["99.0", "1.0", "0.0"]
    assert table.rows[1].name.detail == "nearly always the same answer"


def test_groups_are_means_over_seeds() -> None:
    (table,) = group_tables(make_results())
    assert [column.title for column in table.columns] == ["lexical_overlap", "subsequence", "constituent"]
    assert [entry.text for entry in table.rows[-1].entries] == ["57.0", "52.0", "47.0"]


def test_cells_are_found_by_their_line() -> None:
    results = make_results(budgets=(16, 64), seeds=(1, 0))
    found = {line.key: [one.seed for one in cells_of(results, line)] for line in results.summary}
    assert set(map(tuple, found.values())) == {(0, 1)}


def test_examples_are_those_where_one_of_the_two_is_right(tmp_path: Path) -> None:
    results = make_results()
    found = choose_examples(write_run(tmp_path, results), results)
    assert len(found.student_right) == len(found.teacher_right) == 6
    assert all(one.student.label == one.gold != one.teacher.label for one in found.student_right)
    assert all(one.teacher.label == one.gold != one.student.label for one in found.teacher_right)
    assert {one.split for one in found.student_right} == {"snli", "hans"}
    tally = found.tallies[0]
    assert (tally.both, tally.student_only, tally.teacher_only, tally.neither) == (32, 16, 8, 4)


# Words and numbers -------------------------------------------------------------------------------

GOLDEN_MARKDOWN = """\
| Method | Model | Head, tuning | Labels | snli (in-domain, %) | hans (out-of-domain, %) | Parameters | Model size | Peak memory | Train time | Label time | Latency p50 |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| Zero-shot | SmolLM2-135M | none | 0 | 41.0 [37.0 to 45.0] | 50.0 [46.0 to 54.0] | 135 M | 269 MB | 655 MB | – | – | 31.0 ms |
| In-context learning (4 contexts of 16 shots, channel, batch calibration) | SmolLM2-135M | none | 16 | 62.0 [58.0 to 66.0] | 44.0 [40.0 to 48.0] | 135 M | 269 MB | 655 MB | – | – | 52.5 ms |
| Pattern-based fine-tuning | MiniLM-L6 | label head, all weights | 16 | 52.0 [48.0 to 56.0] | 49.0 [45.0 to 53.0] | 22.7 M | 90.9 MB | 412 MB | 38 s | – | 3.4 ms |
| Context distillation | MiniLM-L6, taught by SmolLM2-135M | label head, all weights | 16 + 512 queries | 66.0 [62.0 to 70.0] | 52.0 [48.0 to 56.0] | 22.7 M | 90.9 MB | 412 MB | 38 s | 61 s | 3.4 ms |
"""


def test_markdown_is_golden() -> None:
    assert markdown_table(make_results()) == GOLDEN_MARKDOWN


def test_markdown_cannot_be_broken_by_a_name() -> None:
    one = cell("in_context", teacher="org/a|b\n<b>*x*</b>", in_domain={"[s](x)": split_result(0.5)})
    table = markdown_table(make_results(cells=[one], summary=[summary_line([one])], comparisons=[]))
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
    assert len(widths) == 1
    assert "<b>" not in table.replace("\\<", "")


def test_lines_of_one_method_get_different_names() -> None:
    cells = [
        cell("context_distillation", tuning="full"),
        cell("context_distillation", tuning="lora", id="lora-s0"),
        cell("context_distillation", tuning="lora", id="other-s0"),
    ]
    told = names.line_names([summary_line([one]) for one in cells])
    assert told == {
        "context_distillation-16": "Context distillation (all weights)",
        "lora": "Context distillation (LoRA) [lora]",
        "other": "Context distillation (LoRA) [other]",
    }


def controls(labelled: int = 16) -> list[Cell]:
    """The cells of two controls, called as in a run."""
    none: dict[str, Any] = {"num_shots": 0, "num_contexts": 0, "labelled": 0}
    sorts = {"zero_shot_teacher": none, "shuffled_labels": {"labelled": labelled, "num_shots": labelled}}
    return [
        cell("context_distillation", id=f"{name}-m-n{labelled}x4x4-s0", control=name, **own)
        for name, own in sorts.items()
    ]


def test_controls_are_named_and_told_apart_from_what_they_control() -> None:
    main = [cell("context_distillation", labelled=n, id=f"m-n{n}x4x4-s0") for n in (16, 32)]
    told = names.line_names([summary_line([one]) for one in (main[0], *controls())])
    assert list(told.values()) == [
        "Context distillation",
        "Context distillation (control: teacher without context)",
        "Context distillation (control: shuffled labels)",
    ]
    told = names.line_names([summary_line([one]) for one in (*main, *controls(), *controls(32))])
    assert told["zero_shot_teacher-m-n32x4x4"] == (
        "Context distillation (control: teacher without context, beside 32 labels)"
    )
    assert told["m-n32x4x4"] == "Context distillation (32 labels)"
    assert "shuffled_labels-m" not in " ".join(told.values())
    cells = [*controls(32), *controls(), *main, cell("zero_shot")]
    results = make_results(cells=cells, summary=[summary_line([one]) for one in cells], comparisons=[])
    assert [line.key.split("-")[0] for line in ordered_lines(results)] == [
        "zero_shot", "m", "zero_shot_teacher", "shuffled_labels", "m", "zero_shot_teacher", "shuffled_labels",
    ]  # fmt: skip


def test_controls_are_neither_headline_nor_variants(tmp_path: Path) -> None:
    main = cell("context_distillation", id="m-n16x4x4-s0")
    cells = [*controls(), main, cell("in_context")]
    results = make_results(cells=cells, summary=[summary_line([one]) for one in cells], comparisons=[])
    line = headline(results)
    assert line is not None
    assert line.key == "m-n16x4x4"
    assert not any("variants" in caveat for caveat in tell(results).caveats)
    page = write_report(write_run(tmp_path, results)).read_text(encoding="utf-8")
    assert "Controls show how much the demonstrations gave" in page
    table = markdown_table(results)
    assert table.count("control: shuffled labels") == 1
    alone = make_results(cells=cells[:1], summary=[summary_line([cells[0]])], comparisons=[])
    assert "no demonstration (a control)" in tell(alone).setup
    shuffled = make_results(cells=cells[1:2], summary=[summary_line([cells[1]])], comparisons=[])
    assert "with shuffled labels (a control), and gave soft labels" in tell(shuffled).setup


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (names.points(-0.0101), "−1.0"),
        (names.points(-0.0001), "0.0"),
        (names.points(float("nan")), "–"),
        (names.size(999), "999 B"),
        (names.size(999_600), "1.00 MB"),
        (names.duration(0.0004), "0.40 ms"),
        (names.duration(3599.9), "1 h 00 min"),
        (names.milliseconds(1234.5), "1,234 ms"),
        (names.milliseconds(None), "–"),
        (names.model_name("/models/mine/"), "mine"),
        (names.model_name("facebook/opt-1.3b"), "opt-1.3b"),
    ],
)
def test_numbers_and_names(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("module", [names, tables])
def test_documented_examples(module: object) -> None:
    tested = doctest.testmod(module)  # type: ignore[arg-type]
    assert tested.attempted > 0
    assert tested.failed == 0


def test_no_model_library_is_imported() -> None:
    code = "import stillshot.report, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_teacher_that_is_set_against_a_student_is_the_one_that_taught_it() -> None:
    """Of one context too, and where another budget of as many labels has more of them."""
    student = cell("context_distillation", id="context_distillation-x-n16x1x16-s0", num_contexts=1)
    asked = [
        cell("in_context", id=f"in_context-{name}-s0", num_contexts=contexts, **changes)
        for name, contexts, changes in (
            ("x-raw-n16x1x16", 1, {"scoring": "direct", "calibration": "none"}),
            ("x-teacher-n16x1x16", 1, {}),
            ("x-teacher-n16x4x8", 4, {}),
        )
    ]
    cells = [*asked, student]
    results = make_results(cells=cells, summary=[summary_line([one]) for one in cells], comparisons=[])
    found = paired_cells(results)
    assert found is not None
    assert [one.id for one in found] == [student.id, "in_context-x-teacher-n16x1x16-s0"]


def test_a_control_without_labels_stands_beside_those_of_its_budget() -> None:
    cells = []
    for labelled in (4, 16):
        setting = f"n{labelled}x1x{labelled}"
        cells += [
            cell("pattern_finetune", labelled=labelled, id=f"pattern_finetune-x-{setting}-s0"),
            cell("context_distillation", labelled=labelled, id=f"context_distillation-x-{setting}-s0"),
            cell("context_distillation", labelled=0, id=f"zero_shot_teacher-x-{setting}-s0",
                 control="zero_shot_teacher", num_shots=0, num_contexts=0),
        ]  # fmt: skip
    results = make_results(cells=cells, summary=[summary_line([one]) for one in cells], comparisons=[])
    shown = [row.name.text for row in tables.comparison_table(results).rows]
    assert [("control" in name, "fine-tuning" in name) for name in shown] == 2 * [
        (False, True),
        (False, False),
        (True, False),
    ]
