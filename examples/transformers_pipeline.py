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
if student["head"] != "label":
    sys.exit(f"{folder} has the head {student['head']!r}; this is for label heads.")
(field,) = student["task"]["fields"]
# The text that a decoder was trained to read; an encoder reads the field as it is.
template = student["template"] or f"{{{field}}}"

cut = {} if student["template"] else {"truncation": True, "max_length": student["student"]["max_tokens"]}

classify = pipeline("text-classification", model=str(folder), top_k=None)
for scores in classify([template.replace(f"{{{field}}}", text) for text in texts], **cut):
    print(json.dumps({score["label"]: round(score["score"], 4) for score in scores}))
