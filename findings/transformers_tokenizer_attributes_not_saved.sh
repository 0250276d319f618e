#!/usr/bin/env bash
# What is set on a tokenizer after it was made is lost when it is saved, without a word.
#
# transformers 5.23.0. `split_special_tokens` (read "<eos>" in a text as characters, so that a text cannot end a turn),
# `padding_side` and `truncation_side` are public attributes. `save_pretrained` writes the arguments that the
# tokenizer was made with, so a value that was set later is not in the saved folder, and the tokenizer that is loaded
# from there reads "<eos>" in a text as the end token again, and pads and cuts on the other side. Special tokens,
# `model_max_length` and the chat template, set in the same way, are saved. Given to the constructor, all of them are.
#
# What one would guess: a setting that can be set is saved, as a special token is.
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
export HF_HUB_OFFLINE=1
venv/bin/python - <<'PY'
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print("transformers", transformers.__version__)
alphabet = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]


def made(**settings):
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", **settings)


def read_again(tokenizer, name):
    tokenizer.save_pretrained(name)
    again = AutoTokenizer.from_pretrained(name)
    before, after = (len(found("a<eos>").input_ids) for found in (tokenizer, again))
    kept = (after, again.padding_side, again.truncation_side, again.pad_token, again.model_max_length)
    print(f"{name}: tokens of 'a<eos>' before saving {before}, after {after}; padding {again.padding_side}, truncation",
          f"{again.truncation_side}, padding token {again.pad_token}, longest {again.model_max_length}")
    return kept


settings = {"split_special_tokens": True, "padding_side": "left", "truncation_side": "left", "model_max_length": 99}
by_attribute = made()
for name, value in {**settings, "pad_token": "<eos>"}.items():
    setattr(by_attribute, name, value)
by_argument = made(**settings, pad_token="<eos>")
ok = read_again(by_attribute, "set-as-attributes") == (2, "right", "right", "<eos>", 99)
ok &= read_again(by_argument, "given-as-arguments") == (6, "left", "left", "<eos>", 99)
print("as described" if ok else "CHANGED")
raise SystemExit(0 if ok else 1)
PY
