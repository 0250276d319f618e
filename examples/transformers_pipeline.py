"""A merged student in plain transformers, without Stillshot.

stillshot export runs/first --to merged -o exports/first
python examples/transformers_pipeline.py exports/first/merged "a stirring film" "no movement, no yuks"
"""

import json
import sys
from pathlib import Path

from transformers import pipeline

folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
(field,) = student["task"]["fields"]
# The text that a decoder was trained to read; an encoder reads the field as it is.
template = student["template"] or f"{{{field}}}"

classify = pipeline("text-classification", model=str(folder), top_k=None)
for scores in classify([template.replace(f"{{{field}}}", text) for text in texts]):
    print(json.dumps({score["label"]: round(score["score"], 4) for score in scores}))
