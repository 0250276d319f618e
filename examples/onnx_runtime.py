"""A student in ONNX Runtime, with neither Stillshot nor PyTorch nor transformers.

stillshot export runs/first --to onnx-int8 -o exports/first
python examples/onnx_runtime.py exports/first/onnx-int8 "a stirring film" "no movement, no yuks"
python examples/onnx_runtime.py exports/pairs/onnx '["a text", "and the other one, where an encoder reads two"]'
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
template, (field, *others) = student["template"], student["task"]["fields"]
if template and others:
    sys.exit(
        f"{folder} answers to {field}, {', '.join(others)} together; of a decoder, this is for one text."
    )

tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.no_truncation()
# Whether special tokens that a text spells out are text; a tokenizer's own file does not hold it.
settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
if template is None:  # a decoder answers at its template's end, which must not be cut
    tokenizer.enable_truncation(student["max_tokens"])
session = onnxruntime.InferenceSession(folder / student["exported"]["file"])
wanted = {node.name for node in session.get_inputs()}


def read(text: str) -> Encoding:
    """What the student reads: an encoder its fields, a decoder its template, in which the text is cut as in training."""
    if template is None:
        first, *rest = json.loads(text) if others else [text]
        return tokenizer.encode(first, " ".join(rest) if rest else None)
    while True:
        encoded = tokenizer.encode(template.replace(f"{{{field}}}", text))
        excess = len(encoded) - student["max_tokens"]
        if excess <= 0:
            return encoded
        spans = tokenizer.encode(text, add_special_tokens=False).offsets
        text = text[: min(spans[-1 - excess][1], spans[-excess][0])]  # whole characters


for text in texts:
    encoded = read(text)
    inputs = {
        "input_ids": encoded.ids,
        "attention_mask": encoded.attention_mask,
        "token_type_ids": encoded.type_ids,
    }
    (logits,) = session.run(["logits"], {name: np.array([inputs[name]]) for name in wanted})
    odds = np.exp(logits[0].astype(float) - logits[0].max())
    print(json.dumps(dict(zip(student["labels"], (odds / odds.sum()).round(4).tolist(), strict=True))))
