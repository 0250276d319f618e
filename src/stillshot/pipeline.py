"""The whole story: check, label, train, evaluate, report. Each stage reads what the one before wrote."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from filelock import FileLock

from stillshot.config import Recipe
from stillshot.errors import RunFolderError, StillshotError, WorkError
from stillshot.evaluate.assemble import assemble
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.mending import mend
from stillshot.evaluate.records import Cell, Results
from stillshot.evaluate.runner import run_isolated
from stillshot.methods.cells import CellSpec, Setting, asked_settings, cells, settings
from stillshot.methods.check import check
from stillshot.methods.materials import Materials
from stillshot.methods.work import evaluate_cell, label_setting, train_cell
from stillshot.models.fingerprints import weights_fingerprints
from stillshot.report import write_report

logger = logging.getLogger(__name__)
NOTES = "notes.json"  # what reading the data found, beside the recipe

Report = Callable[[str, str, int, int], None]  # (name of the work, what, done, total)


@dataclass(frozen=True)
class Run:
    """A recipe in its folder.

    Finished work is never done twice: labelled queries, trained students and evaluated cells are found
    in the folder. A cell that fails is remembered with its reason, and the others go on.
    """

    recipe: Recipe
    folder: RunFolder
    report: Report
    failures: dict[str, str] = field(default_factory=dict)
    lock: FileLock | None = None  # held as long as the run is
    checkpoint_seconds: float = 120.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the folder."""
        if self.lock is not None:
            self.lock.release()

    def label(self, only: Setting | None = None) -> None:
        """Have the teacher label the queries of every setting, or of one."""
        for setting in asked_settings(self.recipe):
            if only in (None, setting) and not self.folder.labels(setting.name).is_file():
                name = f"labels {setting.name}"
                try:
                    self._isolated(name, label_setting, setting)
                except StillshotError as error:
                    self.report(name, f"failed: {error}", 0, 0)
                    for spec in self._cells(setting):
                        if spec.needs_labels:
                            self.failures[spec.id] = f"Its queries could not be labelled: {error}"

    def train(self, only: Setting | None = None) -> None:
        """Train the students of every cell that trains one, or of one setting's."""
        for spec in self._cells(only):
            if spec.id in self.failures:
                continue
            if spec.student is not None and not self.folder.training(spec.id).is_file():
                if spec.needs_labels and not self.folder.labels(spec.setting.name).is_file():
                    raise RunFolderError(
                        f"{self.folder.path} has no soft labels for {spec.id}. Run `stillshot label` first."
                    )
                self._attempt(spec, train_cell, spec, self.checkpoint_seconds)

    def evaluate(self, only: Setting | None = None) -> None:
        """Evaluate every cell, or one setting's, on every evaluation set."""
        for evaluation in Materials(self.recipe).evaluation_sets:
            self.folder.claim_evaluation(evaluation.name, evaluation.rows)
        for spec in self._cells(only):
            if self.folder.is_finished(spec.id) or spec.id in self.failures:
                continue
            if (
                spec.student is None
                and spec.needs_labels
                and not self.folder.labels(spec.setting.name).is_file()
            ):
                self.failures[spec.id] = "Its queries are not labelled yet. Run `stillshot label` first."
            elif spec.student is not None and not self.folder.training(spec.id).is_file():
                self.failures[spec.id] = "Its student is not trained yet. Run `stillshot train` first."
            else:
                self._attempt(spec, evaluate_cell, spec)

    def write_results(self, *, paper: bool = False) -> Results:
        """Put all records together, and write ``results.json`` and the report (see :func:`write_report`)."""
        specs = cells(self.recipe)
        records = [self._record(spec) for spec in specs]
        known = [record for record in records if record is not None]
        if not any(record.failed is None for record in known):
            if self.failures:
                reasons = [f"  {name}: {reason}" for name, reason in self.failures.items()]
                raise WorkError("\n".join(["No cell could be finished:", *reasons]))
            raise RunFolderError(f"{self.folder.path} has no evaluated cell yet. Run `stillshot run` first.")
        task = Materials(self.recipe).task
        results = assemble(self.folder, self.recipe, task.name, task.labels, known)
        self.folder.write_json(self.folder.results, results.model_dump(mode="json", by_alias=True))
        write_report(self.folder.path, paper=paper)
        return results

    def _cells(self, only: Setting | None) -> list[CellSpec]:
        return [spec for spec in cells(self.recipe) if only in (None, spec.setting)]

    def _record(self, spec: CellSpec) -> Cell | None:
        if spec.id not in self.failures:
            return self.folder.read_cell(spec.id)
        student = spec.student
        asked = self.recipe.teacher.model if student else spec.model
        return Cell(
            id=spec.id,
            method=spec.method,
            teacher=asked if spec.method != "pattern_finetune" else None,
            student=student.model if student else None,
            tuning=student.tuning if student else None,
            control=spec.setting.control,
            seed=spec.setting.seed,
            labelled=spec.setting.budget.labelled,
            parameters=0,
            model_bytes=0,
            peak_memory_bytes=0,
            failed=self.failures[spec.id],
        )

    def _attempt(self, spec: CellSpec, work: Callable[..., None], *arguments: object) -> None:
        try:
            self._isolated(spec.id, work, *arguments)
        except StillshotError as error:
            self.failures[spec.id] = str(error)
            self.report(spec.id, f"failed: {error}", 0, 0)

    def _isolated(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        run_isolated(
            work,
            self.recipe,
            self.folder.path,
            *arguments,
            report=lambda what, done, total: self.report(name, what, done, total),
        )


def open_run(recipe: Recipe, path: Path, report: Report | None = None) -> Run:
    """Check a recipe and make a folder its run's, or go on with the run that is there.

    Raises:
        StillshotError: The recipe cannot be run (nothing is written), or the folder is another's.
    """
    folder = RunFolder(path)
    materials = Materials(recipe)
    folder.check_free()
    check(recipe, materials)
    digests = materials.digests({s.draw: (s.budget, s.seed) for s in settings(recipe)})
    weights = weights_fingerprints([recipe.teacher, *recipe.students])
    lock = folder.lock()  # before anything is written: of two that start at once, one works here
    try:
        folder.claim(recipe)
        mend(folder)
        folder.claim_data(digests, weights, materials.older_digests)
    except BaseException:
        lock.release()
        raise
    for note in materials.notes:
        logger.warning("note: %s", note)
    if materials.notes:
        folder.write_json(folder.path / NOTES, materials.notes)
    return Run(recipe, folder, report or (lambda *_: None), lock=lock)


def run(recipe: Recipe, path: Path, report: Report | None = None) -> Results:
    """Run a recipe from beginning to end in a folder; an interrupted run goes on where it was.

    Raises:
        StillshotError: See :func:`open_run`; or no cell could be finished. Cells that fail, or whose
            queries could not be labelled, do not raise: they have ``failed`` set in the results.
    """
    with open_run(recipe, path, report) as story:
        for setting in settings(recipe):  # setting by setting, so that the first results are there early
            story.label(setting)
            story.train(setting)
            story.evaluate(setting)
        return story.write_results()


__all__ = ["Run", "Setting", "open_run", "run"]
