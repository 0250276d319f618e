"""Tasks, examples and a teacher that are small enough to see through."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stillshot.config import ChannelPattern, DirectPattern, TaskDefinition
from stillshot.models import load
from stillshot.models.random_weights import random_config, random_tokenizer
from stillshot.models.resolve import resolve_model
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import ScoredPrompt
from stillshot.teacher.protocol import Teacher
from stillshot.types import Context, Example

LABELS = ["negative", "positive"]

# `yes-no` has label words of one token each, `several` of several tokens.
SENTIMENT = TaskDefinition(
    name="sentiment",
    labels=LABELS,
    fields=["text"],
    patterns={
        "yes-no": DirectPattern(
            pattern="Review: {text}",
            target_prefix="\nGood? ",
            label_words={"negative": "No", "positive": "Yes"},
        ),
        "several": DirectPattern(
            pattern="Review: {text}",
            target_prefix="\nIt is ",
            label_words={"negative": "quite bad", "positive": "fine"},
        ),
    },
    channels={
        "review": ChannelPattern(
            lead="It is {label_words}:",
            text=" {text}",
            label_words={"negative": "bad", "positive": "good"},
        )
    },
)

PAIRS = TaskDefinition(
    name="pairs",
    labels=["yes", "no"],
    fields=["premise", "hypothesis"],
    patterns={
        "plain": DirectPattern(pattern="{premise} {hypothesis} ?", label_words={"yes": "Yes", "no": "No"})
    },
)


def review(text: str, label: str | None = None) -> Example:
    """One example of :data:`SENTIMENT`."""
    return Example({"text": text}, label, origin=f"reviews:{text[:12]!r}")


def reviews(count: int, seed: int = 0, longest: int = 40) -> list[Example]:
    """Examples of :data:`SENTIMENT` with distinct texts of many lengths, labels in turn."""
    rng = random.Random(f"reviews:{seed}")
    letters = "abcdefgh {}."
    texts = ["".join(rng.choices(letters, k=rng.randint(1, longest))) for _ in range(count)]
    return [review(f"{number}{text}x", LABELS[number % 2]) for number, text in enumerate(texts)]


def context(shots: int, seed: int = 1) -> Context:
    """Demonstrations of :data:`SENTIMENT`."""
    return Context(tuple(reviews(shots, seed=seed)))


def all_scores(
    teacher: Teacher,
    prompts: Sequence[ScoredPrompt],
    label_tokens: Sequence[int] | None,
    skip: Collection[int] = (),
) -> NDArray[np.float64]:
    """What a teacher yields, put together; a row that it left out is NaN."""
    rows: dict[int, NDArray[np.float64]] = {}
    for positions, scores in teacher.score(prompts, label_tokens, skip):
        rows.update(zip(positions.tolist(), scores, strict=True))
    width = len(next(iter(rows.values()))) if rows else 0
    return np.array([rows.get(index, np.full(width, np.nan)) for index in range(len(prompts))])


class StubTeacher:
    """A teacher whose scores are a function of its fingerprint and the prompt alone.

    Args:
        fail_after: Raise ``KeyboardInterrupt`` instead of the batch after so many.
    """

    def __init__(self, fingerprint: str = "stub", batch: int = 4, fail_after: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.encoder = PromptEncoder(random_tokenizer("tiny-llama"))
        self.window = 2048
        self.batch, self.fail_after = batch, fail_after
        self.scored = 0

    def score(
        self,
        prompts: Sequence[ScoredPrompt],
        label_tokens: Sequence[int] | None,
        skip: Collection[int] = (),
        wants: Callable[[Sequence[int]], bool] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """See :meth:`stillshot.teacher.protocol.Teacher.score`."""
        done = 0
        for at in range(0, len(prompts), self.batch):
            positions = list(range(at, min(at + self.batch, len(prompts))))
            if all(position in skip for position in positions) or not (wants is None or wants(positions)):
                continue
            if done == self.fail_after:
                raise KeyboardInterrupt
            done += 1
            self.scored += len(positions)
            rows = [self.answer(prompts[position]) for position in positions]
            yield np.array(positions), np.array(rows)

    def answer(self, prompt: ScoredPrompt) -> list[float]:
        """Two log-scores of a prompt."""
        digest = hashlib.sha256(f"{self.fingerprint}{prompt.sequences}".encode()).digest()
        return [-digest[0] / 64 - 0.1, -digest[1] / 64 - 0.1]


def stir(model: torch.nn.Module, scale: float = 0.25, *, trainable_only: bool = False) -> None:
    """Add seeded noise to every weight (or every one that trains)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trainable_only:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def save_lively(target: Path, model_id: str) -> None:
    """Write the model behind a random id to a folder, its weights stirred."""
    resolved = resolve_model(model_id)
    if load.is_encoder(random_config(resolved.location)):
        model = load.load_classifier(resolved, torch.float32).base_model
    else:
        model = load.load_causal_lm(resolved, torch.float32)
    stir(model)
    model.save_pretrained(target)
    load.load_tokenizer(resolved).save_pretrained(target)
