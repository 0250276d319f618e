#!/usr/bin/env bash
# A text-classification pipeline that is given a pair as a tuple answers by its first text, and says nothing.
#
# transformers 5.23.0. Other libraries take pairs of texts as tuples, so `classify([(premise, hypothesis)])` is tried
# first. The pipeline gives the tuple to the tokenizer, which takes it for a batch of two texts; both are classified, and
# the answer to the first row is returned as the answer to the pair. The second text has no influence at all. Where the
# two texts differ in length, the tokenizer asks for padding first; with padding the wrong answer comes. A pair as a
# dictionary with `text` and `text_pair` is read as a pair, and a list is refused with a hint at that form.
#
# What one would guess: a pair is read as a pair, or refused as a list is.
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 torch==2.13.0
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python - <<'PY'
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast, pipeline

print("transformers", transformers.__version__)
backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate("<pad> <unk> <s> rain sun falls shines it".split())}, "<unk>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 2)])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", model_input_names=["input_ids", "attention_mask"]
)
torch.manual_seed(1)
config = DistilBertConfig(vocab_size=8, dim=16, n_layers=1, n_heads=2, hidden_dim=16, initializer_range=0.6)
classify = pipeline("text-classification", DistilBertForSequenceClassification(config).eval(), tokenizer=tokenizer)


def scores(found):
    return [round(row["score"], 4) for row in sorted(found, key=lambda row: row["label"])]


first, seconds = "rain falls", ["sun shines", "it shines it shines", "it falls"]
settings = {"top_k": None, "padding": True}
as_tuples = [scores(row) for row in classify([(first, second) for second in seconds], **settings)]
as_pairs = [scores(row) for row in classify([{"text": first, "text_pair": second} for second in seconds], **settings)]
alone = scores(classify([first], top_k=None)[0])
print(f"{first!r} alone: {alone}")
for second, as_tuple, as_pair in zip(seconds, as_tuples, as_pairs, strict=True):
    print(f"with {second!r}: as a tuple {as_tuple}, as a dictionary {as_pair}")
try:
    classify([[first, second] for second in seconds])
    listed = "answered"
except ValueError:
    listed = "refused"
print("as lists:", listed)
ok = listed == "refused" and all(row == alone for row in as_tuples) and all(row != alone for row in as_pairs)
print("as described" if ok else "CHANGED")
raise SystemExit(0 if ok else 1)
PY
