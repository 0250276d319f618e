"""What several verbs are given: a recipe, changes to it, and a run folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillshot.cli.console import echo
from stillshot.errors import RecipeError

if TYPE_CHECKING:
    from stillshot.config import Recipe

LONGEST = 100  # characters of a run folder's name that is taken from a recipe's

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; may be repeated."),
]
RunPath = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="The run folder. Without it, runs/ and the recipe's name."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def read_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe in a file, with ``--set`` applied.

    Raises:
        RecipeError: It is not a valid recipe.
    """
    from stillshot.config_files import load_recipe
    from stillshot.data.files import SUFFIXES, file_suffix

    # A recipe may be JSON, which is YAML too.
    if path.is_file() and file_suffix(path) in SUFFIXES and path.suffix.lower() != ".json":
        raise RecipeError(
            f"{path} is a file of examples, not a recipe. Write a recipe for it: stillshot init {shlex.quote(str(path))}"
        )
    return load_recipe(path, tuple(overrides or ()))


def require_models(recipe: Recipe) -> None:
    """See that the recipe's models can be had, before libraries are loaded that take seconds.

    Raises:
        ModelError: One is of the Hub, which cannot be reached, and was not downloaded before.
    """
    from stillshot.models.resolve import check_at_hand

    check_at_hand((section.model, section.revision) for section in (recipe.teacher, *recipe.students))


def run_folder(recipe: Recipe, output: Path | None) -> Path:
    """Where a recipe runs: the folder asked for, else one named after the recipe."""
    return output or Path("runs") / (re.sub(r"[^\w.-]+", "-", recipe.name).strip(".-")[:LONGEST] or "run")


def echo_json(content: Any) -> None:
    """Print one JSON object on stdout."""
    echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
