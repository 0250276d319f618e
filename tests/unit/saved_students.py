"""Tiny students in folders, alone or in a run, as exports start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from doubles import LABELS, SENTIMENT, reviews, stir

from stillshot.config import Prompt, Recipe, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.config_files import dump_recipe
from stillshot.student.saved import Student

CELL = "context_distillation-tiny-label-full-n4x1x2-s0"


def save_student(
    folder: Path, model: str, task: TaskDefinition = SENTIMENT, prompt: Prompt | None = None, **settings: Any
) -> Path:
    """A student whose answers to short texts differ clearly, saved in a folder."""
    torch.manual_seed(0)  # an encoder's score layer and LoRA's A are drawn
    section = StudentSection(model=model, **{"dtype": "float32", **settings})
    student = Student.create(section, task, prompt or Prompt())
    stir(student.model, trainable_only=section.tuning == "lora")
    student.save(folder)
    return folder


def write_queries(path: Path, count: int = 24) -> Path:
    """Queries of :data:`doubles.SENTIMENT`, of many lengths."""
    rows = [dict(example.fields) for example in reviews(count, seed=9, longest=90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_run(folder: Path, model: str, **settings: Any) -> Path:
    """A run folder with one student and its records; the student's folder."""
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "task": SENTIMENT.model_dump(),
            "data": {"in_domain": {"test": "test.jsonl"}, "out_of_domain": {"far": "far.jsonl"}},
            "budgets": [{"labelled": 4, "num_contexts": 1, "num_shots": 2}],
            "seeds": [0],
            "controls": ["shuffled_labels"],
            "students": [{"model": model}],
        }
    )
    (folder / "evaluation").mkdir(parents=True)
    (folder / "softlabels").mkdir()
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    (folder / "machine.json").write_text("{}", encoding="utf-8")
    for seed, name in enumerate(("test", "far")):
        rows = [
            {"index": i, "fields": dict(e.fields), "label": e.label, "groups": {}}
            for i, e in enumerate(reviews(15, seed=seed))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "evaluation" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "softlabels" / "n4x1x2-s0.json").write_text(json.dumps({"contexts": ["c0ffee" * 8]}))
    (folder / "results.json").write_text(json.dumps(_results()), encoding="utf-8")
    return save_student(folder / "students" / CELL, model, **settings)


def _results() -> dict[str, Any]:
    found = {
        "n": 15, "labels": LABELS, "accuracy": 0.8, "ci95": [0.6, 0.93], "macro_f1": 0.79, "nll": 0.5, "ece": 0.1,
        "predicted": {"negative": 0.5, "positive": 0.5}, "confusion": [[6, 1], [2, 6]],
    }  # fmt: skip
    cell = {
        "id": CELL, "method": "context_distillation", "teacher": "random:tiny-llama", "student": "tiny", "head": "label",
        "tuning": "full", "pattern": "yes-no", "scoring": "direct", "calibration": "batch", "num_shots": 2, "num_contexts": 1,
        "seed": 0, "labelled": 4, "unlabelled": 12, "in_domain": {"test": found},
        "out_of_domain": {"far": {**found, "accuracy": 0.6}}, "teacher_agreement": {"test": 0.9, "far": 0.7},
        "parameters": 1, "model_bytes": 4, "peak_memory_bytes": 1,
    }  # fmt: skip
    return {
        "schema": 1, "name": "tiny", "task": "sentiment", "labels": LABELS, "versions": {}, "hardware": {},
        "cells": [cell], "summary": [], "comparisons": [],
    }  # fmt: skip
