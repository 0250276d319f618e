"""Peers: they get what the run drew, fail alone, are not run twice, and stand in the report as what they are."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from experiment_modules import load

from stillshot import pipeline
from stillshot.config import Recipe
from stillshot.errors import RunFolderError, WorkError
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.peers import assemble_peers, budget_of
from stillshot.evaluate.records import Peers
from stillshot.evaluate.statistics import holm, paired_difference, samples_for
from stillshot.methods.materials import Materials
from stillshot.report import markdown_table, write_report
from stillshot.report.folder import read_peers, read_results
from stillshot.report.tables import comparison_table, failures_table, peer_differences_table

WORDS = {"good": ["bright", "warm", "fine", "lovely"], "bad": ["dull", "cold", "poor", "grim"]}
SKLEARN_PEERS = ("tfidf", "tfidf_self_training")


peers = load("peers")
worker = load("peers_worker")


def write_reviews(path: Path, count: int) -> None:
    rng = random.Random(path.name)
    rows = []
    for number in range(count):
        label = ["good", "bad"][number % 2]
        text = f"{path.stem} {number}: {rng.choice(WORDS[label])} and {rng.choice(WORDS[label])} 🙂"
        rows.append(json.dumps({"text": text, "label": label}) + "\n")
    path.write_text("".join(rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("labelled", 30), ("queries", 40), ("test", 24)):
        write_reviews(folder / f"{name}.jsonl", count)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny student on two budgets with the same labels, one more, and two seeds."""
    recipe = Recipe.model_validate(
        {
            "name": "reviews",
            "task": {
                "name": "reviews",
                "labels": ["good", "bad"],
                "fields": ["text"],
                "patterns": {"p": {"pattern": "{text}", "label_words": {"good": "good", "bad": "bad"}}},
            },
            "data": {
                "labelled": str(data / "labelled.jsonl"),
                "unlabelled": str(data / "queries.jsonl"),
                "num_unlabelled": 20,
                "in_domain": {"test": str(data / "test.jsonl")},
            },
            "budgets": [
                {"labelled": 4, "num_contexts": 2},
                {"labelled": 4, "num_contexts": 1},
                {"labelled": 8},
            ],
            "methods": ["pattern_finetune"],
            "students": [{"model": "random:tiny-bert", "finetune": {"epochs": 1}}],
            "seeds": [0, 1],
            "evaluation": {"bootstrap_samples": 50, "latency_queries": 1},
        }
    )
    path = tmp_path_factory.mktemp("runs") / "reviews"
    pipeline.run(recipe, path)
    return path


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to write into."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


class FakeWorker:
    """Answers rightly on even items; remembers its jobs; fails where it is told to."""

    def __init__(self, fail: str = "") -> None:
        self.jobs: list[dict[str, Any]] = []
        self.fail = fail

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        if job["peer"] == self.fail:
            raise WorkError("Its process ended with exit code 1: ImportError: no such thing")
        return {
            "probabilities": {
                name: [[0.9, 0.1] if index % 4 < 2 else [0.2, 0.8] for index, _ in enumerate(texts)]
                for name, texts in job["evaluation"].items()
            },
            "pseudo_labelled": 3,
            "parameters": 10,
            "trainable_parameters": 4,
            "model_bytes": 80,
            "peak_memory_bytes": 1000,
            "train_seconds": 1.5,
            "evaluate_seconds": 0.5,
            "latency_ms": {"p50": 2.0, "p95": 3.0},
            "versions": {"setfit": "1.2.0"},
        }


# What is handed over -----------------------------------------------------------------------------


def test_a_peer_gets_what_the_run_drew(run_folder: Path) -> None:
    work = FakeWorker()
    peers.compare_with_peers(run_folder, work, ["tfidf_self_training"])
    materials = Materials(RunFolder(run_folder).open_recipe())
    seen = [(len(job["labelled"]), job["seed"]) for job in work.jobs]
    assert seen == [(4, 0), (4, 1), (8, 0), (8, 1)]  # two budgets of 4 labels are one
    for job, budget in zip(work.jobs, [0, 0, 2, 2], strict=True):
        draw = materials.draw(materials.recipe.budgets[budget], job["seed"])
        labels = materials.task.labels
        assert job["labelled"] == [
            {"text": [e.fields["text"]], "label": labels.index(str(e.label))} for e in draw.labelled
        ]
        assert job["unlabelled"] == [[e.fields["text"]] for e in draw.queries]
        kept = RunFolder(run_folder).read_lines(RunFolder(run_folder).evaluation("test"))
        assert job["evaluation"] == {"test": [[row["fields"]["text"]] for row in kept]}
        assert "label" not in json.dumps(job["evaluation"]) + json.dumps(job["unlabelled"])


