"""A run folder: where everything of a run is written, each file whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from stillshot.checksums import SUMS, Checksums, state_of
from stillshot.config import Recipe
from stillshot.config_files import dump_recipe, load_recipe
from stillshot.errors import RunFolderError
from stillshot.evaluate.differences import first_difference, without_texts
from stillshot.evaluate.records import Cell
from stillshot.evaluate.resources import hardware, versions
from stillshot.models.fingerprints import TOKENIZER_MARK
from stillshot.storage import dump_json, load_json, notices, write_whole

_WEIGHTS = "the weights of "  # how the names of models' fingerprints begin


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

    @property
    def checksums(self) -> Checksums:
        """Of all that is written here but reports."""
        return Checksums(self.path)

    def check_free(self) -> None:
        """See that the folder is empty, is to be made, or holds a run.

        Raises:
            RunFolderError: It holds something else. Nothing is overwritten.
        """
        listed = self.checksums.name_of(self.recipe) in self.checksums.read()
        if self.recipe.is_file() or listed or not self.path.exists():
            return
        # A run that was killed at its very beginning has left no more than what the next line lists.
        begun = (
            self.machine.name,
            SUMS,
            ".lock",
            *(f".{n}." for n in (self.machine.name, "recipe.yaml", SUMS)),
        )
        if not self.path.is_dir() or any(not file.name.startswith(begun) for file in self.path.iterdir()):
            raise RunFolderError(
                f"{self.path} is not empty and holds no run; nothing was changed. Choose another folder with -o."
            )

    def claim(self, recipe: Recipe) -> None:
        """Make the folder this recipe's, or see that it is; texts that change no result may differ.

        To be called by the process that holds the lock.

        Raises:
            RunFolderError: It belongs to another recipe, or to one that is not known any more. Nothing is overwritten.
        """
        self.check_free()
        text = dump_recipe(recipe)
        state = self.checksums.state(self.recipe)
        if state in ("damaged", "gone"):
            self._restore(self.recipe, text, "the recipe given here is not the one that it held")
        elif not self.recipe.is_file():
            self._claim_machine()
            self.write(self.recipe, text)
        else:
            known = self.open_recipe()
            difference = first_difference(without_texts(known), without_texts(recipe))
            if difference:
                raise RunFolderError(
                    f"{self.path} holds a run of another recipe ({self.recipe.name}): {difference}. Nothing was changed. "
                    "Choose another folder with -o, or remove this one."
                )
            if known != recipe:
                self.write(self.recipe, text)
        self._claim_machine()

    def _claim_machine(self) -> None:
        state = self.checksums.state(self.machine)
        if state == "unknown" and self.machine.is_file():
            try:
                self.read_json(self.machine)
            except RunFolderError:
                state = "damaged"
        lost = state in ("damaged", "gone")
        if lost or not self.machine.is_file():
            self.write_json(self.machine, {"versions": versions(), "hardware": hardware()})
        if lost:
            notices.warning("%s was %s; it is rewritten with this machine's versions.", self.machine, state)

    def claim_data(
        self,
        digests: Mapping[str, str],
        weights: Mapping[str, str] | None = None,
        older: Mapping[str, str] | None = None,
    ) -> None:
        """Remember with which data and models the run is begun, or see that they are the same.

        Args:
            digests: Of the data.
            weights: Fingerprints of the models' weights; those of a model that is not known yet are added.
            older: What earlier versions took for the digest of the same data.

        Raises:
            RunFolderError: They have changed. What was computed from them is kept.
        """
        weights = weights or {}
        now = {**digests, **{_WEIGHTS + model: found for model, found in weights.items()}}
        if self.checksums.state(self.data) in ("damaged", "gone"):
            why = "data, task or models are not those that it was written for"
            self._restore(self.data, dump_json(now, indent=2) + "\n", why)
        if not self.data.is_file():
            self.write_json(self.data, now)
            return
        known = self.check_data(digests, older)
        self.check_weights(weights)
        if weights and not now.keys() <= known.keys():
            self.write_json(self.data, {**now, **known})

    def check_data(
        self, digests: Mapping[str, str], older: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """See that data are those that the run was begun with, and give what is known of them; nothing is written.

        Raises:
            RunFolderError: They have changed, or what is known of them is damaged.
        """
        known = self.read_json(self.data)
        if not isinstance(known, dict):
            raise RunFolderError(_unusable(self.data, "it holds no digests"))
        if self.checksums.state(self.data) == "damaged":
            raise RunFolderError(_unusable(self.data, "it was changed since it was written"))
        for name, digest in digests.items():
            if known.get(name) not in (digest, (older or {}).get(name, digest)):
                raise RunFolderError(self._other_data(name))
        return known

    def check_weights(self, fingerprints: Mapping[str, str]) -> None:
        """See that models have the weights that the run was begun with.

        Raises:
            RunFolderError: They have changed.
        """
        known = self.read_json(self.data) if self.data.is_file() else {}
        for model, found in fingerprints.items():
            if known.get(_WEIGHTS + model, found) != found:
                raise RunFolderError(self._other_weights(model, known[_WEIGHTS + model], found))

    def _other_weights(self, model: str, known: str, found: str) -> str:
        same = known.partition(TOKENIZER_MARK)[0] == found.partition(TOKENIZER_MARK)[0]
        what, changed = ("another tokenizer", "it has") if same else ("other weights", "they have")
        return (
            f"{self.path} was begun with {what} of {model}: {changed} changed since. Nothing was changed here. "
            f"Run in another folder (-o), or put the {what.split()[-1]} back."
        )

    def _other_data(self, name: str) -> str:
        what = name if name == "the task" else f"the labelled examples or queries of {name}"
        return (
            f"{self.path} was begun with other data: {what} changed since. Nothing was changed here. Run in "
            "another folder (-o), or put the data back."
        )

    def claim_evaluation(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Keep the items of an evaluation set, or see that they are those the run was begun with.

        Raises:
            RunFolderError: They have changed.
        """
        path, text = self.evaluation(name), _json_lines(rows)
        changed = RunFolderError(
            f"The evaluation set {name!r} is not the one this run was begun with ({path}). Put its "
            "data back, or run in another folder (-o)."
        )
        if self.checksums.state(path) in ("damaged", "gone"):
            self._restore(path, text, f"the evaluation set {name!r} is not the one that it held")
        elif not path.is_file():
            self.write(path, text)
        elif self.read_lines(path) != rows:
            raise changed

    def _restore(self, path: Path, text: str, otherwise: str) -> None:
        """Write a damaged file again, if what is known today is what it held.

        Raises:
            RunFolderError: It is not.
        """
        lost, digest = "damaged" if path.exists() else "gone", hashlib.sha256(_encoded(text)).hexdigest()
        name = self.checksums.name_of(path)
        if state_of(path, digest) == "whole":  # what is damaged is the list of checksums
            self.checksums.update({name: digest})
            return
        if self.checksums.read()[name] != digest:
            raise RunFolderError(
                f"{path} is {lost}, and cannot be written again: {otherwise}. Nothing was changed. Put the file back, "
                "or run in another folder (-o)."
            )
        self.write(path, text)
        notices.warning("%s was %s and was written again.", path, lost)

    def lock(self) -> FileLock:
        """The folder for this process alone, until the lock is released or the process ends.

        Raises:
            RunFolderError: Another process works in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"Another process is at work in {self.path}. Wait for its end, or choose another folder with -o."
            ) from None
        except OSError as error:
            kept = f" What it holds can be read: {self.results}." if self.results.is_file() else ""
            raise RunFolderError(
                f"{self.path} cannot be worked in: {error}.{kept} Make it writable for this user, copy it, or choose "
                "another folder with -o."
            ) from error
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
        """Write a file under a temporary name, then rename it, and keep its checksum.

        Raises:
            WorkError: The file cannot be written, e.g. because the disk is full.
        """
        encoded = _encoded(content)
        write_whole(path, encoded)
        self.checksums.update({self.checksums.name_of(path): hashlib.sha256(encoded).hexdigest()})

    def write_json(self, path: Path, content: Any) -> None:
        """Write indented JSON."""
        self.write(path, dump_json(content, indent=2) + "\n")

    def write_lines(self, path: Path, rows: Iterable[Any]) -> None:
        """Write JSON lines."""
        self.write(path, _json_lines(rows))

    def read_json(self, path: Path) -> Any:
        """What a JSON file holds.

        Raises:
            RunFolderError: It is not there, or is damaged.
        """
        try:
            return load_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise RunFolderError(_unusable(path, error)) from error

    def read_lines(self, path: Path) -> list[Any]:
        """What a file of JSON lines holds.

        Raises:
            RunFolderError: It is not there, or is damaged.
        """
        try:
            return [load_json(line) for line in path.read_bytes().split(b"\n") if line]
        except (OSError, ValueError) as error:
            raise RunFolderError(_unusable(path, error)) from error

    def is_finished(self, cell: str) -> bool:
        """Whether a cell has its record and its predictions."""
        return self.cell(cell).is_file() and self.predictions(cell).is_file()

    def read_cell(self, cell: str) -> Cell | None:
        """A cell's record, if it is finished."""
        return parse_cell(self.cell(cell)) if self.is_finished(cell) else None


def parse_cell(path: Path) -> Cell:
    """The record in a file.

    Raises:
        RunFolderError: It is not there, or is damaged.
    """
    try:
        return Cell.model_validate(load_json(path.read_bytes()))
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise RunFolderError(_unusable(path, str(error).splitlines()[0])) from error


def _unusable(path: Path, why: object) -> str:
    return (
        f"{path} cannot be used: {why}. Put the file back; or run `stillshot run RECIPE -o ...` with the recipe and the "
        "folder of this run, which makes again what can be made; or use another folder."
    )


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _json_lines(rows: Iterable[Any]) -> str:
    return "".join(dump_json(row) + "\n" for row in rows)
