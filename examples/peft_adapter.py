"""A LoRA student in plain PEFT, without Stillshot: its adapters on the model they were trained on.

python examples/peft_adapter.py runs/first/students/CELL "a stirring film" "no movement, no yuks"
"""

import json
import sys
from pathlib import Path

import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

folder, texts = Path(sys.argv[1]), sys.argv[2:]
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
if student["head"] != "label":
    sys.exit(f"{folder} has the head {student['head']!r}; this is for label heads.")
labels, (field,) = student["labels"], student["task"]["fields"]
template = student["template"] or f"{{{field}}}"
cut = {} if student["template"] else {"truncation": True, "max_length": student["student"]["max_tokens"]}

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels)).eval()
for text in texts:
    inputs = tokenizer(
        template.replace(f"{{{field}}}", text), return_tensors="pt", return_token_type_ids=False, **cut
    )
    with torch.inference_mode():
        probabilities = model(**inputs).logits.float().softmax(-1)[0].tolist()
    print(json.dumps({label: round(p, 4) for label, p in zip(labels, probabilities, strict=True)}))
