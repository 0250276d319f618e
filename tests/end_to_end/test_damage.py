"""Every kind of file of a finished run is damaged in turn: a rerun makes it again, or one message names it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from stillshot import pipeline
from stillshot.checksums import SUMS
from stillshot.cli.main import app
from stillshot.evaluate.records import MEASURED_KEYS
from stillshot.report import html

RECIPE = {
    "name": "films",
    "task": {
        "name": "films",
        "labels": ["bad", "good"],
        "fields": ["text"],
        "patterns": {"p": {"pattern": "Review: {text}", "label_words": {"bad": "No", "good": "Yes"}}},
    },
    "data": {
        "labelled": "labelled.jsonl",
        "unlabelled": "queries.jsonl",
        "in_domain": {"films": "test.jsonl"},
        "num_unlabelled": 6,
    },
    "budgets": [{"labelled": 4, "num_contexts": 2, "num_shots": 2}],
    "teacher": {"model": "random:tiny-llama", "dtype": "float32"},
    "students": [
        {
            "model": "random:tiny-bert",
            "dtype": "float32",
            "distill": {"epochs": 1, "batch_size": 4, "learning_rate": 0.001},
        }
    ],
    "methods": ["in_context", "context_distillation"],
    "evaluation": {"bootstrap_samples": 20, "latency_queries": 1},
}
# One file of every kind that a run writes.
KINDS = {
    "recipe": "recipe.yaml",
    "machine": "machine.json",
    "data": "data.json",
    "checksums": SUMS,
    "results": "results.json",
    "page": "report.html",
    "shard": "softlabels/part-*.parquet",
    "labels": "softlabels/n4x2x2-s0.json",
    "training": "students/context_distillation-*.json",
    "weights": "students/context_distillation-*/model.safetensors",
    "sidecar": "students/context_distillation-*/stillshot.json",
    "tokenizer": "students/context_distillation-*/tokenizer.json",
    "configuration": "students/context_distillation-*/config.json",
    "cell": "cells/context_distillation-*0.json",
    "teacher's cell": "cells/in_context-*teacher-*0.json",
    "predictions": "cells/context_distillation-*.predictions.jsonl",
    "items": "evaluation/films.jsonl",
}


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content)


def deleted(path: Path) -> None:
    path.unlink()


DAMAGES: list[Callable[[Path], None]] = [empty, truncated, flipped, deleted]


def write_reviews(path: Path, count: int) -> None:
    rng = random.Random(path.name)
    words = {"good": ["bright", "warm", "fine"], "bad": ["dull", "cold", "poor"]}
    rows = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        rows.append({"text": f"{path.stem} {number} is {rng.choice(words[label])}", "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its data, and its finished run."""
    place = tmp_path_factory.mktemp("finished")
    for name, count in (("labelled", 6), ("queries", 8), ("test", 6)):
        write_reviews(place / f"{name}.jsonl", count)
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        work_here(patched, place)
        assert stillshot("run", "recipe.yaml", "-o", "run").exit_code == 0
    return place


def work_here(patched: pytest.MonkeyPatch, place: Path) -> None:
    """Call the command line from a folder, and do the work of cells in this process."""
    patched.chdir(place)
    patched.setattr(pipeline, "run_isolated", lambda work, *arguments, report: work(*arguments, report))
    patched.setattr(html, "_figures", lambda *_: [])  # drawn anew each time, and most of a rerun's


