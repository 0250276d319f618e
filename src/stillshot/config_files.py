"""Read and write the YAML files whose shape :mod:`stillshot.config` defines.

An unknown key or a wrong type is an error that names the key, the file and the nearest valid name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from stillshot.config import Recipe
from stillshot.errors import RecipeError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: The file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        relative = "" if path.is_absolute() else f"; it is relative to {Path.cwd()}"
        raise RecipeError(f"There is no file {path}. Check the path{relative}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as UTF-8 text: {error}.") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold a mapping of keys to values, not {type(content).__name__}.")
    return content


def validated(model: type[Model], content: dict[str, Any], where: str) -> Model:
    """``content`` as a ``model``; every problem is put in one message with its key and place.

    Raises:
        RecipeError: A key is unknown or missing, or a value has the wrong type.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_problem(model, problem) for problem in error.errors()]
        raise RecipeError("\n".join([f"{where} is not a valid {model.__name__}:", *lines])) from None


def _problem(model: type[BaseModel], problem: Any) -> str:
    location = [part for part in problem["loc"] if part not in ("by_name", "in_full")]
    key = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        section = _section_at(model, problem["loc"][:-1])
        names = section.model_fields if section else ()
        return f"  {key}: unknown key. {did_you_mean(str(location[-1]), names)}"
    if problem["type"] == "missing":
        return f"  {key}: this key is required."
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (got {str(given)[:80]!r})" if isinstance(given, str | int | float | bool) else ""
    advice = ""
    if problem["type"] == "list_type" and shown:
        advice = f" Put it between brackets: [{str(given)[:80]}]."
    elif problem["type"] == "list_type" and isinstance(given, dict):
        advice = " Put `- ` before its first key, and indent the others alike."
    return f"  {key + ': ' if key else ''}{message}{shown}.{advice}"


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
    content = read_yaml(Path(path))
    for override in overrides:
        _apply(content, override)
    return validated(Recipe, content, str(path))


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
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: the value is not valid YAML: {error}") from None
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
