"""Trains with TRL's trainers or a plain loop of transformers, for benchmarks/training.py.

Runs in an environment of its own; it knows nothing of Stillshot.
"""

from __future__ import annotations

import importlib
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from turns import Turns, read_job


def lora(job: dict[str, Any]) -> LoraConfig | None:
    """The adapters of a job, or none to train all weights."""
    if job["tuning"] == "full":
        return None
    return LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **job["lora"])


def shared_arguments(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Arguments that all trainers are given; the rest are their defaults."""
    return {
        "output_dir": folder,
        "num_train_epochs": job["epochs"],
        "per_device_train_batch_size": job["batch_size"],
        "learning_rate": job["learning_rate"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **job["arguments"],
    }


def supervised(job: dict[str, Any], turns: Turns) -> None:
    """``SFTTrainer`` on the label's token."""
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in job["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        SFTTrainer(
            job["model"],
            SFTConfig(**shared_arguments(job, folder)),
            train_dataset=Dataset.from_list(rows),
            peft_config=lora(job),
            callbacks=[turns],
        ).train()


def self_distillation(job: dict[str, Any], turns: Turns) -> None:
    """``SDFTTrainer``, with the context in the teacher's prompt alone.

    One completion of one token a row (its default is 8 completions), which is what a label needs.
    """
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer  # loaded before memory is counted

    rows = [{"prompt": row["prompt"], "privileged_context": job["context"]} for row in job["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SDFTConfig(
            **shared_arguments(job, folder),
            num_generations=1,
            max_completion_length=1,
            max_prompt_length=None,
            teacher_prompt_template="{privileged_context}{prompt}",
        )
        SDFTTrainer(
            job["model"],
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            peft_config=lora(job),
            callbacks=[turns],
        ).train()


def plain(job: dict[str, Any], turns: Turns) -> None:
    """The loop that one writes by hand: logits over the whole vocabulary at every token, cross-entropy."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model: Any = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto")
    adapters = lora(job)
    if adapters:
        model = get_peft_model(model, adapters)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=job["learning_rate"])
    rows = []
    for row in job["rows"]:
        prompt, completion = (tokenizer(row[part])["input_ids"] for part in ("prompt", "completion"))
        rows.append((prompt + completion, [-100] * len(prompt) + completion))
    size = job["batch_size"]
    for epoch in range(job["epochs"]):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch)).tolist()
        turns.wait()
        for at in range(0, len(rows), size):
            batch = [rows[index] for index in order[at : at + size]]
            width = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in batch])
            labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in batch])
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch])
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        turns.report()


if __name__ == "__main__":
    todo = read_job()
    torch.set_num_threads(todo["threads"])
    if todo["trainer"] == "sdft":
        importlib.import_module("trl.experimental.sdft.sdft_trainer")
    {"sft": supervised, "sdft": self_distillation, "plain": plain}[todo["trainer"]](todo, Turns())
