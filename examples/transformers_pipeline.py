"""A merged student in plain transformers, without Stillshot.

stillshot export runs/first --to merged -o exports/first
python examples/transformers_pipeline.py exports/first/merged "a stirring film" "no movement, no yuks"
python examples/transformers_pipeline.py exports/pairs/merged '["a text", "and the other one, where an encoder reads two"]'
"""

import json
import sys
from pathlib import Path

from transformers import pipeline

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
if (folder / "adapter_config.json").is_file():
    sys.exit(
        f"{folder} has adapters; merge them with `stillshot export`, or ask it with examples/peft_adapter.py."
    )
if student["head"] != "label":
    sys.exit(f"{folder} has the head {student['head']!r}; this is for label heads.")
template, (field, *others) = student["template"], student["task"]["fields"]
if template and others:
    sys.exit(
        f"{folder} answers to {field}, {', '.join(others)} together; of a decoder, this is for one text."
    )
# An encoder reads its fields as they are, and the pipeline cuts them.
cut = {} if template else {"truncation": True, "max_length": student["max_tokens"]}

classify = pipeline("text-classification", model=str(folder), top_k=None)


def read(text: str) -> str | dict[str, str]:
    """What the student reads: an encoder its fields, a decoder its template, in which the text is cut as in training."""
    if template is None:
        first, *rest = json.loads(text) if others else [text]
        return {"text": first, "text_pair": " ".join(rest)} if rest else first
    while True:
        prompt = template.replace(f"{{{field}}}", text)
        excess = len(classify.tokenizer(prompt).input_ids) - student["max_tokens"]
        if excess <= 0:
            return prompt
        spans = classify.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        text = text[: min(spans[-1 - excess][1], spans[-excess][0])]  # whole characters


for scores in classify([read(text) for text in texts], **cut):
    print(json.dumps({score["label"]: round(score["score"], 4) for score in scores}))
