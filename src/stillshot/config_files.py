"""Read and write the YAML files whose shape :mod:`stillshot.config` defines.

An unknown key or a wrong type is an error that names the key, the file and the nearest valid name.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from stillshot.config import Recipe
from stillshot.errors import RecipeError, did_you_mean
from stillshot.yaml_files import compose, parse_yaml, read_text, written_at

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: The file is missing, is not YAML, has a key twice, or is not a mapping.
    """
    return _mapping(read_text(path), path)


def read_section(model: type[Model], path: Path, overrides: tuple[str, ...] = ()) -> Model:
    """A YAML file as a ``model``, with ``a.b=value`` overrides; messages name what is written, and its line.

    Raises:
        RecipeError: See :func:`read_yaml` and :func:`validated`; or an override has no ``=``.
    """
    text = read_text(path)
    content = _mapping(text, path)
    for override in overrides:
        _apply(content, override)
    return validated(model, content, str(path), text)


def _mapping(text: str, path: Path) -> dict[str, Any]:
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold a mapping of keys to values, not {type(content).__name__}.")
    return content


def validated(model: type[Model], content: dict[str, Any], where: str, text: str | None = None) -> Model:
    """``content`` as a ``model``; every problem is put in one message with its key and place.

    Args:
        model: What it is to be.
        content: Read from a file, or made.
        where: The file, for messages.
        text: What the file says, from which messages quote what is written in a line.

    Raises:
        RecipeError: A key is unknown or missing, or a value has the wrong type.
    """
    _check_characters(content, where)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        node = None if text is None else compose(text, where)
        lines = [_problem(model, problem, node) for problem in error.errors()]
        raise RecipeError("\n".join([f"{where} is not a valid {model.__name__}:", *lines])) from None


def _check_characters(content: Any, where: str, key: str = "") -> None:
    """Refuse texts that no file and no model can take: half of a character, as in ``"\\ud800"``."""
    if isinstance(content, str) and any("\ud800" <= character <= "\udfff" for character in content):
        raise RecipeError(
            f"{where}: {key} holds half a character (a lone surrogate): {content[:40]!a}. Remove it."
        )
    if isinstance(content, dict):
        for name, value in content.items():
            _check_characters(name, where, "a key")
            _check_characters(value, where, f"{key}.{name}".strip("."))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            _check_characters(value, where, f"{key}.{index}".strip("."))


def _problem(model: type[BaseModel], problem: Any, node: yaml.Node | None) -> str:
    location = [part for part in problem["loc"] if part not in ("by_name", "in_full")]
    key = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        section = _section_at(model, problem["loc"][:-1])
        names = section.model_fields if section else ()
        return f"  {key}: unknown key. {did_you_mean(str(location[-1]), names)}"
    if problem["type"] == "missing":
        return f"  {key}: this key is required."
    given = problem.get("input")
    if problem["type"] == "string_type" and isinstance(given, bool | int | float | date):
        return _not_text(location, given, written_at(node, location))
    message = problem["msg"].removeprefix("Value error, ")
    shown = f" (got {str(given)[:80]!r})" if isinstance(given, str | int | float | bool) else ""
    advice = ""
    if problem["type"] == "list_type" and shown:
        advice = f" Put it between brackets: [{str(given)[:80]}]."
    elif problem["type"] == "list_type" and isinstance(given, dict):
        advice = " Put `- ` before its first key, and indent the others alike."
    return f"  {key + ': ' if key else ''}{message}{shown}.{advice}"


def _not_text(location: list[Any], given: Any, written: tuple[str, int] | None) -> str:
    """A text is needed, and YAML has made something else of it: yes and no are true and false, 1 is a number."""
    is_key = location[-1:] == ["[key]"]
    key = ".".join(map(str, location[:-2] if is_key else location))
    kind = {bool: "true or false", int: "a number", float: "a number"}.get(type(given), "a date")
    value, line = (written[0], f" in line {written[1]}") if written else (_as_yaml(given), "")
    what = "the key " if is_key else ""
    return f'  {key}: {what}{value}{line} is {kind} to YAML, where a text is needed. Put it in quotes: "{value}".'


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _section_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The section class that a location inside ``model`` falls in."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None or not isinstance(part, str) or part not in current.model_fields:
            continue
        current = next(iter(_sections_in(current.model_fields[part].annotation)), None)
    return current


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())  # of a list, a union or an Annotated
    return [section for argument in arguments for section in _sections_in(argument)]


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply ``a.b=value`` overrides (values in YAML).

    Paths in the recipe stay relative to the working folder.

    Raises:
        RecipeError: See :func:`read_yaml` and :func:`validated`; or an override has no ``=``.
    """
    return read_section(Recipe, Path(path), overrides)


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"--set takes key=value, e.g. teacher.model=bundled:smollm2-135m, not {override!r}."
        )
    *parents, last = key.split(".")
    current: Any = content
    for parent in parents:
        current = _child(current, parent, override)
    parsed = parse_yaml(value, f"--set {override!r}: the value")
    if isinstance(current, list):
        current[_index(current, last, override)] = parsed
    else:
        current[last] = parsed


def _child(current: Any, key: str, override: str) -> Any:
    if isinstance(current, list):
        return current[_index(current, key, override)]
    child = current.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise RecipeError(f"--set {override!r}: {key!r} holds a plain value and has no keys.")
    return child


def _index(values: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(values):
        raise RecipeError(f"--set {override!r}: {key!r} is not a position in a list of {len(values)}.")
    return int(key)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML that :func:`load_recipe` reads back."""
    content = recipe.model_dump(mode="json", exclude_none=False)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
