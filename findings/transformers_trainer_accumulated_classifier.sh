#!/usr/bin/env bash
# Trainer makes the gradient of an ordinary classifier larger by the number of accumulated batches.
#
# transformers 5.23.0. A sequence classifier returns the mean loss of a batch. Trainer assumes that a model which takes
# extra keyword arguments divides its loss by the number of items of the whole step, and so does not divide by
# `gradient_accumulation_steps`; classifiers take such arguments and do not divide. Eight rows in four batches of two
# then have four times the gradient of the same eight rows in one batch. Adam hides most of it; clipping, weight decay,
# SGD and the loss that is logged do not. With a loss of one's own in `compute_loss`, rows that carry a "labels"
# column are scaled the same way, rows without one are right.
#
# What one would guess: the same rows have the same gradient, however they are cut into batches.
# Exits 0 while this is so, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 accelerate==1.15.0
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python - <<'PY'
import torch
import transformers
from transformers import ElectraConfig, ElectraForSequenceClassification, Trainer, TrainingArguments

transformers.utils.logging.set_verbosity_error()
print("transformers", transformers.__version__)
generator = torch.Generator().manual_seed(3)
tokens = torch.randint(1, 50, (8, 6), generator=generator)
gold = torch.arange(8) % 2


class OwnLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logits = model(input_ids=inputs["input_ids"]).logits
        return torch.nn.functional.cross_entropy(logits, inputs["gold"])


def gradient_norm(trainer, columns, batches):
    torch.manual_seed(0)
    model = ElectraForSequenceClassification(
        ElectraConfig(
            vocab_size=50, embedding_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )
    rows = [{"input_ids": tokens[i], **{name: gold[i] for name in columns}} for i in range(8)]
    arguments = TrainingArguments(
        "out", per_device_train_batch_size=8 // batches, gradient_accumulation_steps=batches, max_steps=1,
        learning_rate=0.0, max_grad_norm=1e9, logging_steps=1, report_to=[], disable_tqdm=True,
        save_strategy="no", use_cpu=True, remove_unused_columns=False,
    )
    made = trainer(model=model, args=arguments, train_dataset=rows)
    made.train()
    return next(entry["grad_norm"] for entry in made.state.log_history if "grad_norm" in entry)


ok = True
for name, trainer, columns, expected in [
    ("the model's own loss", Trainer, ["labels"], 4),
    ("a loss of one's own, rows with labels", OwnLoss, ["labels", "gold"], 4),
    ("a loss of one's own, rows without labels", OwnLoss, ["gold"], 1),
]:
    whole, cut = (gradient_norm(trainer, columns, batches) for batches in (1, 4))
    print(f"{name}: gradient norm of one batch of 8 {whole:.5f}, of four of 2 {cut:.5f}, {cut / whole:.3f} times")
    ok &= abs(cut / whole - expected) < 0.01 * expected
print("as described" if ok else "CHANGED")
raise SystemExit(0 if ok else 1)
PY
