"""JSON Lines: one object a line, as Python reads it and, where it is strict JSON, as it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from stillshot.errors import DataError


class JsonRow(dict[str, Any]):
    """An object, and how the file writes it.

    Attributes:
        raw: The line, by which numbers come out as they went in. Null where it holds NaN or Infinity, which are
            not JSON.
    """

    raw: str | None = None


class _KeyTwiceError(ValueError):
    """An object names a key twice."""


def json_values(lines: Iterable[bytes | str], name: str, example: str = "") -> Iterator[tuple[str, Any]]:
    """The values of lines, each with its place; blank lines are passed over.

    Args:
        lines: Text, or UTF-8 with or without a byte-order mark.
        name: The file, for messages.
        example: Shown behind the advice that each line must be one whole object.

    Raises:
        DataError: A line is no JSON, or names a key twice.
    """
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        text = _decoded(line, where, first=number == 1)
        if text.strip():
            yield where, _value(text, where, example)


def _decoded(line: bytes | str, where: str, *, first: bool) -> str:
    if isinstance(line, str):
        return line
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text: {error.reason}. Write it as UTF-8.") from None


def _value(text: str, where: str, example: str) -> Any:
    odd: list[str] = []

    def constant(name: str) -> float:
        odd.append(name)
        return float(name)

    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=_once)
    except _KeyTwiceError as error:
        raise DataError(
            f"{where} names the key {error} twice. Remove one of the two, or rename it."
        ) from None
    except (ValueError, RecursionError) as error:
        at_column = isinstance(error, json.JSONDecodeError)
        reason = f"{error.msg} at column {error.colno}" if at_column else str(error)
        raise DataError(
            f"{where} is not valid JSON: {reason}. Each line must be one whole object{example}."
        ) from None
    if isinstance(value, dict):
        value = JsonRow(value)
        value.raw = None if odd else text.strip()
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _KeyTwiceError(repr(next(name for name in names if names.count(name) > 1)))
    return found


def strict(value: Any) -> Any:
    """A value without NaN and Infinity, which are not JSON and become null.

    >>> strict({"a": [float("nan"), 1.5]})
    {'a': [None, 1.5]}
    """
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value


def dumps(value: Any) -> str:
    """Strict JSON in one line."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:  # NaN or Infinity
        return json.dumps(strict(value), ensure_ascii=False, allow_nan=False, default=str)


def is_strict(value: Any) -> bool:
    """Whether a value is written as it is: it holds neither NaN nor Infinity."""
    if isinstance(value, float):
        return value - value == 0
    if isinstance(value, dict):
        return all(map(is_strict, value.values()))
    return not isinstance(value, list | tuple) or all(map(is_strict, value))
