"""What training a student would take, from its configuration and its rows' lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillshot.config import Prompt, TaskDefinition, Training
from stillshot.config import Student as StudentSection
from stillshot.models import load
from stillshot.models.footprint import Ledger, Work, process_bytes, symbolic, tokenizer_bytes
from stillshot.models.resolve import ResolvedModel, resolve_model
from stillshot.student.features import Feature
from stillshot.student.frozen import FrozenStates, frozen_in_evaluation
from stillshot.student.lean import lean, transformer_of
from stillshot.student.saved import Student
from stillshot.student.trainer import (
    BucketSampler,
    ContextDistillationConfig,
    batch_loss,
    collate,
    in_passes,
    outputs_of,
)
from stillshot.student.training import TrainingSet, training_arguments
from stillshot.student.tuning import count_parameters
from stillshot.types import Example

Batch = dict[str, Tensor]
# Epochs whose batches are formed to find the largest pass; batches of later ones are as large.
_EPOCHS_LOOKED_AT = 4


@dataclass(frozen=True)
class StudentFootprint:
    """What a student takes.

    Attributes:
        model_bytes: Its weights as they are held in memory.
        saved_bytes: Its weights as they are saved: of adapters, these and the score layer.
        train_live_bytes: The most that is alive in training: weights, gradients, optimizer, activations.
        train_peak_bytes: What a process takes for it (:func:`stillshot.models.footprint.process_bytes`), and for its tokenizer.
        train_tokens: Tokens with padding that go through the model, over all epochs.
        ask_live_bytes: The most that is alive when it is asked with a batch of the longest queries.
        ask_work: Work of asking all of the queries.
    """

    parameters: int
    trainable_parameters: int
    model_bytes: int
    saved_bytes: int
    train_live_bytes: int
    train_peak_bytes: int
    train_steps: int
    train_tokens: int
    train_work: Work
    ask_live_bytes: int
    ask_work: Work


def student_footprint(
    section: StudentSection,
    task: TaskDefinition,
    prompt: Prompt,
    training: Training,
    data: TrainingSet,
    asked: Sequence[Example],
    *,
    batch_size: int,
    seed: int = 0,
) -> StudentFootprint:
    """Train a student symbolically: two steps of its largest pass, after what comes before them.

    Args:
        data: What it would learn from; values of soft labels are not looked at.
        asked: Queries it is then asked.
        batch_size: How many of these at once.

    Raises:
        StillshotError: What making the student would raise.
    """
    with symbolic() as ledger:
        with load.configurations_only():
            student = Student.create(section, task, prompt)
        student.model.to(load.best_device())
        # Drawing random weights takes more for a moment; files are read where they are needed.
        resolved = resolve_model(section.model, section.revision)
        created = ledger.peak if resolved.is_random else ledger.live
        ask_live_bytes, ask_work = _ask(ledger, student, asked, batch_size)
        rows = [{**row, "row": at} for at, row in enumerate(data.rows(student, training.hard_label_weight))]
        arguments = training_arguments(section, training, student, len(rows), Path("planned"), seed, 0.0)
        ledger.restart()
        trial = _Trial(student, arguments, rows, ledger)
        work = trial.run()
    parameters, trainable = count_parameters(student.model)
    weights = list(student.model.parameters())
    saved = [p for p in weights if p.requires_grad] if section.tuning == "lora" else weights
    return StudentFootprint(
        parameters=parameters,
        trainable_parameters=trainable,
        model_bytes=sum(p.nbytes for p in weights),
        saved_bytes=sum(p.nbytes for p in saved),
        train_live_bytes=max(created, ledger.peak),
        train_peak_bytes=max(
            created,
            process_bytes(
                ledger.peak - _unread(student, resolved, rows),
                trial.transient_bytes,
                trial.kernels,
                "training",
            ),
        )
        + tokenizer_bytes(student.tokenizer),
        train_steps=trial.steps,
        train_tokens=trial.tokens,
        train_work=work,
        ask_live_bytes=ask_live_bytes,
        ask_work=ask_work,
    )


def _ask(ledger: Ledger, student: Student, asked: Sequence[Example], batch_size: int) -> tuple[int, Work]:
    """The most that is alive when the longest queries are asked, and the work of asking all."""
    ledger.restart()
    if not asked:
        return ledger.peak, Work()
    features = sorted(student.featurizer.features(asked), key=lambda row: row["length"], reverse=True)
    inputs = student.featurizer.pad(features[:batch_size])
    before = ledger.work
    student.model.eval()
    with torch.no_grad():
        student.model(**_placed(inputs))
    lengths = [row["length"] for row in features]
    share = sum(lengths) / (len(lengths[:batch_size]) * lengths[0])
    return ledger.peak, (ledger.work - before) * share


def _unread(student: Student, resolved: ResolvedModel, rows: Sequence[Feature]) -> int:
    """Bytes that no token needs of an embedding that does not train, where it is not the output's as well."""
    transformer = transformer_of(student.model)
    if transformer is None or student.head == "channel":
        return 0
    table = transformer.get_input_embeddings()
    if any(parameter.requires_grad for parameter in table.parameters()):
        return 0
    tokens = {token for row in rows for token in row["input_ids"]}
    return load.unread_bytes(resolved, transformer, [table], tokens)


