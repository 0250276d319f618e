"""Load configurations, tokenizers and models behind resolved ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from stillshot.errors import ModelError, StillshotError
from stillshot.hub import hub_access
from stillshot.models.output import architecture_gives_own_logits, gives_own_logits
from stillshot.models.random_weights import random_config, random_tokenizer
from stillshot.models.resolve import ResolvedModel, not_downloaded
from stillshot.models.trust import check_config, check_folder, code_refusal, is_refused_code
from stillshot.types import Dtype

M = TypeVar("M")

# Auto classes list encoders such as BERT as causal models too; these read in both directions.
_ENCODERS = {
    "albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "megatron-bert", "modernbert", "mpnet", "nomic_bert", "rembert", "roberta", "roberta-prelayernorm", "roformer",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
_WINDOW_NAMES = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_target_positions",
)  # fmt: skip
# Models whose first token has the position behind the padding token's id, whatever that is; and the third, always.
_POSITIONS_BEHIND_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
_POSITIONS_FROM_TWO = {"mpnet"}
_OTHER_VOCABULARIES = ("tekken.json", "tiktoken.model", "tokenizer.model")  # which transformers converts
_weightless: ContextVar[bool] = ContextVar("weightless", default=False)
_on_load: ContextVar[Callable[[], None] | None] = ContextVar("on_load", default=None)
# What the system maps at once around a place in a file that is read (Linux).
_BLOCK_BYTES = 64 * 1024
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def best_device() -> torch.device:
    """The accelerator where there is one, else the processor."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def choose_dtype(name: Dtype) -> torch.dtype:
    """The named dtype; ``auto`` is bfloat16 where the device computes in it natively, else float32."""
    if name != "auto":
        return _DTYPES[name]
    device = best_device()
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        native = able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16")
        return torch.bfloat16 if native else torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def load_config(resolved: ResolvedModel) -> Any:
    """The model's configuration.

    Raises:
        ModelError: The model is not found, the Hub cannot be reached, or the configuration names code that is not
            transformers' own.
    """
    if resolved.is_random:
        return random_config(resolved.location)
    config = _explained(resolved, AutoConfig.from_pretrained)
    check_config(resolved.id, config)
    return config


def load_tokenizer(resolved: ResolvedModel) -> Any:
    """The model's tokenizer, padding on the right.

    Raises:
        ModelError: The model is not found or the Hub cannot be reached.
    """
    if resolved.is_random:
        tokenizer = random_tokenizer(resolved.location)
    else:
        tokenizer = _explained(resolved, AutoTokenizer.from_pretrained)
        _check_vocabulary(resolved, tokenizer)
    tokenizer.padding_side = "right"
    return tokenizer


def _check_vocabulary(resolved: ResolvedModel, tokenizer: Any) -> None:
    """See that a folder has the tokenizer's vocabulary: without it, transformers makes one that knows no words.

    Raises:
        ModelError: It has none of the files that it may be in.
    """
    folder, files = Path(resolved.location), list(tokenizer.vocab_files_names.values())
    known = [folder / file for file in (*files, *_OTHER_VOCABULARIES)]
    if files and folder.is_dir() and not any(file.is_file() for file in known):
        raise ModelError(
            f"The model {resolved.id!r} cannot be loaded: the folder lacks its tokenizer's vocabulary "
            f"({' or '.join(files)}). Copy the whole folder again."
        )


def is_encoder(config: Any) -> bool:
    """Whether the model reads in both directions, and so cannot be a teacher or start from label words."""
    return config.model_type in _ENCODERS or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def window(config: Any) -> int:
    """Tokens the model can read; a large number where it has no limit."""
    text = config.get_text_config()
    limits = [getattr(text, name, None) for name in _WINDOW_NAMES]
    positions = next((int(limit) for limit in limits if isinstance(limit, int) and limit > 0), 1_000_000)
    return positions - _first_position(text)


