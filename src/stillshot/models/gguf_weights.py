"""The weights of a GGUF file as safetensors, a tensor at a time.

transformers knows which of a file's tensors becomes which weight of its models, and how it is to be turned; reading
through it as a whole keeps all tensors in memory twice. Here they are read, rounded and written one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillshot.errors import ModelError
from stillshot.models.trust import check_config

Progress = Callable[[int, int], None]  # (tensors done, of how many)

# Of one file of weights: a few tensors of the largest models, and little beside what computes.
_SHARD_BYTES = 256 * 2**20
# Rows of an embedding that are unpacked at a time.
_ROWS = 8192
# Tables of embeddings, which no architecture turns or scales on the way, and may be read in parts.
_TABLES = ("token_embd.weight", "output.weight")
_ROPE_FACTORS = "rope_freqs.weight"
# What Llama 3 was published with (Grattafiori et al. 2024); files hold the factors alone, not where they come from.
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_FACTORS, _LLAMA3_WINDOW = (8.0, 32.0, 16.0), 8192


def write_weights(file: Path, folder: Path, progress: Progress) -> None:
    """Write configuration and weights, in bfloat16, of a GGUF file into a folder that transformers loads.

    Takes the memory of some tensors at a time, not that of the model.

    Raises:
        ModelError: It holds an architecture, tensors or a scaling of positions that transformers does not read, or lacks
            some of the model's weights.
    """
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    try:
        facts, _ = read_gguf_metadata(str(file))
        architecture = facts["general.architecture"]
        config: Any = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        reader = GGUFReader(file)
        reader.fields.clear()  # half a gigabyte of objects for a vocabulary, not needed for the weights
    except Exception as error:  # damaged, foreign, or of an architecture that is not known
        raise _unreadable(file, str(error).strip().split("\n")[0]) from error
    check_config(str(file), config)
    _check_positions(file, facts.get(f"{architecture}.rope.scaling.type"), reader.tensors, config)
    if not _is_streamed(architecture):
        _write_at_once(file, folder)
        return
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    processor: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    names: dict[str, str] = get_gguf_hf_weights_map(model, processor)
    merged: dict[str, Tensor] = {}  # what several tensors of the file become together
    shards, unknown = _Shards(folder), []
    for done, found in enumerate(reader.tensors):
        progress(done, len(reader.tensors))
        if found.name in _TABLES and found.name in names:
            shards.add(names[found.name], _table(found))
            continue
        if found.name == _ROPE_FACTORS:  # read with the configuration
            continue
        result = processor.process(
            weights=_unpacked(found),
            name=found.name,
            tensor_key_mapping=names,
            parsed_parameters={"tensors": merged},
        )
        if result.name is None:
            continue
        if result.name not in names:
            unknown.append(found.name)
            continue
        shards.add(names[result.name], torch.from_numpy(np.array(result.weights)))
    for name, values in merged.items():
        shards.add(name, values)
    _check_complete(file, model, shards, unknown)
    shards.finish()
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(folder)
    progress(len(reader.tensors), len(reader.tensors))


class _Shards:
    """Weights on their way into the files of a folder, with an index where there are several."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, Tensor] = {}
        self._files: list[tuple[Path, list[str]]] = []
        self.names: set[str] = set()
        self._total = 0

    def add(self, name: str, values: Tensor) -> None:
        """Round a weight to bfloat16 and keep it for the next file."""
        self._waiting[name] = values.to(torch.bfloat16).contiguous()
        self.names.add(name)
        if sum(tensor.nbytes for tensor in self._waiting.values()) >= _SHARD_BYTES:
            self._write()

    def _write(self) -> None:
        from safetensors.torch import save_file

        file = self._folder / f"part-{len(self._files)}.safetensors"
        save_file(self._waiting, file, metadata={"format": "pt"})
        self._total += sum(tensor.nbytes for tensor in self._waiting.values())
        self._files.append((file, list(self._waiting)))
        self._waiting = {}

    def finish(self) -> None:
        """Write what is left, and give the files the names that transformers looks for."""
        if self._waiting:
            self._write()
        if len(self._files) == 1:
            self._files[0][0].rename(self._folder / "model.safetensors")
            return
        places = {}
        for number, (file, names) in enumerate(self._files, 1):
            name = f"model-{number:05}-of-{len(self._files):05}.safetensors"
            file.rename(self._folder / name)
            places |= dict.fromkeys(names, name)
        index = {"metadata": {"total_size": self._total}, "weight_map": places}
        (self._folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2), encoding="utf-8"
        )


