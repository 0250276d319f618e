"""Which labelled examples each context shows, and in which order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from stillshot.config import Budget
from stillshot.errors import DataError
from stillshot.types import Context, Example


def draw_contexts(
    labelled: Sequence[Example], labels: Sequence[str], budget: Budget, seed: int
) -> tuple[Context, ...]:
    """Contexts over the same labelled examples.

    Each context is balanced over the labels that have examples, up to one where shots do not divide
    evenly, and has all examples where as many shots as examples are asked for. Examples are dealt in shuffled rounds, so all
    of them are used about equally often and contexts are disjoint as long as there are enough; within a
    context none stands twice. The same seed gives the same contexts in the same orders.

    Raises:
        DataError: A label has too few examples for one context.
    """
    dealers = {
        label: _deal([e for e in labelled if e.label == label], random.Random(f"deal:{seed}:{label}"))
        for label in labels
    }
    available = {label: sum(e.label == label for e in labelled) for label in labels}
    present = [label for label in labels if available[label]]
    contexts = []
    for number in range(budget.num_contexts):
        every = budget.shots == len(labelled)
        wanted = available if every else _counts(budget.shots, present, first=number)
        for label, count in wanted.items():
            if count > available[label]:
                raise DataError(
                    f"A context of {budget.shots} demonstrations needs {count} of label {label!r}, but "
                    f"{available[label]} are labelled so. Lower num_shots or add labelled examples."
                )
        shown = [example for label, count in wanted.items() for example in _take(dealers[label], count)]
        random.Random(f"order:{seed}:{number}").shuffle(shown)
        contexts.append(Context(tuple(shown)))
    return tuple(contexts)


def with_shuffled_labels(contexts: Sequence[Context], seed: int) -> tuple[Context, ...]:
    """Contexts whose texts stay in their places while their labels change theirs, within each context.

    Every context keeps its label counts, so a bias towards a label stays too. The permutation is drawn
    anew where all labels would stay as they are, unless there is only one label.
    """
    return tuple(
        _with_shuffled_labels(context, random.Random(f"shuffle:{seed}:{number}"))
        for number, context in enumerate(contexts)
    )


def _with_shuffled_labels(context: Context, rng: random.Random) -> Context:
    gold = [demonstration.label for demonstration in context.demonstrations]
    labels = rng.sample(gold, len(gold))
    while labels == gold and len(set(gold)) > 1:
        labels = rng.sample(gold, len(gold))
    return Context(
        tuple(
            replace(shown, label=label) for shown, label in zip(context.demonstrations, labels, strict=True)
        )
    )


def _counts(shots: int, labels: Sequence[str], first: int) -> dict[str, int]:
    """Demonstrations of each label; what is left over goes to labels in turn, context by context."""
    counts = dict.fromkeys(labels, shots // len(labels))
    for extra in range(shots % len(labels)):
        counts[labels[(first * (shots % len(labels)) + extra) % len(labels)]] += 1
    return counts


def _deal(examples: list[Example], rng: random.Random) -> Iterator[Example]:
    while examples:
        yield from rng.sample(examples, len(examples))


def _take(dealer: Iterator[Example], count: int) -> list[Example]:
    """The next ``count`` distinct examples; a round's end may repeat one, which is passed over."""
    taken: list[Example] = []
    while len(taken) < count:
        example = next(dealer)
        if example not in taken:
            taken.append(example)
    return taken