def _first_position(config: Any) -> int:
    """The row of the table of positions that the first token has; the rows before it are never read."""
    if config.model_type in _POSITIONS_FROM_TWO:
        return 2
    if config.model_type in _POSITIONS_BEHIND_PADDING:
        return int(getattr(config, "pad_token_id", None) or 0) + 1
    return 0


def padding_token_id(tokenizer: Any) -> int:
    """The token that rows are filled up with: the padding token, else the end-of-sequence token.

    Raises:
        ModelError: The tokenizer has neither.
    """
    for found in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if found is not None:
            return int(found)
    raise ModelError(
        f"The tokenizer of {str(tokenizer.name_or_path)!r} has neither a padding nor an end-of-sequence token, so texts of "
        "different lengths cannot stand in one batch. Set pad_token in its tokenizer_config.json, or use another model."
    )


@contextmanager
def configurations_only() -> Iterator[None]:
    """Within it, models are built from their configurations, and no weights are read: to plan with."""
    token = _weightless.set(True)
    try:
        yield
    finally:
        _weightless.reset(token)


@contextmanager
def on_load(call: Callable[[], None]) -> Iterator[None]:
    """Within it, ``call`` is called each time a model has been loaded, before it computes anything."""
    token = _on_load.set(call)
    try:
        yield
    finally:
        _on_load.reset(token)


def _told(model: M) -> M:
    """Call what :func:`on_load` was given: the model has been loaded."""
    if call := _on_load.get():
        call()
    return model


def check_causal(model: str, config: Any, *, scored: bool = False) -> None:
    """See that a model of this configuration reads from left to right; no weights are loaded.

    Args:
        model: Its id, for messages.
        config: Its configuration.
        scored: Whether its logits are also to be those of ``output_logits``, as far as its architecture tells.

    Raises:
        ModelError: It is an encoder, has an encoder, or would be scored wrongly.
    """
    if is_encoder(config) or getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{model} ({config.model_type}) is not a causal language model, so it can neither be a "
            "teacher nor keep a language-model head. Use a decoder, e.g. bundled:smollm2-135m."
        )
    if scored and not architecture_gives_own_logits(config):
        raise _other_logits(model, config)


def _other_logits(model: str, config: Any) -> ModelError:
    return ModelError(
        f"{model} ({config.model_type}) does more between its last states and its logits than is done here, so "
        "it would be scored wrongly. Use another model, e.g. bundled:smollm2-135m."
    )


def load_causal_lm(
    resolved: ResolvedModel, dtype: torch.dtype, *, check_logits: bool = True
) -> PreTrainedModel:
    """A causal language model on the processor, in evaluation mode.

    Args:
        resolved: Where it is.
        dtype: Of its weights.
        check_logits: Whether it is refused where its logits are not those of ``output_logits``.

    Raises:
        ModelError: It is not a causal language model, is not found, or would be scored wrongly.
    """
    config = load_config(resolved)
    check_causal(resolved.id, config)
    if resolved.is_random or _weightless.get():
        torch.manual_seed(0)
        return _told(new_causal_lm(config, dtype).eval())
    model = _told(_explained(resolved, AutoModelForCausalLM.from_pretrained, dtype=dtype).eval())
    if check_logits:
        check_own_logits(resolved, model)
    return model


