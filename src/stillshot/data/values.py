"""Values of rows: which are missing, and which label the others are."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from stillshot.config import Source, TaskDefinition

# As other tools print a missing value. A text of these is no label, unless a task or its user says so.
PRINTED_MISSING = frozenset({"nan", "<na>", "nat"})
# Longer texts in brackets are no printed list of labels.
LONGEST_PRINTED_LIST = 2000
_NUMBER = re.compile(r"([+-]?)(0|[1-9]\d{0,17})(?:\.(\d{1,15})|,(\d{1,2}))?")


class NotOneLabelError(ValueError):
    """A value that is no label; the message says what it is."""


class PrintedValue(str):
    """How a value that is no text is printed, a date or bytes, for those who write it out again."""

    kind: str

    def __new__(cls, text: str, kind: str) -> PrintedValue:
        """The text and what it stands for, e.g. ``a date``."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made


class ClassName(str):
    """The name of a class that a file stores as a number (``ClassLabel`` of Hugging Face datasets)."""

    number: str

    def __new__(cls, name: str, number: int) -> ClassName:
        """A name with the number that stands in the file."""
        made = super().__new__(cls, name)
        made.number = str(number)
        return made


def is_missing(value: Any) -> bool:
    """Whether a value is null: ``None``, NaN, or pandas' ``NA`` and ``NaT``."""
    if value is None or isinstance(value, str | bytes | int | list | dict):
        return value is None
    try:
        return bool(value != value)  # only what is missing differs from itself
    except ArithmeticError:  # Decimal("sNaN")
        return True
    except (TypeError, ValueError):  # pandas' NA has no truth value, nor has an array
        return type(value).__name__ == "NAType"


def is_blank(value: Any) -> bool:
    """Whether a text field holds nothing: a missing value, or white space alone."""
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def label_value(value: Any) -> str | None:
    """A label as text: numbers as whole numbers, truth values as in JSON; ``None`` where it is missing.

    A list of one label is that label.

    >>> label_value(2.0), label_value(True), label_value(["spam"]), label_value(float("nan"))
    ('2', 'true', 'spam', None)

    Raises:
        NotOneLabelError: It is a list of several, or nested.
    """
    value = _single(_parsed(value))
    if is_blank(value):
        return None
    return _scalar(value)


def group_value(value: Any) -> str | None:
    """A group as text, like a label; what is nested as JSON."""
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return None if is_blank(value) else _scalar(value)


def is_list_of_one(value: Any) -> bool:
    """Whether :func:`label_value` reads a label out of a list."""
    parsed = _parsed(value)
    return isinstance(parsed, list | tuple) and len(parsed) == 1


def _scalar(value: Any) -> str:
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise NotOneLabelError(f"half a character (a lone surrogate), {value[:40]!a},")
    if isinstance(value, bytes) or (isinstance(value, PrintedValue) and value.kind == "bytes"):
        raise NotOneLabelError("a value of bytes")
    if isinstance(value, str):
        return value
    if type(value).__name__ in ("bool", "bool_"):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        value = format(value, "f")  # without an exponent, for number_name
    elif isinstance(value, float):
        value = float(value)  # NumPy's prints its type
        if value.is_integer():
            return str(int(value))  # pandas turns whole numbers with a gap into floats
    text = str(value)
    return number_name(text) or text


def _parsed(value: Any) -> Any:
    """A list as it is, also where a CSV holds its printed form; NumPy's arrays as lists."""
    if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}" and value:
        if len(value) > LONGEST_PRINTED_LIST:
            return value
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        return value
    if hasattr(value, "tolist") and not isinstance(value, float | str):  # NumPy, of one number too
        return value.tolist()
    return value


