"""Weights that have changed are noticed: a teacher's after labelling, a student's own, and those that adapters belong to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import SENTIMENT, stir
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from stillshot.cli.main import app
from stillshot.config import ExportKind, Prompt
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.deploy.predictor import load_predictor
from stillshot.errors import ModelError, RunFolderError
from stillshot.evaluate.folder import RunFolder
from stillshot.models.fingerprints import weights_fingerprints
from stillshot.models.resolve import ResolvedModel, resolve_model, weights_fingerprint
from stillshot.student.integrity import same_base
from stillshot.student.saved import Student
from stillshot.student.sidecar import SIDECAR, Sidecar

Lively = Callable[[str], str]


def change_weights(folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stir(model, 0.05)
    model.save_pretrained(folder)


def saved_student(base: Path, folder: Path, **settings: Any) -> Path:
    section = StudentSection(model=str(base), dtype="float32", **settings)
    Student.create(section, SENTIMENT, Prompt()).save(folder)
    return folder


@pytest.fixture
def base(lively: Lively, tmp_path: Path) -> Path:
    """A model that may be changed."""
    return shutil.copytree(lively("opt"), tmp_path / "base")


@pytest.mark.parametrize("head", ["label", "channel", "language_model"])
def test_adapters_are_not_used_on_other_weights(base: Path, tmp_path: Path, head: str) -> None:
    student = saved_student(base, tmp_path / "student", tuning="lora", head=head)
    assert json.loads((student / SIDECAR).read_text())["base"] == weights_fingerprint(
        resolve_model(str(base))
    )
    before = Student.load(student).predict_proba(["a fine film"])
    again = tmp_path / "again"
    Student.load(student).save(again)
    assert Sidecar.read(again).base == Sidecar.read(student).base
    change_weights(base)
    for folder in (student, again):
        with pytest.raises(ModelError, match=r"whose weights have changed since it was trained"):
            Student.load(folder)
    content = json.loads((student / SIDECAR).read_text())
    del content["base"]  # as in folders of earlier versions
    (student / SIDECAR).write_text(json.dumps(content))
    assert (Student.load(student).predict_proba(["a fine film"]) != before).any()


@pytest.mark.parametrize("verb", ["predict", "export"])
def test_every_verb_that_loads_a_student_refuses_a_changed_base(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    student = saved_student(base, tmp_path / "student", tuning="lora")
    (tmp_path / "queries.jsonl").write_text('{"text": "a fine film"}\n')
    change_weights(base)
    monkeypatch.chdir(tmp_path)
    arguments = {
        "predict": ["predict", str(student), "queries.jsonl"],
        "export": ["export", str(student), "--to", "merged", "--queries", "queries.jsonl"],
    }[verb]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "whose weights have changed since it was trained" in result.output
    assert not (tmp_path / "exports").exists()


def test_a_base_of_the_hub_is_taken_at_its_commit(tmp_path: Path) -> None:
    """A commit that only changes a card must not keep a student from answering."""
    resolved = ResolvedModel("owner/name", "owner/name")
    sidecar = Sidecar("label", SENTIMENT, Prompt(), StudentSection(), base="owner/name@" + "0" * 40)
    assert same_base(tmp_path, sidecar, resolved) == ResolvedModel("owner/name", "owner/name", "0" * 40)


@pytest.mark.parametrize("tuning", ["full", "lora", "bitfit"])
def test_a_students_own_weights_are_those_that_were_saved(base: Path, tmp_path: Path, tuning: str) -> None:
    student = saved_student(base, tmp_path / "student", tuning=tuning)
    assert Student.load(student).predict(["a fine film"])
    (weights,) = student.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 0x10  # the file is as readable as before
    weights.write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"damaged or cut short \({weights.name} is not.*remove \"weights\""
    ):
        Student.load(student)
    with pytest.raises(ModelError, match="is not what was saved"):
        load_predictor(student)
    read = json.loads((student / SIDECAR).read_text())
    del read["weights"]
    (student / SIDECAR).write_text(json.dumps(read))
    assert Student.load(student).predict(["a fine film"])


def change_tokenizer(folder: Path) -> None:
    """As readable as before, with other tokens."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = content["model"]["merges"][:1]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("kind", [None, "merged", "onnx"])
def test_a_student_reads_the_tokens_that_it_was_saved_with(
    base: Path, tmp_path: Path, kind: ExportKind | None
) -> None:
    from stillshot.deploy.exporting import export_student

    student = saved_student(base, tmp_path / "student")
    if kind is not None:
        (tmp_path / "queries.jsonl").write_text('{"text": "a fine film"}\n')
        (made,) = export_student(student, [kind], tmp_path / "out", queries=tmp_path / "queries.jsonl")
        student = made.folder
    assert load_predictor(student).predict_proba(["a fine film"]).shape == (1, 2)
    change_tokenizer(student)
    with pytest.raises(ModelError, match=r"^The tokenizer of .* is not the one .* remove \"weights\" from"):
        load_predictor(student)


def test_a_run_says_whether_weights_or_tokenizer_changed(base: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    begun = weights_fingerprints([StudentSection(model=str(base))])
    run.claim_data({}, begun)
    change_tokenizer(base)
    with pytest.raises(
        RunFolderError, match=r"another tokenizer of .*base: it has changed .* put the tokenizer back"
    ):
        run.claim_data({}, weights_fingerprints([StudentSection(model=str(base))]))
    change_weights(base)
    with pytest.raises(
        RunFolderError, match=r"other weights of .*base: they have changed .* put the weights back"
    ):
        run.claim_data({}, weights_fingerprints([StudentSection(model=str(base))]))


def test_an_export_is_what_was_exported(base: Path, tmp_path: Path) -> None:
    from stillshot.deploy.exporting import export_student

    student = saved_student(base, tmp_path / "student")
    (tmp_path / "queries.jsonl").write_text('{"text": "a fine film"}\n{"text": "dull"}\n')
    (export,) = export_student(student, ["onnx"], tmp_path / "out", queries=tmp_path / "queries.jsonl")
    known = Sidecar.read(export.folder).weights
    assert known is not None
    (file,) = known.keys() - {"tokenizer.json"}
    content = bytearray((export.folder / file).read_bytes())
    content[len(content) // 2] ^= 0x01
    (export.folder / file).write_bytes(content)
    with pytest.raises(ModelError, match="may be damaged or cut short"):
        load_predictor(export.folder)


def test_fingerprints_are_of_models_that_lie_here(lively: Lively) -> None:
    sections = [
        TeacherSection(model=lively("llama")),
        StudentSection(model="random:tiny-bert"),
        StudentSection(model="owner/name"),
    ]
    found = weights_fingerprints(sections)
    assert found.keys() == {lively("llama"), "random:tiny-bert"}
    assert found["random:tiny-bert"] == "random:tiny-bert"


def test_a_fingerprint_follows_the_weights(base: Path) -> None:
    def fingerprint() -> str:
        return weights_fingerprint(resolve_model(str(base)))

    first = fingerprint()
    assert fingerprint() == first
    weights = base / "model.safetensors"
    content = load_file(weights)
    name = sorted(content)[0]
    content[name][0] += 1e-3
    save_file(content, weights, metadata={"format": "pt"})
    assert fingerprint() != first
