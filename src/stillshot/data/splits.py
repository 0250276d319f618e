"""Which examples play which part: seeded draws that are balanced, disjoint and nested.

Every draw follows the order of a hash of seed and text. So it does not depend on the order of the file
or the version of Python, and a larger draw with the same seed contains the smaller one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from stillshot.config import TaskDefinition
from stillshot.errors import DataError, did_you_mean
from stillshot.types import Example

# Fewer evaluation items than this say hardly anything: one of them is more than three points of accuracy.
FEW_ITEMS = 30


def draw_labelled(
    examples: Iterable[Example], task: TaskDefinition, count: int, seed: int
) -> tuple[Example, ...]:
    """``count`` examples with distinct texts, balanced over the labels.

    Every round takes one example of each label, in an order of the labels that is drawn anew, so a
    remainder is spread over labels by the seed. A draw of 16 is the beginning of the draw of 96. Of fewer
    examples than labels, each has a label of its own and the others have none.

    Args:
        examples: Candidates; those without a label are passed over.
        task: Says which labels there are.
        count: How many.
        seed: Which draw.

    Raises:
        DataError: A label has too few examples.
    """
    rounds = -(-count // len(task.labels))
    turns = [
        (label, turn)
        for turn in range(rounds)
        for label in sorted(task.labels, key=lambda name: _digest("label", seed, f"{turn}:{name}"))
    ][:count]
    by_label: dict[str | None, list[Example]] = defaultdict(list)
    labelled = _distinct(example for example in examples if example.label is not None)
    for example in _seeded(labelled, "labelled", seed):
        by_label[example.label].append(example)
    for label in task.labels:
        _check_enough(label, len(by_label[label]), sum(name == label for name, _ in turns), count)
    return tuple(by_label[label][turn] for label, turn in turns)


def _check_enough(label: str, available: int, needed: int, count: int) -> None:
    if available == 0:
        raise DataError(
            f"No labelled example has the label {label!r}. Add examples of it, or remove it from the task."
        )
    if available < needed:
        raise DataError(
            f"{count} balanced labelled examples need {needed} distinct ones with the label {label!r}, "
            f"but there are {available}. Ask for fewer or add examples."
        )


def draw_unlabelled(
    examples: Iterable[Example], count: int, seed: int, exclude: Collection[str] = ()
) -> tuple[Example, ...]:
    """``count`` queries with distinct texts, their labels removed so that none can be used by mistake.

    Args:
        examples: Candidates, with or without labels.
        count: How many.
        seed: Which draw.
        exclude: Keys (``Example.identity``) of texts that must not be drawn: demonstrations, evaluation items.

    Raises:
        DataError: Fewer than ``count`` are left.
    """
    kept_out = frozenset(exclude)
    distinct = _distinct(examples)
    available = [example for example in distinct if example.identity not in kept_out]
    if len(available) < count:
        raise DataError(
            f"{count} unlabelled queries are asked for, but there are {len(available)} distinct texts, with "
            f"{len(distinct) - len(available)} more in use as labelled or evaluation examples. "
            "Ask for fewer (data.num_unlabelled) or add texts."
        )
    chosen = _seeded(available, "unlabelled", seed)[:count]
    return tuple(replace(example, label=None) for example in chosen)


def draw_evaluation(examples: Iterable[Example], limit: int | None, seed: int = 0) -> tuple[Example, ...]:
    """All distinct texts, or a sample of ``limit`` of them with the same shares of labels and groups.

    The sample is stratified by label, then within a label by the group that has the most values, so 600
    of HANS has 20 of each of its 30 subcases. Every label keeps an item where ``limit`` allows one each. The order of
    the examples is kept.

    Args:
        examples: The evaluation split; of equal texts the first is kept.
        limit: The most to take; null takes all.
        seed: Which sample.
    """
    distinct = _distinct(examples)
    if limit is None or len(distinct) <= limit:
        return tuple(distinct)
    group = _finest_group(distinct)
    strata: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in _seeded(distinct, "evaluation", seed):
        strata[example.label or ""][example.groups.get(group, "")].append(example)
    sizes = {label: sum(map(len, groups.values())) for label, groups in strata.items()}
    chosen: set[str] = set()
    for label, of_label in _one_at_least(_shares(sizes, limit, seed), limit).items():
        groups = strata[label]
        for name, share in _shares({name: len(groups[name]) for name in groups}, of_label, seed).items():
            chosen.update(example.identity for example in groups[name][:share])
    return tuple(example for example in distinct if example.identity in chosen)


def _finest_group(examples: Sequence[Example]) -> str:
    values: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        for name, value in example.groups.items():
            values[name].add(value)
    return max(sorted(values), key=lambda name: len(values[name]), default="")


def _shares(sizes: Mapping[str, int], total: int, seed: int) -> dict[str, int]:
    """``total`` divided in proportion to ``sizes`` by largest remainder; ties fall by the seed."""
    whole = sum(sizes.values())
    shares = {name: total * size // whole for name, size in sizes.items()}

    def remainder(name: str) -> tuple[int, str]:
        return -(total * sizes[name] % whole), _digest("share", seed, name)

    for name in sorted(sizes, key=remainder)[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def _one_at_least(shares: Mapping[str, int], total: int) -> dict[str, int]:
    """The shares with none of them 0, at the cost of the largest; as they are where ``total`` is too small."""
    shares = dict(shares)
    for name in [name for name, share in shares.items() if share == 0 and total >= len(shares)]:
        largest = max(shares, key=lambda other: shares[other])
        shares[largest] -= 1
        shares[name] = 1
    return shares


def label_projection(train_labels: Sequence[str], evaluation_task: TaskDefinition) -> list[int]:
    """For each label that a model was trained on, the label of another task that it is read as.

    Args:
        train_labels: The labels of the model's task, in its order.
        evaluation_task: The task it is judged on.

    Returns:
        Positions in ``evaluation_task.labels``, one for each training label: the label of the same name,
        else the one in the evaluation task's ``label_mapping``.

    Raises:
        DataError: A label has neither.
    """
    projection = []
    for label in train_labels:
        target = label if label in evaluation_task.labels else evaluation_task.label_mapping.get(label)
        if target is None:
            raise DataError(
                f"The label {label!r} cannot be read as a label of task {evaluation_task.name!r}. "
                f"{did_you_mean(label, evaluation_task.labels)} "
                f"Add it to that task's label_mapping, e.g. {label}: {evaluation_task.labels[-1]}."
            )
        projection.append(evaluation_task.labels.index(target))
    return projection


def check_leakage(parts: Mapping[str, Iterable[Example]]) -> None:
    """See that no text is in two parts, e.g. among the demonstrations and the evaluation items.

    Args:
        parts: The examples of each part by its name. A text may occur twice within a part.

    Raises:
        DataError: Two parts share a text; it says which, how many, and where one of them was read.
    """
    by_key = {name: {example.identity: example for example in examples} for name, examples in parts.items()}
    for (name, some), (other, others) in combinations(by_key.items(), 2):
        shared = [key for key in some if key in others]
        if shared:
            here, there = some[shared[0]], others[shared[0]]
            texts = "1 text is" if len(shared) == 1 else f"{len(shared)} texts are"
            raise DataError(
                f"{texts} both in {name!r} and in {other!r}, e.g. {here.origin or '(unknown place)'} and "
                f"{there.origin or '(unknown place)'}. Remove them from one of the two."
            )


def _distinct(examples: Iterable[Example]) -> list[Example]:
    """The first example of each text, in the given order."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.identity, example)
    return list(first.values())


def _seeded(examples: Iterable[Example], purpose: str, seed: int) -> list[Example]:
    # By the text as it is shown, so that a cut that merges no texts changes no draw.
    return sorted(examples, key=lambda example: (_digest(purpose, seed, example.key), example.identity))


def _digest(purpose: str, seed: int, item: Hashable) -> str:
    return hashlib.sha256(f"{purpose}:{seed}:{item}".encode("utf-8", "surrogatepass")).hexdigest()
