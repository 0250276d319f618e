"""A LoRA student in plain PEFT, without Stillshot: its adapters on the model they were trained on.

python examples/peft_adapter.py runs/first/students/CELL "a stirring film" "no movement, no yuks"
"""

import json
import sys
from pathlib import Path

import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

if len(sys.argv) < 3:
    sys.exit(__doc__)
folder, texts = Path(sys.argv[1]), sys.argv[2:]
if not (folder / "adapter_config.json").is_file():
    sys.exit(f"{folder} has no adapters; examples/transformers_pipeline.py asks it.")
student = json.loads((folder / "stillshot.json").read_text(encoding="utf-8"))
if len(student["task"]["fields"]) > 1:
    sys.exit(f"{folder} answers to {', '.join(student['task']['fields'])} together; this is for one text.")
if student["head"] != "label":
    sys.exit(f"{folder} has the head {student['head']!r}; this is for label heads.")
if (
    json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    is None
):
    sys.exit(
        f"{folder} has adapters on random weights, which PEFT finds nowhere. Put both together with `stillshot export "
        f"{folder} --to merged`; examples/transformers_pipeline.py asks that."
    )
labels, (field,) = student["labels"], student["task"]["fields"]
template = student["template"] or f"{{{field}}}"
# A decoder answers at its template's end, which must not be cut.
cut = {} if student["template"] else {"truncation": True, "max_length": student["max_tokens"]}

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels)).eval()


def read(text: str) -> list[int]:
    """The tokens of the template with the text in it; what is too long is cut at the text's end, as in training."""
    while True:
        ids = tokenizer(template.replace(f"{{{field}}}", text), **cut).input_ids
        excess = len(ids) - student["max_tokens"]
        if excess <= 0:
            return ids
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        text = text[: min(spans[-1 - excess][1], spans[-excess][0])]  # whole characters


for text in texts:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([read(text)])).logits
    probabilities = logits.float().softmax(-1)[0].tolist()
    print(json.dumps({label: round(p, 4) for label, p in zip(labels, probabilities, strict=True)}))
