"""What the report reads from a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stillshot.errors import RunFolderError
from stillshot.evaluate.records import SCHEMA_VERSION, Peers, Results


def read_results(run_dir: Path) -> Results:
    """The records of a run.

    Raises:
        RunFolderError: ``results.json`` is missing, is not what ``stillshot run`` writes, or was
            written by a version with another schema.
    """
    path = run_dir / "results.json"
    advice = f"Run `stillshot run RECIPE -o {run_dir}` first: it writes this file."
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(f"There is no file {path}. {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read as UTF-8 text: {error}. {advice}") from None
    try:
        results = Results.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise RunFolderError(
            f"{path} does not hold run records ({where}: {problem['msg']}). {advice}"
        ) from None
    if results.schema_ != SCHEMA_VERSION:
        raise RunFolderError(
            f"{path} has schema {results.schema_} and this version of stillshot reads schema "
            f"{SCHEMA_VERSION}. {advice}"
        )
    return results


def read_peers(run_dir: Path) -> Peers | None:
    """What other tools did on the budgets of a run, or ``None`` where none were run.

    Raises:
        RunFolderError: ``peers.json`` does not hold what this version writes.
    """
    path = run_dir / "peers.json"
    advice = f"Remove it, and run `python experiments/peers.py {run_dir}` again; what peers answered is kept."
    try:
        peers = Peers.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RunFolderError(f"{path} does not hold records of peers ({problem}). {advice}") from None
    if peers.schema_ != SCHEMA_VERSION:
        raise RunFolderError(
            f"{path} has schema {peers.schema_} and this version of stillshot reads schema {SCHEMA_VERSION}. {advice}"
        )
    return peers


def read_recipe_text(run_dir: Path) -> str | None:
    """The recipe as it was written, or ``None`` where the folder has none."""
    try:
        return (run_dir / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def predictions_path(run_dir: Path, cell_id: str) -> Path:
    """Where a cell's predictions are, if they were kept."""
    return run_dir / "cells" / f"{cell_id}.predictions.jsonl"


def evaluation_path(run_dir: Path, split: str) -> Path:
    """Where an evaluation set's items are, if they were kept."""
    return run_dir / "evaluation" / f"{split}.jsonl"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        OSError: The file cannot be opened.
        ValueError: A line is not a JSON object.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"{path}:{number} is not a JSON object")
            yield record
