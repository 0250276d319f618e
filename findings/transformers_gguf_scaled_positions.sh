#!/usr/bin/env bash
# transformers reads past the scaled positions of a Llama 3 GGUF.
#
# transformers 5.23.0, gguf 0.19.0, llama.cpp in xllamacpp 2026.10.11549. Llama 3.1 and later slow down the lower frequencies
# of their rotary positions. llama.cpp's converter writes this as a tensor, `rope_freqs.weight`, of what each frequency is
# divided by, and no key. transformers has no place for the tensor and drops it without a warning: the configuration says
# `rope_type: default`, and logits are those of the same file without the tensor. llama.cpp's next-token probabilities differ
# between the two files, as they should. Short prompts are read with other positions than the model was trained with, too.
#
# What one would guess: scaled positions, or a warning.
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 torch==2.13.0 \
    accelerate==1.15.0 gguf==0.19.0 xllamacpp==2026.10.11549
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python - <<'PY'
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
import xllamacpp
from transformers import AutoModelForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

TOKENS = ["<s>", "</s>", *bytes_to_unicode().values(), "ab"]
HIDDEN, HEADS, WORDS = 64, 4, len(TOKENS)
IDS = [5 + index % 90 for index in range(200)]


def write(path, factors):
    """A decoder of one layer with random weights; positions as they are, or divided by `factors`."""
    drawn = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (WORDS - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd.weight": (WORDS, HIDDEN), "output.weight": (WORDS, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for name, shape in {
        "attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,), "ffn_gate": (96, HIDDEN), "ffn_up": (96, HIDDEN),
        "ffn_down": (HIDDEN, 96),
    }.items():
        shapes[f"blk.0.{name}.weight"] = shape
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else drawn.normal(size=shape) * 0.4
        writer.add_tensor(name, values.astype(np.float32))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_transformers(path):
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        return model.config.rope_parameters, model(torch.tensor([IDS])).logits[0, -1].softmax(-1).numpy()


def by_llama_cpp(path):
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(path), 512, 1
    parameters.n_gpu_layers, parameters.warmup, parameters.verbosity = 0, False, -1
    server = xllamacpp.Server(parameters)
    answer = server.handle_completions(
        {"prompt": IDS, "max_tokens": 1, "temperature": 1.0, "samplers": ["temperature"], "n_probs": WORDS,
         "post_sampling_probs": True}
    )
    found = {row["id"]: row["prob"] for row in answer["choices"][0]["logprobs"]["content"][0]["top_probs"]}
    return np.array([found.get(index, 0.0) for index in range(WORDS)])


plain, scaled = Path("plain.gguf"), Path("scaled.gguf")
write(plain, None)
write(scaled, np.geomspace(1, 32, HIDDEN // HEADS // 2))
print("transformers", transformers.__version__)
(_, first), (positions, second) = by_transformers(plain), by_transformers(scaled)
ours = float(np.abs(first - second).max())
theirs = float(np.abs(by_llama_cpp(plain) - by_llama_cpp(scaled)).max())
print("positions of the scaled file:", positions)
print(f"largest difference between the files' probabilities: transformers {ours:.4f}, llama.cpp {theirs:.4f}")
ok = positions["rope_type"] == "default" and ours == 0 and theirs > 0.01
print("as described" if ok else "CHANGED")
raise SystemExit(0 if ok else 1)
PY
