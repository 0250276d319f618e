"""Students: built for training, saved to a folder, loaded and asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from stillshot.config import Prompt, Source, Sources, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.errors import DataError, ModelError
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import PromptWriter
from stillshot.student.features import ChannelFeaturizer, DecoderFeaturizer, EncoderFeaturizer, Featurizer
from stillshot.student.heads import (
    HeadName,
    build_label_model,
    next_tokens,
    resolve_head,
    with_language_model_head,
)
from stillshot.student.tuning import apply_tuning
from stillshot.types import Example, Prediction

SIDECAR = "stillshot.json"
FORMAT = 1  # of the sidecar
Query = str | Mapping[str, str] | Example
_HEAD: TypeAdapter[HeadName] = TypeAdapter(HeadName)


class Student:
    """A model that answers from the query alone.

    Build one to train with :meth:`create`, or load a saved one:

        student = Student.load("runs/demo/students/...")
        student.predict(["a stirring film", "no movement, no yuks"])
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        task: TaskDefinition,
        prompt: Prompt,
        section: StudentSection,
        head: HeadName,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.task, self.prompt, self.section = task, prompt, section
        self.head: HeadName = head
        self.featurizer = _featurizer(task, prompt, section, head, tokenizer, model.config)
        self.label_tokens = _label_tokens(self.featurizer, section) if head == "language_model" else None

    @classmethod
    def create(cls, section: StudentSection, task: TaskDefinition, prompt: Prompt) -> Self:
        """A student before training, its trainable weights in float32.

        Raises:
            ModelError: The model cannot have the head or the tuning that is asked for.
            PromptError: The task's label words do not work with its tokenizer.
        """
        resolved = resolve_model(section.model, section.revision)
        config = load.load_config(resolved)
        head = resolve_head(section, config)
        tokenizer = load.load_tokenizer(resolved)
        dtype = _frozen_dtype(section)
        encoder = load.is_encoder(config)
        verbalizer = None if encoder else PromptWriter(task, prompt, PromptEncoder(tokenizer)).verbalizer
        if head == "language_model" and verbalizer is not None:
            next_tokens(verbalizer, section.model)  # refused before any weights are loaded
        if head != "label":
            language_model = load.load_causal_lm(resolved, dtype)
            tuned = apply_tuning(language_model, section.tuning, section.lora, classifies=False)
            model = with_language_model_head(head, tuned, task.labels)
            return cls(model, tokenizer, task, prompt, section, head)
        model = build_label_model(resolved, task.labels, tokenizer, verbalizer, dtype)
        model = apply_tuning(model, section.tuning, section.lora, classifies=True)
        return cls(model, tokenizer, task, prompt, section, head)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """A saved student, in evaluation mode on the best device.

        Raises:
            ModelError: The folder holds no student.
        """
        folder = Path(folder)
        try:
            sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ModelError(
                f"{folder} holds no student: there is no {SIDECAR}. Give a folder under a run's students/."
            ) from None
        except ValueError as error:
            raise ModelError(f"{folder / SIDECAR} is not JSON ({error}). Save the student again.") from None
        try:
            if sidecar["format"] != FORMAT:
                raise ModelError(
                    f"{folder / SIDECAR} has format {sidecar['format']}, this version of Stillshot reads {FORMAT}."
                )
            section = StudentSection.model_validate(sidecar["student"])
            task = TaskDefinition.model_validate(sidecar["task"])
            prompt = Prompt.model_validate(sidecar["prompt"])
            head = _HEAD.validate_python(sidecar["head"])
        except (KeyError, TypeError, ValidationError) as error:
            raise ModelError(
                f"{folder / SIDECAR} is not what Stillshot writes: {str(error).splitlines()[0]}. Save the student again."
            ) from None
        tokenizer = load.load_tokenizer(resolve_model(str(folder)))
        model = _load_weights(folder, section, task, head, tokenizer)
        student = cls(model, tokenizer, task, prompt, section, head)
        student.model.to(load.best_device()).eval()
        return student

    def save(self, folder: str | Path) -> None:
        """Write a folder that plain transformers (or PEFT, for LoRA) loads, and this class."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.model if self.head == "label" else self.model.language_model
        model.save_pretrained(folder)
        if self.section.tuning == "lora":
            _config_of(model).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        sidecar = {
            "format": FORMAT,
            "head": self.head,
            "labels": self.task.labels,
            "task": _without_places(self.task).model_dump(mode="json"),
            "prompt": self.prompt.model_dump(mode="json"),
            "student": self.section.model_dump(mode="json"),
        }
        (folder / SIDECAR).write_text(
            json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def predict(self, queries: Sequence[Query], batch_size: int = 32) -> list[Prediction]:
        """The label of each query, with the probability of every label.

        Args:
            queries: Texts, for a task of one field; else mappings from field to text.

        Raises:
            DataError: A query lacks a field of the task.
        """
        labels = self.task.labels
        return [
            Prediction(labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True)))
            for row in self.predict_proba(queries, batch_size)
        ]

    def predict_proba(self, queries: Sequence[Query], batch_size: int = 32) -> NDArray[np.float64]:
        """Probabilities over ``task.labels``, shape ``(queries, labels)``."""
        result = np.zeros((len(queries), len(self.task.labels)))
        for positions, rows in self.predict_batches(queries, batch_size):
            result[positions] = rows
        return result

    def predict_batches(
        self, queries: Sequence[Query], batch_size: int = 32
    ) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
        """Like :meth:`predict_proba`, batch by batch, longest queries first."""
        examples = as_examples(queries, self.task)
        features = self.featurizer.features(examples) if examples else []
        order = sorted(range(len(features)), key=lambda i: features[i]["length"], reverse=True)
        device = next(self.model.parameters()).device
        self.model.eval()
        for at in range(0, len(order), batch_size):
            positions = order[at : at + batch_size]
            inputs = self.featurizer.pad([features[i] for i in positions])
            with torch.inference_mode():
                logits = self.model(**{name: value.to(device) for name, value in inputs.items()}).logits
            if self.label_tokens is not None:
                logits = logits[:, self.label_tokens]
            yield positions, logits.cpu().double().softmax(-1).numpy()


def as_examples(queries: Sequence[Query], task: TaskDefinition) -> list[Example]:
    """Queries as examples of the task.

    Raises:
        DataError: They are one text, not several; or see :func:`as_example`.
    """
    if isinstance(queries, str):
        raise DataError("Queries are given as a list, also when there is one: [text], not text.")
    return [as_example(query, task) for query in queries]


def as_example(query: Query, task: TaskDefinition) -> Example:
    """A query as an example of the task.

    Raises:
        DataError: It lacks a field, or is a bare text where the task has several fields.
    """
    if isinstance(query, str):
        if len(task.fields) != 1:
            raise DataError(
                f"The task {task.name!r} reads the fields {', '.join(task.fields)}; give a mapping with these, not a text."
            )
        return Example({task.fields[0]: query})
    fields = query.fields if isinstance(query, Example) else query
    if not isinstance(fields, Mapping):
        raise DataError(
            f"A query is a text, a mapping from field to text, or an Example, not {type(query).__name__}."
        )
    missing = [name for name in task.fields if not isinstance(fields.get(name), str)]
    if missing:
        raise DataError(
            f"A query lacks the field {missing[0]!r} (it has: {', '.join(map(str, fields)) or 'nothing'}). "
            f"The task {task.name!r} reads {', '.join(task.fields)}."
        )
    return query if isinstance(query, Example) else Example({name: fields[name] for name in task.fields})


def _without_places(task: TaskDefinition) -> TaskDefinition:
    """The task without the places its data came from, but with the column names that files of its kind have."""
    local = task.sources.local
    kept = Source(splits={}, columns=local.columns, label_column=local.label_column) if local else None
    return task.model_copy(update={"sources": Sources(local=kept)})


def _label_tokens(featurizer: Featurizer, section: StudentSection) -> list[int]:
    assert isinstance(featurizer, DecoderFeaturizer), "an encoder has no language-model head"
    return next_tokens(featurizer.writer.verbalizer, section.model)


def _featurizer(
    task: TaskDefinition, prompt: Prompt, section: StudentSection, head: str, tokenizer: Any, config: Any
) -> Featurizer:
    max_tokens = min(section.max_tokens, load.window(config))
    if load.is_encoder(config):
        return EncoderFeaturizer(task, tokenizer, max_tokens)
    writer = PromptWriter(task, prompt, PromptEncoder(tokenizer))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    kind = ChannelFeaturizer if head == "channel" else DecoderFeaturizer
    return kind(writer, pad, max_tokens)


def _frozen_dtype(section: StudentSection) -> torch.dtype:
    """Weights that do not train may be kept in 16 bits; those that train are float32 masters."""
    if section.tuning != "lora":
        return torch.float32
    dtype = load.choose_dtype(section.dtype)
    # Training in float16 would need a loss scale; a device without bfloat16 trains in float32.
    return torch.float32 if dtype == torch.float16 else dtype


def _load_weights(
    folder: Path, section: StudentSection, task: TaskDefinition, head: HeadName, tokenizer: Any
) -> Any:
    if section.tuning != "lora":
        saved = resolve_model(str(folder))
        if head != "label":
            return with_language_model_head(head, load.load_causal_lm(saved, torch.float32), task.labels)
        return load.load_classifier(saved, torch.float32)
    from peft import PeftModel

    base = resolve_model(section.model, section.revision)
    dtype = _frozen_dtype(section)
    if head != "label":
        language_model: Any = load.load_causal_lm(base, dtype)
        return with_language_model_head(head, PeftModel.from_pretrained(language_model, folder), task.labels)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    model: Any = load.load_classifier(base, dtype, num_labels=len(task.labels), pad_token_id=pad)
    return PeftModel.from_pretrained(model, folder)


def _config_of(model: Any) -> Any:
    return model.get_base_model().config
