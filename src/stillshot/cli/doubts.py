"""What is allowed in a file of examples, but likely a mistake."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stillshot.data.splits import FEW_ITEMS

if TYPE_CHECKING:
    from stillshot.types import Example


def doubts_about(examples: Sequence[Example], path: Path) -> list[str]:
    """Texts that occur more than once, with one label or with several."""
    by_text: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_text[example.key].append(example)
    same, contradicting = [], []
    for group in by_text.values():
        if len(group) > 1:
            (same if len({example.label for example in group}) == 1 else contradicting).append(group)
    doubts = []
    if missing := printed_missing(examples):
        doubts.append(f"{path}: {describe_printed_missing(missing)} Remove those rows if so.")
    if same:
        doubts.append(
            f"{path}: {_texts(len(same))} more than once, e.g. {_places(same[0])}. Only the first of each is used."
        )
    if contradicting:
        labels = " and ".join(repr(label) for label in dict.fromkeys(e.label for e in contradicting[0]))
        doubts.append(
            f"{path}: {_texts(len(contradicting))} with contradicting labels, e.g. {_places(contradicting[0])} "
            f"({labels}). Only the first of each is used; remove the wrong ones."
        )
    return doubts


def printed_missing(examples: Sequence[Example]) -> list[str]:
    """Where texts are the word ``nan``."""
    from stillshot.data.values import PRINTED_MISSING

    return [e.origin for e in examples if PRINTED_MISSING & {text.lower() for text in e.fields.values()}]


def describe_printed_missing(origins: Sequence[str]) -> str:
    """That texts are the word ``nan``, and where."""
    from stillshot.data.notes import places

    texts = "1 text is" if len(origins) == 1 else f"{len(origins):,} texts are"
    return f"{texts} the word nan, as other tools print a missing text ({places(origins)})."


def labels_in_doubt(
    learned: Sequence[Example], tested: Sequence[Example], labels: Sequence[str]
) -> list[str]:
    """Labels without a test item, and labels of such different frequency that calibration may do harm."""
    from stillshot.data.balance import UNEVEN_ADVICE, absent_labels, count_labels, describe_uneven

    doubts = []
    if absent := absent_labels(count_labels(tested), labels):
        named = ", ".join(map(repr, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        doubts.append(f"No test item has the label {named}, so nothing will be known of it. Add some.")
    for what, examples in (("the labelled examples", learned), ("the test items", tested)):
        if uneven := describe_uneven(count_labels(examples), labels):
            doubts.append(f"Labels are uneven: of {what}, {uneven}. {UNEVEN_ADVICE}")
            break
    return doubts


def few_to_test_on(count: int) -> list[str]:
    """That a test on so few items says little; nothing where there are enough."""
    if count >= FEW_ITEMS:
        return []
    return [
        f"There are only {count} test items, so one of them is {100 / count:.0f} points of accuracy. Add labelled "
        f"examples, or give at least {FEW_ITEMS} with --test."
    ]


def _texts(count: int) -> str:
    return "1 text occurs" if count == 1 else f"{count:,} texts occur"


def _places(group: Sequence[Example]) -> str:
    first, second, *more = (example.origin for example in group)
    return f"{first}, {second} and {len(more)} more" if more else f"{first} and {second}"
