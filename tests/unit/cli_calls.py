"""How tests call the command line, and the files they give it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from stillshot.cli.main import app

TINY = ("--teacher", "random:tiny-llama", "--student", "random:tiny-bert")


def call(*arguments: str, stdin: str | bytes | None = None) -> Any:
    """The command's result; an unexpected exception fails the test with its traceback."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, prog_name="stillshot")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*arguments: str, stdin: str | bytes | None = None) -> str:
    """The message of a command that finds its input wrong."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    return result.stderr


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def reviews(count: int, start: int = 0, **names: str) -> list[dict[str, Any]]:
    """Texts with quotes, commas, emoji, right-to-left script and line breaks, in two labels."""
    text, label = names.get("text", "text"), names.get("label", "label")
    return [
        {
            text: f'He said "film {i}, well, {("awful", "great")[i % 2]}" 🎬 שלום\nof {i}',
            label: ("very-bad", "very_good")[i % 2],
        }
        for i in range(start, start + count)
    ]
