"""Prompts to measure with: SST-2 where it is at hand, else Stillshot's own NLI sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stillshot.config import Budget, Prompt, TaskDefinition
from stillshot.config import Teacher as TeacherSection
from stillshot.data.sources import read_reference
from stillshot.data.splits import draw_labelled
from stillshot.errors import DataError
from stillshot.prompt.demonstrations import draw_contexts
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt
from stillshot.tasks import load_task
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Context, Example

TEACHER = "bundled:smollm2-135m"


@dataclass(frozen=True)
class Workload:
    """A task's examples, and how its prompts are tokenized."""

    task: TaskDefinition
    examples: list[Example]
    encoder: PromptEncoder

    @classmethod
    def read(cls, *, with_encoder: bool = True, model: str = TEACHER) -> Workload:
        """SST-2's training split, or the embedded sample's; without an encoder, it writes no prompts."""
        encoder: Any = None
        if with_encoder:
            encoder = LocalTeacher(TeacherSection(model=model, dtype="bfloat16")).encoder
        for name in ("sst2", "nli-sample"):
            task = load_task(name)
            try:
                return cls(task, read_reference("train", task)[1], encoder)
            except DataError as error:
                print(error)
        raise SystemExit("There is nothing to measure with.")

    def context(self, shots: int, seed: int = 0) -> Context:
        """Demonstrations balanced over the labels."""
        if not shots:
            return Context()
        labelled = draw_labelled(self.examples, self.task, shots, seed)
        (context,) = draw_contexts(labelled, self.task.labels, Budget(labelled=shots, num_contexts=1), seed)
        return context

    def queries(self, count: int) -> list[Example]:
        """The first ``count`` examples after those of the largest context; repeated if there are too few."""
        rest = self.examples[200:]
        return [rest[index % len(rest)] for index in range(count)]

    def prompts(self, shots: int, count: int, kind: Kind = "direct", seed: int = 0) -> list[ScoredPrompt]:
        """Prompts of ``count`` queries under one context."""
        return self.writer.prompts(kind, self.context(shots, seed), self.queries(count))

    @property
    def writer(self) -> PromptWriter:
        return PromptWriter(self.task, Prompt(), self.encoder)

    @property
    def label_tokens(self) -> list[int]:
        """The tokens that direct prompts are scored at."""
        return [ids[0] for ids in self.writer.verbalizer.token_ids]


def prefix_tokens(prompts: list[ScoredPrompt], alone: list[ScoredPrompt]) -> int:
    """Tokens that a context adds to a prompt."""
    return len(prompts[0].sequences[0].ids) - len(alone[0].sequences[0].ids)


def within(prompts: list[ScoredPrompt], size: int | None) -> list[ScoredPrompt]:
    """Prompts whose tokens a small vocabulary has."""
    if size is None:
        return prompts
    return [
        ScoredPrompt(
            tuple(type(s)(tuple(i % size for i in s.ids), s.scored_from) for s in p.sequences), p.query_tokens
        )
        for p in prompts
    ]
