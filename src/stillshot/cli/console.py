"""What commands print for people: names of others reach a terminal only as text."""

from __future__ import annotations

import typer

from stillshot.escaping import visible


def echo(message: object = "", *, err: bool = False) -> None:
    """Print a message, with escapes for control characters in names of files, labels and models."""
    typer.echo(visible(str(message)), err=err)


def echo_error(error: object) -> None:
    """Print why a command ends. Lines after the first are indented, so that no name can pass for another message."""
    first, *more = str(error).split("\n")
    echo(
        "\n".join([f"error: {first}", *(line if line.startswith(" ") else f"  {line}" for line in more)]),
        err=True,
    )
