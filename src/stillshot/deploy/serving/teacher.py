"""A run's teacher, asked live as it was asked when it labelled the queries of a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillshot.errors import RunFolderError
from stillshot.evaluate.folder import RunFolder
from stillshot.methods.asking import Asking
from stillshot.methods.cells import cells
from stillshot.methods.materials import Materials
from stillshot.methods.work import asked_as
from stillshot.models.fingerprints import weights_fingerprints
from stillshot.prompt.budget import fitted_contexts, fitted_prompts
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt
from stillshot.student.features import Feature
from stillshot.teacher import answers
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Context, Example, Keep


@dataclass(frozen=True)
class RunTeacher:
    """A teacher with its contexts. It gives the soft labels that the run has, and those of new queries.

    Every answer reads the contexts again, as a service without a prefix cache does: that is what the student saves.
    """

    teacher: LocalTeacher
    writer: PromptWriter
    asking: Asking
    contexts: tuple[Context, ...]
    biases: Mapping[Kind, Any]
    model_id: str

    @classmethod
    def of(cls, folder: Path, loaded: dict[str, LocalTeacher]) -> RunTeacher:
        """The teacher of the student in a folder of a run.

        Args:
            folder: A student, or an export of one, below a run's ``students/CELL``.
            loaded: Teachers that are loaded already, by their settings; the one that is needed is added.

        Raises:
            RunFolderError: The folder lies in no run, is none of its cells, or nothing was labelled for it.
            StillshotError: The run's data or the teacher cannot be had any more.
        """
        run = RunFolder.around(folder)
        if run is None:
            raise RunFolderError(
                f"{folder} lies in no run, so its teacher and context are not known. Give a folder under a run's "
                "students/, or leave out --teacher."
            )
        recipe, path = run.open_recipe(), folder.resolve().relative_to(run.path)
        name = path.parts[1] if len(path.parts) > 1 and path.parts[0] == "students" else path.name
        spec = next((spec for spec in cells(recipe) if spec.id == name), None)
        if spec is None or not run.labels(spec.setting.name).is_file():
            raise RunFolderError(
                f"The run {run.path} has no labels of a teacher for {name!r}. Give a student that it distilled, or "
                "leave out --teacher."
            )
        materials, setting = Materials(recipe), spec.setting
        draw = materials.draw(setting.budget, setting.seed, setting.control)
        if run.data.is_file():
            digests = materials.digests({setting.draw: (setting.budget, setting.seed)})
            run.check_data(digests, materials.older_digests)
            run.check_weights(weights_fingerprints([recipe.teacher]))
        asking, biases = asked_as(recipe, run, setting)
        key = recipe.teacher.model_dump_json()
        if key not in loaded:
            loaded[key] = LocalTeacher(recipe.teacher)
        teacher = loaded[key]
        writer = PromptWriter(materials.task, asking.prompt, teacher.encoder)
        kinds = answers.kinds_of(asking.scoring)
        contexts = fitted_contexts(writer, kinds, draw.contexts, materials.all_asked(draw), teacher.window)
        _ = teacher.model  # loaded now, so that what is wrong with it is told now
        return cls(teacher, writer, asking, contexts, biases, recipe.teacher.model)

    def read(self, examples: Sequence[Example], keep: Keep = "start") -> list[Feature]:
        """The prompts of each example, and their tokens, contexts included. Nothing is cut, whatever ``keep`` says.

        Raises:
            PromptError: A prompt does not fit the teacher's window.
        """
        return [self._feature(example) for example in examples]

    def answer(self, features: Sequence[Feature]) -> NDArray[np.float64]:
        """Soft labels, shape ``(features, labels)``."""
        verbalizer = self.writer.verbalizer
        next_tokens = [ids[0] for ids in verbalizer.token_ids] if verbalizer.single_token else None
        scores: dict[Kind, NDArray[np.float64]] = {}
        for kind in answers.kinds_of(self.asking.scoring):
            tokens = next_tokens if kind == "direct" else None
            rows = np.zeros((len(self.contexts), len(features), len(verbalizer.labels)))
            for index in range(len(self.contexts)):
                prompts = [feature["prompts"][kind, index] for feature in features]
                for positions, found in self.teacher.score(prompts, tokens):
                    rows[index, positions] = found
            scores[kind] = rows
        return answers.soft_labels(scores, self.biases, self.asking.temperature)

    def _feature(self, example: Example) -> Feature:
        prompts: dict[tuple[Kind, int], ScoredPrompt] = {}
        for kind in answers.kinds_of(self.asking.scoring):
            for index, context in enumerate(self.contexts):
                (prompts[kind, index],) = fitted_prompts(
                    self.writer, kind, context, [example], self.teacher.window
                )
        lengths = [len(sequence.ids) for prompt in prompts.values() for sequence in prompt.sequences]
        return {"prompts": prompts, "length": max(lengths), "sequences": len(lengths), "tokens": sum(lengths)}
