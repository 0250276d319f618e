"""A whole comparison from one recipe: budgets from one shot on, tunings, seeds, methods, controls; some cells fail."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import SENTIMENT, reviews

from stillshot import pipeline
from stillshot.config import Recipe
from stillshot.config_files import validated
from stillshot.errors import DataError, PromptError, RecipeError
from stillshot.evaluate.assemble import setting_of
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.records import Cell, Results
from stillshot.evaluate.resources import Usage, measured
from stillshot.evaluate.runner import run_isolated
from stillshot.methods import experts, work
from stillshot.methods.cells import asked_settings, cells, settings
from stillshot.methods.check import check
from stillshot.methods.experts import Mixture
from stillshot.methods.materials import Materials
from stillshot.pipeline import run
from stillshot.report import markdown_table, names
from stillshot.student.saved import Student
from stillshot.teacher import int8_choice
from stillshot.teacher.local import LocalTeacher

TUNINGS = ["full", "lora", "bitfit"]


def student(tuning: str, **changes: Any) -> dict[str, Any]:
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01}
    return {
        "model": "random:tiny-opt",
        "dtype": "float32",
        "tuning": tuning,
        "distill": training,
        "finetune": training,
        **changes,
    }


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """A recipe of tiny models, to be changed."""
    for name, count, seed in (("labelled", 40, 1), ("queries", 16, 2), ("test", 8, 3)):
        rows = [{"text": f"{name} {e.fields['text']}", "label": e.label} for e in reviews(count, seed)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {
        "name": "grid",
        "task": SENTIMENT.model_dump(mode="json"),
        "data": {
            "labelled": str(tmp_path / "labelled.jsonl"),
            "unlabelled": str(tmp_path / "queries.jsonl"),
            "num_unlabelled": 16,
            "in_domain": {"test": str(tmp_path / "test.jsonl")},
        },
        "budgets": [{"labelled": 4, "num_contexts": 2, "num_shots": 4}],
        "teacher": {"model": "random:tiny-llama", "dtype": "float32"},
        "students": [student("full")],
        "methods": ["context_distillation"],
        "evaluation": {"bootstrap_samples": 50, "latency_queries": 1},
    }


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Work is done here and remembered: what, and on which setting or cell."""
    done: list[tuple[str, str]] = []

    def at_once(work: Callable[..., Any], *arguments: Any, report: Any) -> Any:
        subject = arguments[2]
        done.append((work.__name__, getattr(subject, "id", None) or subject.name))
        return work(*arguments, report)

    monkeypatch.setattr(pipeline, "run_isolated", at_once)
    return done


def soft_labels(folder: Path, setting: str) -> np.ndarray:
    return np.array(json.loads((folder / f"softlabels/{setting}.json").read_text())["soft_labels"])


def by_id(results: Results) -> dict[str, Cell]:
    return {cell.id: cell for cell in results.cells}


# The grid ------------------------------------------------------------------------------------------


