"""A teacher that runs here: a causal language model whose context is read once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from stillshot.config import Teacher as TeacherSection
from stillshot.errors import ModelError, WorkError
from stillshot.memory import keeping_freed
from stillshot.models import int8, load
from stillshot.models.output import label_logits, token_log_probabilities
from stillshot.models.resolve import resolve_model, weights_fingerprint
from stillshot.models.structure import layers_of
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import ScoredPrompt, ScoredSequence
from stillshot.teacher import attention, int8_choice
from stillshot.teacher.packing import Batch, batch_of, batches, rows_of
from stillshot.teacher.protocol import ModelLike
from stillshot.working import tell

logger = logging.getLogger(__name__)
PrefixMode = Literal["shared", "repeat", "none"]
_COMPILED_TOKENS = 4000
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
        self._check_dtype()
        self.prefix_mode = self._choose_prefix_mode()
        self._is_compiled = False

    @property
    def encoder(self) -> PromptEncoder:
        return self._encoder

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return PromptEncoder(load.load_tokenizer(self._resolved))

    @property
    def window(self) -> int:
        return load.window(self._config)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self._config

    @property
    def fingerprint(self) -> str:
        return f"{self._weights} {'int8' if self.is_int8 else str(self._dtype).removeprefix('torch.')}"

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self._resolved)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the weights that are not in int8, and of all that lies between products."""
        return load.choose_dtype("auto" if self._settings.dtype == "int8" else self._settings.dtype)

    @cached_property
    def is_int8(self) -> bool:
        """Whether its products are in int8; where the recipe leaves it open, this is tried once for a model."""
        if self._settings.dtype != "auto":
            return self._settings.dtype == "int8"
        if not self._may_be_int8:
            return False
        return int8_choice.choose(
            self._settings.model,
            self._weights,
            lambda dtype: LocalTeacher(self._settings.model_copy(update={"dtype": dtype})),
        )

    @property
    def _may_be_int8(self) -> bool:
        able = load.best_device().type == "cpu" and int8.is_able() and self._dtype == torch.bfloat16
        if not able or self._resolved.is_random:
            return False
        with torch.device("meta"):
            body: Any = load.new_causal_lm(self._config, self._dtype).base_model
        products = sum(layer.weight.numel() for layer in body.modules() if type(layer) is torch.nn.Linear)
        return products >= int8_choice.LEAST_PARAMETERS

    def _check_dtype(self) -> None:
        if self._settings.dtype == "int8" and (load.best_device().type != "cpu" or not int8.is_able()):
            raise ModelError(
                "teacher.dtype int8 is for processors with products of int8 (VNNI or AMX), which this machine does not "
                "compute on. Set it to auto."
            )

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are in memory."""
        return "model" in vars(self)

    @cached_property
    def model(self) -> ModelLike:
        """The weights, on the best device."""
        model: ModelLike = load.load_causal_lm(self._resolved, self._dtype, check_logits=not self.is_int8)
        model = model.to(load.best_device())
        if self.is_int8:
            name = self._settings.model
            int8.to_int8(model, lambda done, total: tell(name, "rounding its layers to int8", done, total))
            if not self._resolved.is_random:
                load.check_own_logits(self._resolved, model)  # not before: all weights would be read at once
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
        if self.is_int8:
            self._compile_for(sum(len(row.tokens) for group in rows for row in group))
        for positions in batches(rows, self._settings.batch_tokens):
            if all(position in skip for position in positions) or not (wants is None or wants(positions)):
                continue
            batch = batch_of([row for position in positions for row in rows[position]], length)
            with torch.inference_mode(), keeping_freed() if self.is_int8 else nullcontext():
                scores = self._scores(self._states(batch, prefix), batch, label_tokens)
            if not torch.isfinite(scores).all():
                raise WorkError(
                    f"{self._settings.model} gave scores that are not finite in {self._dtype}. Set "
                    "teacher.dtype to float32."
                )
            yield np.array(positions), scores.view(len(positions), -1).cpu().double().numpy()

    def _compile_for(self, tokens: int) -> None:
        """Compile the layers where so much is asked that this pays: it takes as long as some thousand tokens."""
        layers = layers_of(self.model.base_model)
        if self._is_compiled or layers is None or tokens < _COMPILED_TOKENS or not int8.can_compile():
            return
        self._is_compiled = True
        for layer in layers:
            layer.compile(dynamic=True)

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


def settle_dtype(settings: TeacherSection) -> None:
    """Try a teacher in int8 where that is left open, so that no measured work tries it; what is found is remembered."""
    if settings.dtype == "auto":
        _ = LocalTeacher(settings).is_int8


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
