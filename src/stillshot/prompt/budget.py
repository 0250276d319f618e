"""The token budget: a context and its longest query must fit the model's window, and how long texts are cut to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stillshot.errors import PromptError
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.long_texts import CHARACTERS_A_TOKEN, readable_example
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
        least = "" if tokenized[longest] is query else "at least "
        raise PromptError(
            _too_long(writer, kind, _length(prompts[longest]), tokenized[longest], context, limit, least)
        )
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


def _too_long(
    writer: PromptWriter, kind: Kind, length: int, query: Example, context: Context, limit: int, least: str
) -> str:
    """What is too long, and what makes it fit; nothing is advised that would not.

    ``least`` is "at least " where only the beginning of the query was tokenized.
    """
    shown = context.demonstrations
    in_query, in_context = _text_tokens(writer, query), sum(_text_tokens(writer, d) for d in shown)
    alone = max(_length(prompt) for prompt in writer.prompts(kind, Context(), [query]))
    fields = len(writer.task.fields) * (len(shown) + 1)
    # A token for each text, since one that is cut may be tokenized a little differently at its end.
    each = (limit - (length - in_query - in_context)) // fields - 1
    advice = []
    if shown and alone <= limit:
        advice.append("use fewer shots (budgets.num_shots)")
        advice.append("set prompt.drop_to_fit to drop demonstrations")
    if each >= 1:
        advice.append(f"cut texts to their first {each:,} tokens (data.max_tokens: {each})")
    if not advice:
        advice.append("use a model with a larger window, or a shorter pattern")
    first, *more = advice
    told = f"{', '.join([first, *more[:-1]])} or {more[-1]}" if more else first
    return (
        f"The prompt of {query.origin or 'a query'} has {least}{length:,} tokens, {length - limit:,} more than the "
        f"window of {limit:,} ({len(context)} demonstrations and a query of {least or 'about '}{in_query:,})"
        f". {told[0].upper()}{told[1:]}."
    )


def _text_tokens(writer: PromptWriter, example: Example) -> int:
    texts = [example.fields[name] for name in writer.task.fields]
    return sum(map(len, writer.encoder.token_spans(texts)))


# Cutting -----------------------------------------------------------------------------------------


def first_tokens(encoder: PromptEncoder, text: str, most: int) -> str:
    """The beginning of a text that has ``most`` tokens, or the text where it has no more; no character is split.

    >>> first_tokens(encoder, "one two three", 2)  # doctest: +SKIP
    'one two'
    """
    if text.isascii() and len(text) <= most:  # a token has a character at least
        return text
    size = CHARACTERS_A_TOKEN * most  # and more as far as is needed
    while True:
        part = text[:size]
        [spans] = encoder.token_spans([part])
        if len(spans) > most or len(part) == len(text):
            break
        size *= 2
    keep = most
    while len(spans) > keep > 0:
        # The next token may stand for the rest of the same character.
        end = min(spans[keep - 1][1], spans[keep][0])
        cut = part[:end].rstrip()
        if cut and len(encoder.token_spans([cut])[0]) <= most:
            return cut
        keep -= 1
    return text if len(spans) <= most else _first_character(text)


def _first_character(text: str) -> str:
    """For a budget that is less than one character's tokens: a text is never left empty."""
    return text.lstrip()[:1]
