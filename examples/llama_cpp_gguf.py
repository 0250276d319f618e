"""A decoder student in llama.cpp, with neither Stillshot nor PyTorch.

stillshot export runs/first --to gguf -o exports/first
pip install llama-cpp-python
python examples/llama_cpp_gguf.py exports/first/gguf "a stirring film" "no movement, no yuks"
"""

import json
import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama

folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
labels, template, (field,) = student["labels"], student["template"], student["task"]["fields"]
exported = student["exported"]

model = Llama(
    str(folder / exported["file"]), n_ctx=student["student"]["max_tokens"], logits_all=True, verbose=False
)
for text in texts:
    model.reset()
    model.eval(model.tokenize(template.replace(f"{{{field}}}", text).encode(), add_bos=True, special=False))
    logits = model.scores[
        model.n_tokens - 1, exported["label_tokens"]
    ]  # of the next token, at the labels alone
    odds = np.exp(logits - logits.max())
    print(json.dumps(dict(zip(labels, (odds / odds.sum()).round(4).tolist(), strict=True))))
