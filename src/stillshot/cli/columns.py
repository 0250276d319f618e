"""Which columns of a table hold the label and the texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillshot.errors import DataError, did_you_mean

LABEL_NAMES = ("label", "labels", "class", "category", "target", "y")
MOST_LABELS = 30
# A second text is taken for one of a pair where it is at least this long beside the longest.
PAIR_SHARE = 0.25
MARKS = frozenset({"0", "1", "true", "false"})


@dataclass(frozen=True)
class ColumnFacts:
    """What a column looks like.

    Attributes:
        filled: Rows that have a value.
        distinct: The different values, as labels are written.
        texts: Whether most values are texts that are no numbers.
        mean_length: Characters of the mean text.
        words: Words of the mean text.
        nested: Whether values are lists of several or objects.
    """

    name: str
    filled: int
    distinct: frozenset[str]
    texts: bool
    mean_length: float
    words: float
    nested: bool = False

    def __str__(self) -> str:
        if self.nested:
            return f"{self.name} (lists or objects)"
        kind = f"text of {self.mean_length:.0f} characters" if self.texts else "no text"
        return f"{self.name} ({kind}, {len(self.distinct):,} different values)"


def look_at(rows: Iterable[Mapping[str, Any]]) -> list[ColumnFacts]:
    """The columns of rows, in the order in which they appear."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(str(name), []).append(value)
    return [_facts(name, column) for name, column in values.items()]


def _facts(name: str, values: Sequence[Any]) -> ColumnFacts:
    from stillshot.data.values import NotOneLabelError, is_missing, label_value

    distinct, nested = set(), False
    given = [value for value in values if not is_missing(value) and value != ""]
    for value in given:
        try:
            distinct.add(label_value(value))
        except NotOneLabelError:
            nested = nested or not isinstance(value, str)
    texts = [value for value in given if _is_text(value)]
    count = len(texts) or 1
    return ColumnFacts(
        name,
        len(given),
        frozenset(filter(None, distinct)),
        texts=bool(texts) and len(texts) >= 0.8 * len(given),
        mean_length=sum(map(len, texts)) / count,
        words=sum(map(_words, texts)) / count,
        nested=nested,
    )


def _words(text: str) -> float:
    """Words of a text; in scripts that put no spaces between them, two characters count as one."""
    letters = sum(unicodedata.category(character) == "Lo" for character in text)
    return max(len(text.split()), letters / 2)


def _is_text(value: Any) -> bool:
    from stillshot.data.values import PrintedValue

    plain = isinstance(value, str) and not isinstance(value, PrintedValue)
    return plain and bool(value.strip()) and not _is_number(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def label_column(
    columns: Sequence[ColumnFacts],
    asked: str | None,
    path: Path,
    texts: Sequence[str],
    rows: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The column with the label: the one asked for, one with a usual name, or the only one with few values.

    Args:
        columns: What the columns look like.
        asked: The column that was named.
        path: The file, for messages.
        texts: Columns that were named as texts.
        rows: The rows, to see whether several columns together are one label.

    Raises:
        DataError: There is no such column, or none or several could be it.
    """
    by_name = {column.name: column for column in columns}
    if asked is not None:
        return _named(asked, by_name, path, "--label")
    others = [column for column in columns if column.name not in texts]
    for name in LABEL_NAMES:
        for column in others:
            if column.name.strip().lower() == name:
                return column.name
    _refuse_one_hot(others, path, rows)
    few = [c for c in others if 2 <= len(c.distinct) <= min(MOST_LABELS, c.filled / 2) and c.words < 4]
    if len(few) != 1:
        what = "several columns that could be" if few else "no column that looks like"
        raise DataError(
            f"{path} has {what} the label. Name it with --label COLUMN. Its columns: {_listed(few or columns)}."
        )
    return few[0].name


def _refuse_one_hot(columns: Sequence[ColumnFacts], path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """See that no columns of zeros and ones are one label together: exactly one of them is set in every row."""
    marked = [c.name for c in columns if c.distinct and c.distinct <= MARKS and c.filled == len(rows)]
    if len(marked) < 2:
        return
    sums = {sum(_is_set(row.get(name)) for name in marked) for row in rows}
    if sums == {1}:
        raise DataError(
            f"{path} has a label in one-hot form: of the columns {', '.join(marked[:20])} exactly one is 1 in every row. "
            "Put the name of that one into a column label (pandas: frame[columns].idxmax(axis=1)), or name one "
            "column with --label for a yes-or-no question."
        )


def _is_set(value: Any) -> bool:
    from stillshot.data.values import label_value

    return label_value(value) in ("1", "true")


def text_columns(
    columns: Sequence[ColumnFacts], asked: Sequence[str], path: Path, label: str
) -> tuple[str, ...]:
    """The columns with the texts: those asked for, or the one with the longest, or two that are a pair.

    Raises:
        DataError: There is no such column, or no column holds texts.
    """
    by_name = {column.name: column for column in columns}
    if asked:
        found = tuple(_named(name, by_name, path, "--text") for name in asked)
        if label in found or len(set(found)) != len(found):
            raise DataError(
                f"The column {label!r} cannot be a text and the label, nor a text be given twice."
            )
        return found
    texts = [column for column in columns if column.texts and column.name != label]
    if not texts:
        raise DataError(
            f"{path} has no column with texts beside the label {label!r}. Name one with --text COLUMN. "
            f"Its columns: {_listed(columns)}."
        )
    wordy = [column for column in texts if column.words >= 2]  # addresses and keys are long words
    longest = sorted(wordy or texts, key=lambda column: column.mean_length, reverse=True)[:2]
    first = longest[0]
    kept = [c for c in longest if wordy and c.mean_length >= PAIR_SHARE * first.mean_length] or [first]
    return tuple(column.name for column in columns if column in kept)


def _named(asked: str, by_name: Mapping[str, ColumnFacts], path: Path, option: str) -> str:
    if asked not in by_name:
        raise DataError(f"{option}: {path} has no column {asked!r}. {did_you_mean(asked, by_name)}")
    return asked


def _listed(columns: Iterable[ColumnFacts]) -> str:
    return "; ".join(map(str, columns))
