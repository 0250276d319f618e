"""A run that is killed while labelling, and again while training, ends as one that was never disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file

from stillshot import pipeline
from stillshot.checksums import SUMS
from stillshot.config import Recipe
from stillshot.deploy.serving.teacher import RunTeacher
from stillshot.errors import DataError, RunFolderError, WorkError
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.records import MEASURED_KEYS
from stillshot.methods.cells import cells
from stillshot.methods.materials import Materials
from stillshot.pipeline import open_run, run
from stillshot.storage import scratch_beside
from stillshot.student.saved import Student

DRIVER = """
import dataclasses, json, sys
from pathlib import Path
from stillshot.config import Recipe
from stillshot.pipeline import open_run

if __name__ == "__main__":
    recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
    story = dataclasses.replace(open_run(recipe, Path(sys.argv[2])), checkpoint_seconds=0.0)
    story.label()
    story.train()
    story.evaluate()
    story.write_results()
"""
WORDS = {"good": ["bright", "warm", "fine", "lovely"], "bad": ["dull", "cold", "poor", "grim"]}


def write_reviews(path: Path, count: int, seed: int) -> None:
    rng = random.Random(f"{path.name}:{seed}")
    with path.open("w", encoding="utf-8") as lines:
        for number in range(count):
            label = ["good", "bad"][number % 2]
            text = (
                f"{path.stem} {number}: {rng.choice(WORDS[label])} and {rng.choice(WORDS[label])} {{film}} 🙂"
            )
            lines.write(json.dumps({"text": text, "label": label}) + "\n")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Small models and own data; labelling in many batches and training in many steps, to be caught in."""
    data = tmp_path_factory.mktemp("data")
    for name, count in (("labelled", 12), ("queries", 90), ("test", 24)):
        write_reviews(data / f"{name}.jsonl", count, seed=0)
    return Recipe.model_validate(
        {
            "name": "resumed",
            "task": {
                "name": "films",
                "labels": ["bad", "good"],
                "fields": ["text"],
                "patterns": {
                    "p": {
                        "pattern": "Review: {text}",
                        "target_prefix": "\nGood? ",
                        "label_words": {"bad": "No", "good": "Yes"},
                    }
                },
            },
            "data": {
                "labelled": str(data / "labelled.jsonl"),
                "unlabelled": str(data / "queries.jsonl"),
                "in_domain": {"films": str(data / "test.jsonl")},
                "num_unlabelled": 90,
            },
            "budgets": [{"labelled": 8, "num_contexts": 4, "num_shots": 4}],
            "teacher": {"model": "random:tiny-llama", "dtype": "float32", "batch_tokens": 64},
            "students": [
                {
                    "model": "random:tiny-opt",
                    "dtype": "float32",
                    "distill": {"epochs": 8, "batch_size": 8, "learning_rate": 0.01},
                    "finetune": {"epochs": 2, "hard_label_weight": 1.0},
                }
            ],
            "methods": ["in_context", "context_distillation"],
            "evaluation": {"bootstrap_samples": 100, "latency_queries": 2},
        }
    )


class Driver:
    """Runs a recipe in another process, which can be killed."""

    def __init__(self, recipe: Recipe, scratch: Path) -> None:
        self.script, self.recipe, self.errors = (scratch / n for n in ("run.py", "recipe.json", "stderr"))
        self.script.write_text(DRIVER, encoding="utf-8")
        self.recipe.write_text(recipe.model_dump_json(), encoding="utf-8")

    def run(self, folder: Path, kill_when: Callable[[], bool] | None = None) -> int:
        """The exit code; kills the process and all it started once ``kill_when`` is true."""
        command = [sys.executable, str(self.script), str(self.recipe), str(folder)]
        with self.errors.open("w") as errors:
            process = subprocess.Popen(command, stderr=errors, start_new_session=True)
            while process.poll() is None:
                if kill_when is not None and kill_when():
                    os.killpg(process.pid, signal.SIGKILL)
                    break
                time.sleep(0.001)
            return process.wait()


def comparable(content: Any) -> Any:
    """Results without what is measured."""
    if isinstance(content, dict):
        return {key: comparable(value) for key, value in content.items() if key not in MEASURED_KEYS}
    return [comparable(value) for value in content] if isinstance(content, list) else content


