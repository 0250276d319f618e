"""A seeded generator of HANS-style pairs.

Each pair belongs to one of the 30 subcases of McCoy, Pavlick & Linzen (2019), "Right for the Wrong Reasons":
a model that judges by word overlap, by contiguous subsequence or by constituent is right on the entailed half
and wrong on the other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from string import Formatter

from stillshot.data.hans_grammar import KINDS, POOLS, SHAPES, Kind, Shape, Word
from stillshot.errors import DataError, did_you_mean
from stillshot.types import Example

HEURISTICS: tuple[str, ...] = tuple(SHAPES)

LABELS: tuple[str, str] = ("entailment", "non-entailment")

#: Each subcase's heuristic and label.
SUBCASES: Mapping[str, tuple[str, str]] = {
    subcase: (heuristic, LABELS[0] if subcase[1] == "e" else LABELS[1])
    for heuristic, subcases in SHAPES.items()
    for subcase in subcases
}


def generate_hans(per_subcase: int, seed: int = 0) -> list[Example]:
    """The first ``per_subcase`` pairs of every subcase, subcase by subcase.

    The order within a subcase depends on the seed alone, so a larger ``per_subcase`` keeps the earlier rows.
    No pair occurs twice in a subcase, and no noun twice in a sentence. Subcases after McCoy, Pavlick & Linzen
    (2019), "Right for the Wrong Reasons".

    Args:
        per_subcase: How many pairs of each of the 30 subcases, at most ``max_per_subcase()``.
        seed: Which sample of the grammar's pairs.

    Returns:
        Examples with the fields ``premise`` and ``hypothesis`` and the groups ``heuristic`` and ``subcase``.
        The row in ``origin`` counts from 1 within its subcase.

    Raises:
        DataError: ``per_subcase`` is negative or more than the grammar can make.
    """
    if per_subcase < 0:
        raise DataError(f"per_subcase is {per_subcase}; it must be 0 or more.")
    smallest = min(SUBCASES, key=capacity)
    if per_subcase > capacity(smallest):
        raise DataError(
            f"per_subcase is {per_subcase}, but the grammar makes only {capacity(smallest)} different pairs "
            f"of subcase {smallest!r}. Ask for at most {capacity(smallest)}."
        )
    return [
        _example(subcase, row, premise, hypothesis)
        for subcase in SUBCASES
        for row, (premise, hypothesis) in enumerate(islice(_pairs(subcase, seed), per_subcase), start=1)
    ]


def capacity(subcase: str) -> int:
    """How many different pairs of this subcase the grammar makes.

    Raises:
        DataError: There is no such subcase.
    """
    if subcase not in SUBCASES:
        raise DataError(f"There is no HANS subcase {subcase!r}. {did_you_mean(subcase, SUBCASES)}")
    return sum(_size(shape) for shape in SHAPES[SUBCASES[subcase][0]][subcase])


def max_per_subcase() -> int:
    """The most pairs that every subcase has: the largest ``per_subcase`` of ``generate_hans``."""
    return min(capacity(subcase) for subcase in SUBCASES)


def _example(subcase: str, row: int, premise: str, hypothesis: str) -> Example:
    heuristic, label = SUBCASES[subcase]
    return Example(
        fields={"premise": premise, "hypothesis": hypothesis},
        label=label,
        groups={"heuristic": heuristic, "subcase": subcase},
        origin=f"hans:{subcase}:{row}",
    )


def _pairs(subcase: str, seed: int) -> Iterator[tuple[str, str]]:
    """All pairs of a subcase in a seeded order.

    Every round takes one pair from each shape that has any left: drawn by number of pairs alone, the shapes
    with the fewest words would hardly ever be seen.
    """
    # Only the seeding by string and random() are documented to stay the same between Python versions.
    rng = random.Random(f"hans:{seed}:{subcase}")
    shapes = SHAPES[SUBCASES[subcase][0]][subcase]
    left = [(shape, _shuffled(_size(shape), f"hans:{seed}:{subcase}:{k}")) for k, shape in enumerate(shapes)]
    while left:
        left.sort(key=lambda _: rng.random())
        exhausted: list[Shape] = []
        for shape, numbers in left:
            number = next(numbers, None)
            if number is None:
                exhausted.append(shape)
            else:
                yield _pair(shape, number)
        left = [item for item in left if item[0] not in exhausted]


def _shuffled(size: int, seed: str) -> Iterator[int]:
    """The numbers below ``size`` in a seeded order, each once.

    A Fisher-Yates shuffle that stores only the places that were changed, as ``size`` can be in the billions.
    """
    rng = random.Random(seed)
    moved: dict[int, int] = {}
    for i in range(size):
        j = i + int(rng.random() * (size - i))
        chosen = moved.get(j, j)
        moved[j] = moved.pop(i, i)
        yield chosen


def _slots(shape: Shape) -> dict[str, Kind]:
    """The premise's slots in order of appearance, each once."""
    slots: dict[str, Kind] = {}
    for _, field_name, _, _ in Formatter().parse(shape.premise):
        if field_name:
            name = field_name.split(".")[0]
            slots[name] = KINDS[name.rstrip("0123456789")]
    return slots


def _choices(shape: Shape) -> list[int]:
    """How many ways there are to fill each slot after the slots before it."""
    taken: dict[str, int] = {}
    choices: list[int] = []
    for kind in _slots(shape).values():
        used = taken.get(kind.pool, 0)
        choices.append((len(POOLS[kind.pool]) - used) * len(kind.forms))
        taken[kind.pool] = used + 1
    return choices


def _size(shape: Shape) -> int:
    return math.prod(_choices(shape))


def _pair(shape: Shape, number: int) -> tuple[str, str]:
    """The pair of this number: its digits, in the mixed base of the slots' choices, are the words."""
    words: dict[str, Word] = {}
    free = {pool: list(families) for pool, families in POOLS.items()}
    for (slot, kind), choices in zip(_slots(shape).items(), _choices(shape), strict=True):
        number, digit = divmod(number, choices)
        family, form = divmod(digit, len(kind.forms))
        words[slot] = free[kind.pool].pop(family)[kind.forms[form]]
    return _sentence(shape.premise, words), _sentence(shape.hypothesis, words)


def _sentence(template: str, words: Mapping[str, Word]) -> str:
    text = template.format_map(words)
    return f"{text[0].upper()}{text[1:]}."
