"""Write docs/reference/recipe.md from the classes in stillshot.config. A test holds the two together.

python tools/recipe_reference.py > docs/reference/recipe.md
"""

from __future__ import annotations

import inspect
import json
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stillshot import config

SECTIONS = (
    config.Recipe, config.Data, config.Budget, config.Prompt, config.Teacher, config.Student, config.Lora,
    config.Training, config.Finetuning, config.Evaluation, config.TaskDefinition, config.DirectPattern, config.ChannelPattern,
    config.Sources, config.Source,
)  # fmt: skip


def reference() -> str:
    """The whole page."""
    parts = [
        "# Recipes and task files\n",
        "Every key with its type and default, made from `stillshot/config/`. An unknown key or a wrong type is an "
        "error that names the nearest valid key. `stillshot run RECIPE --set teacher.model=... --set "
        "students.0.tuning=lora` overrides single values.\n",
    ]
    return "\n".join([*parts, *(_section(section) for section in SECTIONS)])


def _section(section: type[BaseModel]) -> str:
    text = re.sub(r"``([^`]+)``", r"`\1`", inspect.getdoc(section) or "")
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    rows = [
        f"| `{name}` | {_type(info.annotation)} | {_default(info)} |"
        for name, info in section.model_fields.items()
    ]
    return "\n".join(
        [f"## {section.__name__}\n", text + "\n", "| key | type | default |", "|---|---|---|", *rows, ""]
    )


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}
    return names.get(getattr(annotation, "__name__", ""), str(annotation))


def _default(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        changed = {n: v for n, v in value if n in value.model_fields_set}
        return "`" + ", ".join(f"{n}: {v}" for n, v in changed.items()) + "`" if changed else "its defaults"
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return "one, with its defaults"
    if value is None:
        return "null"
    if isinstance(value, str) and value != value.strip():
        return f"`{json.dumps(value)}`"  # so that spaces and line breaks are seen, and stay in their row
    return f"`{value}`".replace("'", "") if value != "" else "empty"


if __name__ == "__main__":
    print(reference(), end="")