def new_causal_lm(config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model of a configuration, its weights drawn."""
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def check_own_logits(resolved: ResolvedModel, model: Any) -> None:
    """See that a model's logits are those of ``output_logits``; a few tokens are read, and so all of its weights.

    Raises:
        ModelError: It would be scored wrongly.
    """
    if not gives_own_logits(model):
        raise _other_logits(resolved.id, model.config)


def unread_bytes(resolved: ResolvedModel, model: Any, tables: Iterable[Any], rows: Iterable[int]) -> int:
    """Bytes of tables that are only looked up, and so never come into memory from a file.

    None, where weights are not mapped from a file: random ones, on an accelerator, or in another dtype.

    Args:
        model: Made from the configuration of ``resolved``.
        tables: Its layers that are only looked up; null and what is tied to another are passed over.
        rows: What is looked up in them.
    """
    mapped = not resolved.is_random and best_device().type == "cpu"
    if not mapped or getattr(load_config(resolved), "dtype", None) != model.dtype:
        return 0
    weights = {id(table.weight): table.weight for table in tables if table is not None}
    wanted, unread = set(rows), 0
    for weight in weights.values():
        row_bytes = weight.nbytes // len(weight)
        blocks = {row * row_bytes // _BLOCK_BYTES for row in wanted}
        unread += max(0, weight.nbytes - len(blocks) * _BLOCK_BYTES)
    return unread


def load_classifier(resolved: ResolvedModel, dtype: torch.dtype, **settings: Any) -> PreTrainedModel:
    """A sequence-classification model; see :func:`load_new_classifier`."""
    return load_new_classifier(resolved, dtype, **settings)[0]


def load_new_classifier(
    resolved: ResolvedModel, dtype: torch.dtype, **settings: Any
) -> tuple[PreTrainedModel, frozenset[str]]:
    """A sequence-classification model, and the names of its layers that are fresh, as the weights have none.

    The score layer is one, of an encoder that was made for something else often a pooler too. ``settings`` go into the
    configuration (labels, padding token).

    Raises:
        ModelError: The architecture has no sequence-classification class, or the model is not found.
    """
    config = load_config(resolved)
    for name, value in settings.items():
        setattr(config, name, value)
    if resolved.is_random or _weightless.get():
        torch.manual_seed(0)
        return _told(new_classifier(resolved.id, config, dtype)), frozenset()
    _check_classifies(resolved.id, config)
    model, found = _explained(
        resolved,
        AutoModelForSequenceClassification.from_pretrained,
        config=config,
        dtype=dtype,
        output_loading_info=True,
    )
    return _told(model), frozenset(name.rpartition(".")[0] for name in found["missing_keys"])


def new_classifier(model: str, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """A sequence-classification model of a configuration, its weights drawn.

    Args:
        model: Its id, for messages.
        config: Its configuration, with the labels where they matter.
        dtype: Of its weights.

    Raises:
        ModelError: The architecture has no sequence-classification class, or cannot be built with these sizes.
    """
    _check_classifies(model, config)
    try:
        return AutoModelForSequenceClassification.from_config(config, dtype=dtype, trust_remote_code=False)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{model} ({config.model_type}) cannot be a classifier: {error}") from error


def _check_classifies(model: str, config: Any) -> None:
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"{model} ({config.model_type}) cannot be a classifier: transformers has no sequence-classification class for "
            "it. Use head: channel or language_model, or another model."
        )


def _explained(resolved: ResolvedModel, load: Callable[..., Any], **settings: Any) -> Any:
    """Load from a folder or the Hub without running code of the model's own; say in one message why it cannot be had.

    Raises:
        ModelError: Whatever a damaged, foreign or absent model makes the libraries raise.
    """
    folder = Path(resolved.location)
    reachable = None
    try:
        if folder.is_dir():
            check_folder(folder)
            return load(resolved.location, trust_remote_code=False, **settings)
        with hub_access() as reachable:
            return load(resolved.location, revision=resolved.revision, trust_remote_code=False, **settings)
    except (MemoryError, StillshotError):
        raise
    except SafetensorError as error:
        raise ModelError(
            f"The weights of {resolved.id} cannot be read; they may be damaged or cut short ({error}). Copy the folder here "
            "again, or train the student again."
        ) from error
    except Exception as error:  # readers of damaged or odd files raise whatever they stumble over
        if is_refused_code(error):
            raise code_refusal(resolved.id) from None
        if reachable is False and isinstance(error, OSError):
            raise not_downloaded(resolved.id) from error
        raise ModelError(
            f"The model {resolved.id!r} cannot be loaded: {_reason(error)}. "
            + (
                "See that the folder is whole, or copy it again."
                if folder.is_dir()
                else "Check the id and the network, or use a local folder, bundled:smollm2-135m or bundled:minilm-l6."
            )
        ) from error


def _reason(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__