def _single(value: Any) -> Any:
    if isinstance(value, Mapping):
        keys = ", ".join(str(key)[:40] for key in list(value)[:5])
        raise NotOneLabelError(f"an object with the keys {keys}")
    if not isinstance(value, list | tuple | set | frozenset):
        return value
    items = list(value)
    if not items:
        return None
    if len(items) == 1:
        if isinstance(items[0], list | tuple | set | frozenset | Mapping):
            raise NotOneLabelError(f"a list of {_kind(items[0])}")
        return items[0]
    shown = str(items)[:80]
    if all(isinstance(item, int | float) and item in (0, 1) for item in items):
        what = "one label in one-hot form" if sum(items) == 1 else "labels as zeros and ones"
        raise NotOneLabelError(f"a list of {len(items)} numbers, {what}: {shown}")
    raise NotOneLabelError(f"a list of {len(items)} values: {shown}")


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else "lists"


ONE_LABEL_ADVICE = (
    "Every row needs exactly one label: a text, a whole number or a truth value. Put it into a column of its own "
    "(of several labels the one that counts, or one yes-or-no question a label)."
)


def number_name(text: str) -> str | None:
    """The shortest way to write a number; ``None`` for what is none, or has zeros in front.

    >>> [number_name(text) for text in ("1", "1.0", "1,0", "-0.0", "2.50", "01", "1,000", "one")]
    ['1', '1', '1', '0', '2.5', None, None, None]
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    sign, whole, fraction = found[1].replace("+", ""), found[2], (found[3] or found[4] or "").rstrip("0")
    if not fraction:
        return "0" if whole == "0" else sign + whole
    return f"{sign}{whole}.{fraction}"


def as_number(text: str) -> Decimal | None:
    """The number that a text is in any way of writing it (``01``, ``1e0``), by which two ways are found alike."""
    if "_" in text:  # which Python reads as a separator
        return None
    try:
        number = Decimal(text.strip().replace(",", ".") if text.count(",") == 1 else text.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < 1000 else None


def same_number(number: Decimal) -> str:
    """The digits of a number, by which equal ones are found; Decimal's own arithmetic rounds long ones."""
    digits = format(number, "f")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) if number else "0"


class LabelReader:
    """Reads label values as labels of a task.

    A value is looked up as it stands, and else as a number: ``1.0`` is the label ``1``. A class name of the file is
    looked up by its number too, since a source's ``label_values`` may name numbers.

    Attributes:
        respelled: Values that were found as numbers written in another way, with what they were read as.
    """

    def __init__(self, task: TaskDefinition, source: Source) -> None:
        self._values = source.label_values
        self._labels = {*task.labels, *task.drop_labels}
        self._numbers: dict[str, str] = {}
        for key, label in [*self._values.items(), *((label, label) for label in task.labels)]:
            if number := number_name(key):
                self._numbers.setdefault(number, label)
        # A CSV has pandas' True for JSON's true.
        self._truths = {label.lower(): label for label in task.labels if label.lower() in ("true", "false")}
        self.respelled: dict[str, str] = {}

    def knows(self, value: Any) -> bool:
        """Whether a value is a text that is itself a label or a name for one, whatever it looks like (``[1]``)."""
        plain = isinstance(value, str) and not isinstance(value, PrintedValue)
        return plain and (value in self._labels or value in self._values)

    def find(self, value: Any) -> str | None:
        """The label that a value stands for, as it is in a file or comes from Python; see :meth:`read`.

        Raises:
            NotOneLabelError: It is a list of several, or nested.
        """
        text = value if self.knows(value) else label_value(value)
        return None if text is None else self.read(text)

    def read(self, value: str) -> str | None:
        """The label that a value stands for; the value itself where the task has no such label.

        ``None`` for a printed missing value that is no label of the task.
        """
        keys = (value.number, str(value)) if isinstance(value, ClassName) else (value,)
        for key in keys:
            if key in self._values:
                return self._values[key]
        for key in reversed(keys):
            if key in self._labels:
                return key
        number = number_name(value)
        if number in self._numbers:
            self.respelled.setdefault(value, self._numbers[number])
            return self._numbers[number]
        if value.strip().lower() in PRINTED_MISSING:
            return None
        return self._truths.get(value.lower(), str(value))
