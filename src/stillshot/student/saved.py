"""Students: built for training, saved to a folder, loaded and asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from stillshot.config import Prompt, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.data.values import is_missing
from stillshot.errors import DataError, ModelError
from stillshot.hub import hub_access
from stillshot.models import load
from stillshot.models.resolve import ResolvedModel, resolve_model
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import PromptWriter
from stillshot.student.features import (
    ChannelFeaturizer,
    DecoderFeaturizer,
    EncoderFeaturizer,
    Featurizer,
)
from stillshot.student.heads import (
    build_label_model,
    next_tokens,
    resolve_head,
    with_language_model_head,
)
from stillshot.student.integrity import base_fingerprint, check_weights, same_base, weights_checksums
from stillshot.student.plain_tokenizer import encoder_tokenizer, plain_tokenizer
from stillshot.student.sidecar import SIDECAR, Exported, HeadName, Sidecar
from stillshot.student.tuning import apply_tuning
from stillshot.types import Context, Dtype, Example, Prediction

__all__ = ["SIDECAR", "Query", "Student", "as_example", "as_examples"]

Query = str | Mapping[str, str] | Example
Answers = tuple[list[int], NDArray[np.float64]]  # positions of queries, and their probabilities
OnCut = Callable[[list[int]], object]
Logits = Callable[[dict[str, torch.Tensor]], torch.Tensor]  # of a batch's inputs, shape (batch, labels)


class Student:
    """A model that answers from the query alone.

    Build one to train with :meth:`create`, or load a saved one:

        student = Student.load("runs/demo/students/...")
        student.predict(["a stirring film", "no movement, no yuks"])
    """

    side_by_side = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        task: TaskDefinition,
        prompt: Prompt,
        section: StudentSection,
        head: HeadName,
        base: str | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.base = base  # names the weights that its adapters belong to
        self.task, self.prompt, self.section = task, prompt, section
        self.head: HeadName = head
        self.featurizer = build_featurizer(task, prompt, section, head, tokenizer, model.config)
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
        base = base_fingerprint(section, resolved)
        encoder = load.is_encoder(config)
        verbalizer = None if encoder else PromptWriter(task, prompt, PromptEncoder(tokenizer)).verbalizer
        if head == "language_model" and verbalizer is not None:
            next_tokens(verbalizer, section.model)  # refused before any weights are loaded
        if head != "label":
            language_model = load.load_causal_lm(resolved, dtype)
            tuned = apply_tuning(language_model, section.tuning, section.lora, classifies=False)
            model = with_language_model_head(head, tuned, task.labels)
            return cls(model, tokenizer, task, prompt, section, head, base)
        model, fresh = build_label_model(resolved, task.labels, tokenizer, verbalizer, dtype)
        model = apply_tuning(model, section.tuning, section.lora, classifies=True, fresh=fresh)
        return cls(model, tokenizer, task, prompt, section, head, base)

    @classmethod
    def load(cls, folder: str | Path, dtype: Dtype | None = None) -> Self:
        """A saved student, in evaluation mode on the best device.

        Args:
            dtype: Of all weights; ``None`` is float32 where all of them are saved, else that in which the base model is
                read for training, with adapters in float32.

        Raises:
            ModelError: The folder holds no student, or its weights or those of its base are not what they were.
        """
        folder = Path(folder)
        sidecar = Sidecar.read(folder)
        if sidecar.exported is not None:
            raise ModelError(
                f"{folder} holds a student exported to {sidecar.exported.kind}, which PyTorch does not load. Use "
                "`stillshot predict`, or stillshot.deploy.predictor.load_predictor."
            )
        section, task, head = sidecar.section, sidecar.task, sidecar.head
        check_weights(folder, sidecar)
        tokenizer = load.load_tokenizer(resolve_model(str(folder)))
        try:
            model = _load_weights(folder, sidecar, tokenizer)
        except SafetensorError as error:
            raise ModelError(
                f"The weights of {folder} cannot be read; they may be damaged or cut short ({error}). Copy the "
                "folder here again, or train the student again."
            ) from error
        student = cls(model, tokenizer, task, sidecar.prompt, section, head, sidecar.base)
        if dtype is not None:
            for parameter in student.model.parameters():  # buffers, such as angles of positions, stay exact
                parameter.data = parameter.data.to(load.choose_dtype(dtype))
        student.model.to(load.best_device()).eval()
        return student

    def save(self, folder: str | Path) -> None:
        """Write a folder that plain transformers (or PEFT, for LoRA) loads, and this class."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.model if self.head == "label" else self.model.language_model
        card = folder / "README.md"
        had_card = card.exists()
        if self.section.tuning == "lora":
            with hub_access():  # PEFT asks there for the base model's configuration
                model.save_pretrained(folder)
            _config_of(model).save_pretrained(folder)
        else:
            model.save_pretrained(folder)
        self.plain_tokenizer().save_pretrained(folder)
        replace(self.sidecar(), weights=weights_checksums(folder, None)).write(folder)
        if not had_card:  # PEFT's says nothing but where the model lay
            card.unlink(missing_ok=True)
        for weights in folder.glob("*.safetensors"):  # written for their owner alone
            weights.chmod((folder / SIDECAR).stat().st_mode)

    def plain_tokenizer(self) -> Any:
        """The tokenizer as the folder holds it; see :mod:`stillshot.student.plain_tokenizer`."""
        if isinstance(self.featurizer, EncoderFeaturizer):
            return encoder_tokenizer(self.tokenizer)
        return plain_tokenizer(self.tokenizer, chat=self.prompt.chat)

    def sidecar(self, exported: Exported | None = None) -> Sidecar:
        """What a folder with this student, or an export of it, says beside the weights."""
        template = _template(self.featurizer, self.head)
        return Sidecar(
            self.head,
            self.task,
            self.prompt,
            self.section,
            template,
            self.featurizer.max_tokens,
            exported,
            base=self.base,
        )

    def predict(self, queries: Sequence[Query], batch_size: int = 32) -> list[Prediction]:
        """The label of each query, with the probability of every label.

        Args:
            queries: Texts, for a task of one field; else mappings from field to text.

        Raises:
            DataError: A query lacks a field of the task.
        """
        return as_predictions(self.task.labels, self.predict_proba(queries, batch_size))

    def predict_proba(
        self, queries: Sequence[Query], batch_size: int = 32, on_cut: OnCut | None = None
    ) -> NDArray[np.float64]:
        """Probabilities over ``task.labels``, shape ``(queries, labels)``.

        ``on_cut`` gets the positions of queries whose texts were longer than the student reads.
        """
        batches = self.predict_batches(queries, batch_size, on_cut)
        return gathered(batches, len(queries), len(self.task.labels))

    def predict_batches(
        self, queries: Sequence[Query], batch_size: int = 32, on_cut: OnCut | None = None
    ) -> Iterator[Answers]:
        """Like :meth:`predict_proba`, batch by batch, longest queries first."""
        self.model.eval()
        return answer_in_batches(queries, self.task, self.featurizer, batch_size, self.logits, on_cut)

    def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Scores of labels for a batch as the featurizer pads it, shape ``(batch, labels)``."""
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            found = self.model(**{name: value.to(device) for name, value in inputs.items()}).logits
        return found if self.label_tokens is None else found[:, self.label_tokens]


def answer_in_batches(
    queries: Sequence[Query],
    task: TaskDefinition,
    featurizer: Featurizer,
    batch_size: int,
    logits: Logits,
    on_cut: OnCut | None = None,
) -> Iterator[Answers]:
    """Positions of queries and probabilities of theirs, batch by batch, longest queries first.

    ``on_cut`` gets the positions of queries whose texts were longer than the student reads.
    """
    examples = as_examples(queries, task)
    features = featurizer.features(examples) if examples else []
    if on_cut is not None:
        on_cut([position for position, feature in enumerate(features) if feature.get("cut", False)])
    order = sorted(range(len(features)), key=lambda i: features[i]["length"], reverse=True)
    for at in range(0, len(order), batch_size):
        positions = order[at : at + batch_size]
        yield positions, probabilities(logits(featurizer.pad([features[i] for i in positions])))


def probabilities(logits: torch.Tensor) -> NDArray[np.float64]:
    """Of labels, shape ``(batch, labels)``, from scores of the same shape."""
    return logits.cpu().double().softmax(-1).numpy()


def gathered(batches: Iterable[Answers], queries: int, labels: int) -> NDArray[np.float64]:
    """Probabilities of all batches, shape ``(queries, labels)``."""
    result = np.zeros((queries, labels))
    for positions, rows in batches:
        result[positions] = rows
    return result


def as_predictions(labels: Sequence[str], probabilities: NDArray[np.float64]) -> list[Prediction]:
    """The likeliest label of each row, with the probability of every label."""
    return [
        Prediction(labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True)))
        for row in probabilities
    ]


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
    if missing and missing[0] in fields:
        value = fields[missing[0]]
        found = "nothing" if is_missing(value) else f"a {type(value).__name__}"
        raise DataError(
            f"A query has {found} in the field {missing[0]!r} ({value!r}). The task {task.name!r} reads texts."
        )
    if missing:
        raise DataError(
            f"A query lacks the field {missing[0]!r} (it has: {', '.join(map(str, fields)) or 'nothing'}). "
            f"The task {task.name!r} reads {', '.join(task.fields)}."
        )
    return query if isinstance(query, Example) else Example({name: fields[name] for name in task.fields})


def _label_tokens(featurizer: Featurizer, section: StudentSection) -> list[int]:
    assert isinstance(featurizer, DecoderFeaturizer), "an encoder has no language-model head"
    return next_tokens(featurizer.writer.verbalizer, section.model)


def build_featurizer(
    task: TaskDefinition, prompt: Prompt, section: StudentSection, head: str, tokenizer: Any, config: Any
) -> Featurizer:
    """What turns queries into inputs of a model with this configuration.

    Raises:
        ModelError: The tokenizer has no token to fill up rows with.
        PromptError: The task's label words or the chat template do not work with the tokenizer.
    """
    max_tokens = min(section.max_tokens, load.window(config))
    pad = load.padding_token_id(tokenizer)
    if load.is_encoder(config):
        return EncoderFeaturizer(task, tokenizer, max_tokens)
    writer = PromptWriter(task, prompt, PromptEncoder(tokenizer))
    kind = ChannelFeaturizer if head == "channel" else DecoderFeaturizer
    return kind(writer, pad, max_tokens)


def _template(featurizer: Featurizer, head: HeadName) -> Any:
    """See :class:`Sidecar`."""
    if isinstance(featurizer, EncoderFeaturizer):
        return None
    assert isinstance(featurizer, DecoderFeaturizer | ChannelFeaturizer)
    writer = featurizer.writer
    named = Example({name: f"{{{name}}}" for name in writer.task.fields})
    if head != "channel":
        return writer.query_text(named)
    return dict(zip(writer.task.labels, map(list, writer.channel_texts(Context(), named)), strict=True))


def _frozen_dtype(section: StudentSection) -> torch.dtype:
    """Weights that do not train may be kept in 16 bits; those that train are float32 masters."""
    if section.tuning != "lora":
        return torch.float32
    dtype = load.choose_dtype(section.dtype)
    # Training in float16 would need a loss scale; a device without bfloat16 trains in float32.
    return torch.float32 if dtype == torch.float16 else dtype


def _load_weights(folder: Path, sidecar: Sidecar, tokenizer: Any) -> Any:
    section, task, head = sidecar.section, sidecar.task, sidecar.head
    if section.tuning != "lora":
        saved = resolve_model(str(folder))
        if head != "label":
            own = load.load_causal_lm(saved, torch.float32, check_logits=False)
            return with_language_model_head(head, own, task.labels)
        return load.load_classifier(saved, torch.float32)
    from peft import PeftModel

    base = same_base(folder, sidecar, _base_of(folder, section))
    dtype = _frozen_dtype(section)
    if head != "label":
        language_model: Any = load.load_causal_lm(base, dtype, check_logits=False)
        return with_language_model_head(head, PeftModel.from_pretrained(language_model, folder), task.labels)
    pad = load.padding_token_id(tokenizer)
    model: Any = load.load_classifier(base, dtype, num_labels=len(task.labels), pad_token_id=pad)
    return PeftModel.from_pretrained(model, folder)


def _base_of(folder: Path, section: StudentSection) -> ResolvedModel:
    """The model that a student's adapters belong to."""
    try:
        base = resolve_model(section.model, section.revision)
        load.load_config(base)
    except ModelError as error:
        raise ModelError(
            f"{folder} holds adapters for the model {section.model!r}, which cannot be had (a folder is looked for from "
            f"{Path.cwd()}): {error}"
        ) from error
    return base


def _config_of(model: Any) -> Any:
    return model.get_base_model().config