def test_a_grid_of_budgets_tunings_seeds_and_methods(
    content: dict[str, Any], in_one_process: list[tuple[str, str]], tmp_path: Path
) -> None:
    content |= {
        "budgets": [{"labelled": count, "num_contexts": 1} for count in (1, 4, 32)],
        "students": [student(tuning) for tuning in TUNINGS],
        "methods": ["zero_shot", "in_context", "pattern_finetune", "context_distillation"],
        "in_context_models": ["teacher", "students"],
        "seeds": [0, 1],
    }
    results = run(Recipe.model_validate(content), tmp_path / "run")
    assert all(cell.failed is None and cell.in_domain["test"].n == 8 for cell in results.cells)
    assert len(results.cells) == 2 + 3 * 2 * (2 + 1 + 3 + 3)  # raw, as labelling, and student-sized
    found = Counter((cell.method, cell.labelled, cell.seed) for cell in results.cells)
    for labelled in (1, 4, 32):
        for seed in (0, 1):
            assert found["pattern_finetune", labelled, seed] == 3
            assert found["context_distillation", labelled, seed] == 3
            assert found["in_context", labelled, seed] == 3
    asked = {cell.teacher for cell in results.cells if cell.method == "in_context"}
    assert asked == {"random:tiny-llama", "random:tiny-opt"}
    one = by_id(results)["in_context-tiny-opt-raw-n1x1x1-s0"]
    assert (one.num_shots, one.num_contexts, one.scoring, one.calibration) == (1, 1, "direct", "none")
    # Each setting is labelled once, before the three students that learn from it.
    order = [name for what, name in in_one_process if what in ("label_setting", "train_cell")]
    for position, name in enumerate(order):
        if name.startswith("context_distillation"):
            assert order.index(setting_of(name)) < position
    assert sum(what == "label_setting" for what, _ in in_one_process) == 6
    pairs = {(c.a, c.b) for c in results.comparisons}
    own = "context_distillation-tiny-opt-label-lora-n4x1x4"
    assert (own, "in_context-tiny-opt-raw-n4x1x4") in pairs  # the same size, with its context
    assert (own, "pattern_finetune-tiny-opt-label-lora-n4x1x4") in pairs
    assert (own, "in_context-tiny-opt-raw-n32x1x32") not in pairs


def test_a_cell_that_fails_is_told_and_the_others_go_on(
    content: dict[str, Any], in_one_process: list[tuple[str, str]], tmp_path: Path
) -> None:
    broken = student("lora", distill={"epochs": 4, "learning_rate": 1e30, "warmup_ratio": 0.0})
    content |= {"students": [student("full"), broken], "controls": ["shuffled_labels"]}
    results = run(Recipe.model_validate(content), tmp_path / "run")
    failed = {cell.id: cell for cell in results.cells if cell.failed}
    assert list(failed) == [
        "context_distillation-tiny-opt-label-lora-n4x2x4-s0",
        "shuffled_labels-tiny-opt-label-lora-n4x2x4-s0",
    ]
    assert all("not finite. Lower the learning rate" in str(cell.failed) for cell in failed.values())
    assert [cell.control for cell in failed.values()] == [None, "shuffled_labels"]
    assert len(results.summary) == 2
    again = run(Recipe.model_validate(content), tmp_path / "run")  # tries those once more, and nothing else
    assert again.cells == results.cells
    assert [name for _, name in in_one_process[-2:]] == list(failed)


def test_one_shot_says_what_it_leaves_out(content: dict[str, Any]) -> None:
    content |= {"budgets": [{"labelled": 1, "num_contexts": 1}], "controls": ["shuffled_labels"]}
    recipe = Recipe.model_validate(content)
    told = [finding.detail for finding in check(recipe) if finding.warning]
    assert told[1:] == [
        "labelled 1 leaves 1 of 2 labels without one; which, the seed decides.",
        "a context of one demonstration (labelled 1) has no labels to shuffle, so that control is left out there.",
    ]
    assert [spec.setting.control for spec in cells(recipe)] == [None]
    content["teacher"] |= {"select": True}
    with pytest.raises(
        DataError, match=r"teacher\.select leaves out one.*none among the 1 of this budget.*at least 2"
    ):
        check(Recipe.model_validate(content))


def test_budgets_that_are_the_same_are_refused(content: dict[str, Any]) -> None:
    content["budgets"].append({"labelled": 4, "num_contexts": 2})
    with pytest.raises(RecipeError, match=r"budgets: given twice: labelled=4"):
        validated(Recipe, content, "the recipe")