def _unpacked(found: Any) -> Any:
    from gguf import dequantize

    return dequantize(found.data, found.tensor_type)


def _table(found: Any) -> Tensor:
    """A table of embeddings, unpacked by rows: as a whole, its float32 values are the largest thing in a file."""
    from gguf import dequantize

    rows = len(found.data)
    table = None
    for start in range(0, rows, _ROWS):
        part = torch.from_numpy(dequantize(found.data[start : start + _ROWS], found.tensor_type))
        if table is None:
            table = torch.empty(rows, part.shape[1], dtype=torch.bfloat16)
        table[start : start + len(part)] = part
    assert table is not None
    return table


def _is_streamed(architecture: str) -> bool:
    """Whether transformers turns this architecture's tensors one at a time; a few go another way."""
    from transformers.integrations.gguf.utils import is_gguf_arch_supported

    return not is_gguf_arch_supported(architecture)


def _write_at_once(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        trust_remote_code=False,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)


def _check_complete(file: Path, model: Any, shards: _Shards, unknown: list[str]) -> None:
    if unknown:
        raise _unreadable(file, f"transformers has no place for its {_some(unknown)}")
    tied = (
        set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    )
    missing = [name for name, _ in model.named_parameters() if name not in shards.names and name not in tied]
    if missing:
        raise _unreadable(file, f"it lacks {_some(missing)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _unreadable(file: Path, reason: str) -> ModelError:
    return ModelError(
        f"The GGUF file {file} cannot be read: {reason}. Use the model's own folder or Hub id instead, or another file of it."
    )


def _check_positions(file: Path, scaling: str | None, tensors: Sequence[Any], config: Any) -> None:
    """Take up what the file says of scaled positions; transformers reads past it.

    Raises:
        ModelError: It says what cannot be taken up.
    """
    if scaling not in (None, "none"):
        raise _unreadable(
            file, f"its positions are scaled ({scaling}), which transformers does not take from it"
        )
    factors = next((found for found in tensors if found.name == _ROPE_FACTORS), None)
    if factors is None:
        return
    values = torch.from_numpy(_unpacked(factors).astype(np.float64))
    if torch.all(values == 1):
        return
    for settings in _llama3_settings(config):
        if torch.allclose(_factors(config, settings), values, rtol=1e-3):
            config.rope_parameters = settings
            return
    raise _unreadable(file, "its positions are scaled by factors that are not those of Llama 3")


def _llama3_settings(config: Any) -> Iterator[dict[str, Any]]:
    theta = config.rope_parameters["rope_theta"]
    for factor in _LLAMA3_FACTORS:
        yield {
            **_LLAMA3,
            "factor": factor,
            "original_max_position_embeddings": _LLAMA3_WINDOW,
            "rope_theta": theta,
        }


def _factors(config: Any, settings: dict[str, Any]) -> Tensor:
    """What each frequency is divided by."""
    from copy import deepcopy

    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled = deepcopy(config)
    scaled.rope_parameters = settings
    found, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, torch.device("cpu"))
    plain = settings["rope_theta"] ** -(
        torch.arange(0, 2 * len(found), 2, dtype=torch.float64) / (2 * len(found))
    )
    return plain / found.double()
