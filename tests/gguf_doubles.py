"""Tiny GGUF files, and llama.cpp's own answers on them."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# What splits differ in: letters of several scripts and cases, contractions, digits, white space, signs, accents that
# are characters of their own, line ends behind signs.
_PIECES = (
    "the", "The", "THE", "don't", "I'LL", "we'Ve", "123", "4", "7,000", "3.14", "١٢٣", "naïve", "日本", "語です", "안녕",
    "привет", "😀", "—", "...", "!?", "$5", "a_b", "foo()", "x=1", "http://a.b/c", " ", "  ", "   ", "\n", "\n\n", "\r\n",
    "\t", "\u00a0", "\u3000", "/", "\\", "'", '"', "ª²", "Ⅷ", "½", "A1b2", "CamelCase", "<b>", "=>", "//\n",
)  # fmt: skip
ACCENTS = ("e\u0301", "\u0301", "n\u0303o")  # accents that are characters of their own


def texts(count: int, seed: int, pieces: Sequence[str] = _PIECES, longest: int = 8) -> list[str]:
    """Texts in which all pieces meet each other."""
    drawn = random.Random(seed)
    return ["".join(drawn.choices(pieces, k=drawn.randint(1, longest))) for _ in range(count)]


@cache
def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of bytes, learned without any split: so merges cross every border that a split draws."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(texts(4000, 0, (*_PIECES, *ACCENTS)), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [
        " ".join(pair) for pair in model["merges"]
    ]


def write_gguf(
    path: Path,
    split: str | None = "gpt-2",
    *,
    tied: bool = True,
    without: str | None = None,
    extra: dict[str, Any] | None = None,
    scaling: str | None = None,
    architecture: str = "llama",
) -> Path:
    """A decoder of two layers with random weights, blocks of eight bits, and :func:`vocabulary`.

    Args:
        split: ``tokenizer.ggml.pre``.
        without: A tensor that is left out.
        extra: More tensors, by name.
        scaling: ``llama.rope.scaling.type``.
    """
    gguf = pytest.importorskip("gguf")
    tokens, merges = vocabulary()
    hidden, heads, layers = 64, 4, 2
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(96)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
        writer.add_rope_scaling_factor(4.0)
    writer.add_tokenizer_model("gpt2")
    if split is not None:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    drawn = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), hidden)}
    if not tied:
        shapes["output.weight"] = (len(tokens), hidden)
    for layer in range(layers):
        for name, shape in {
            "attn_q": (hidden, hidden), "attn_k": (hidden // 2, hidden), "attn_v": (hidden // 2, hidden),
            "attn_output": (hidden, hidden), "ffn_gate": (96, hidden), "ffn_up": (96, hidden), "ffn_down": (hidden, 96),
            "attn_norm": (hidden,), "ffn_norm": (hidden,),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}.weight"] = shape
    shapes["output_norm.weight"] = (hidden,)
    for name, shape in shapes.items():
        if name == without:
            continue
        values = (drawn.normal(size=shape) * 0.3 + (len(shape) == 1)).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def llama_cpp(file: Path) -> Iterator[Any]:
    """A function from a text to llama.cpp's tokens of it, without begin and end tokens."""
    xllamacpp = pytest.importorskip("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 64, 1, 0
    settings.warmup, settings.verbosity = False, -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    server.handle_completions({"prompt": "a", "max_tokens": 1})

    def tokens(text: str) -> list[int]:
        asked = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            data=json.dumps({"content": text}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)["tokens"]

    yield tokens
