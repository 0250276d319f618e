"""A teacher that runs here: a causal language model whose context is read once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from stillshot.config import Teacher as TeacherSection
from stillshot.errors import ModelError, WorkError
from stillshot.models import load
from stillshot.models.output import label_logits, token_log_probabilities
from stillshot.models.resolve import resolve_model, weights_fingerprint
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import ScoredPrompt, ScoredSequence
from stillshot.teacher import attention
from stillshot.teacher.packing import Batch, batch_of, batches, rows_of
from stillshot.teacher.protocol import ModelLike

logger = logging.getLogger(__name__)
PrefixMode = Literal["shared", "repeat", "none"]
_MODES: tuple[PrefixMode, ...] = ("shared", "repeat", "none")  # the fastest first


class LocalTeacher:
    """Scores prompts with a local causal language model.

    Weights are loaded at the first prompt that must be scored, so a run whose soft labels are all
    stored never loads them. The common token prefix of a call's prompts is computed once:
    ``shared`` attends to it without copies, ``repeat`` copies its keys and values into each batch,
    ``none`` reads every prompt in full. All give the same scores up to rounding.

    Raises:
        ModelError: The model is not found, is no causal language model, or cannot serve ``prefix``.
    """

    def __init__(self, settings: TeacherSection) -> None:
        self._settings = settings
        self._resolved = resolve_model(settings.model, settings.revision)
        self._config = load.load_config(self._resolved)
        load.check_causal(settings.model, self._config)
        self._dtype = load.choose_dtype(settings.dtype)
        self._encoder = PromptEncoder(load.load_tokenizer(self._resolved))
        self.prefix_mode = self._choose_prefix_mode()

    @property
    def encoder(self) -> PromptEncoder:
        return self._encoder

    @property
    def window(self) -> int:
        return load.window(self._config)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self._config

    @property
    def fingerprint(self) -> str:
        return f"{self._weights} {str(self._dtype).removeprefix('torch.')}"

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self._resolved)

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are in memory."""
        return "model" in vars(self)

    @cached_property
    def model(self) -> ModelLike:
        """The weights, on the best device."""
        model: ModelLike = load.load_causal_lm(self._resolved, self._dtype)
        model = model.to(load.best_device())
        if self.prefix_mode == "shared":
            model.set_attn_implementation(attention.NAME)
        return model

    def score(
        self,
        prompts: Sequence[ScoredPrompt],
        label_tokens: Sequence[int] | None,
        skip: Collection[int] = (),
        wants: Callable[[Sequence[int]], bool] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """See :meth:`stillshot.teacher.protocol.Teacher.score`."""
        if all(position in skip for position in range(len(prompts))):
            return
        sequences = [sequence for prompt in prompts for sequence in prompt.sequences]
        length = 0 if self.prefix_mode == "none" else common_prefix_length(sequences)
        prefix = self._read_prefix(sequences[0].ids[:length]) if length else None
        rows = rows_of(prompts, length, share=self._shares_queries)
        for positions in batches(rows, self._settings.batch_tokens):
            if all(position in skip for position in positions) or not (wants is None or wants(positions)):
                continue
            batch = batch_of([row for position in positions for row in rows[position]], length)
            with torch.inference_mode():
                scores = self._scores(self._states(batch, prefix), batch, label_tokens)
            if not torch.isfinite(scores).all():
                raise WorkError(
                    f"{self._settings.model} gave scores that are not finite in {self._dtype}. Set "
                    "teacher.dtype to float32."
                )
            yield np.array(positions), scores.view(len(positions), -1).cpu().double().numpy()

    @property
    def _shares_queries(self) -> bool:
        """Whether a prompt's sequences are read as one tree: masks are for the processor's kernel."""
        return self.prefix_mode == "shared" and self.model.device.type == "cpu"

    def _choose_prefix_mode(self) -> PrefixMode:
        asked = self._settings.prefix
        kind = self._config.model_type
        able: dict[PrefixMode, bool] = {
            "shared": attention.supports(self._config),
            "repeat": attention.can_repeat(self._config),
            "none": True,
        }
        best: PrefixMode = next(mode for mode in _MODES if able[mode])
        if asked == "auto":
            if best != "shared":
                _say_fallback(self._settings.model, kind, best)
            return best
        if not able[asked]:
            raise ModelError(
                f"{self._settings.model} ({kind}) has an attention that teacher.prefix {asked} does not serve. "
                f"Set it to auto or {best}."
            )
        return asked

    def _read_prefix(self, ids: tuple[int, ...]) -> attention.SharedPrefix | DynamicCache:
        tokens = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            if self.prefix_mode == "shared":
                prefix = attention.SharedPrefix()
                positions = torch.arange(len(ids), device=tokens.device).unsqueeze(0)
                with attention.attending(prefix, record=True):
                    self.model.base_model(tokens, position_ids=positions, use_cache=False)
                return prefix
            return self.model.base_model(tokens, use_cache=True).past_key_values

    def _states(self, batch: Batch, prefix: attention.SharedPrefix | DynamicCache | None) -> Tensor:
        """The last hidden states that predict scored tokens, shape ``(scored, hidden)``."""
        device = self.model.device
        inputs: dict[str, Any] = {
            "input_ids": batch.tokens.to(device),
            "position_ids": batch.positions.to(device),
            "use_cache": False,
        }
        if isinstance(prefix, DynamicCache):
            inputs |= {
                "past_key_values": _repeated(prefix, len(batch.tokens), self._config),
                "use_cache": True,
            }
        with attention.attending(
            prefix if isinstance(prefix, attention.SharedPrefix) else None, mask=batch.mask
        ):
            hidden = self.model.base_model(**inputs).last_hidden_state
        return hidden.flatten(0, 1)[batch.states.to(device)]

    def _scores(self, states: Tensor, batch: Batch, label_tokens: Sequence[int] | None) -> Tensor:
        """Log-scores: those of the label tokens, ``(sequences, labels)``, or one a sequence."""
        if label_tokens is not None:
            return label_logits(self.model, states, label_tokens)
        found = token_log_probabilities(self.model, states, batch.targets.to(states.device))
        total = torch.zeros(batch.num_sequences, device=states.device)
        return total.index_add(0, batch.owners.to(states.device), found)


@cache
def _say_fallback(model: str, kind: str, mode: PrefixMode) -> None:
    how = "copied to every query" if mode == "repeat" else "read again for every query"
    logger.warning(
        "%s (%s) has an attention that a shared prefix does not serve: the context is %s, which is slower.",
        model,
        kind,
        how,
    )


def common_prefix_length(sequences: Sequence[ScoredSequence]) -> int:
    """Tokens that all sequences begin with, leaving each the token before what is scored."""
    shortest = min(sequence.scored_from for sequence in sequences) - 1
    low, high = sequences[0].ids, sequences[0].ids
    for sequence in sequences:  # the smallest and the largest differ where any two do
        low, high = min(low, sequence.ids), max(high, sequence.ids)
    for length in range(min(shortest, len(low), len(high))):
        if low[length] != high[length]:
            return length
    return max(0, min(shortest, len(low), len(high)))


def _repeated(prefix: DynamicCache, rows: int, config: object) -> DynamicCache:
    """A cache in which every row has the prefix."""
    cache = DynamicCache(config=config)  # type: ignore[arg-type]
    for index, layer in enumerate(prefix.layers):
        keys, values = (getattr(layer, name).expand(rows, -1, -1, -1) for name in ("keys", "values"))
        cache.update(keys, values, index)
    return cache
