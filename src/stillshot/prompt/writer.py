"""Whole prompts: a context, then a query, as text and as the token sequences a model scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from stillshot.config import ChannelPattern, DirectPattern, Prompt, TaskDefinition
from stillshot.errors import PromptError, did_you_mean
from stillshot.prompt.chat import ChatTemplate
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.pattern import Template
from stillshot.prompt.verbalizer import Verbalizer, split_target_prefix
from stillshot.types import Context, Example

Kind = Literal["direct", "channel"]
P = TypeVar("P")


@dataclass(frozen=True)
class ScoredSequence:
    """Token ids whose part from ``scored_from`` on is scored.

    Where ``scored_from`` is the length, what is scored is the next token (the label words).
    """

    ids: tuple[int, ...]
    scored_from: int


@dataclass(frozen=True)
class ScoredPrompt:
    """All that is needed to score one query under one context.

    ``sequences`` holds one for all labels (next-token scoring) or one a label, in label order.
    """

    sequences: tuple[ScoredSequence, ...]
    query_tokens: int


class PromptWriter:
    """Writes the prompts of one task for one tokenizer.

    Args:
        task: The task; ``prompt`` names which of its patterns to use.
        prompt: How prompts are written.
        encoder: The tokenizer of the model that reads them.

    Raises:
        PromptError: A named pattern does not exist, or its label words do not work with the tokenizer.
    """

    def __init__(self, task: TaskDefinition, prompt: Prompt, encoder: PromptEncoder) -> None:
        self.task, self.prompt, self.encoder = task, prompt, encoder
        self.pattern_name, self.pattern = named_pattern(task, prompt.pattern)
        self.channel_name, self.channel = named_channel(task, prompt.channel)
        self._query = Template(self.pattern.pattern)
        tail, space = split_target_prefix(self.pattern.target_prefix, chat=prompt.chat)
        self._query_tail = tail
        before, behind = "x" + self._query.tail + tail, prompt.separator
        self.chat_template = _chat_template(prompt, encoder)
        if self.chat_template is not None:
            before, behind = self.chat_template.render([("user", before)]), self.chat_template.answer_end
        self.verbalizer = Verbalizer.build(
            task.labels,
            self.pattern.label_words,
            encoder,
            before=before,
            leading_space=space,
            behind=behind,
            chat=prompt.chat,
        )

    # Texts ---------------------------------------------------------------------------------------

    def query_text(self, example: Example) -> str:
        """The query alone, up to where its label words would stand."""
        return self.direct_text(Context(), example)

    def direct_text(self, context: Context, query: Example) -> str:
        """Context and query, up to where the label words stand."""
        if self.chat_template is not None:
            return self._chat_text(self.chat_template, context, query)
        shown = [
            self._query.fill(d.fields) + self._query_tail + self._word(d) for d in context.demonstrations
        ]
        asked = self._query.fill(query.fields) + self._query_tail
        return self._instructed(self.prompt.separator.join([*shown, asked]))

    def channel_texts(self, context: Context, query: Example) -> list[tuple[str, str]]:
        """For each label, what comes before the scored text, and the scored text."""
        channel = self.require_channel()
        shown = "".join(
            self._lead(channel, d, str(d.label))
            + Template(channel.text).fill(d.fields)
            + self.prompt.separator
            for d in context.demonstrations
        )
        scored = Template(channel.text).fill(query.fields)
        return [
            (self._instructed(shown + self._lead(channel, query, label)), scored)
            for label in self.task.labels
        ]

    # Token sequences -----------------------------------------------------------------------------

    def prompts(self, kind: Kind, context: Context, queries: Sequence[Example]) -> list[ScoredPrompt]:
        """Scored prompts of all queries under one context.

        Raises:
            PromptError: The scored text of a channel prompt is empty, or chat and channel are combined.
        """
        if not queries:
            return []
        return self._direct(context, queries) if kind == "direct" else self._channel(context, queries)

    def _direct(self, context: Context, queries: Sequence[Example]) -> list[ScoredPrompt]:
        chat = self.prompt.chat
        rows = self.encoder.encode_all([self.direct_text(context, q) for q in queries], chat=chat)
        own = self.encoder.encode_all([self.query_text(q) for q in queries], chat=chat)
        words = [()] if self.verbalizer.single_token else self.verbalizer.scored_ids
        return [
            ScoredPrompt(tuple(ScoredSequence((*row, *word), len(row)) for word in words), len(alone))
            for row, alone in zip(rows, own, strict=True)
        ]

    def _channel(self, context: Context, queries: Sequence[Example]) -> list[ScoredPrompt]:
        labels = len(self.task.labels)
        parts = [pair for query in queries for pair in self.channel_texts(context, query)]
        rows, starts = self.encoder.encode_with_boundaries(
            [before + scored for before, scored in parts], [len(before) for before, _ in parts]
        )
        empty = Context()
        alone = self.encoder.encode_all(
            ["".join(pair) for query in queries for pair in self.channel_texts(empty, query)]
        )
        prompts = []
        for index, query in enumerate(queries):
            span = range(index * labels, (index + 1) * labels)
            if any(starts[i] >= len(rows[i]) or starts[i] == 0 for i in span):
                raise PromptError(
                    f"{query.origin or 'A query'} has no text to score behind its label words. Channel "
                    "scoring needs text in the fields of the channel's text; use teacher.scoring: direct."
                )
            sequences = tuple(ScoredSequence(tuple(rows[i]), starts[i]) for i in span)
            prompts.append(ScoredPrompt(sequences, sum(len(alone[i]) for i in span)))
        return prompts

    # Parts ---------------------------------------------------------------------------------------

    def _word(self, demonstration: Example) -> str:
        return self.verbalizer.words[self.task.labels.index(str(demonstration.label))]

    def _lead(self, channel: ChannelPattern, example: Example, label: str) -> str:
        return Template(channel.lead).fill({**example.fields, "label_words": channel.label_words[label]})

    def require_channel(self) -> ChannelPattern:
        """The channel pattern.

        Raises:
            PromptError: The task has none, or prompts are in chat form.
        """
        if self.channel is None:
            raise PromptError(
                f"The task {self.task.name!r} has no channel pattern. Add one under 'channels' in its "
                "definition, or use scoring: direct and head: label."
            )
        if self.prompt.chat:
            raise PromptError("Channel scoring reads plain prompts. Set prompt.chat to false.")
        return self.channel

    def _instructed(self, text: str) -> str:
        instruction = self.prompt.instruction
        return f"{instruction}{self.prompt.separator}{text}" if instruction else text

    def _system(self) -> list[tuple[str, str]]:
        return [("system", self.prompt.instruction)] if self.prompt.instruction else []

    def _chat_text(self, template: ChatTemplate, context: Context, query: Example) -> str:
        turns = self._system()
        for example in (*context.demonstrations, query):
            for text in example.fields.values():
                self.encoder.refuse_special_tokens(text, example.origin)
        for demonstration in context.demonstrations:
            turns.append(("user", self._query.fill(demonstration.fields) + self._query_tail))
            turns.append(("assistant", self._word(demonstration)))
        turns.append(("user", self._query.fill(query.fields) + self._query_tail))
        return template.render(turns)


def _chat_template(prompt: Prompt, encoder: PromptEncoder) -> ChatTemplate | None:
    if not prompt.chat:
        return None
    return ChatTemplate(
        encoder.tokenizer, prompt.template_options, prompt.answer_prefix, instruction=bool(prompt.instruction)
    )


def named_pattern(task: TaskDefinition, name: str | None) -> tuple[str, DirectPattern]:
    """A direct pattern of a task by name, or its first."""
    return _named("pattern", task, task.patterns, name)


def named_channel(task: TaskDefinition, name: str | None) -> tuple[str | None, ChannelPattern | None]:
    """A channel pattern of a task by name, or its first, or none where the task has none."""
    if name is None and not task.channels:
        return None, None
    return _named("channel", task, task.channels, name)


def _named(kind: str, task: TaskDefinition, variants: Mapping[str, P], name: str | None) -> tuple[str, P]:
    chosen = name or next(iter(variants))
    if chosen not in variants:
        raise PromptError(
            f"The task {task.name!r} has no {kind} {chosen!r}. {did_you_mean(chosen, variants)}"
        )
    return chosen, variants[chosen]
