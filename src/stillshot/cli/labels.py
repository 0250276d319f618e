"""Which labels a file of examples has, and what each of its label values is called."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillshot.data.notes import places
from stillshot.data.values import as_number, number_name, same_number
from stillshot.errors import DataError, RecipeError, did_you_mean

# Every label value as it stands in the file, and the places (file:line) where it does.
Values = dict[str, list[str]]
_JOINED = re.compile(r"\s*[|;,]\s*")


@dataclass(frozen=True)
class LabelColumn:
    """The label column of a file.

    Attributes:
        values: The distinct values; numbers by size, then the others sorted.
        missing: Places without a label.
    """

    values: Values
    missing: list[str]


def label_values(
    rows: Sequence[tuple[str, Any]],
    column: str,
    path: Path,
    given: Mapping[str, str],
    *,
    strict: bool = False,
) -> LabelColumn:
    """The distinct values of a label column, and where there are none.

    Args:
        rows: All rows with their places.
        column: The label column.
        path: The file, for messages.
        given: Names for values, by which ``nan`` may be a label and values with a comma or bar be one label.
        strict: Refuse rows without a label.

    Raises:
        DataError: No row has a label, values are lists, objects or several labels in one, or there are too many values.
    """
    from stillshot.data.values import PRINTED_MISSING, NotOneLabelError, label_value

    values: Values = defaultdict(list)
    missing, odd = [], []
    for where, row in rows:
        try:
            raw = row.get(column)
            value = raw if isinstance(raw, str) and raw in given else label_value(raw)
        except NotOneLabelError as error:
            odd.append((where, error))
            continue
        printed = (
            value is not None and value.strip().lower() in PRINTED_MISSING and value.strip() not in given
        )
        if value is None or not value.strip() or printed:
            missing.append(where)
        else:
            values[value].append(where)
    if odd:
        raise DataError(_no_plain_labels(odd, len(rows), column, path))
    if missing and (strict or not values):
        raise DataError(
            f"{len(missing)} rows have no label in {column!r}, e.g. {missing[0]}. Put the texts without a label in a "
            "file of their own and give it with --unlabelled."
        )
    if len(values) > 10 and 2 * len(values) > len(rows):
        raise DataError(
            f"The column {column!r} of {path} has {len(values):,} different values in {len(rows):,} rows, too "
            "many for a label. Name the right column with --label."
        )
    _refuse_joined(values, column, path, given)
    return LabelColumn({value: values[value] for value in sorted(values, key=_by_size)}, missing)


def _no_plain_labels(odd: Sequence[tuple[str, Exception]], rows: int, column: str, path: Path) -> str:
    from stillshot.data.values import ONE_LABEL_ADVICE

    where, error = odd[0]
    return (
        f"The labels of {path} are no plain values: {len(odd):,} of {rows:,} rows have something else in the column "
        f"{column!r}, e.g. {where} has {error}. {ONE_LABEL_ADVICE}"
    )


def _refuse_joined(values: Values, column: str, path: Path, given: Mapping[str, str]) -> None:
    """See that no value is several of the others with a bar, semicolon or comma between them."""
    from stillshot.data.values import ONE_LABEL_ADVICE

    for value, where in values.items():
        parts = [part for part in _JOINED.split(value.strip()) if part]
        if len(parts) > 1 and value not in given and all(part in values for part in parts):
            raise DataError(
                f"{path} has several labels in one value of the column {column!r}: {value!r} ({places(where)}), "
                f"whose parts are labels too. {ONE_LABEL_ADVICE} If it is one label, name it: --label-name "
                f"{shlex.quote(f'{value}=NAME')}."
            )


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
    """A label for every value: the one given, else the value without the space around it, numbers in short.

    Where all numbers have a comma, ``0,1`` may be a pair as well as a number, so they stay as they are written.

    Raises:
        DataError: A name is given for a value that is not there, or two labels differ only in case, in the space
            around them, or in how they are written.
    """
    known = {form for value in values for form in _forms(value)}
    if unknown := [value for value in given if value not in known]:
        raise DataError(
            f"--label-name: {path} has no label {unknown[0]!r}. {did_you_mean(unknown[0], {v.strip() for v in values})}"
        )
    form = 1 if all_with_comma(values) else -1
    named = {
        value: next((given[own] for own in _forms(value) if own in given), _forms(value)[form])
        for value in values
    }
    alike: dict[str, list[str]] = defaultdict(list)
    for value, name in named.items():
        alike[_likeness(name)].append(value)
    for group in alike.values():
        by_chance = [value for value in group if not set(_forms(value)) & given.keys()]
        spelled = {_forms(value)[-1] for value in by_chance}
        one_number = len(spelled) == 1 and number_name(next(iter(spelled))) is not None
        if len({named[value] for value in group}) > 1 or (len(by_chance) > 1 and not one_number):
            raise DataError(_alike(group, values, path))
    return named


def respelled(values: Iterable[str], named: Mapping[str, str]) -> str | None:
    """That numbers are read in another form than they are written in, or nothing where none is."""
    changed = [
        value for value in values if named[value] != value.strip() and _forms(value)[-1] == named[value]
    ]
    if not changed:
        return None
    pairs = ", ".join(f"{value} as {named[value]}" for value in changed[:5])
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"Labels that are numbers are read in their shortest form: {pairs}{more}."


def all_with_comma(values: Iterable[str]) -> list[str]:
    """The values that may be numbers with a decimal comma, if none is a number without one."""
    numbers = [value for value in values if number_name(value) is not None]
    return numbers if all("," in value for value in numbers) else []


def kept_commas(values: Iterable[str], named: Mapping[str, str]) -> str | None:
    """That texts such as ``0,1`` are not read as numbers, or nothing where there are none."""
    kept = [value.strip() for value in all_with_comma(values) if named[value] == value.strip()]
    if not kept:
        return None
    more = f" and {len(kept) - 5} more" if len(kept) > 5 else ""
    return (
        f"Labels with a comma are read as texts, since none is a number without one: {'; '.join(kept[:5])}{more}. If "
        f"they are numbers, name them: --label-name {kept[0]}={number_name(kept[0])} ..."
    )


def _forms(value: str) -> tuple[str, ...]:
    """The ways in which a value may be named: as it stands, without space, as a number in short."""
    stripped = value.strip()
    return (value, stripped, number_name(stripped) or stripped)


def _likeness(name: str) -> str:
    """What two labels share that are likely one: letters in any case and form, or the number."""
    number = as_number(name)
    if number is not None:
        return f"number {same_number(number)}"
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _alike(group: Sequence[str], values: Values, path: Path) -> str:
    kept = max(group, key=lambda value: len(values[value]))
    shown = "; ".join(f"{value!r} at {places(values[value])}" for value in group)
    options = [
        f"--label-name {shlex.quote(f'{value}={kept.strip()}')}" for value in group if value is not kept
    ]
    case = len({value.strip().casefold() for value in group}) == 1
    what = "in case or in the space around them" if case else "in how a number or character is written"
    return (
        f"{path} has labels that differ only {what}: {shown}. "
        f"If they are the same, add {' '.join(options)}; if not, give them names that differ in more."
    )


def odd_labels(labels: Sequence[str]) -> list[str]:
    """Labels that may be meant otherwise: words for a missing value, and numbers beside words."""
    found = []
    if words := [
        label for label in labels if label.lower() in ("null", "none", "na", "n/a", "#n/a", "-", "?")
    ]:
        found.append(
            f"{words[0]!r} is read as a label like any other. If it stands for a missing label, remove those rows."
        )
    numbers = [label for label in labels if number_name(label) is not None]
    if numbers and len(numbers) < len(labels):
        other = next(label for label in labels if label not in numbers)
        found.append(
            f"Some labels are numbers ({numbers[0]}), others are words ({other}). Check that all are meant."
        )
    return found