def results_in(folder: Path) -> Any:
    return comparable(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def shards_in(folder: Path) -> dict[str, int]:
    """Rows of each shard."""
    return {p.name: pq.read_metadata(p).num_rows for p in (folder / "softlabels").glob("part-*.parquet")}


@pytest.fixture(scope="module")
def driver(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(recipe, tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def undisturbed(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert driver.run(folder) == 0, driver.errors.read_text()
    return folder


def test_killed_runs_go_on_to_the_same_results(driver: Driver, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    softlabels, students = folder / "softlabels", folder / "students"

    assert driver.run(folder, lambda: len(list(softlabels.glob("part-*.parquet"))) >= 3) == -signal.SIGKILL
    kept = shards_in(folder)
    assert len(kept) >= 3
    assert not list(softlabels.glob("*.json"))  # caught while labelling

    checkpoint = ".*.checkpoints/checkpoint-*/trainer_state.json"
    assert driver.run(folder, lambda: any(students.glob(checkpoint))) == -signal.SIGKILL
    assert list(students.glob(".*.checkpoints"))
    assert not list(students.glob("*.json"))  # caught while training
    labelled = shards_in(folder)
    assert sum(labelled.values()) == 4 * 90  # no query was stored twice: at most the batch in flight was lost
    assert kept.items() <= labelled.items()

    assert driver.run(folder) == 0, driver.errors.read_text()
    assert results_in(folder) == results_in(undisturbed)
    assert sum(shards_in(folder).values()) == sum(shards_in(undisturbed).values())
    for pattern in ("students/*/model.safetensors", "cells/*.predictions.jsonl"):
        (one,), (other,) = ([sorted(f.glob(pattern))[-1]] for f in (folder, undisturbed))
        assert one.read_bytes() == other.read_bytes()
    assert not list(students.glob(".*"))  # neither checkpoints nor half-written students


def test_the_results_say_what_was_compared(undisturbed: Path) -> None:
    results = results_in(undisturbed)
    assert [cell["method"] for cell in results["cells"]] == [
        "in_context",
        "in_context",
        "context_distillation",
    ]
    assert all(cell["failed"] is None and cell["in_domain"]["films"]["n"] == 24 for cell in results["cells"])
    assert results["cells"][-1]["unlabelled"] == 90
    assert (undisturbed / "report.html").is_file() or list(undisturbed.glob("**/report.html"))


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run_is_not_done_again(recipe: Recipe, undisturbed: Path) -> None:
    before = results_in(undisturbed)
    work = {name: at for name, at in snapshot(undisturbed).items() if name.split("/")[0] in DONE_ONCE}
    assert work
    run(recipe, undisturbed)
    assert results_in(undisturbed) == before
    assert work.items() <= snapshot(undisturbed).items()


DONE_ONCE = {"softlabels", "students", "cells", "evaluation"}


def test_the_folder_of_another_recipe_is_left_alone(recipe: Recipe, undisturbed: Path) -> None:
    other = recipe.model_copy(update={"seeds": [7]})
    before = snapshot(undisturbed)
    with pytest.raises(RunFolderError, match=r"another recipe .*: seeds.*Nothing was changed"):
        open_run(other, undisturbed)
    assert snapshot(undisturbed) == before


def test_a_folder_with_other_files_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="is not empty and holds no run"):
        open_run(recipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_does_not_go_on_with_changed_data(recipe: Recipe, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled.jsonl"
    write_reviews(labelled, 12, seed=0)
    data = recipe.data.model_copy(update={"labelled": str(labelled)})
    own = recipe.model_copy(update={"data": data})
    open_run(own, tmp_path / "run")
    open_run(own, tmp_path / "run")
    text = labelled.read_text(encoding="utf-8")
    labelled.write_text(
        text.replace('"good"', '"swap"').replace('"bad"', '"good"').replace('"swap"', '"bad"')
    )
    with pytest.raises(
        RunFolderError, match=r"other data: the labelled examples or queries of n8x4x4-s0 changed"
    ):
        open_run(own, tmp_path / "run")
    task = own.task.model_copy(update={"drop_labels": ["neutral"]})
    with pytest.raises(RunFolderError, match=r"another recipe .*: task\.drop_labels"):
        open_run(own.model_copy(update={"task": task}), tmp_path / "run")


def test_two_processes_do_not_work_in_one_folder(recipe: Recipe, tmp_path: Path) -> None:
    with (
        open_run(recipe, tmp_path / "run"),
        pytest.raises(RunFolderError, match="Another process is at work"),
    ):
        open_run(recipe, tmp_path / "run")
    open_run(recipe, tmp_path / "run")


def test_queries_that_cannot_be_labelled_fail_their_cells_alone(recipe: Recipe, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise WorkError("No space left on device.")

    story = open_run(
        recipe.model_copy(update={"methods": ["in_context", "context_distillation"]}), tmp_path / "run"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "label_setting", full)
        patched.setattr(pipeline, "run_isolated", lambda work, *arguments, report: work(*arguments, report))
        story.label()
        story.train()
        story.evaluate()
    results = story.write_results()
    failed = {cell.id: cell.failed for cell in results.cells if cell.failed is not None}
    assert [cell.id for cell in results.cells if cell.failed is None] == [results.cells[0].id]
    assert len(failed) == 2
    assert all("could not be labelled: No space left on device." in str(why) for why in failed.values())


def test_nothing_is_written_for_a_recipe_that_cannot_run(recipe: Recipe, tmp_path: Path) -> None:
    data = recipe.data.model_copy(update={"unlabelled": recipe.data.in_domain["films"]})
    with pytest.raises(DataError):
        open_run(recipe.model_copy(update={"data": data}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_with_one_store_ask_once(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    store, other = tmp_path / "scores", recipe.students[0].model_copy(update={"tuning": "lora"})
    teacher = recipe.teacher.model_copy(update={"store": store})
    first = recipe.model_copy(update={"teacher": teacher})
    run(first, tmp_path / "first")
    assert results_in(tmp_path / "first") == results_in(undisturbed)
    asked = {path.name for path in store.glob("part-*.parquet")}
    assert asked
    assert not shards_in(tmp_path / "first")

    run(first.model_copy(update={"students": [other]}), tmp_path / "second")
    assert {path.name for path in store.glob("part-*.parquet")} == asked
    took = [
        {cell["id"]: cell["evaluate_seconds"] for cell in results["cells"] if cell["method"] == "in_context"}
        for results in (
            json.loads((tmp_path / name / "results.json").read_text()) for name in ("first", "second")
        )
    ]
    assert took[0] == pytest.approx(took[1])
    assert all(seconds > 0 for seconds in took[0].values())


# Whose a folder is ---------------------------------------------------------------------------------


def test_nothing_is_written_where_another_has_begun(recipe: Recipe, tmp_path: Path) -> None:
    """Two that start at once: the one without the lock must not leave its recipe to the other."""
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(RunFolderError, match="Another process is at work"),
    ):
        open_run(recipe, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    open_run(recipe, tmp_path / "run")


def test_a_folder_that_holds_something_else_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-ann.txt").write_text("Dear Ann")
    with pytest.raises(RunFolderError, match="holds no run; nothing was changed"):
        open_run(recipe, tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["to-ann.txt"]


def test_texts_that_change_no_result_may_change(recipe: Recipe, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    kept = {
        path: path.read_bytes() for part in ("cells", "students") for path in (folder / part).rglob("*.*")
    }
    assert not isinstance(recipe.task, str)
    task = recipe.task.model_copy(update={"description": "Of films."})
    other = recipe.model_copy(update={"name": "renamed", "description": "Once more.", "task": task})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "run_isolated", None)  # nothing is computed
        results = run(other, folder)
    assert (results.name, results.description) == ("renamed", "Once more.")
    assert "Of films." in (folder / "recipe.yaml").read_text()
    assert kept == {path: path.read_bytes() for path in kept}
    before, after = results_in(undisturbed), results_in(folder)
    for texts in (before, after):
        del texts["name"], texts["description"]
    assert before == after
    for change in ({"seeds": [1]}, {"methods": ["in_context"]}):
        with pytest.raises(RunFolderError, match="a run of another recipe"):
            open_run(other.model_copy(update=change), folder)


def test_a_folder_of_an_earlier_version_is_gone_on_with(
    recipe: Recipe, undisturbed: Path, tmp_path: Path
) -> None:
    """Its digest of the task counts the description, it knows no weights, and it has no checksums."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    (folder / SUMS).unlink()
    materials = Materials(recipe)
    known = json.loads((folder / "data.json").read_text())
    older = {name: digest for name, digest in known.items() if not name.startswith("the weights of")}
    (folder / "data.json").write_text(json.dumps({**older, **materials.older_digests}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "run_isolated", None)
        run(recipe, folder)
    assert results_in(folder) == results_in(undisturbed)
    assert json.loads((folder / "data.json").read_text()).keys() == known.keys()


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_a_run_does_not_go_on_with_changed_weights(
    recipe: Recipe, lively: Callable[[str], str], tmp_path: Path, whose: str
) -> None:
    model = shutil.copytree(lively("opt"), tmp_path / "model")
    if whose == "teacher":
        own = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"model": str(model)})})
    else:
        student = recipe.students[0].model_copy(update={"model": str(model)})
        own = recipe.model_copy(update={"students": [student]})
    with open_run(own, tmp_path / "run") as story:
        story.label()
    (labels,) = (tmp_path / "run" / "softlabels").glob("*.json")
    assert json.loads(labels.read_text())["teacher"].endswith(" float32")
    weights = load_file(model / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 0.1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunFolderError, match=r"other weights of .*model: they have changed since"):
        open_run(own, tmp_path / "run")
    if whose == "teacher":
        (student,) = (spec.id for spec in cells(own) if spec.student is not None)
        with pytest.raises(RunFolderError, match="other weights of"):  # as `serve --teacher` asks it
            RunTeacher.of(tmp_path / "run" / "students" / student, {})
    with story, pytest.MonkeyPatch.context() as patched:  # nor where they change while it runs
        patched.setattr(pipeline, "run_isolated", lambda work, *arguments, report: work(*arguments, report))
        story.train()
        story.evaluate()
    assert any("other weights of" in why for why in story.failures.values())


def test_another_teacher_than_labelled_is_told_of(
    recipe: Recipe, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(undisturbed, folder.path)
    (path,) = folder.softlabels.glob("*.json")
    folder.write_json(path, {**folder.read_json(path), "teacher": "owner/name@0123 float32"})
    for cell in (folder.path / "cells").glob("in_context-*"):
        cell.unlink()
    with open_run(recipe, folder.path) as story, pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "run_isolated", lambda work, *arguments, report: work(*arguments, report))
        story.evaluate()
    assert "was labelled by owner/name@0123 float32, and is evaluated with random:tiny-llama" in caplog.text


# What cannot be written, and what is no number -----------------------------------------------------


def test_a_finished_run_that_may_only_be_read_is_told_of(
    recipe: Recipe, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(undisturbed / ".lock"))

    monkeypatch.setattr(FileLock, "acquire", closed)
    with pytest.raises(
        RunFolderError, match=r"cannot be worked in: .*Permission denied.*can be read: .*results\.json"
    ):
        open_run(recipe, undisturbed)


def test_what_killed_processes_left_is_removed_at_the_next_start(recipe: Recipe, tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    folder = tmp_path / "run"
    with open_run(recipe, folder):
        pass
    left = []
    for part in ("cells", "students", "softlabels", "evaluation", "."):
        own = scratch_beside(folder / part / "x").name
        left.append(folder / part / own.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-"))
        left[-1].parent.mkdir(exist_ok=True)
        left[-1].write_text("half")
    with open_run(recipe, folder):
        assert [path for path in left if path.exists()] == []


def test_a_student_that_diverges_fails_alone_and_no_record_has_nan(recipe: Recipe, tmp_path: Path) -> None:
    one = recipe.students[0]
    training = one.distill.model_copy(update={"epochs": 1, "batch_size": 128, "learning_rate": 1e39})
    two = recipe.model_copy(update={"students": [one, one.model_copy(update={"distill": training})]})
    results = run(two, tmp_path / "run")
    failed = [cell for cell in results.cells if cell.failed is not None]
    assert len(failed) == 1
    assert "not finite" in str(failed[0].failed)
    assert len(results.cells) > 2
    for path in (tmp_path / "run").rglob("*.json*"):
        assert "NaN" not in path.read_text(encoding="utf-8"), path


def test_answers_that_are_no_numbers_fail_their_cell(
    recipe: Recipe, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    for path in (folder / "cells").glob("context_distillation-*"):
        path.unlink()
    monkeypatch.setattr(pipeline, "run_isolated", lambda work, *arguments, report: work(*arguments, report))
    answers = Student.predict_batches

    def broken(*arguments: Any, **settings: Any) -> Any:
        for positions, rows in answers(*arguments, **settings):
            rows[0] = float("nan")
            yield positions, rows

    monkeypatch.setattr(Student, "predict_batches", broken)
    with open_run(recipe, folder) as story:
        story.evaluate()
        results = story.write_results()
    (why,) = [cell.failed for cell in results.cells if cell.failed is not None]
    assert "answers on films are not finite numbers" in why
    assert "NaN" not in (folder / "results.json").read_text()