def test_only_peers_that_use_them_get_queries_and_an_encoder(run_folder: Path) -> None:
    work = FakeWorker()
    found = peers.compare_with_peers(run_folder, work, ["setfit", "tfidf"], "random:tiny-bert")
    assert {(job["peer"], len(job["unlabelled"]), job["encoder"]) for job in work.jobs} == {
        ("setfit", 0, "tiny-bert"),
        ("tfidf", 0, None),
    }
    assert {(cell.peer, cell.encoder, cell.unlabelled) for cell in found.cells} == {
        ("setfit", "random:tiny-bert", 0),
        ("tfidf", None, 0),
    }


# What is written ---------------------------------------------------------------------------------


def test_records_hold_metrics_costs_and_paired_comparisons(run_folder: Path) -> None:
    before = (run_folder / "results.json").read_bytes()
    found = peers.compare_with_peers(run_folder, FakeWorker(), ["tfidf"])
    assert (run_folder / "results.json").read_bytes() == before
    assert read_peers(run_folder) == found
    assert [line.key for line in found.summary] == ["tfidf-n4", "tfidf-n8"]
    assert found.summary[0].seeds == [0, 1]
    result = found.cells[0].in_domain["test"]
    assert (result.n, result.accuracy) == (24, 0.5)
    assert sum(result.predicted.values()) == 1
    assert (found.cells[0].train_seconds, found.cells[0].pseudo_labelled) == (1.5, 3)

    run = RunFolder(run_folder)
    ours = "pattern_finetune-tiny-bert-label-full-n4x1x4"
    pairs = {(one.a, one.b) for one in found.comparisons}
    assert (ours, "tfidf-n4") in pairs
    assert (ours, "tfidf-n8") not in pairs
    assert len(pairs) == 3
    (comparison,) = [one for one in found.comparisons if one.a == ours]
    right = []
    for path in (run.predictions(f"{ours}-s{seed}") for seed in (0, 1)):
        rows = run.read_lines(path)
        right.append(
            np.array([max(r["probabilities"], key=r["probabilities"].get) == r["gold"] for r in rows], float)
        )
    theirs = [np.array([float(index % 4 in (0, 3)) for index in range(24)])] * 2
    expected = paired_difference(right, theirs, samples_for(len(found.comparisons), 50))
    assert (comparison.difference, comparison.ci95, comparison.p) == (
        expected.mean,
        expected.ci95,
        expected.p,
    )
    assert [one.p_holm for one in found.comparisons] == holm([one.p for one in found.comparisons])


def test_a_failure_is_kept_with_its_reason_and_the_rest_goes_on(run_folder: Path) -> None:
    told: list[str] = []
    found = peers.compare_with_peers(
        run_folder, FakeWorker(fail="setfit"), ["setfit", "tfidf"], "random:tiny-bert", told.append
    )
    assert {cell.peer for cell in found.cells if cell.failed} == {"setfit"}
    assert [line.peer for line in found.summary] == ["tfidf", "tfidf"]
    assert any("setfit" in line and "no such thing" in line for line in told)
    table = failures_table(read_results(run_folder), found)
    assert table is not None
    assert table.rows[0].name.text == "SetFit (peer)"
    assert "no such thing" in table.rows[0].entries[-1].text
    assert "no such thing" in (run_folder / "report.html").read_text(encoding="utf-8")


def test_a_finished_peer_is_not_run_twice_and_a_failed_one_is(run_folder: Path) -> None:
    asked = (["setfit", "tfidf"], "random:tiny-bert")
    peers.compare_with_peers(run_folder, FakeWorker(fail="setfit"), *asked)
    only_tfidf = peers.compare_with_peers(run_folder, nothing := FakeWorker(), ["tfidf"])
    assert nothing.jobs == []
    assert sum(cell.failed is not None for cell in only_tfidf.cells) == 4  # what failed before is still told
    found = peers.compare_with_peers(run_folder, again := FakeWorker(), *asked)
    assert [job["peer"] for job in again.jobs] == ["setfit"] * 4
    assert not any(cell.failed for cell in found.cells)


@pytest.mark.parametrize("rows", [[], [[0.5, 0.5]] * 23, [[0.5]] * 24, [[float("nan"), 0.5]] * 24])
def test_answers_of_another_shape_are_a_failure(run_folder: Path, rows: list[list[float]]) -> None:
    def work(job: dict[str, Any]) -> dict[str, Any]:
        return {**FakeWorker()(job), "probabilities": {"test": rows}}

    found = peers.compare_with_peers(run_folder, work, ["tfidf"])
    assert all("24 rows of 2 finite numbers" in str(cell.failed) for cell in found.cells)


