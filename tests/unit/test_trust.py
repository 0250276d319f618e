"""Folders from strangers: nothing in them is run, nothing in them leads outside, and readers of them end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_calls import call, refused, write_jsonl
from doubles import LABELS, SENTIMENT
from saved_students import save_student, write_queries, write_run

from stillshot.deploy.predictor import load_predictor
from stillshot.errors import ModelError
from stillshot.models import load, trust
from stillshot.models.resolve import resolve_model, weights_fingerprint
from stillshot.student.saved import Student
from stillshot.student.sidecar import SIDECAR

YES = "y\n" * 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_student(tmp_path_factory.mktemp("saved") / "student", "random:tiny-llama")


@pytest.fixture(scope="module")
def saved_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_student(tmp_path_factory.mktemp("saved") / "adapters", "random:tiny-llama", tuning="lora")


@pytest.fixture
def student(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "student"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}), encoding="utf-8")


def with_own_code(folder: Path) -> Path:
    """Make a folder bring Python files, which leave a file behind wherever they are run; the path of that file."""
    marker = folder.parent / "was-run"
    code = f"open({str(marker)!r}, 'w').close()\nfrom transformers import *\n"
    for name in ("configuration_own", "modeling_own", "tokenization_own"):
        (folder / f"{name}.py").write_text(
            code + "class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n", encoding="utf-8"
        )
    classes = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnConfig",
        "AutoModelForSequenceClassification": "modeling_own.OwnConfig",
        "AutoTokenizer": ["tokenization_own.OwnConfig", "tokenization_own.OwnConfig"],
    }
    edit(folder / "config.json", model_type="own", auto_map=classes)
    edit(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=classes)
    return marker


def write_recipe(folder: Path, teacher: str, student: str) -> Path:
    rows = [
        {"text": f"text {i} {('dull', 'fine')[i % 2]}", "label": ("negative", "positive")[i % 2]}
        for i in range(24)
    ]
    write_jsonl(folder / "train.jsonl", rows)
    write_jsonl(folder / "test.jsonl", [{**row, "text": row["text"] + "!"} for row in rows])
    recipe = {
        "name": "strange",
        "task": SENTIMENT.model_dump(exclude={"sources"}),
        "data": {
            "labelled": str(folder / "train.jsonl"),
            "unlabelled": str(folder / "train.jsonl"),
            "num_unlabelled": 12,
            "in_domain": {"test": str(folder / "test.jsonl")},
        },
        "budgets": [{"labelled": 4, "num_contexts": 1, "num_shots": 2}],
        "methods": ["context_distillation"],
        "teacher": {"model": teacher},
        "students": [{"model": student}],
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


@pytest.mark.parametrize("stdin", [None, YES])
@pytest.mark.parametrize(
    "verb", ["predict", "export", "serve", "label", "check", "plan", "run", "run student"]
)
def test_no_verb_runs_code_that_a_model_brings(
    verb: str, stdin: str | None, student: Path, tmp_path: Path
) -> None:
    marker = with_own_code(student)
    queries = write_queries(tmp_path / "queries.jsonl", 2)
    roles = (
        ("random:tiny-llama", str(student)) if verb == "run student" else (str(student), "random:tiny-bert")
    )
    recipe = str(write_recipe(tmp_path, *roles))
    arguments = {
        "predict": [str(student), *([] if stdin else [str(queries)])],
        "export": [
            str(student),
            "--to",
            "merged",
            "-o",
            str(tmp_path / "exports"),
            "--queries",
            str(queries),
        ],
        "serve": [str(student), "--port", "0"],
    }.get(verb, [recipe, *(["-o", str(tmp_path / "run")] if verb not in ("check", "plan") else [])])
    result = call(verb.split()[0], *arguments, stdin=stdin)
    assert result.exit_code == 2
    (message,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "brings Python code of its own" in message
    assert "Traceback" not in result.output
    assert not marker.exists()


def test_a_process_of_its_own_with_answers_on_standard_input_runs_nothing(
    student: Path, tmp_path: Path
) -> None:
    marker = with_own_code(student)
    done = subprocess.run(
        [sys.executable, "-m", "stillshot.cli.main", "predict", str(student)],
        input=YES,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not marker.exists()


@pytest.mark.parametrize(
    "how", [Student.load, load_predictor, lambda f: weights_fingerprint(resolve_model(str(f)))]
)
def test_nor_does_python(how: Callable[[Path], object], student: Path) -> None:
    marker = with_own_code(student)
    if how in (Student.load, load_predictor):
        with pytest.raises(ModelError, match="Python code of its own"):
            how(student)
    else:
        how(student)
    assert not marker.exists()


def test_the_code_of_an_adapters_base_is_not_run_either(
    saved_adapters: Path, student: Path, tmp_path: Path
) -> None:
    marker = with_own_code(student)
    adapters = Path(shutil.copytree(saved_adapters, tmp_path / "adapters"))
    sidecar = json.loads((adapters / SIDECAR).read_text())
    sidecar["student"]["model"] = str(student)
    (adapters / SIDECAR).write_text(json.dumps(sidecar))
    with pytest.raises(ModelError, match="Python code of its own"):
        Student.load(adapters)
    assert not marker.exists()


def test_code_that_transformers_does_not_need_is_left_alone(student: Path) -> None:
    """Many published models bring the code that they had before transformers knew them."""
    classes = {"AutoConfig": "configuration_own.OwnConfig"}
    marker = with_own_code(student)
    edit(student / "config.json", model_type="llama", auto_map=classes)
    edit(student / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", auto_map={})
    assert Student.load(student).predict(["fine"])[0].label in LABELS
    assert not marker.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(
    "name", ["someone/some-kernels", "flash_attention_2", "kernels-community/attention:layer"]
)
def test_a_configuration_that_names_kernels_is_refused(student: Path, key: str, name: str) -> None:
    edit(student / "config.json", **{key: name})
    with pytest.raises(ModelError, match=r"package of kernels.*Remove attn_implementation"):
        Student.load(student)


def test_a_configuration_that_names_experts_kernels_is_refused(student: Path) -> None:
    edit(student / "config.json", experts_implementation="someone/some-kernels")
    with pytest.raises(ModelError, match=r"kernels 'someone/some-kernels'.*experts_implementation"):
        Student.load(student)


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/elsewhere.safetensors", "..\\x", "C:\\x", "", 3]
)
def test_an_index_that_points_outside_its_folder_is_refused(student: Path, name: Any) -> None:
    weights = student / "model.safetensors"
    elsewhere = weights.rename(student.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"score.weight": name}}
    (student / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"weights outside its folder"):
        Student.load(student)
    assert elsewhere.is_file()


def test_an_index_without_a_map_is_refused(student: Path) -> None:
    (student / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="no weight_map"):
        Student.load(student)


@pytest.mark.parametrize("kind", ["onnx", "gguf"])
@pytest.mark.parametrize("key", ["file", "files_beside"])
def test_an_export_that_points_outside_its_folder_is_refused(student: Path, kind: str, key: str) -> None:
    (student.parent / "model.bin").write_bytes(b"")
    (student / "model.bin").write_bytes(b"")
    exported: dict[str, Any] = {"kind": kind, "file": "model.bin", "label_tokens": [1, 2]}
    exported[key] = "../model.bin" if key == "file" else ["../model.bin"]
    edit(student / SIDECAR, exported=exported)
    with pytest.raises(ModelError, match=r"points to a file outside its folder"):
        load_predictor(student)


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {"hidden_size": 1}, "megatron_core": "json"},
        {"auto_mapping": {"parent_library": "json", "base_model_class": "JSONDecoder"}},
        {"init_lora_weights": "corda"},
        {"peft_type": "PROMPT_TUNING"},
        {"peft_type": ["LORA"]},
    ],
)
def test_adapters_that_ask_for_more_than_adapters_are_refused(
    saved_adapters: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    adapters = Path(shutil.copytree(saved_adapters, tmp_path / "adapters"))
    assert Student.load(adapters).predict(["fine"])
    edit(adapters / "adapter_config.json", **changes)
    with pytest.raises(ModelError, match=r"adapter_config\.json (sets|describes)"):
        Student.load(adapters)


@pytest.mark.parametrize("name", [SIDECAR, "config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "", "[]", "3", "null", '{"a": ', "{}", "\ud800"])
def test_odd_side_files_end_in_one_message(student: Path, tmp_path: Path, name: str, content: str) -> None:
    (student / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    queries = write_queries(tmp_path / "queries.jsonl", 2)
    not_needed = name == "generation_config.json" and content in ("[]", "3", "null", "{}")
    if not_needed:
        assert call("predict", str(student), str(queries)).exit_code == 0
    else:
        refused("predict", str(student), str(queries))


def test_a_side_file_that_is_too_large_is_not_read(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "LARGEST_SIDE_FILE_BYTES", 100)
    with pytest.raises(ModelError, match=r"has more than 0 MiB"):
        Student.load(student)


def test_a_configuration_of_more_layers_than_any_model_is_refused(student: Path) -> None:
    edit(student / "config.json", num_hidden_layers=10**9)
    with pytest.raises(ModelError, match="more than any model"):
        load.load_config(resolve_model(str(student)))


def test_a_run_folder_is_no_way_around(tmp_path: Path) -> None:
    student = write_run(tmp_path / "run", "random:tiny-llama")
    marker = with_own_code(student)
    marker.unlink(missing_ok=True)
    result = call("predict", str(tmp_path / "run"), stdin=YES)
    assert result.exit_code == 2
    assert "Python code of its own" in result.stderr
    assert not marker.exists()
