"""A decoder student in llama.cpp, with neither Stillshot nor PyTorch.

    stillshot export runs/first --to gguf -o exports/first
    python examples/llama_cpp_gguf.py exports/first/gguf "a stirring film" "no movement, no yuks"

The package xllamacpp is llama.cpp's server inside this process. `llama-server -m exports/first/gguf/model.gguf` takes the
same request at /v1/completions.
"""

import json
import sys
from pathlib import Path

import xllamacpp

folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
if student["head"] == "channel":
    sys.exit(f"{folder} has a channel head, which scores whole texts; this is for label words.")
template, (field,) = student["template"], student["task"]["fields"]
label_of = dict(zip(student["exported"]["label_tokens"], student["labels"], strict=True))

parameters = xllamacpp.CommonParams()
parameters.model.path = str(folder / student["exported"]["file"])
parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 2048, 1, -1
server = xllamacpp.Server(parameters)

for text in texts:
    request = {
        "prompt": template.replace(f"{{{field}}}", text),
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
