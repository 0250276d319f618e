"""Queries that a student was not trained on: what its exports are verified on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stillshot.config import VERIFIED_QUERIES, TaskDefinition
from stillshot.data.files import read_file
from stillshot.errors import DataError
from stillshot.evaluate.folder import RunFolder
from stillshot.types import Example


@dataclass(frozen=True)
class HeldOut:
    """Queries, and in words where they are from."""

    queries: Sequence[Example]
    origin: str


def held_out_queries(student: Path, task: TaskDefinition, file: Path | None) -> HeldOut:
    """Queries of a file, or else the evaluated items of the student's run.

    Each evaluation set gives about the same number of them, drawn evenly from its whole length.

    Raises:
        DataError: The file is malformed, or there is neither file nor run.
    """
    if file is not None:
        queries = read_file(file, task.of_queries(), source=task.sources.local, labels=False)
        return HeldOut(_evenly(queries, VERIFIED_QUERIES), file.name)
    run = RunFolder.around(student)
    if run is None:
        raise DataError(
            f"{student} lies in no run, whose evaluated items an export is verified on. Name a file with "
            "queries that the student was not trained on: --queries FILE."
        )
    data = run.open_recipe().data
    names = [n for n in (*data.in_domain, *data.out_of_domain) if run.evaluation(n).is_file()]
    if not names:
        raise DataError(
            f"The run {run.path} has evaluated nothing that an export could be verified on. Name a file: "
            "--queries FILE."
        )
    queries = []
    for name in names:
        rows = run.read_lines(run.evaluation(name))
        items = [Example({field: row["fields"][field] for field in task.fields}) for row in rows]
        queries += _evenly(items, VERIFIED_QUERIES // len(names))
    return HeldOut(queries, f"the run's evaluation sets {', '.join(names)}")


def _evenly(queries: Sequence[Example], most: int) -> list[Example]:
    if len(queries) <= most:
        return list(queries)
    return [queries[index] for index in np.linspace(0, len(queries) - 1, most).astype(int)]
