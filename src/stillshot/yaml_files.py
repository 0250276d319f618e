"""Reading YAML that people write: one plain error for what YAML itself would take without a word.

PyYAML reads ``yes`` as true, keeps the last of two equal keys, and follows references as often as they stand. Here
repeated keys are an error, size and depth are bounded, and the text and line of a value are found again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from stillshot.errors import RecipeError

LARGEST_BYTES = 4 * 1024 * 1024
DEEPEST = 50
MOST_VALUES = 200_000


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text.

    Raises:
        RecipeError: It is not YAML, is too large or too deep, or has a key twice.
    """
    node = compose(text, where)
    if node is None:
        return None
    _check_bounded(node, where)
    _check_keys(node, where)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from None


def compose(text: str, where: str) -> yaml.Node | None:
    """The nodes of a YAML text, which know their lines and how they are written.

    Raises:
        RecipeError: It is not YAML, or too large.
    """
    if len(text) > LARGEST_BYTES:
        raise RecipeError(f"{where} has more than {LARGEST_BYTES // 2**20} MiB, which no recipe or task has.")
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from None
    except RecursionError:
        raise _too_deep(where) from None


def written_at(node: yaml.Node | None, location: Sequence[Any]) -> tuple[str, int] | None:
    """How the value at a location is written, and in which line; null where it is not a plain value.

    Args:
        node: Of the whole text.
        location: Keys and positions; ``[key]`` behind a key stands for that key itself (as pydantic names it).
    """
    for position, part in enumerate(location):
        if isinstance(node, yaml.MappingNode):
            if location[position + 1 : position + 2] == ["[key]"]:
                return _as_written(next((k for k, _ in node.value if _is_named(k, part)), None))
            node = next((v for k, v in node.value if _is_named(k, part)), None)
        elif isinstance(node, yaml.SequenceNode):
            inside = isinstance(part, int) and part < len(node.value)
            node = node.value[part] if inside else None
        else:
            return None
    return _as_written(node)


def _as_written(node: yaml.Node | None) -> tuple[str, int] | None:
    if not isinstance(node, yaml.ScalarNode):
        return None
    return node.value, node.start_mark.line + 1


def _is_named(key: yaml.Node, part: Any) -> bool:
    """Whether a key is the one that a location names: as it is written, or as it is read."""
    if not isinstance(key, yaml.ScalarNode):
        return False
    read = yaml.SafeLoader("").construct_object(key)
    named = {key.value, str(read), repr(read)} | ({str(int(read))} if isinstance(read, bool) else set())
    return str(part) in named  # pydantic names the keys true and false by 1 and 0


def _too_deep(where: str) -> RecipeError:
    return RecipeError(f"{where} is nested more than {DEEPEST} levels deep, which no recipe or task is.")


def _check_bounded(node: yaml.Node, where: str) -> None:
    """Count values as they are read, references followed: a few lines can stand for millions."""
    sizes: dict[int, int] = {}

    def size(at: yaml.Node, depth: int) -> int:
        if depth > DEEPEST:
            raise _too_deep(where)
        if id(at) not in sizes:
            sizes[id(at)] = 1 + sum(size(child, depth + 1) for child in _children(at))
        return sizes[id(at)]

    if size(node, 0) > MOST_VALUES:
        raise RecipeError(f"{where} has more than {MOST_VALUES:,} values, which no recipe or task has.")


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_keys(node: yaml.Node, where: str) -> None:
    waiting, seen = [node], set()
    while waiting:
        at = waiting.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        waiting.extend(_children(at))
        if not isinstance(at, yaml.MappingNode):
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, _ in at.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(
                    f"{where}, line {key.start_mark.line + 1}: a key is a list or a mapping; keys are plain texts."
                )
            name = (key.tag, key.value)
            if name in lines:
                raise RecipeError(
                    f"{where}: the key {key.value!r} stands twice, in line {lines[name]} and in line "
                    f"{key.start_mark.line + 1}; only one would count. Remove one of them."
                )
            lines[name] = key.start_mark.line + 1


def read_text(path: Path) -> str:
    """The text of a file, of bounded size.

    Raises:
        RecipeError: The file is missing, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise RecipeError(
                f"{path} has more than {LARGEST_BYTES // 2**20} MiB, which no recipe or task has."
            )
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        relative = "" if path.is_absolute() else f"; it is relative to {Path.cwd()}"
        raise RecipeError(f"There is no file {path}. Check the path{relative}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as UTF-8 text: {error}.") from None
