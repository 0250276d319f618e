"""A decoder student in llama.cpp, with neither Stillshot nor PyTorch nor transformers.

    stillshot export runs/first --to gguf -o exports/first
    python examples/llama_cpp_gguf.py exports/first/gguf "a stirring film" "no movement, no yuks"

The package xllamacpp is llama.cpp's server inside this process. `llama-server -m exports/first/gguf/model.gguf` takes the
same request at /v1/completions.
"""

import json
import sys
from pathlib import Path

import xllamacpp
from tokenizers import Tokenizer

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
if len(student["task"]["fields"]) > 1:
    sys.exit(f"{folder} answers to {', '.join(student['task']['fields'])} together; this is for one text.")
if student["head"] == "channel":
    sys.exit(f"{folder} has a channel head, which scores whole texts; this is for label words.")
template, (field,) = student["template"], student["task"]["fields"]
label_of = dict(zip(student["exported"]["label_tokens"], student["labels"], strict=True))

tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.no_truncation()
# Whether special tokens that a text spells out are text; a tokenizer's own file does not hold it.
settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
parameters = xllamacpp.CommonParams()
parameters.model.path = str(folder / student["exported"]["file"])
parameters.n_ctx, parameters.n_parallel, parameters.verbosity = student["max_tokens"] + 1, 1, -1
server = xllamacpp.Server(parameters)


def read(text: str) -> list[int]:
    """The tokens of the template with the text in it; what is too long is cut at the text's end, as in training."""
    while True:
        ids = tokenizer.encode(template.replace(f"{{{field}}}", text)).ids
        excess = len(ids) - student["max_tokens"]
        if excess <= 0:
            return ids
        spans = tokenizer.encode(text, add_special_tokens=False).offsets
        text = text[: min(spans[-1 - excess][1], spans[-excess][0])]  # whole characters


for text in texts:
    request = {
        "prompt": read(text),
        "max_tokens": 1,
        "temperature": 1.0,
        "samplers": ["temperature"],
        # Lifted alike above all other tokens, so one of the labels is chosen, with the student's probabilities.
        "logit_bias": [[token, 100.0] for token in label_of],
        "n_probs": len(label_of),
        "post_sampling_probs": True,
    }
    (answer,) = server.handle_completions(request)["choices"][0]["logprobs"]["content"]
    print(json.dumps({label_of[row["id"]]: round(row["prob"], 4) for row in answer["top_probs"]}))