def test_in_context_learning_of_students_alone(content: dict[str, Any]) -> None:
    content |= {
        "methods": ["in_context"],
        "in_context_models": ["students"],
        "students": [student("full"), student("lora"), student("full", model="random:tiny-bert")],
    }
    recipe = Recipe.model_validate(content)
    assert [spec.id for spec in cells(recipe)] == ["in_context-tiny-opt-raw-n4x2x4-s0"]
    assert asked_settings(recipe) == []  # what is asked raw needs no soft labels
    content["task"]["patterns"] = {
        "long": {"pattern": "word " * 700 + "{text}", "label_words": {"negative": "No", "positive": "Yes"}}
    }
    content["teacher"] = {"model": "random:tiny-llama", "dtype": "float32"}
    with pytest.raises(PromptError, match="more than the window"):
        check(Recipe.model_validate(content))


# Controls ------------------------------------------------------------------------------------------

BOTH = ["zero_shot_teacher", "shuffled_labels"]


def test_controls_are_cells_of_their_own_with_soft_labels_of_their_own(
    content: dict[str, Any], in_one_process: list[tuple[str, str]], tmp_path: Path
) -> None:
    content |= {"methods": ["in_context", "context_distillation"], "controls": BOTH, "seeds": [0, 1]}
    folder = tmp_path / "run"
    results = run(Recipe.model_validate(content), folder)
    found = by_id(results)
    suffix = "tiny-opt-label-full-n4x2x4-s0"
    main, zero, shuffled = (found[f"{n}-{suffix}"] for n in ("context_distillation", *BOTH))
    assert [cell.method for cell in (main, zero, shuffled)] == ["context_distillation"] * 3
    assert [cell.control for cell in (main, zero, shuffled)] == [None, *BOTH]
    shown = [(cell.num_contexts, cell.num_shots, cell.labelled) for cell in (main, zero, shuffled)]
    assert shown == [(2, 4, 4), (0, 0, 0), (2, 4, 4)]
    assert {cell.calibration for cell in (main, zero, shuffled)} == {"batch"}
    assert {cell.unlabelled for cell in (main, zero, shuffled)} == {16}
    assert main.teacher_agreement
    assert not zero.teacher_agreement
    assert not shuffled.teacher_agreement
    taught = [soft_labels(folder, f"{name}n4x2x4-s0") for name in ("", *(f"{c}-" for c in BOTH))]
    assert all(np.abs(one - taught[0]).max() > 1e-6 for one in taught[1:])
    # Compared with what they stand beside, and with nothing else.
    pairs = {(c.a, c.b) for c in results.comparisons}
    line = "tiny-opt-label-full-n4x2x4"
    assert {(f"context_distillation-{line}", f"{control}-{line}") for control in BOTH} <= pairs
    assert {a for a, _ in pairs} == {f"context_distillation-{line}"}
    # Nothing is done twice, and what was lost is done again to the same end.
    before = len(in_one_process)
    run(Recipe.model_validate(content), folder)
    assert len(in_one_process) == before
    (folder / "softlabels/shuffled_labels-n4x2x4-s0.json").unlink()
    (folder / f"cells/shuffled_labels-{suffix}.json").unlink()
    again = by_id(run(Recipe.model_validate(content), folder))
    assert [what for what, _ in in_one_process[before:]] == ["label_setting", "evaluate_cell"]
    assert (soft_labels(folder, "shuffled_labels-n4x2x4-s0") == taught[2]).all()
    assert again[shuffled.id].in_domain == shuffled.in_domain


