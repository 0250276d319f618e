"""A merged student in plain transformers, without Stillshot.

stillshot export runs/first --to merged -o exports/first
python examples/transformers_pipeline.py exports/first/merged "a stirring film" "no movement, no yuks"
"""

import json
import sys
from pathlib import Path

from transformers import pipeline

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
if len(student["task"]["fields"]) > 1:
    sys.exit(f"{folder} answers to {', '.join(student['task']['fields'])} together; this is for one text.")
if student["head"] != "label":
    sys.exit(f"{folder} has the head {student['head']!r}; this is for label heads.")
template, (field,) = student["template"], student["task"]["fields"]
# An encoder reads the field as it is, and the pipeline cuts it.
cut = {} if template else {"truncation": True, "max_length": student["max_tokens"]}

classify = pipeline("text-classification", model=str(folder), top_k=None)


def written(text: str) -> str:
    """What a decoder reads: its template, which must not be cut, with the text, cut at its end as in training."""
    while True:
        prompt = template.replace(f"{{{field}}}", text)
        excess = len(classify.tokenizer(prompt).input_ids) - student["max_tokens"]
        if excess <= 0:
            return prompt
        spans = classify.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        text = text[: spans[-1 - excess][1]]


for scores in classify([written(text) if template else text for text in texts], **cut):
    print(json.dumps({score["label"]: round(score["score"], 4) for score in scores}))
