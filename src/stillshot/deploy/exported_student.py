"""What exported students have in common, whatever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillshot.config import TaskDefinition
from stillshot.errors import ModelError
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.models.trust import inside
from stillshot.student.features import Featurizer
from stillshot.student.integrity import check_weights
from stillshot.student.saved import Logits, OnCut, Query, answer_in_batches, build_featurizer, gathered
from stillshot.student.sidecar import SIDECAR, Exported, Sidecar


class ExportedStudent:
    """Answers as the student does that was exported; see :class:`stillshot.deploy.predictor.Predictor`.

    Queries become the same tokens: the featurizer is the student's own. Kinds of exports differ in what
    makes logits of them.
    """

    side_by_side = True

    def __init__(self, logits: Logits, task: TaskDefinition, featurizer: Featurizer) -> None:
        self.logits, self.task, self.featurizer = logits, task, featurizer

    def predict_proba(
        self, queries: Sequence[Query], batch_size: int = 32, on_cut: OnCut | None = None
    ) -> NDArray[np.float64]:
        """Probabilities over ``task.labels``, shape ``(queries, labels)``; see :meth:`Predictor.predict_proba`.

        Raises:
            DataError: A query lacks a field of the task.
            PromptError: A query has no room beside the pattern.
        """
        batches = answer_in_batches(queries, self.task, self.featurizer, batch_size, self.logits, on_cut)
        return gathered(batches, len(queries), len(self.task.labels))


def load_featurizer(folder: Path, sidecar: Sidecar) -> Featurizer:
    """The featurizer of the student that was exported to a folder.

    Raises:
        ModelError: The folder lacks the tokenizer or the configuration, or they cannot be read, or its weights are not
            those that were exported.
    """
    check_weights(folder, sidecar)
    resolved = resolve_model(str(folder))
    return build_featurizer(
        sidecar.task,
        sidecar.prompt,
        sidecar.section,
        sidecar.head,
        load.load_tokenizer(resolved),
        load.load_config(resolved),
    )


def find_file(folder: Path, exported: Exported) -> Path:
    """The file of an export that is loaded.

    Raises:
        ModelError: It is not there, or one that it refers to, or lies outside the folder.
    """
    for name in (exported.file, *exported.files_beside):
        if not inside(name):
            raise ModelError(
                f"{folder / SIDECAR} points to a file outside its folder ({name!r}); nothing was loaded. Export the student "
                "again."
            )
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder / name} is not there, without which this export cannot be used. Copy the whole folder "
                f"again, or make it anew: stillshot export STUDENT --to {exported.kind}"
            )
    return folder / exported.file


def unreadable(file: Path, exported: Exported, reason: object) -> ModelError:
    """The error for a file that what runs it does not take; ``reason`` is what that says."""
    said = (str(reason).strip().splitlines() or [type(reason).__name__])[0].rstrip(".")
    return ModelError(
        f"{file} cannot be read; it may be damaged or cut short ({said}). Copy it here again, or make it anew: "
        f"stillshot export STUDENT --to {exported.kind}"
    )
