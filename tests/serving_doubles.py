"""Students to serve that are small or made up, and an application that answers within a test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from doubles import SENTIMENT, stir
from numpy.typing import NDArray

from stillshot import pipeline
from stillshot.config import Prompt, Recipe, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.deploy.serving.app import create_app
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.students import ServedStudent
from stillshot.deploy.serving.workers import Workers
from stillshot.errors import PromptError
from stillshot.student.saved import OnCut, Query, Student
from stillshot.types import Example, Keep

UNREADABLE = "unreadable"


class StubFeaturizer:
    """Counts characters, and cuts at 64; cannot read the text :data:`UNREADABLE`."""

    max_tokens = 64

    def features(self, examples: Sequence[Example], keep: Keep = "start") -> list[dict[str, Any]]:
        texts = ["".join(example.fields.values()) for example in examples]
        if not texts:
            raise IndexError("tokenizers cannot read nothing")
        if UNREADABLE in texts:
            raise PromptError("There is nothing to read in it.")
        return [self._feature(text, keep) for text in texts]

    def _feature(self, text: str, keep: Keep) -> dict[str, Any]:
        read = text[: self.max_tokens] if keep == "start" else text[-self.max_tokens :]
        return {"length": len(read), "text": read, "cut": read != text}

    def pad(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"texts": [feature["text"] for feature in features]}


class StubPredictor:
    """Answers with a function of the text; keeps its batches, and waits while its gate is closed.

    Raises:
        RuntimeError: A text is ``broken``.
    """

    side_by_side = True

    def __init__(self, task: TaskDefinition = SENTIMENT) -> None:
        self.task, self.featurizer = task, StubFeaturizer()
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.computing, self.gave_up = 0, False
        self.when_asked: Callable[[], object] = lambda: None

    def predict_proba(
        self, queries: Sequence[Query], batch_size: int = 32, on_cut: OnCut | None = None
    ) -> NDArray[np.float64]:
        raise NotImplementedError

    def logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        texts = inputs["texts"]
        self.when_asked()
        self.computing += 1
        self.gave_up |= not self.gate.wait(20)
        self.computing -= 1
        self.batches.append(len(texts))
        if "broken" in texts:
            raise RuntimeError("out of memory, say")
        first = torch.tensor([chance(text) for text in texts], dtype=torch.float64)
        others = len(self.task.labels) - 1
        rest = ((1 - first) / others).unsqueeze(-1).expand(-1, others)
        return torch.cat([first.unsqueeze(-1), rest], dim=1).log()


def chance(text: str) -> float:
    """What a stub gives the first label."""
    return (hashlib.sha256(text.encode()).digest()[0] + 0.5) / 256


@asynccontextmanager
async def served(
    *predictors: Any,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    workers: int = 1,
    **students: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with these predictors, named ``s0``, ``s1``, ..., and these students."""
    all_students = [ServedStudent(f"s{i}", predictor) for i, predictor in enumerate(predictors)]
    app = create_app([*all_students, *students.values()], limits, token, hosts, Workers(workers, 1))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


def save_tiny(
    folder: Path, task: TaskDefinition = SENTIMENT, model: str = "random:tiny-bert", **settings: Any
) -> Path:
    """A saved student whose answers differ well from text to text."""
    student = Student.create(StudentSection(model=model, **settings), task, Prompt())
    stir(student.model)
    student.save(folder)
    return folder


def label_and_train(folder: Path, **settings: Any) -> str:
    """Label and train a tiny run in a folder, and give the name of its student."""
    data = folder.parent / f"{folder.name}-data"
    data.mkdir(parents=True)
    words = {"negative": ["dull", "grim", "poor"], "positive": ["warm", "fine", "bright"]}
    for name, count in (("labelled", 12), ("queries", 16), ("test", 8)):
        rows = [
            {"text": f"{name} {i}: a {words[label][i % 3]} film", "label": label}
            for i in range(count)
            for label in [("negative", "positive")[i % 2]]
        ]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "task": SENTIMENT.model_dump(),
            "data": {
                "labelled": str(data / "labelled.jsonl"),
                "unlabelled": str(data / "queries.jsonl"),
                "in_domain": {"films": str(data / "test.jsonl")},
                "num_unlabelled": 16,
            },
            "budgets": [{"labelled": 8, "num_contexts": 2, "num_shots": 4}],
            "teacher": {"model": "random:tiny-llama", "dtype": "float32"},
            "students": [{"model": "random:tiny-bert", "distill": {"epochs": 2}}],
            "methods": ["context_distillation"],
            **settings,
        }
    )
    with pipeline.open_run(recipe, folder) as story:
        story.label()
        story.train()
    (student,) = [path.name for path in (folder / "students").iterdir() if path.is_dir()]
    return student
