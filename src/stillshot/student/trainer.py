"""Context distillation over ``transformers.Trainer``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from stillshot.student.features import Feature
from stillshot.student.frozen import FrozenStates, frozen_in_evaluation, training_layers
from stillshot.student.lean import lean, passes
from stillshot.student.losses import distillation_loss, vocabulary_targets

_CHECKPOINT = "trained.safetensors"
_TARGETS = ("soft_labels", "label", "row_weight")
_OTHERS = (*_TARGETS, "row")  # what a batch holds besides the model's inputs


@dataclass
class ContextDistillationConfig(TrainingArguments):
    """Arguments of :class:`ContextDistillationTrainer`, on top of ``TrainingArguments``."""

    temperature: float = field(
        default=1.0, metadata={"help": "Temperature of teacher and student distributions in the loss."}
    )
    beta: float = field(
        default=0.0, metadata={"help": "Divergence: 0 forward KL, 0.5 Jensen-Shannon, 1 reverse KL."}
    )
    checkpoint_seconds: float = field(
        default=120.0, metadata={"help": "Save a checkpoint when so many seconds have passed since the last."}
    )
    bucket_batches: int = field(
        default=8,
        metadata={"help": "Batches are formed from items of similar length among so many batches' worth."},
    )
    pass_tokens: int | None = field(
        default=None,
        metadata={
            "help": "A batch goes through the model in passes of at most so many tokens with padding, whose "
            "gradients add up. This bounds the memory of activations. None: in one pass."
        },
    )
    compile_layers: bool = field(
        default=False,
        metadata={"help": "Compile the layers that train; pays for long trainings, and needs a compiler."},
    )


class ContextDistillationTrainer(Trainer):
    """Trains a student on soft labels (divergence) and labelled demonstrations (cross-entropy).

    A row of ``train_dataset`` holds the model's inputs and ``soft_labels`` (probabilities over the label
    set, from a teacher that saw the context), ``label`` (a label's index, or -100 for a row taught by
    its soft labels) and ``row_weight`` (:func:`stillshot.student.losses.row_weights`; 1 if absent). Logits
    are over the label set, so no vocabulary-wide tensor is built, and any teacher can teach any student. With
    ``label_tokens`` they are over a vocabulary, and so is the loss
    (:func:`stillshot.student.losses.vocabulary_targets`); any teacher can teach still.

    Training is lean (:mod:`stillshot.student.lean`), and layers below all that trains run once for each row
    without dropout (:mod:`stillshot.student.frozen`).

    Other arguments are those of ``transformers.Trainer``; with ``peft_config`` the model is wrapped first.

    Args:
        pad: Pads a list of rows' inputs into tensors (:meth:`stillshot.student.features.Featurizer.pad`).
        label_tokens: The token of each label, for a model whose logits are over its vocabulary.
    """

    def __init__(
        self,
        model: Any = None,
        args: ContextDistillationConfig | None = None,
        *,
        pad: Callable[[Sequence[Feature]], dict[str, Tensor]],
        label_tokens: Sequence[int] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
    ) -> None:
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        self._pad, self._label_tokens = pad, label_tokens
        args = args or ContextDistillationConfig(output_dir="stillshot-student")
        args.remove_unused_columns = False
        args.label_names = list(_TARGETS)  # so that evaluation also goes through `compute_loss`
        super().__init__(
            model=model,
            args=args,
            data_collator=lambda rows: collate(rows, pad),
            train_dataset=None if train_dataset is None else _Numbered(train_dataset),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[*(callbacks or []), TimedCheckpoints(args.checkpoint_seconds)],
            optimizers=optimizers,
        )
        # The loss is a mean over rows: accumulated batches are averaged, not divided by a count of tokens.
        self.model_accepts_loss_kwargs = False
        self._frozen: FrozenStates | None = None
        self._frozen_is_known = False

    def train(self, *args: Any, **settings: Any) -> Any:
        """See ``transformers.Trainer.train``."""
        longest = max((row["length"] for row in self.train_dataset), default=0)  # type: ignore[union-attr]
        half, on_cpu = self.args.bf16 or self.args.fp16, self.args.device.type == "cpu"
        self._frozen_is_known = False
        model: Any = self.model
        try:
            compiled = training_layers(model) if self.args.compile_layers else ()  # type: ignore[union-attr]
            settled = lean(model, longest=longest, autocast=half, on_cpu=on_cpu, compiled=compiled)
            with settled, frozen_in_evaluation(model):
                return super().train(*args, **settings)
        finally:
            self._frozen = None

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One batch's loss and gradients, in passes of at most ``args.pass_tokens`` tokens."""
        # Several processes must do the same passes, and DeepSpeed counts them to know when a step is due.
        alone = self.args.world_size == 1 and self.args.n_gpu <= 1 and not self.is_deepspeed_enabled
        limit = self.args.pass_tokens if alone else None  # type: ignore[union-attr]
        if alone and not self._frozen_is_known:
            self._frozen_is_known = True
            self._frozen = self._frozen_states(model)
        losses = []
        for part in in_passes(inputs, limit):
            width = part["attention_mask"].shape[-1]
            known = self._frozen.replayed(part["row"].tolist(), width) if self._frozen else nullcontext()
            with known:
                losses.append(super().training_step(model, part, num_items_in_batch))
        return torch.stack(losses).sum()

    def _frozen_states(self, model: Any) -> FrozenStates | None:
        rows: Any = self.train_dataset

        def forward(positions: list[int]) -> Tensor:
            model.eval()
            inputs = collate([rows[position] for position in positions], self._pad)
            return outputs_of(model, self._prepare_inputs(inputs)).logits  # type: ignore[arg-type]

        return FrozenStates.of(model, [row["length"] for row in rows], forward)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """See ``transformers.Trainer``; the warm-up ends before the last step, or nothing would be learned."""
        warmup = min(self.args.get_warmup_steps(num_training_steps), max(0, num_training_steps - 1))
        self.args.warmup_steps = warmup
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The distillation loss of a batch; see :func:`stillshot.student.losses.distillation_loss`."""
        outputs = outputs_of(model, inputs)
        loss = batch_loss(outputs.logits, inputs, self.args, self._label_tokens)  # type: ignore[arg-type]
        return (loss, outputs) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write what a checkpoint needs: the weights that train. The others are as they were loaded."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(trained, folder / _CHECKPOINT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put a checkpoint's weights back."""
        target: Any = model if model is not None else self.model
        target.load_state_dict(load_file(Path(resume_from_checkpoint) / _CHECKPOINT), strict=False)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [row["length"] for row in dataset]  # type: ignore[union-attr]
        # What one step takes, of all processes together: the same rows, however it is cut into parts.
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return BucketSampler(lengths, size, self.args.bucket_batches, self.args.seed)  # type: ignore[union-attr]


