"""What a student's folder says beside its weights: the file ``stillshot.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from stillshot.config import Prompt, Source, Sources, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.errors import ModelError
from stillshot.models.trust import read_json

SIDECAR = "stillshot.json"
HeadName = Literal["label", "channel", "language_model"]
FORMAT = 1
_HEAD: TypeAdapter[HeadName] = TypeAdapter(HeadName)
_WEIGHTS: TypeAdapter[dict[str, str] | None] = TypeAdapter(dict[str, str] | None)
_BASE: TypeAdapter[str | None] = TypeAdapter(str | None)


class Exported(BaseModel):
    """What a folder holds whose weights PyTorch does not load.

    Attributes:
        kind: What it was exported to.
        file: The file that is loaded.
        files_beside: Files beside it that it refers to, without which it cannot be: a large model's weights.
        label_tokens: Where logits are over a vocabulary, the token of each label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["onnx", "onnx-int8", "gguf"]
    file: str
    files_beside: list[str] = []
    label_tokens: list[int] | None = None


@dataclass(frozen=True)
class Sidecar:
    """A student but for its weights and tokenizer.

    Attributes:
        template: For other tools: the text that a decoder reads, each field in braces; with a channel head
            by label, and split where the scored text begins. Null for an encoder, which reads the fields.
        max_tokens: For other tools: how many tokens of a query the student reads at most, the template's among
            them. A longer one is cut at the end of its longest text. Null in older folders.
        exported: Null where PyTorch loads the weights.
        weights: The SHA-256 of each file with weights. Null in older folders.
        base: Names the weights that adapters belong to; null where there are none, and in older folders.
    """

    head: HeadName
    task: TaskDefinition
    prompt: Prompt
    section: StudentSection
    template: Any = None
    max_tokens: int | None = None
    exported: Exported | None = None
    weights: dict[str, str] | None = None
    base: str | None = None

    def write(self, folder: Path) -> None:
        """Write the file."""
        content = {
            "format": FORMAT,
            "head": self.head,
            "labels": self.task.labels,
            "template": self.template,
            "max_tokens": self.max_tokens,
            "task": _without_places(self.task).model_dump(mode="json"),
            "prompt": self.prompt.model_dump(mode="json"),
            "student": self.section.model_dump(mode="json"),
        }
        if self.base is not None:
            content["base"] = self.base
        if self.weights is not None:
            content["weights"] = self.weights
        if self.exported is not None:
            content["exported"] = self.exported.model_dump(mode="json")
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / SIDECAR).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Sidecar:
        """Read the file.

        Raises:
            ModelError: There is none, or it is not what Stillshot writes.
        """
        if not (folder / SIDECAR).is_file():
            raise ModelError(
                f"{folder} holds no student: there is no {SIDECAR}. Give a folder under a run's students/."
            )
        content = read_json(folder / SIDECAR)
        try:
            if content["format"] != FORMAT:
                raise ModelError(
                    f"{folder / SIDECAR} has format {content['format']}, this version of Stillshot reads {FORMAT}."
                )
            exported = content.get("exported")
            return cls(
                head=_HEAD.validate_python(content["head"]),
                task=TaskDefinition.model_validate(content["task"]),
                prompt=Prompt.model_validate(content["prompt"]),
                section=StudentSection.model_validate(content["student"]),
                template=content.get("template"),
                max_tokens=content.get("max_tokens"),
                exported=None if exported is None else Exported.model_validate(exported),
                weights=_WEIGHTS.validate_python(content.get("weights")),
                base=_BASE.validate_python(content.get("base")),
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise ModelError(
                f"{folder / SIDECAR} is not what Stillshot writes: {str(error).splitlines()[0]}. Save the student again."
            ) from None


def _without_places(task: TaskDefinition) -> TaskDefinition:
    """The task without the places its data came from, but with the column names that files of its kind have."""
    local = task.sources.local
    kept = Source(splits={}, columns=local.columns, label_column=local.label_column) if local else None
    return task.model_copy(update={"sources": Sources(local=kept)})
