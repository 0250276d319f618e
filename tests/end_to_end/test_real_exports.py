"""Exports of the bundled models: small enough, and still the student."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stillshot.config import AGREEMENT_FLOORS, ExportKind, Prompt
from stillshot.config import Student as StudentSection
from stillshot.data.sources import read_split
from stillshot.deploy.exporting import export_student
from stillshot.student.saved import Student
from stillshot.tasks import load_task

pytestmark = pytest.mark.real_models


def saved(folder: Path, model: str, queries: int) -> tuple[Path, Path]:
    """An untrained student, and some queries."""
    task = load_task("nli-sample")
    torch.manual_seed(0)
    student = Student.create(StudentSection(model=model), task, Prompt())
    if hasattr(student.model, "classifier"):  # a fresh layer answers all queries alike; trained ones do not
        with torch.no_grad():
            student.model.classifier.weight.mul_(20)
    student.save(folder / "student")
    rows = [dict(example.fields) for example in read_split(task, "test")[:queries]]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "student", folder / "queries.jsonl"


def test_minilm_in_8_bits_is_small_and_near_its_student(bundled_encoder: str, tmp_path: Path) -> None:
    student, queries = saved(tmp_path, bundled_encoder, 40)
    kinds: list[ExportKind] = ["onnx", "onnx-int8"]
    full, small = export_student(student, kinds, tmp_path / "out", queries=queries, floor=0.9)
    assert full.agreement.largest_difference < 1e-3
    # Untrained, it is undecided about many queries, so some answers change; probabilities hardly do.
    assert small.agreement.share >= 0.9
    assert small.agreement.largest_difference < 0.1
    assert small.size_bytes <= 30_000_000 < full.size_bytes


def test_a_decoder_as_gguf_is_still_the_student(bundled_teacher: str, tmp_path: Path) -> None:
    student, queries = saved(tmp_path, bundled_teacher, 16)
    (made,) = export_student(student, ["gguf"], tmp_path / "out", queries=queries)
    assert made.agreement.share >= AGREEMENT_FLOORS["gguf"]
    assert made.agreement.largest_difference < 0.03