def test_memory_is_measured_of_a_model_whose_answers_were_all_stored(
    content: dict[str, Any],
    in_one_process: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    content |= {"methods": ["zero_shot"]}
    run(Recipe.model_validate(content), folder)
    cell = min((folder / "cells").glob("zero_shot*.json"))
    cell.unlink()
    asked: list[bool] = []
    measuring = False

    @contextmanager
    def noted() -> Iterator[Usage]:
        nonlocal measuring
        with measured() as usage:
            measuring = True
            yield usage
            measuring = False

    score = LocalTeacher.score

    def noted_score(self: LocalTeacher, prompts: Any, label_tokens: Any, skip: Any = ()) -> Any:
        if len(skip) < len(prompts):
            asked.append(measuring)
        return score(self, prompts, label_tokens, skip)

    monkeypatch.setattr(work, "measured", noted)
    monkeypatch.setattr(LocalTeacher, "score", noted_score)
    before = len(in_one_process)
    run(Recipe.model_validate(content), folder)
    assert [what for what, _ in in_one_process[before:]] == ["evaluate_cell"]
    assert asked[0]
    assert asked[1:]
    assert not any(asked[1:])  # those of its latency, which read contexts again and again


def test_a_slow_teacher_is_evaluated_on_a_part_and_compared_there(
    content: dict[str, Any], in_one_process: list[tuple[str, str]], tmp_path: Path
) -> None:
    content |= {"methods": ["zero_shot", "in_context", "context_distillation"]}
    content["evaluation"] = {"latency_queries": 1, "bootstrap_samples": 50, "teacher_items": 4}
    recipe, folder = Recipe.model_validate(content), RunFolder(tmp_path / "run")
    results = run(recipe, folder.path)
    asked = [cell for cell in results.cells if cell.teacher == recipe.teacher.model and cell.student is None]
    others = [cell for cell in results.cells if cell not in asked]
    assert {cell.in_domain["test"].n for cell in asked} == {4}
    assert {cell.in_domain["test"].n for cell in others} == {8}
    rows = {cell.id: folder.read_lines(folder.predictions(cell.id)) for cell in results.cells}
    given = {
        name: {row["index"]: max(row["probabilities"], key=row["probabilities"].get) for row in found}
        for name, found in rows.items()
    }
    gold = [row["gold"] for row in rows[others[0].id]]
    assert sorted(gold[index] for index in given[asked[0].id]) == sorted(2 * list(results.labels))
    compared = next(c for c in results.comparisons if c.b.startswith("in_context-tiny-llama"))
    a, b = given[f"{compared.a}-s0"], given[f"{compared.b}-s0"]
    difference = np.mean([(a[index] == gold[index]) - (b[index] == gold[index]) for index in b])
    assert compared.difference == pytest.approx(difference)
    teacher = next(cell for cell in asked if "-teacher-" in cell.id)
    student = next(cell for cell in results.cells if cell.method == "context_distillation")
    alike = np.mean([given[student.id][i] == label for i, label in given[teacher.id].items()])
    assert student.teacher_agreement == {"test": pytest.approx(alike)}
    assert markdown_table(results).count("n = 4") == 3  # zero-shot, raw, as it labels


def test_a_student_with_an_expert_of_its_own_says_what_was_mixed(
    content: dict[str, Any],
    in_one_process: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = Mixture(0.5, 1.0, 0.25, 0.75)
    monkeypatch.setattr(experts, "choose_mixture", lambda *_: given)
    content |= {
        "students": [student("full", own_expert=True), student("lora")],
        "controls": ["shuffled_labels"],
    }
    folder = RunFolder(tmp_path / "run")
    results = run(Recipe.model_validate(content), folder.path)
    mixed = [cell for cell in results.cells if cell.experts is not None]
    assert [cell.id for cell in mixed] == ["context_distillation-tiny-opt-label-full-n4x2x4-s0"]
    assert mixed[0].experts is not None
    assert mixed[0].experts.model_dump() == asdict(given)
    assert not list((folder.path / "students").glob(".*experts*"))
    assert "What soft labels were mixed of" in folder.report.read_text(encoding="utf-8")


def test_whether_int8_answers_alike_is_tried_before_anything_is_measured(
    content: dict[str, Any],
    in_one_process: list[tuple[str, str]],
    lively: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried, measuring = [], False

    @contextmanager
    def noted() -> Iterator[Usage]:
        nonlocal measuring
        with measured() as usage:
            measuring = True
            yield usage
            measuring = False

    def asked(_: object) -> tuple[Any, float]:
        tried.append(measuring)
        return np.full((4, 2), 0.5), 1.0

    monkeypatch.setenv("STILLSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(int8_choice, "LEAST_PARAMETERS", 1)
    monkeypatch.setattr(int8_choice, "_asked", asked)
    monkeypatch.setattr(work, "measured", noted)
    content |= {"methods": ["zero_shot", "context_distillation"]}
    content["teacher"] = {"model": lively("llama"), "dtype": "auto"}
    run(Recipe.model_validate(content), tmp_path / "run")
    assert tried == [False, False]  # once in each dtype, for all that is asked


def test_memory_is_taken_once_weights_are_loaded_and_at_the_end(
    content: dict[str, Any],
    in_one_process: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content |= {"methods": ["zero_shot", "pattern_finetune", "context_distillation"]}
    laps: Counter[int] = Counter()
    blocks: list[Usage] = []
    lap, begin = Usage.lap, Usage.__post_init__

    def counted(self: Usage) -> None:
        laps[id(self)] += 1
        lap(self)

    def kept(self: Usage) -> None:
        blocks.append(self)
        begin(self)

    monkeypatch.setattr(Usage, "lap", counted)
    monkeypatch.setattr(Usage, "__post_init__", kept)
    run(Recipe.model_validate(content), tmp_path / "run")
    assert len(blocks) == len(in_one_process)
    assert min(laps.values()) >= 2


def test_controls_run_in_processes_of_their_own(content: dict[str, Any], tmp_path: Path) -> None:
    content |= {"controls": ["zero_shot_teacher"]}
    assert pipeline.run_isolated is run_isolated
    results = run(Recipe.model_validate(content), tmp_path / "run")
    assert [(cell.control, cell.failed) for cell in results.cells] == [
        (None, None),
        ("zero_shot_teacher", None),
    ]
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Context distillation (control: teacher without context)" in page
    assert "taught by the same teacher without any demonstration" in page
    assert "Context distillation (control: teacher without context)" in markdown_table(results)
    assert set(names.line_names(results.summary).values()) == {
        "Context distillation",
        "Context distillation (control: teacher without context)",
    }


def test_a_zero_shot_control_is_taught_the_teachers_answers_without_context(
    content: dict[str, Any], in_one_process: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Uncalibrated, these are the answers of the teacher as a student before training."""
    content |= {"controls": ["zero_shot_teacher"], "students": [student("full")]}
    content["teacher"] |= {"calibration": "none"}
    recipe = Recipe.model_validate(content)
    run(recipe, tmp_path / "run")
    materials = Materials(recipe)
    draw = materials.draw(recipe.budgets[0], 0, "zero_shot_teacher")
    assert [len(shown) for shown in draw.contexts] == [0]
    untrained = Student.create(
        recipe.students[0].model_copy(update={"model": recipe.teacher.model}), materials.task, recipe.prompt
    )
    expected = untrained.predict_proba(draw.queries)
    np.testing.assert_allclose(
        soft_labels(tmp_path / "run", "zero_shot_teacher-n4x2x4-s0"), expected, atol=1e-4
    )


def test_shuffled_contexts_keep_texts_orders_and_label_counts(content: dict[str, Any]) -> None:
    content |= {"budgets": [{"labelled": 8, "num_contexts": 4, "num_shots": n} for n in (2, 5, 8)]}
    recipe = Recipe.model_validate(content)
    materials = Materials(recipe)
    for setting in settings(recipe):
        plain = materials.draw(setting.budget, setting.seed)
        draw = materials.draw(setting.budget, setting.seed, "shuffled_labels")
        assert (draw.queries, draw.labelled) == (
            plain.queries,
            plain.labelled,
        )  # gold labels stay as they are
        for shown, shuffled in zip(plain.contexts, draw.contexts, strict=True):
            pairs = list(zip(shown.demonstrations, shuffled.demonstrations, strict=True))
            assert all(one.fields == other.fields for one, other in pairs)
            assert Counter(o.label for o, _ in pairs) == Counter(o.label for _, o in pairs)
            assert any(one.label != other.label for one, other in pairs)
        assert draw == Materials(recipe).draw(setting.budget, setting.seed, "shuffled_labels")


def test_a_control_learns_no_gold_label(content: dict[str, Any], tmp_path: Path) -> None:
    """Its student is the same whatever the labelled examples are called, where the teacher sees none of them."""
    students = []
    for swapped in (False, True):
        path = tmp_path / "labelled.jsonl"
        text = path.read_text(encoding="utf-8")
        if swapped:
            text = (
                text.replace('"negative"', '"x"')
                .replace('"positive"', '"negative"')
                .replace('"x"', '"positive"')
            )
        path.write_text(text, encoding="utf-8")
        # With all examples of the file drawn, the draw does not depend on the labels.
        content |= {
            "controls": ["zero_shot_teacher"],
            "budgets": [{"labelled": 40, "num_shots": 2, "num_contexts": 1}],
        }
        folder = tmp_path / f"run-{swapped}"
        results = run(Recipe.model_validate(content), folder)
        assert len(results.cells) == 2
        students.append(
            [
                Student.load(folder / f"students/{name}-tiny-opt-label-full-n40x1x2-s0").predict_proba(
                    ["a film"]
                )
                for name in ("context_distillation", "zero_shot_teacher")
            ]
        )
    assert (students[0][1] == students[1][1]).all()
    assert (students[0][0] != students[1][0]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": ["shuffled"]}, r"controls\.0"),
        ({"controls": ["shuffled_labels", "shuffled_labels"]}, "given twice: shuffled_labels"),
        ({"controls": "shuffled_labels"}, r"Put it between brackets: \[shuffled_labels\]"),
        ({"controls": ["shuffled_labels"], "methods": ["zero_shot"]}, "stand beside context_distillation"),
        ({"in_context_models": []}, "in_context_models"),
        ({"in_context_models": ["student"]}, r"in_context_models\.0"),
    ],
)
def test_wrong_controls_are_named(content: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        validated(Recipe, content | changes, "the recipe")


def test_check_counts_what_controls_ask(content: dict[str, Any]) -> None:
    content |= {"controls": BOTH, "seeds": [0, 1]}
    found = {finding.what: finding.detail for finding in check(Recipe.model_validate(content))}
    assert found["runs"] == "1 budget x 2 seeds, 6 cells in all"
    # 16 queries x (2 contexts, none, 2 shuffled ones) x 2 seeds
    assert found["teacher prompts"] == "up to 160 to label queries, up to 0 to be evaluated"


# The language-model head ---------------------------------------------------------------------------


def test_a_student_with_a_language_model_head_runs_like_any_other(
    content: dict[str, Any], in_one_process: list[tuple[str, str]], tmp_path: Path
) -> None:
    content |= {
        "students": [student(t, head="language_model") for t in TUNINGS],
        "methods": ["pattern_finetune", "context_distillation"],
    }
    results = run(Recipe.model_validate(content), tmp_path / "run")
    assert all((cell.failed, cell.head) == (None, "language_model") for cell in results.cells)
    assert "language-model head" in markdown_table(results)
    loaded = Student.load(tmp_path / f"run/students/{results.cells[-1].id}")
    (answer,) = loaded.predict(["a film"])
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_label_words_of_several_tokens_are_found_before_a_run(content: dict[str, Any]) -> None:
    content |= {"students": [student("full", head="language_model")], "prompt": {"pattern": "several"}}
    with pytest.raises(PromptError, match="answers by one next token"):
        check(Recipe.model_validate(content))
    content |= {"prompt": {"pattern": "yes-no"}}
    content["teacher"] |= {"select": True}
    told = [f.detail for f in check(Recipe.model_validate(content)) if f.what == "label words" and f.warning]
    assert len(told) == 1
    assert "several tokens for random:tiny-opt (several)" in told[0]
