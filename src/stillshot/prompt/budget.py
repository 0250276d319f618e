"""The token budget: a context and its longest query must fit the model's window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stillshot.errors import PromptError
from stillshot.prompt.long_texts import readable_example
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt
from stillshot.types import Context, Example


def fitted_prompts(
    writer: PromptWriter, kind: Kind, context: Context, queries: Sequence[Example], window: int
) -> list[ScoredPrompt]:
    """Prompts of all queries, none longer than the window. Nothing is cut.

    Of a text that alone is longer than the window, only so much is tokenized as shows that.

    Raises:
        PromptError: A prompt is too long; the message says by how many tokens.
    """
    limit = _limit(writer, window)
    tokenized = _readable(writer, queries, limit)
    prompts = writer.prompts(kind, context, tokenized)
    longest = max(range(len(prompts)), key=lambda i: _length(prompts[i]), default=None)
    if longest is not None and _length(prompts[longest]) > limit:
        query = queries[longest]
        raise PromptError(_too_long(prompts[longest], query, context, limit, tokenized[longest] is query))
    return prompts


def fitted_contexts(
    writer: PromptWriter,
    kinds: Iterable[Kind],
    contexts: Sequence[Context],
    queries: Sequence[Example],
    window: int,
) -> tuple[Context, ...]:
    """The contexts, with ``prompt.drop_to_fit`` less the first demonstrations where a prompt is too long.

    What is dropped is dropped for all queries, so ``queries`` are all that are ever asked with these
    contexts: one teacher never answers some of them with another context than the others. All contexts
    keep equally many demonstrations.
    """
    if not writer.prompt.drop_to_fit:
        return tuple(contexts)
    limit = _limit(writer, window)
    queries = _readable(writer, queries, limit)
    kinds = tuple(kinds)
    while any(context.demonstrations for context in contexts):
        prompts = (
            p for kind in kinds for context in contexts for p in writer.prompts(kind, context, queries)
        )
        if all(_length(prompt) <= limit for prompt in prompts):
            break
        contexts = [Context(context.demonstrations[1:]) for context in contexts]
    return tuple(contexts)


def _readable(writer: PromptWriter, queries: Sequence[Example], limit: int) -> list[Example]:
    """The queries, with no more of any text than shows that its prompt is over the limit."""
    return [readable_example(writer.encoder.tokenizer, query, limit) for query in queries]


def _limit(writer: PromptWriter, window: int) -> int:
    return min(window, writer.prompt.max_tokens or window)


def _length(prompt: ScoredPrompt) -> int:
    return max(len(sequence.ids) for sequence in prompt.sequences)


def _too_long(prompt: ScoredPrompt, query: Example, context: Context, limit: int, whole: bool) -> str:
    length, least = _length(prompt), "" if whole else "at least "
    return (
        f"The prompt of {query.origin or 'a query'} has {least}{length:,} tokens, {length - limit:,} more than the "
        f"window of {limit:,} ({len(context)} demonstrations and a query of {least or 'about '}"
        f"{prompt.query_tokens // len(prompt.sequences):,}). Use fewer shots (budgets.num_shots), shorten the "
        "queries (data.max_words), or set prompt.drop_to_fit to drop demonstrations."
    )