class _Trial:
    """A symbolic training: two steps of passes that occur in it, with all that is kept between them.

    Attributes:
        steps: Steps of the whole training.
        tokens: Tokens with padding that go through the model in all of it.
        kernels: Different shapes of products in all of it.
        transient_bytes: What of the peak comes and goes with a pass; known after :meth:`run`.
    """

    def __init__(
        self,
        student: Student,
        arguments: ContextDistillationConfig,
        rows: Sequence[Feature],
        ledger: Ledger,
    ) -> None:
        self.model: Any = student.model
        self.arguments, self.rows, self.ledger = arguments, rows, ledger
        self.pad, self.label_tokens = student.featurizer.pad, student.label_tokens
        self.lengths = [row["length"] for row in rows]
        self.frozen: FrozenStates | None = None
        self.kernels = self.transient_bytes = 0
        epochs = int(arguments.num_train_epochs)
        looked_at = min(epochs, _EPOCHS_LOOKED_AT)
        batches = [parts for epoch in range(looked_at) for parts in self._batches(epoch)]
        self.scale = epochs / looked_at
        self.parts = sorted((part for parts in batches for part in parts), key=_size)
        self.several = any(len(parts) > 1 for parts in batches)
        self.steps = round(len(batches) * self.scale)
        self.tokens = round(sum(_size(part)[0] for part in self.parts) * self.scale)

    def _batches(self, epoch: int) -> list[list[Batch]]:
        """An epoch's batches, each in its passes."""
        arguments = self.arguments
        size = arguments.per_device_train_batch_size
        sampler = BucketSampler(self.lengths, size, arguments.bucket_batches, arguments.seed)
        sampler.set_epoch(epoch)
        order = list(sampler)
        found = []
        for at in range(0, len(order), size):
            batch = collate([self.rows[row] for row in order[at : at + size]], self.pad)
            found.append(in_passes(batch, arguments.pass_tokens))
        return found

    def run(self) -> Work:
        """Work of the whole training; the ledger has the peak."""
        largest = self.parts[-1]
        if self.arguments.activation_checkpointing:
            self.model.activation_checkpointing_enable()
        settled = lean(
            self.model,
            longest=max(self.lengths),
            autocast=self.arguments.bf16,
            on_cpu=load.best_device().type == "cpu",
        )
        with settled, frozen_in_evaluation(self.model):
            reading = self._freeze()
            trained = [p for p in self.model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
            _fill_gradients(trained)
            before = self.ledger.work
            optimizer.step()
            stepping = self.ledger.work - before
            optimizer.zero_grad()
            between = self.ledger.live
            if self.several:  # the gradients of a batch's first pass are there during its next
                _fill_gradients(trained)
            passing = self._pass(largest)
        self.transient_bytes = self.ledger.peak - between
        self.kernels = self.ledger.product_shapes * len({_size(part) for part in self.parts})
        by_tokens, by_passes = self.tokens / _size(largest)[0], len(self.parts) * self.scale
        each = replace(passing * by_tokens, calls=passing.calls * by_passes)
        return each + stepping * self.steps + reading

    def _freeze(self) -> Work:
        """Keep the states of frozen layers for all rows, as a training does; the work of computing them."""
        before = self.ledger.work

        def forward(rows: list[int]) -> Tensor:
            batch = collate([self.rows[row] for row in rows], self.pad)
            self.model.eval()
            with self._autocast():
                return outputs_of(self.model, _placed(batch)).logits

        self.frozen = FrozenStates.of(self.model, self.lengths, forward)
        if self.frozen is None:
            return Work()
        self.frozen.assume()
        # The first group has the shortest rows; the others are counted by their tokens.
        return (self.ledger.work - before) * (sum(self.lengths) / self.frozen.first_group_tokens)

    def _pass(self, part: Batch) -> Work:
        before = self.ledger.work
        self.model.train()
        width = part["attention_mask"].shape[-1]
        known = self.frozen.replayed(part["row"].tolist(), width) if self.frozen else nullcontext()
        placed = _placed(part)
        with known:
            with self._autocast():
                logits = outputs_of(self.model, placed).logits
            batch_loss(logits, placed, self.arguments, self.label_tokens).backward()
        return self.ledger.work - before

    def _autocast(self) -> Any:
        if not self.arguments.bf16:
            return nullcontext()
        return torch.autocast(load.best_device().type, torch.bfloat16)


def _fill_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)


def _size(part: Batch) -> tuple[int, int]:
    """Tokens with padding, and the width, by which attention grows."""
    return part["attention_mask"].numel(), part["attention_mask"].shape[-1]


def _placed(batch: Batch) -> Batch:
    device = load.best_device()
    return {name: value.to(device) for name, value in batch.items()}
