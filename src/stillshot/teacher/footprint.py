"""What asking a teacher would take, from its configuration and its prompts' lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from stillshot.config import Teacher as TeacherSection
from stillshot.models import load
from stillshot.models.footprint import Work, process_bytes, symbolic, tokenizer_bytes
from stillshot.prompt.writer import ScoredPrompt, ScoredSequence
from stillshot.teacher.int8_choice import known_choice
from stillshot.teacher.local import LocalTeacher, common_prefix_length
from stillshot.teacher.packing import batch_of, batches, rows_of
from stillshot.teacher.protocol import ModelLike


@dataclass(frozen=True)
class TeacherFootprint:
    """What a teacher takes that is asked the prompts of one context.

    Attributes:
        model_bytes: Its weights as they are held.
        live_bytes: The most that is alive: weights, the context's keys and values, a batch's activations.
        peak_bytes: What a process takes for it (:func:`stillshot.models.footprint.process_bytes`), and for its tokenizer.
        prompt_tokens: Tokens with padding of all batches, the context's own once.
        work: Work of asking all of the prompts, their context read once.
    """

    parameters: int
    model_bytes: int
    live_bytes: int
    peak_bytes: int
    prompt_tokens: int
    work: Work


class PlannedTeacher(LocalTeacher):
    """A teacher without weights: what it would do is counted, not done."""

    def __init__(self, settings: TeacherSection) -> None:
        super().__init__(settings)
        self._batch_tokens = settings.batch_tokens

    @cached_property
    def model(self) -> ModelLike:
        """The model as its configuration has it; made within :func:`stillshot.models.footprint.symbolic`."""
        with load.configurations_only():
            return super().model

    @cached_property
    def is_int8(self) -> bool:
        """Work is counted in 16 bits; what int8 saves in memory is taken off where a footprint is made."""
        return False

    def _int8_saves(self) -> int:
        """Bytes that the weights of layers take less in int8."""
        known = (
            self._settings.dtype == "auto" and not self._resolved.is_random and known_choice(self._weights)
        )
        if self._settings.dtype != "int8" and not known:
            return 0
        layers = (layer for layer in self.model.base_model.modules() if type(layer) is torch.nn.Linear)
        return sum(layer.weight.nbytes - layer.weight.numel() for layer in layers)

    def footprint(
        self, prompts: Sequence[ScoredPrompt], label_tokens: Sequence[int] | None, contexts: int = 1
    ) -> TeacherFootprint:
        """Read the prompts' context and score their largest batch, symbolically.

        Args:
            prompts: Prompts of one context, as for :meth:`score`, the longest among them.
            label_tokens: As for :meth:`score`.
            contexts: How many contexts like this one are asked, one after the other.
        """
        sequences = [sequence for prompt in prompts for sequence in prompt.sequences]
        length = 0 if self.prefix_mode == "none" else common_prefix_length(sequences)
        with symbolic() as ledger:
            self.__dict__.pop("model", None)  # a fake tensor belongs to the mode it was made in
            weights = list(self.model.parameters())
            saved = self._int8_saves()
            created = ledger.peak if self._resolved.is_random else ledger.live
            ledger.restart()
            with torch.no_grad():
                prefix = self._read_prefix(sequences[0].ids[:length]) if length else None
            reading = ledger.work
            rows = rows_of(prompts, length, share=self._shares_queries)
            groups = batches(rows, self._batch_tokens)
            each = [batch_of([row for at in group for row in rows[at]], length) for group in groups]
            largest = max(each, key=lambda batch: batch.tokens.numel())
            held = ledger.live
            with torch.no_grad():
                self._scores(self._states(largest, prefix), largest, label_tokens)
            scoring = ledger.work - reading
        kernels = ledger.product_shapes * len({batch.tokens.shape for batch in each}) * contexts
        read = ledger.peak - self._unread(sequences, label_tokens)
        peak = process_bytes(read, ledger.peak - held, kernels, "asking")
        tokens = sum(batch.tokens.numel() for batch in each)
        by_tokens = scoring * (tokens / largest.tokens.numel())
        return TeacherFootprint(
            parameters=sum(p.numel() for p in weights),
            model_bytes=sum(p.nbytes for p in weights) - saved,
            live_bytes=max(created, ledger.peak) - saved,
            peak_bytes=max(peak, created) - saved + tokenizer_bytes(self.encoder.tokenizer),
            prompt_tokens=length + tokens,
            work=reading + replace(by_tokens, calls=scoring.calls * len(each)),
        )

    def _unread(self, sequences: Sequence[ScoredSequence], label_tokens: Sequence[int] | None) -> int:
        """Bytes of the embeddings that no token needs, where no whole vocabulary is scored."""
        if label_tokens is None:
            return 0
        tables = (self.model.get_input_embeddings(), self.model.get_output_embeddings())
        tokens = {token for sequence in sequences for token in sequence.ids}
        return load.unread_bytes(self._resolved, self.model, tables, tokens)
