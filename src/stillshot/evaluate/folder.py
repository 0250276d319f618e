"""A run folder: where everything of a run is written, each file whole or not at all."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from stillshot.config import Recipe
from stillshot.config_files import dump_recipe, load_recipe
from stillshot.errors import RunFolderError, WorkError
from stillshot.evaluate.records import Cell
from stillshot.evaluate.resources import hardware, versions


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and its writing."""

    path: Path

    @classmethod
    def around(cls, folder: Path) -> Self | None:
        """The run that a folder lies in; ``None`` if it lies in none."""
        runs = (cls(parent) for parent in folder.resolve().parents)
        return next((run for run in runs if run.recipe.is_file() and run.machine.is_file()), None)

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def results(self) -> Path:
        """All records, their summary and comparisons."""
        return self.path / "results.json"

    @property
    def machine(self) -> Path:
        """On what, and with which versions, the run was begun."""
        return self.path / "machine.json"

    @property
    def softlabels(self) -> Path:
        """The store of raw scores, and the soft labels made of them."""
        return self.path / "softlabels"

    @property
    def data(self) -> Path:
        """Digests of the data that the run was begun with."""
        return self.path / "data.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    def labels(self, setting: str) -> Path:
        """Soft labels of a setting's queries."""
        return self.softlabels / f"{setting}.json"

    def student(self, cell: str) -> Path:
        """A trained student."""
        return self.path / "students" / cell

    def training(self, cell: str) -> Path:
        """What training the student took."""
        return self.path / "students" / f"{cell}.json"

    def cell(self, cell: str) -> Path:
        """A cell's record."""
        return self.path / "cells" / f"{cell}.json"

    def predictions(self, cell: str) -> Path:
        """A cell's answers to every evaluated item."""
        return self.path / "cells" / f"{cell}.predictions.jsonl"

    def evaluation(self, name: str) -> Path:
        """The items of an evaluation set."""
        return self.path / "evaluation" / f"{name}.jsonl"

    @property
    def peers(self) -> Path:
        """What other tools did on the same budgets."""
        return self.path / "peers.json"

    def peer(self, cell: str) -> Path:
        """A peer's record."""
        return self.path / "peers" / f"{cell}.json"

    def peer_predictions(self, cell: str) -> Path:
        """A peer's answers to every evaluated item."""
        return self.path / "peers" / f"{cell}.predictions.jsonl"

    def claim(self, recipe: Recipe) -> None:
        """Make the folder this recipe's, or see that it is.

        Raises:
            RunFolderError: It belongs to another recipe, or holds something that is no run. Nothing is
                overwritten.
        """
        if self.recipe.is_file():
            difference = first_difference(load_recipe(self.recipe).model_dump(), recipe.model_dump())
            if difference:
                raise RunFolderError(
                    f"{self.path} holds a run of another recipe: {difference}. Nothing was changed. Choose another "
                    "folder with -o, or remove this one."
                )
            return
        # A run that was killed at its very beginning has left no more than what the next line lists.
        begun = (self.machine.name, ".machine.json.", ".recipe.yaml.")
        if self.path.exists() and (
            not self.path.is_dir() or any(not file.name.startswith(begun) for file in self.path.iterdir())
        ):
            raise RunFolderError(
                f"{self.path} is not empty and holds no run; nothing was changed. Choose another folder with -o."
            )
        self.write_json(self.machine, {"versions": versions(), "hardware": hardware()})
        self.write(self.recipe, dump_recipe(recipe))

    def claim_data(self, digests: Mapping[str, str]) -> None:
        """Remember which data the run is begun with, or see that they are the same.

        Raises:
            RunFolderError: They have changed. What was computed from them is kept.
        """
        if not self.data.is_file():
            self.write_json(self.data, dict(digests))
            return
        known = json.loads(self.data.read_text(encoding="utf-8"))
        changed = [name for name, digest in digests.items() if known.get(name) != digest]
        if changed:
            what = (
                changed[0]
                if changed[0] == "the task"
                else f"the labelled examples or queries of {changed[0]}"
            )
            raise RunFolderError(
                f"{self.path} was begun with other data: {what} changed since. Nothing was changed here. Run in "
                "another folder (-o), or put the data back."
            )

    def claim_evaluation(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Keep the items of an evaluation set, or see that they are those the run was begun with.

        Raises:
            RunFolderError: They have changed.
        """
        path = self.evaluation(name)
        if not path.is_file():
            self.write_lines(path, rows)
        elif self.read_lines(path) != rows:
            raise RunFolderError(
                f"The evaluation set {name!r} is not the one this run was begun with ({path}). Put its "
                "data back, or run in another folder (-o)."
            )

    def lock(self) -> FileLock:
        """The folder for this process alone, until the lock is released or the process ends.

        Raises:
            RunFolderError: Another process works in it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"Another process is at work in {self.path}. Wait for its end, or choose another folder with -o."
            ) from None
        return lock

    def open_recipe(self) -> Recipe:
        """The recipe of the run in this folder.

        Raises:
            RunFolderError: There is no run.
        """
        if not self.recipe.is_file():
            raise RunFolderError(
                f"{self.path} holds no run: there is no recipe.yaml. Run `stillshot run` first."
            )
        return load_recipe(self.recipe)

    def write(self, path: Path, content: str) -> None:
        """Write a file under a temporary name, then rename it.

        Raises:
            WorkError: The file cannot be written, e.g. because the disk is full.
        """
        scratch = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(content, encoding="utf-8", errors="surrogatepass")
            scratch.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise WorkError(
                f"{path} could not be written: {error}. What was finished before is kept; free some space and "
                "run the same command again."
            ) from error

    def write_json(self, path: Path, content: Any) -> None:
        """Write indented JSON."""
        self.write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_lines(self, path: Path, rows: Iterable[Any]) -> None:
        """Write JSON lines."""
        self.write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def read_lines(self, path: Path) -> list[Any]:
        """Read JSON lines."""
        with path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def is_finished(self, cell: str) -> bool:
        """Whether a cell has its record and its predictions."""
        return self.cell(cell).is_file() and self.predictions(cell).is_file()

    def read_cell(self, cell: str) -> Cell | None:
        """A cell's record, if it is finished."""
        path = self.cell(cell)
        if not self.is_finished(cell):
            return None
        return Cell.model_validate_json(path.read_text(encoding="utf-8"))


def first_difference(old: Any, new: Any, key: str = "") -> str:
    """Where two dumped recipes first differ, in words; empty where they do not.

    >>> first_difference({"seeds": [0]}, {"seeds": [0, 1]})
    'seeds has 1 entry there and 2 here'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        pairs = [(f"{key}.{name}".lstrip("."), old.get(name), new.get(name)) for name in names]
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{key} has {len(old)} entr{'y' if len(old) == 1 else 'ies'} there and {len(new)} here"
        pairs = [(f"{key}.{index}", a, b) for index, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new else f"{key} is {old!r} there and {new!r} here"
    return next((found for name, a, b in pairs if (found := first_difference(a, b, name))), "")