def outputs_of(model: Any, batch: Mapping[str, Any]) -> Any:
    """What a model gives for a batch from :func:`collate`."""
    return model(**inputs_of(batch))


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is given of a batch from :func:`collate`."""
    return {name: value for name, value in batch.items() if name not in _OTHERS}


def batch_loss(
    logits: Tensor,
    batch: Mapping[str, Any],
    args: ContextDistillationConfig,
    label_tokens: Sequence[int] | None = None,
) -> Tensor:
    """The loss of a batch from :func:`collate`; see :func:`stillshot.student.losses.distillation_loss`.

    Args:
        label_tokens: The token of each label, where logits are over a vocabulary.
    """
    soft_labels, labels, row_weight = (batch[name] for name in _TARGETS)
    if label_tokens is not None:
        soft_labels, labels = vocabulary_targets(soft_labels, labels, label_tokens, logits.shape[-1])
    return distillation_loss(
        logits, soft_labels, labels, row_weight, beta=args.beta, temperature=args.temperature
    )


def in_passes(batch: dict[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    """A batch from :func:`collate` in passes of at most ``limit`` tokens; see :func:`stillshot.student.lean.passes`."""
    return passes(batch, limit, _OTHERS) if limit else [batch]


def collate(
    rows: Sequence[Feature], pad: Callable[[Sequence[Feature]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """A padded batch with its targets."""
    inputs = [{name: value for name, value in row.items() if name not in _OTHERS} for row in rows]
    return {
        **pad(inputs),
        "soft_labels": torch.tensor([row["soft_labels"] for row in rows], dtype=torch.float32),
        "label": torch.tensor([row.get("label", -100) for row in rows]),
        "row_weight": torch.tensor([row.get("row_weight", 1.0) for row in rows], dtype=torch.float32),
        "row": torch.tensor([row.get("row", -1) for row in rows]),
    }


class _Numbered(Dataset):
    """A data set whose rows know their place."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Feature:
        return {**self.rows[index], "row": index}


class BucketSampler(Sampler[int]):
    """A random order in which neighbours have similar lengths, so that batches hold little padding.

    Items are shuffled, cut into buckets of some batches' worth, sorted by length within a bucket, and
    the batches shuffled again. The order depends on the seed and the epoch alone.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, bucket_batches: int, seed: int) -> None:
        self.lengths, self.batch_size = lengths, batch_size
        self.bucket = max(1, bucket_batches) * batch_size
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; called by the data loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"batches:{self.seed}:{self.epoch}")
        order = rng.sample(range(len(self.lengths)), len(self.lengths))
        buckets = [order[at : at + self.bucket] for at in range(0, len(order), self.bucket)]
        ordered = [item for bucket in buckets for item in sorted(bucket, key=self.lengths.__getitem__)]
        whole = len(ordered) - len(ordered) % self.batch_size
        batches = [ordered[at : at + self.batch_size] for at in range(0, whole, self.batch_size)]
        rng.shuffle(batches)
        yield from (item for batch in batches for item in batch)
        yield from ordered[whole:]


class TimedCheckpoints(TrainerCallback):
    """Asks for a checkpoint by the clock, so that short trainings write none and long ones lose little."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint when it is time."""
        if time.monotonic() - self._last >= self.seconds and state.global_step < state.max_steps:
            control.should_save = True
            self._last = time.monotonic()
