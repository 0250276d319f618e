"""Sweeps ask the teacher once for all their variants and say what differs; published runs keep their records alone."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment_modules import ROOT, load

from stillshot.errors import RecipeError, RunFolderError
from stillshot.evaluate.assemble import answers
from stillshot.report.folder import read_results
from stillshot.types import Example

WORDS = {"good": "a bright and warm film", "bad": "a dull and cold film"}


sweeps, publishing, overlapping = load("sweeps"), load("publish"), load("overlapping")
target_queries, swapped_queries = load("target_queries"), load("swapped_queries")
calibrating, reproducing = load("calibrated"), load("reproduced")


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two temperatures and two seeds of a tiny student."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, count in (("labelled", 20), ("queries", 30), ("test", 12)):
        rows = [
            {"text": f"{WORDS[label]}, {name} {number}", "label": label}
            for number in range(count // 2)
            for label in WORDS
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "films",
        "task": {
            "name": "films",
            "labels": list(WORDS),
            "fields": ["text"],
            "patterns": {"p": {"pattern": "{text}", "label_words": {"good": "good", "bad": "bad"}}},
        },
        "data": {
            "labelled": str(folder / "labelled.jsonl"),
            "unlabelled": str(folder / "queries.jsonl"),
            "in_domain": {"films": str(folder / "test.jsonl")},
            "num_unlabelled": 16,
        },
        "budgets": [{"labelled": 4, "num_contexts": 2, "num_shots": 2}],
        "teacher": {"model": "random:tiny-llama", "dtype": "float32"},
        "students": [{"model": "random:tiny-bert", "dtype": "float32", "distill": {"epochs": 1}}],
        "evaluation": {"bootstrap_samples": 100, "latency_queries": 1},
    }
    (folder / "films.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    sweep = {
        "question": "At which temperature?",
        "recipe": str(folder / "films.yaml"),
        "set": ["methods=[in_context, context_distillation]", "seeds=[0, 1]"],
        "variants": {"1": None, "3": ["teacher.temperature=3.0"]},
    }
    path = folder / "temperature.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def swept(sweep_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the runs, and the record."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, sweeps.run_sweep(sweeps.Sweep.read(sweep_file), folder, lambda *_: None)


def test_variants_are_compared_with_the_first(swept: tuple[Path, dict[str, Any]]) -> None:
    _, record = swept
    assert [variant["name"] for variant in record["variants"]] == ["1", "3"]
    distilled = [one for one in record["comparisons"] if "context_distillation" in one["a"]]
    (compared,) = distilled
    assert compared["a"].startswith("3: ")
    assert compared["b"].startswith("1: ")
    assert compared["seeds"] == 2
    means = {
        variant["name"]: next(line for line in variant["lines"] if line["method"] == "context_distillation")[
            "in_domain"
        ]["films"]["mean"]
        for variant in record["variants"]
    }
    assert compared["difference"] == pytest.approx(means["3"] - means["1"])


def test_students_in_one_place_are_compared_whatever_they_are(sweep_file: Path, tmp_path: Path) -> None:
    alone = sweeps.Sweep.read(sweep_file)
    changed = {"full": (), "bitfit, 6 labels": ("students.0.tuning=bitfit", "budgets.0.labelled=6")}
    record = sweeps.run_sweep(
        dataclasses.replace(alone, name="place", variants=changed), tmp_path, lambda *_: None
    )
    distilled = [one for one in record["comparisons"] if "context_distillation" in one["a"]]
    (compared,) = distilled
    assert compared["a"] == "bitfit, 6 labels: context_distillation-tiny-bert-label-bitfit-n6x2x2"
    assert compared["b"] == "full: context_distillation-tiny-bert-label-full-n4x2x2"
    assert compared["seeds"] == 2


def test_the_teacher_is_asked_once_for_all_variants(
    swept: tuple[Path, dict[str, Any]], sweep_file: Path, tmp_path: Path
) -> None:
    folder, record = swept
    shards = sorted((folder / "scores").glob("part-*.parquet"))
    assert shards
    assert not list(folder.glob("temperature/*/softlabels/part-*.parquet"))
    alone = sweeps.Sweep.read(sweep_file)
    first = dataclasses.replace(alone, variants={"1": ()})
    sweeps.run_sweep(first, tmp_path, lambda *_: None)
    assert len(list((tmp_path / "scores").glob("part-*.parquet"))) == len(shards)
    assert sweeps.run_sweep(alone, folder, lambda *_: None) == record  # found, not done again


def test_a_table_has_every_variant(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = runpy.run_path(str(ROOT / "tools" / "result_tables.py"))
    (tmp_path / "results/sweeps").mkdir(parents=True)
    (tmp_path / "results/sweeps/temperature.json").write_text(json.dumps(swept[1]))
    monkeypatch.setitem(tools["sweep"].__globals__, "ROOT", tmp_path)
    page = tools["filled"]("before\n<!-- sweep: temperature -->\n<!-- end -->\nafter\n")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| At which temperature?", "| ---", "| 1", "| 3"]
    assert {len(row) for row in rows} == {3}


def test_a_sweep_over_numbers_is_drawn_in_their_order(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    tools = runpy.run_path(str(ROOT / "tools" / "sweep_figures.py"))
    record = swept[1]
    words = {
        **record,
        "name": "words",
        "variants": [{**one, "name": f"{one['name']} °"} for one in record["variants"]],
    }
    for name, found in {"b": {**record, "variants": record["variants"][::-1]}, "words": words}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    monkeypatch.setitem(tools["main"].__globals__, "SWEEPS", tmp_path)
    tools["main"]()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "temperature.png",
        "temperature.svg",
    ]
    figure, _ = tools["sweep_figure"](json.loads((tmp_path / "b.json").read_text()))
    curves = {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}
    assert list(curves) == ["teacher · films", "tiny-bert (random weights) distilled · films"]
    for number, variant in zip((1, 3), record["variants"], strict=True):
        line = next(one for one in variant["lines"] if one["method"] == "context_distillation")
        expected = [number, 100 * line["in_domain"]["films"]["mean"]]
        assert expected in curves["tiny-bert (random weights) distilled · films"].tolist()


@pytest.mark.parametrize("missing", ["question", "recipe", "variants"])
def test_a_file_that_is_no_sweep_is_told_of(missing: str, sweep_file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(sweep_file.read_text())
    del content[missing]
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match="must have question, recipe and variants"):
        sweeps.Sweep.read(path)


def test_one_variant_is_no_sweep(sweep_file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(sweep_file.read_text()) | {"variants": {"1": None}}
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match="fewer than two variants"):
        sweeps.Sweep.read(path)


@pytest.mark.parametrize("path", sorted((ROOT / "experiments/sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_sweeps_that_ship_are_recipes_in_every_variant(path: Path) -> None:
    sweep = sweeps.Sweep.read(path)
    recipes = [sweep.recipe_of(variant, Path("scores")).model_dump() for variant in sweep.variants]
    assert all(recipes.count(recipe) == 1 for recipe in recipes)


def test_published_runs_keep_their_records_alone(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, target = swept[0] / "temperature/1", tmp_path / "published"
    target.mkdir()
    (target / "stale.json").write_text("{}")
    publishing.publish(run, target)
    assert read_results(target) == read_results(run)
    kept = {path.relative_to(target).parts[0] for path in target.rglob("*") if path.is_file()}
    assert kept == {"recipe.yaml", "machine.json", "results.json", "report.html", "cells", "figures"}
    assert not list(target.rglob("*.jsonl"))
    with pytest.raises(RunFolderError):
        publishing.publish(tmp_path / "nothing", target)
    with pytest.raises(RunFolderError, match="is what was published"):
        publishing.publish(target, target)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    assert read_results(target) == read_results(run)


def test_what_is_made_of_published_results_stays_as_long_as_they_do(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, target = swept[0] / "temperature/1", tmp_path / "published"
    publishing.publish(run, target)
    (target / "calibrated.json").write_text("{}")
    publishing.publish(run, target)
    assert (target / "calibrated.json").read_text() == "{}"
    (target / "results.json").write_text("{}")  # as if of an earlier run
    publishing.publish(run, target)
    assert not (target / "calibrated.json").exists()
    assert "calibrated.json is of earlier results and is left out. Make it again." in capsys.readouterr().err
    (target / "plan.json").write_text("{}")
    (target / "results.json").write_text("{}")
    publishing.publish(run, target, remade=["plan.json"])
    assert not (target / "plan.json").exists()
    assert capsys.readouterr().err == ""


def test_a_plan_stands_beside_what_was_taken(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(swept[0] / "temperature/1", tmp_path / "results/films")
    (run / "plan.json").write_text(publishing.planned(publishing.RunFolder(run).open_recipe()))
    tools = runpy.run_path(str(ROOT / "tools" / "result_tables.py"))
    monkeypatch.setitem(tools["planned"].__globals__, "ROOT", tmp_path)
    rows = tools["planned"]("results/films").splitlines()[2:]
    assert [row.split(",")[0] for row in rows] == [
        "| In-context learning",
        "| In-context learning",
        "| Context distillation",
    ]


def test_answers_are_calibrated_on_each_evaluation_set_alone() -> None:
    rows = [
        {"split": split, "index": index, "gold": gold, "probabilities": {"good": good, "bad": 1 - good}}
        for split, index, gold, good in [
            ("films", 0, "good", 0.9),
            ("films", 1, "bad", 0.6),
            ("books", 0, "bad", 0.4),
            ("books", 1, "good", 0.45),
            ("books", 2, "bad", 0.1),
        ]
    ]
    plain, fair = answers(rows), calibrating.calibrated_answers(rows)
    assert plain["films"][0] == ["good", "good"]
    assert fair["films"][0] == ["good", "bad"]
    assert fair["films"][1].tolist() == [1, 1]
    assert fair["books"][0] == ["good", "good", "bad"]  # 0.4 is above their mean
    assert rows[1]["probabilities"] == {"good": 0.6, "bad": 0.4}


def test_calibration_costs_something_where_labels_are_not_equally_frequent() -> None:
    sure = [("good", 0.9)] * 8 + [("bad", 0.1)] * 8  # right as they are, and of both labels as many
    rows = [
        {"split": "films", "index": index, "gold": gold, "probabilities": {"good": good, "bad": 1 - good}}
        for index, (gold, good) in enumerate(sure)
    ]
    unsure = [{**row, "probabilities": {"good": 0.6, "bad": 0.4}} for row in rows[:4]] + rows[4:]
    assert calibrating.skewed([rows, rows], "films") == {"accuracy": 1.0, "calibrated_accuracy": 1.0}
    # 8 good and 2 bad: at their mean of 0.62 in place of 0.5, the four of 0.6 are taken for bad.
    costs = calibrating.skewed([unsure], "films")
    assert costs["accuracy"] == 1.0
    assert costs["calibrated_accuracy"] == pytest.approx((6 / 10 + 1) / 2)


def test_calibrated_lines_stand_beside_what_was_published(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = swept[0] / "temperature/1"
    record = calibrating.calibrated(run)
    results = read_results(run)
    assert [line["key"] for line in record["lines"]] == [line.key for line in results.summary]
    distilled = next(line for line in results.summary if line.method == "context_distillation")
    against_itself = record["comparisons"][-1]
    assert (against_itself["a"], against_itself["b"]) == (distilled.key, f"{distilled.key}, as it is")
    fair = next(line for line in record["lines"] if line["key"] == distilled.key)["splits"]["films"]["mean"]
    assert against_itself["difference"] == pytest.approx(fair - distilled.in_domain["films"].mean)
    assert len(record["comparisons"]) == len(results.comparisons) + 1
    assert all(set(line["skewed"]) == {"films"} for line in record["lines"])
    published = shutil.copytree(run, tmp_path / "results/films")
    (published / "calibrated.json").write_text(json.dumps(record))
    tools = runpy.run_path(str(ROOT / "tools" / "result_tables.py"))
    monkeypatch.setitem(tools["calibrated"].__globals__, "ROOT", tmp_path)
    header, _, *rows = tools["calibrated"]("results/films").splitlines()
    assert header == "| Method | films | films, calibrated |"
    assert f" {100 * fair:.1f} [" in rows[-1]
    assert len(rows) == len(results.summary)
    shutil.rmtree(published / "cells")
    with pytest.raises(RunFolderError, match=r"no file .*predictions.jsonl"):
        calibrating.calibrated(published)


@pytest.mark.parametrize(
    ("premise", "hypothesis", "chosen"),
    [
        ("The lawyers near the actor slept.", "The actor slept, near lawyers!", True),
        ("The doctor's students ran.", "the doctor's students RAN", True),
        ("The lawyers near the actor slept.", "The actor slept in town.", False),  # 3 of 5 words
        ("The lawyers slept.", "The lawyers slept.", False),  # too few words
        ("very " * 28 + "tired lawyers", "very tired lawyers, very tired", True),
        ("very " * 29 + "tired lawyers", "very tired lawyers, very tired", False),  # too long a premise
        ("a b c d e f g h i", "a b c d e f g h i z", True),  # nine words of ten
        ("a b c d e f g h", "a b c d e f g h z", False),  # eight of nine
    ],
)
def test_pairs_of_high_overlap_are_those_whose_hypothesis_adds_hardly_a_word(
    premise: str, hypothesis: str, chosen: bool
) -> None:
    assert overlapping.overlaps(Example({"premise": premise, "hypothesis": hypothesis})) is chosen


def test_pairs_of_high_overlap_are_written_with_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"premise": "The lawyers near the actor slept.", "hypothesis": "The actor slept near lawyers."}
    other = {"premise": "It rains.", "hypothesis": "A dog sleeps on the floor."}
    pairs = [Example(texts, "entailment"), Example(texts, "contradiction"), Example(other, "entailment")]
    monkeypatch.setattr(overlapping, "TARGET", tmp_path / "made" / "pairs.jsonl")
    monkeypatch.setattr(overlapping, "read_split", lambda *_: pairs)
    overlapping.main()
    written = [json.loads(line) for line in (tmp_path / "made" / "pairs.jsonl").read_text().splitlines()]
    assert written == [{**texts, "label": "entailment"}, {**texts, "label": "contradiction"}]
    assert "pairs.jsonl: 1 entailment, 1 contradiction" in capsys.readouterr().out


def test_texts_like_the_target_ones_are_mixed_in_evenly_and_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "train": [Example({"text": f"own {number}"}, "positive") for number in range(10)],
        "imdb:test": [Example({"text": f"target {number}"}, "negative") for number in range(3)],
    }
    monkeypatch.setattr(target_queries, "FOLDER", tmp_path / "made")
    monkeypatch.setattr(target_queries, "MIXTURES", {"sentiment": ("sst2", "imdb:test", 4, 5)})
    monkeypatch.setattr(target_queries, "read_reference", lambda name, task: (task, texts[name]))
    target_queries.main()
    lines = (tmp_path / "made" / "target-queries-sentiment.jsonl").read_text().splitlines()
    own = [{"text": f"own {number}"} for number in (0, 2, 4, 6)]
    assert [json.loads(line) for line in lines] == [*own, *({"text": f"target {n}"} for n in range(3))]


def test_a_run_made_again_is_held_beside_what_is_published(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = swept
    published, again = folder / "temperature" / "1", tmp_path / "again"
    shutil.copytree(published, again)
    recipe = yaml.safe_load((again / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["seeds"], recipe["teacher"]["store"] = [1], str(tmp_path / "scores")
    (again / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    results = json.loads((again / "results.json").read_text(encoding="utf-8"))
    results["cells"] = [cell for cell in results["cells"] if cell["seed"] == 1]
    changed = results["cells"][0]
    changed["in_domain"]["films"]["accuracy"] += 0.25
    (again / "results.json").write_text(json.dumps(results), encoding="utf-8")

    record = reproducing.reproduced(again, published)
    assert record["seeds"] == [1]
    apart = {cell["id"]: cell["again"] - cell["published"] for cell in record["cells"]}
    assert set(apart) == {cell["id"] for cell in results["cells"]}
    assert apart.pop(changed["id"]) == pytest.approx(0.25)
    assert not any(apart.values())

    with pytest.raises(RunFolderError, match="differ in more than seeds"):
        reproducing.reproduced(again, folder / "temperature" / "3")
    results["cells"] = []
    (again / "results.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(RunFolderError, match="no finished cell in common"):
        reproducing.reproduced(again, published)


def test_the_records_of_the_papers_sizes_have_a_plan_near_what_was_measured() -> None:
    folder = ROOT / "results/paper-sizes"
    planned = {
        name: cell["peak_memory_bytes"]
        for cell in json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        for name in cell["names"]
    }
    measured = {cell.id: cell.peak_memory_bytes for cell in read_results(folder).cells}
    assert len(measured) == 23
    assert max(abs(planned[name] / peak - 1) for name, peak in measured.items()) < 0.15


@pytest.mark.parametrize(
    ("sentence", "swapped", "shorter"),
    [
        (
            "A man is walking a dog in the park.",
            "A dog is walking a man in the park.",
            "A man is walking a dog.",
        ),
        ("The boy kicked a big red ball", "A big red ball kicked the boy.", "The boy kicked a ball."),
    ],
)
def test_a_sentence_becomes_a_pair_that_is_exchanged_and_one_that_is_shorter(
    sentence: str, swapped: str, shorter: str
) -> None:
    pairs = swapped_queries.pairs_of(sentence)
    assert [pair["hypothesis"] for pair in pairs] == [swapped, shorter]
    assert {pair["premise"] for pair in pairs} == {sentence.rstrip(".") + "."}


@pytest.mark.parametrize("sentence", ["Nobody sleeps.", "A dog sees a dog.", "The man is tall."])
def test_sentences_of_another_form_become_no_pairs(sentence: str) -> None:
    assert swapped_queries.pairs_of(sentence) == []
