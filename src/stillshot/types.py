"""The values that pass between stages. All are immutable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# What weights are kept and products computed in; ``auto`` is bfloat16 where the device computes in it natively.
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
# Of a teacher: int8 is bfloat16 with int8 products, on processors; ``auto`` chooses it where it answers alike.
TeacherDtype = Literal["auto", "int8", "bfloat16", "float16", "float32"]
# Which part of a text that is too long is read.
Keep = Literal["start", "end"]


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        fields: The task's text fields, e.g. ``{"premise": ..., "hypothesis": ...}``.
        label: One of the task's labels, or ``None`` where it is unknown.
        groups: Named groups that accuracy is also reported by, e.g. ``{"heuristic": "subsequence"}``.
        origin: Where it was read, e.g. ``"train.jsonl:17"``, for messages.
        uncut: Where ``fields`` hold the beginnings of longer texts, the ``key`` of the whole ones.
    """

    fields: Mapping[str, str]
    label: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    uncut: str = ""

    @cached_property
    def key(self) -> str:
        """A digest of the text fields alone: equal texts are the same query whatever their label."""
        text = "\x1f".join(f"{name}\x1e{self.fields[name]}" for name in sorted(self.fields))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    @property
    def identity(self) -> str:
        """A digest of the text fields before any cut: texts that differ behind the cut are two texts."""
        return self.uncut or self.key


@dataclass(frozen=True)
class Context:
    """Demonstrations in the order in which a prompt shows them; every one has a label."""

    demonstrations: tuple[Example, ...] = ()

    def __len__(self) -> int:
        return len(self.demonstrations)

    @cached_property
    def key(self) -> str:
        """A digest of the demonstrations' texts and labels, in their order."""
        shown = "\x1f".join(f"{example.key}\x1e{example.label}" for example in self.demonstrations)
        return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class LabelScores:
    """A teacher's raw answers to a list of queries.

    Attributes:
        scores: Log-scores, shape ``(queries, labels)``, defined up to a constant a row.
        labels: The labels, in the order of the columns.
        query_tokens: Tokens of the queries themselves, without the context, all told.
        computed: How many of the rows were computed now rather than found in a store.
        seconds: What computing all of them took, now or when they were stored.
    """

    scores: NDArray[np.float64]
    labels: tuple[str, ...]
    query_tokens: int = 0
    computed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """A student's answer to one query; ``probabilities`` has every label and sums to one."""

    label: str
    probabilities: Mapping[str, float]