def stillshot(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage."""
    shutil.copytree(finished, tmp_path / "copy")
    work_here(monkeypatch, tmp_path / "copy")
    return tmp_path / "copy"


def comparable(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: comparable(value) for key, value in content.items() if key not in MEASURED_KEYS}
    return [comparable(value) for value in content] if isinstance(content, list) else content


def results_of(place: Path) -> Any:
    return comparable(json.loads((place / "run" / "results.json").read_text(encoding="utf-8")))


def found(place: Path, kind: str) -> Path:
    return sorted((place / "run").glob(KINDS[kind]))[0]


def ends_well(result: Result, damaged: Path) -> bool:
    """Whether it was done; else it ended with one message that names the file."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code == 0:
        return True
    assert result.exit_code in (1, 2)
    assert result.output.count("error:") == 1
    assert is_named(damaged, result.output)
    return False


def is_named(path: Path, text: str) -> bool:
    """Whether a message names a file, or the student that it is a part of, or what a damaged list has wrong."""
    if path.name == SUMS:
        return "is damaged or gone" in text
    return path.name in text or (path.parent.parent.name == "students" and path.parent.name in text)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_rerun_makes_again_what_is_damaged(
    finished: Path, place: Path, kind: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = found(place, kind)
    before = path.read_bytes()
    damage(path)
    result = stillshot("run", "recipe.yaml", "-o", "run")
    assert ends_well(result, path), result.output
    assert results_of(place) == results_of(finished)
    listed = dict(line.split("  ")[::-1] for line in (place / "run" / SUMS).read_text().splitlines())
    for name, digest in listed.items():
        assert hashlib.sha256((place / "run" / name).read_bytes()).hexdigest() == digest, name
    told = {"results", "page", "checksums"}  # written anew by every run, or compared with nothing
    if kind not in told and not (kind == "shard" and damage is deleted):
        assert is_named(path, caplog.text)
    if kind in ("weights", "tokenizer", "recipe", "data", "items"):
        assert path.read_bytes() == before
    if damage is flipped:
        caplog.clear()
        assert stillshot("run", "recipe.yaml", "-o", "run").exit_code == 0
        assert caplog.text == ""  # all is mended


@pytest.mark.parametrize(
    "kind",
    ["recipe", "machine", "data", "shard", "labels", "training", "sidecar", "cell", "predictions", "items"],
)
def test_a_run_without_checksums_is_mended_where_damage_shows(finished: Path, place: Path, kind: str) -> None:
    """As earlier versions have written them."""
    (place / "run" / SUMS).unlink()
    path = found(place, kind)
    damage = deleted if kind == "sidecar" else truncated
    damage(path)
    if ends_well(stillshot("run", "recipe.yaml", "-o", "run"), path):
        assert results_of(place) == results_of(finished)
        listed = (place / "run" / SUMS).read_text()
        assert path.name in listed or kind == "shard"
        assert all(f"  {name}\n" in listed for name in ("recipe.yaml", "data.json", "evaluation/films.jsonl"))
    else:
        assert kind in ("recipe", "data", "items")  # nothing says what they held


@pytest.mark.parametrize("damage", [truncated, flipped])
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_made_of_records_that_are_whole(
    finished: Path, place: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    path = found(place, kind)
    damage(path)
    result = stillshot("report", "run")
    if ends_well(result, path):
        assert results_of(place) == results_of(finished)
    else:
        assert kind == "results"
    if kind in ("recipe", "machine", "cell", "teacher's cell", "predictions"):
        assert f"{path.name} is damaged" in result.output
    results = place / "run" / "results.json"
    results.unlink()
    again = stillshot("report", "run")
    if ends_well(again, path):
        assert results_of(place) == results_of(finished)


@pytest.mark.parametrize("verb", ["evaluate", "train", "label"])
@pytest.mark.parametrize("kind", ["labels", "training", "weights", "cell", "predictions", "shard"])
def test_every_stage_clears_damage_away(finished: Path, place: Path, kind: str, verb: str) -> None:
    path = found(place, kind)
    truncated(path)
    ends_well(stillshot(verb, "recipe.yaml", "-o", "run"), path)
    assert stillshot("report", "run").exit_code == 0
    assert results_of(place) == results_of(finished)
    assert stillshot("run", "recipe.yaml", "-o", "run").exit_code == 0
    assert results_of(place) == results_of(finished)
