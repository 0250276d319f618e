"""Tasks: their labels, fields, patterns and sources."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)


class Section(BaseModel):
    """A part of a file: unknown keys are refused and values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DirectPattern(Section):
    """How a query is put before its label words (``pattern``, then ``target_prefix``, then the words)."""

    pattern: str
    target_prefix: str = " "
    label_words: dict[str, str]


class ChannelPattern(Section):
    """How label words are put before the text that is scored (noisy channel, Min et al. 2022).

    ``lead`` holds ``{label_words}`` and may hold fields; ``text`` is what is scored.
    """

    lead: str
    text: str
    label_words: dict[str, str]


class Source(Section):
    """Where the splits of a task are, and how its columns and label values are named there.

    ``splits`` maps a split's name to a file (``local``, ``embedded``), to a split of the Hub data set
    ``path`` (``hub``), or to a number of pairs a subcase (``generated``).
    """

    splits: dict[str, str | int]
    path: str | None = None
    name: str | None = None
    revision: str | None = None
    columns: dict[str, str] = {}
    label_column: str = "label"
    label_values: dict[str, str] = {}


class Sources(Section):
    """The places a task can come from; the first that is at hand is used, in this order."""

    embedded: Source | None = None
    generated: Source | None = None
    local: Source | None = None
    hub: Source | None = None


class TaskDefinition(Section):
    """A classification task over one or more text fields.

    The first of ``patterns`` and of ``channels`` is the default. ``label_mapping`` says how the
    labels of a task that a model was made for are read as labels of this one, when this one is used
    out-of-domain (e.g. ``contradiction`` as ``non-entailment``).
    """

    name: str
    description: str = ""
    labels: list[str] = Field(min_length=2)
    fields: list[str] = Field(min_length=1)
    groups: list[str] = []
    drop_labels: list[str] = []
    label_mapping: dict[str, str] = {}
    sources: Sources = Sources()
    patterns: dict[str, DirectPattern] = Field(min_length=1)
    channels: dict[str, ChannelPattern] = {}

    @model_validator(mode="after")
    def _label_words_cover_the_labels(self) -> TaskDefinition:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels are given twice: {self.labels}")
        named = [("patterns", n, p) for n, p in self.patterns.items()]
        named += [("channels", n, c) for n, c in self.channels.items()]
        for kind, name, pattern in named:
            wrong = [f"{label!r} is missing" for label in self.labels if label not in pattern.label_words]
            wrong += [f"{key!r} is not a label" for key in pattern.label_words if key not in self.labels]
            if wrong:
                raise ValueError(
                    f"{kind}.{name}.label_words must have the labels as its keys: {'; '.join(wrong)} (labels: "
                    f"{', '.join(self.labels)})"
                )
        for target in self.label_mapping.values():
            if target not in self.labels:
                raise ValueError(f"label_mapping points to {target!r}, which is not a label")
        return self

    def of_queries(self) -> TaskDefinition:
        """The task as queries are read: no label and no group of a row can keep it from being answered."""
        return self.model_copy(update={"drop_labels": [], "groups": []})


def _task_form(value: Any) -> str:
    return "by_name" if isinstance(value, str) else "in_full"


NameOrDefinition = Annotated[
    Annotated[str, Tag("by_name")] | Annotated[TaskDefinition, Tag("in_full")], Discriminator(_task_form)
]