def test_cells_without_predictions_are_not_compared(run_folder: Path) -> None:
    for path in (run_folder / "cells").glob("*.predictions.jsonl"):
        path.unlink()
    found = peers.compare_with_peers(run_folder, FakeWorker(), ["tfidf"])
    assert found.summary
    assert found.comparisons == []


# Wrong folders -----------------------------------------------------------------------------------


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["peers.py", *arguments, "--python", sys.executable])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    return told.err


def test_a_folder_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "stillshot run" in refused(monkeypatch, capsys, str(tmp_path))
    assert "stillshot run" in refused(monkeypatch, capsys, str(tmp_path / "missing"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_data_changed(run_folder: Path) -> None:
    digests = json.loads((run_folder / "data.json").read_text())
    RunFolder(run_folder).write_json(run_folder / "data.json", {**digests, "n4x2x4-s1": "other"})
    with pytest.raises(RunFolderError, match="n4x2x4-s1 changed"):
        peers.compare_with_peers(run_folder, FakeWorker())
    assert not (run_folder / "peers.json").exists()


def test_a_run_with_controls_is_known_by_the_draws_that_they_share(run_folder: Path) -> None:
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"methods": ["in_context", "context_distillation"], "controls": ["zero_shot_teacher"]}
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    assert peers.compare_with_peers(run_folder, FakeWorker()).cells


def test_a_run_whose_evaluation_set_changed(run_folder: Path) -> None:
    path, folder = run_folder / "evaluation" / "test.jsonl", RunFolder(run_folder)
    folder.write_lines(path, folder.read_lines(path)[1:])
    with pytest.raises(RunFolderError, match="'test' is not the one"):
        peers.compare_with_peers(run_folder, FakeWorker())


def test_a_folder_in_use(run_folder: Path) -> None:
    with RunFolder(run_folder).lock(), pytest.raises(RunFolderError, match="Another process"):
        peers.compare_with_peers(run_folder, FakeWorker())


def test_without_the_environment(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="make peers-accuracy"):
        peers.in_own_environment(tmp_path / "bin/python", 1)


def test_a_process_that_fails_says_why() -> None:
    work = peers.in_own_environment(Path(sys.executable), 1)
    with pytest.raises(WorkError, match="exit code 1: KeyError: 'no_such_peer'"):
        work({"peer": "no_such_peer"})


# The worker --------------------------------------------------------------------------------------


def test_scikit_learns_peers_from_end_to_end(run_folder: Path) -> None:
    found = peers.compare_with_peers(
        run_folder, peers.in_own_environment(Path(sys.executable), 1), SKLEARN_PEERS
    )
    assert not [cell.failed for cell in found.cells if cell.failed]
    by_peer = {line.key: line for line in found.summary}
    assert by_peer["tfidf-n8"].in_domain["test"].mean > 0.6  # the label is in the words
    assert by_peer["tfidf_self_training-n8"].unlabelled == 20
    assert (
        by_peer["tfidf_self_training-n8"].parameters > by_peer["tfidf-n8"].parameters
    )  # knows the queries' words
    assert set(found.versions) >= {"scikit-learn", "numpy"}
    assert all(set(cell.latency_ms) == {"p50", "p95"} for cell in found.cells)


def job(peer: str, **changes: Any) -> dict[str, Any]:
    texts = [["a bright film"], ["a dull film"], ["a warm song"], ["a cold song"]]
    return {
        "peer": peer,
        "seed": 0,
        "num_labels": 3,
        "labelled": [{"text": text, "label": 2 * (index % 2)} for index, text in enumerate(texts)],
        "unlabelled": [["bright"], ["dull"]],
        "encoder": None,
        "evaluation": {"test": [["bright"], ["dull"], ["nothing known"]]},
        "latency_queries": 1,
        **changes,
    }


@pytest.mark.parametrize("peer", SKLEARN_PEERS)
def test_probabilities_stand_in_the_columns_of_their_labels(peer: str) -> None:
    rows = np.array(worker.answer(job(peer))["probabilities"]["test"])
    assert rows.argmax(1)[:2].tolist() == [0, 2]
    assert rows[:, 1].tolist() == [0, 0, 0]  # a label without an example
    assert rows.sum(1) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(("self_training", "learned"), [(False, 0), (True, 2)])
def test_a_probe_learns_from_embeddings(
    self_training: bool, learned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Encoder(worker.Embeddings):
        """Without its library: far apart where a text is bright."""

        def __init__(self) -> None:
            pass

        def fit(self, lesson: Any, texts: Any) -> Any:
            return self.of(texts)

        def of(self, texts: Any) -> Any:
            return np.array([[9.0 if "bright" in t[0] or "warm" in t[0] else -9.0] for t in texts])

        def sizes(self) -> tuple[int, int]:
            return 100, 400

    def probe() -> Any:
        return worker.LogisticRegressionOnFeatures(Encoder, self_training=self_training)

    monkeypatch.setitem(worker.PEERS, "probe", probe)
    found = worker.answer(job("probe", num_labels=3))
    assert np.array(found["probabilities"]["test"]).argmax(1).tolist() == [0, 2, 2]
    assert found["pseudo_labelled"] == learned
    assert (found["parameters"], found["trainable_parameters"]) == (102, 2)


def test_both_files_know_the_same_peers() -> None:
    assert list(peers.PEERS) == list(worker.PEERS)


# The report --------------------------------------------------------------------------------------


def test_tables_show_peers_below_our_methods_of_their_budget(run_folder: Path) -> None:
    found = peers.compare_with_peers(
        run_folder, FakeWorker(), ["setfit", "tfidf_self_training"], "random:tiny-bert"
    )
    results = read_results(run_folder)
    table = comparison_table(results, found)
    assert [(row.name.text, row.name.detail, row.entries[2].text) for row in table.rows] == [
        ("Pattern-based fine-tuning", "", "4"),
        ("Pattern-based fine-tuning", "", "4"),
        ("SetFit", "peer", "4"),
        ("Self-training", "peer", "4"),
        ("Pattern-based fine-tuning", "", "8"),
        ("SetFit", "peer", "8"),
        ("Self-training", "peer", "8"),
    ]
    assert table.rows[3].entries[2].detail == "+ 20 queries"
    assert "| Self-training (peer) | TF-IDF |" in markdown_table(results, found)
    assert "peer" not in markdown_table(results)
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "Rows marked “peer”" in page
    assert "Paired differences in accuracy from peers" in page
    assert "Versions of the peers" in page


def test_peers_of_other_budgets_or_fewer_seeds_are_not_shown_as_equals(run_folder: Path) -> None:
    found = peers.compare_with_peers(run_folder, FakeWorker(), ["tfidf"])
    results = read_results(run_folder)
    other = found.summary[0].model_copy(update={"labelled": 16, "key": "tfidf-n16"})
    one_seed = found.summary[1].model_copy(update={"seeds": [1]})
    rows = comparison_table(results, found.model_copy(update={"summary": [other, one_seed]})).rows
    assert [row.name.detail for row in rows if row.name.text == "Bag of words"] == ["peer, 1 of 2 seeds"]


def test_differences_are_those_of_distilled_students_where_there_are_some(run_folder: Path) -> None:
    found = peers.compare_with_peers(run_folder, FakeWorker(), ["tfidf"])
    results = read_results(run_folder)
    table = peer_differences_table(results, found)
    assert table is not None
    assert len(table.rows) == 3
    assert table.rows[0].entries[0].text == "Bag of words (peer, TF-IDF, 4 labels)"
    first, *rest = results.summary
    distilled = results.model_copy(
        update={"summary": [first.model_copy(update={"method": "context_distillation"}), *rest]}
    )
    table = peer_differences_table(distilled, found)
    assert table is not None
    assert len(table.rows) == 1
    assert peer_differences_table(results, None) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}'])
def test_records_that_cannot_be_read(run_folder: Path, content: str) -> None:
    (run_folder / "peers.json").write_text(content)
    with pytest.raises(
        RunFolderError, match=r"peers\.json does not hold records of peers .*experiments/peers\.py"
    ):
        write_report(run_folder)


def test_records_of_another_schema(run_folder: Path) -> None:
    found = peers.compare_with_peers(run_folder, FakeWorker(), ["tfidf"])
    later = found.model_copy(update={"schema_": 99})
    (run_folder / "peers.json").write_text(later.model_dump_json(by_alias=True))
    with pytest.raises(RunFolderError, match="schema 99"):
        write_report(run_folder)


def test_a_budget_is_that_of_the_setting() -> None:
    assert budget_of("in_context-smollm2-135m-raw-n16x4x8-s2") == 16
    assert budget_of("zero_shot-smollm2-135m") is None


def test_nothing_finished_is_no_error(run_folder: Path) -> None:
    found = assemble_peers(RunFolder(run_folder), read_results(run_folder).cells, [], versions={}, samples=10)
    assert isinstance(found, Peers)
    assert found.summary == found.comparisons == []
    assert dataclasses.is_dataclass(comparison_table(read_results(run_folder), found))
