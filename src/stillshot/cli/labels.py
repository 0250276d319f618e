"""Which labels a file of examples has, and what each of its label values is called."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillshot.errors import DataError, RecipeError, did_you_mean

MOST_PLACES = 3
# Every label value as it stands in the file, and the places (file:line) where it does.
Values = dict[str, list[str]]


def label_values(rows: Sequence[tuple[str, Any]], column: str, path: Path) -> Values:
    """The distinct values of a label column; numbers by size, then the others sorted.

    Raises:
        DataError: A row has no label, or there are too many values for a label.
    """
    from stillshot.data.files import label_value

    values: Values = defaultdict(list)
    for where, row in rows:
        values[label_value(row.get(column)) or ""].append(where)
    empty = [where for value in list(values) if not value.strip() for where in values.pop(value)]
    if empty:
        raise DataError(
            f"{len(empty)} rows have no label in {column!r}, e.g. {empty[0]}. Put the texts without a label in a "
            "file of their own and give it with --unlabelled."
        )
    if len(values) > 10 and 2 * len(values) > len(rows):
        raise DataError(
            f"The column {column!r} of {path} has {len(values):,} different values in {len(rows):,} rows, too "
            "many for a label. Name the right column with --label."
        )
    return {value: values[value] for value in sorted(values, key=_by_size)}


def _by_size(value: str) -> tuple[int, int, str]:
    value = value.strip()
    return (0, int(value), "") if re.fullmatch(r"-?\d{1,9}", value) else (1, 0, value)


def parse_label_names(pairs: Sequence[str] | None) -> dict[str, str]:
    """What ``--label-name`` says, by value.

    Raises:
        RecipeError: One of them is not ``VALUE=NAME``.
    """
    names = {}
    for pair in pairs or ():
        value, equals, name = pair.partition("=")
        if not (value and equals and name.strip()):
            raise RecipeError(f"--label-name takes VALUE=NAME, e.g. 0=negative, not {pair!r}.")
        names[value] = name.strip()
    return names


def name_labels(values: Values, given: Mapping[str, str], path: Path) -> dict[str, str]:
    """A label for every value: the one given, else the value without the space around it.

    Raises:
        DataError: A name is given for a value that is not there, or two labels differ only in case or in
            the space around them.
    """
    stripped = {value.strip() for value in values}
    if unknown := [value for value in given if value not in values and value not in stripped]:
        raise DataError(
            f"--label-name: {path} has no label {unknown[0]!r}. {did_you_mean(unknown[0], stripped)}"
        )
    named = {value: given.get(value, given.get(value.strip(), value.strip())) for value in values}
    alike: dict[str, list[str]] = defaultdict(list)
    for value, name in named.items():
        alike[name.casefold()].append(value)
    for group in alike.values():
        by_chance = [value for value in group if value not in given]
        if len({named[value] for value in group}) > 1 or len(by_chance) > 1:
            raise DataError(_alike(group, values, path))
    return named


def _alike(group: Sequence[str], values: Values, path: Path) -> str:
    kept = max(group, key=lambda value: len(values[value]))
    shown = "; ".join(f"{value!r} at {_places(values[value])}" for value in group)
    options = [
        f"--label-name {shlex.quote(f'{value}={kept.strip()}')}" for value in group if value is not kept
    ]
    return (
        f"{path} has labels that differ only in case or in the space around them: {shown}. "
        f"If they are the same, add {' '.join(options)}; if not, give them names that differ in more."
    )


def _places(places: Sequence[str]) -> str:
    more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
    return ", ".join(places[:MOST_PLACES]) + more
