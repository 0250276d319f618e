"""The token budget: a context and its longest query must fit the model's window."""

from __future__ import annotations

from collections.abc import Sequence

from stillshot.errors import PromptError
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt
from stillshot.types import Context, Example


def fitted_prompts(
    writer: PromptWriter, kind: Kind, context: Context, queries: Sequence[Example], window: int
) -> list[ScoredPrompt]:
    """Prompts of all queries, none longer than the window. Nothing is cut unless the recipe asks for it.

    With ``prompt.drop_to_fit``, demonstrations are dropped from the front, for all queries alike, so
    that every query still sees the same context.

    Raises:
        PromptError: A prompt is too long; the message says by how many tokens.
    """
    limit = min(window, writer.prompt.max_tokens or window)
    while True:
        prompts = writer.prompts(kind, context, queries)
        longest = max(range(len(prompts)), key=lambda i: _length(prompts[i]), default=None)
        if longest is None or _length(prompts[longest]) <= limit:
            return prompts
        if not (writer.prompt.drop_to_fit and context.demonstrations):
            raise PromptError(_too_long(prompts[longest], queries[longest], context, limit))
        context = Context(context.demonstrations[1:])


def _length(prompt: ScoredPrompt) -> int:
    return max(len(sequence.ids) for sequence in prompt.sequences)


def _too_long(prompt: ScoredPrompt, query: Example, context: Context, limit: int) -> str:
    length = _length(prompt)
    return (
        f"The prompt of {query.origin or 'a query'} has {length:,} tokens, {length - limit:,} more than the "
        f"window of {limit:,} ({len(context)} demonstrations and a query of about "
        f"{prompt.query_tokens // len(prompt.sequences):,}). Use fewer shots (budgets.num_shots), shorten the "
        "queries (data.max_words), or set prompt.drop_to_fit to drop demonstrations."
    )
