"""Ask one teacher with the contexts of one draw: raw scores from the store, answers from the scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillshot.config import Calibration, Prompt, Scoring, TaskDefinition
from stillshot.prompt.budget import fitted_contexts
from stillshot.prompt.writer import Kind, PromptWriter
from stillshot.softlabels import SoftLabelStore, label_queries
from stillshot.teacher import answers
from stillshot.teacher.protocol import Teacher
from stillshot.types import Context, Example

Report = Callable[[str, int, int], None]
Array = NDArray[np.float64]

# What stands in for a query without content (contextual calibration, Zhao et al. 2021).
CONTENT_FREE = "N/A"


@dataclass(frozen=True)
class Asking:
    """How a teacher is asked: which pattern and channel, scored how, calibrated how."""

    scoring: Scoring
    calibration: Calibration
    prompt: Prompt
    temperature: float = 1.0


@dataclass
class Interview:
    """Asks a teacher and keeps count.

    Attributes:
        query_tokens: Tokens of all queries asked so far, without the context.
        seconds: What computing their scores took, now or when they were stored.
    """

    teacher: Teacher
    task: TaskDefinition
    store: SoftLabelStore
    report: Report = lambda *_: None
    query_tokens: int = 0
    seconds: float = 0.0
    _writers: dict[str, PromptWriter] = field(default_factory=dict)

    def writer(self, prompt: Prompt) -> PromptWriter:
        """The writer of a prompt section for this teacher's tokenizer."""
        key = prompt.model_dump_json()
        if key not in self._writers:
            self._writers[key] = PromptWriter(self.task, prompt, self.teacher.encoder)
        return self._writers[key]

    def fitted(
        self, asking: Asking, contexts: Sequence[Context], queries: Sequence[Example]
    ) -> tuple[Context, ...]:
        """The contexts as all of ``queries`` are to see them: see ``prompt.drop_to_fit``."""
        kinds = answers.kinds_of(asking.scoring)
        return fitted_contexts(self.writer(asking.prompt), kinds, contexts, queries, self.teacher.window)

    def scores(
        self, asking: Asking, contexts: Sequence[Context], queries: Sequence[Example]
    ) -> dict[Kind, Array]:
        """Raw scores by kind, shape ``(contexts, queries, labels)``."""
        kinds = answers.kinds_of(asking.scoring)
        found: dict[Kind, Array] = {}
        total = len(kinds) * len(contexts) * len(queries)
        before = 0
        for kind in kinds:
            rows = []
            for context in contexts:

                def progress(done: int, _: int, before: int = before) -> None:
                    self.report("asking the teacher", before + done, total)

                result = label_queries(
                    self.teacher, self.writer(asking.prompt), kind, context, queries, self.store, progress
                )
                rows.append(result.scores)
                self.query_tokens += result.query_tokens
                self.seconds += result.seconds
                before += len(queries)
            found[kind] = np.stack(rows)
        return found

    def biases(
        self, asking: Asking, contexts: Sequence[Context], pool: dict[Kind, Array] | None = None
    ) -> dict[Kind, Array | float]:
        """What calibration divides out, by kind; ``pool`` holds the scores of the unlabelled queries."""
        kinds = answers.kinds_of(asking.scoring)
        if asking.calibration == "none":
            return dict.fromkeys(kinds, 0.0)
        if asking.calibration == "batch":
            assert pool is not None, "batch calibration needs the scores of a pool"
            return {kind: answers.batch_bias(pool[kind]) for kind in kinds}
        empty = Example(dict.fromkeys(self.task.fields, CONTENT_FREE), origin="the query without content")
        scores = self.scores(asking, contexts, [empty])
        return {kind: answers.calibrate(values, 0.0) for kind, values in scores.items()}
