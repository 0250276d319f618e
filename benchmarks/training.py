"""Training a student against TRL and a plain loop: tokens a second, and peak memory above the libraries.

    python benchmarks/training.py --quick --json     # adapters against SFTTrainer's defaults, minutes
    python benchmarks/training.py --keep             # all rows, into benchmarks/records/

Every trainer has a process of its own, with the same rows, model, adapters, batch size, precision and
threads. They take turns by epochs, so that a slow minute is everyone's; the first epoch is not counted.
The others run in an environment of their own (``make peers``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from measure import finish, interleaved, roofline
from operations import Operations
from workload import TEACHER, Workload, prefix_tokens

from stillshot.config import Teacher as TeacherSection
from stillshot.models.resolve import resolve_model
from stillshot.teacher.local import LocalTeacher

FOLDER = Path(__file__).parent
QUERIES, EPOCHS = 80, 3
PEERS = Path(os.environ.get("STILLSHOT_PEERS", FOLDER.parent / ".venv-peers")) / "bin/python"


@dataclass
class Trainer:
    """One trainer in its process, and what it took an epoch."""

    name: str
    process: subprocess.Popen[str]
    log: IO[str]
    seconds: list[float] = field(default_factory=list)
    peak_memory_bytes: int = 0

    @classmethod
    def start(cls, name: str, settings: dict[str, Any], job: dict[str, Any], folder: Path) -> Trainer:
        """Start a process; it waits before its first epoch."""
        ours = settings.get("trainer") is None
        if not ours and not PEERS.exists():
            raise SystemExit(
                f"There is no {PEERS}. Run `make peers`, which installs the trainers to compare with."
            )
        path = folder / f"{name.replace(' ', '-')}.json"
        path.write_text(json.dumps({**job, **settings}), encoding="utf-8")
        script = FOLDER / "trainers" / ("ours.py" if ours else "peers.py")
        log = (folder / f"{path.stem}.log").open("w+", encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable if ours else str(PEERS), "-W", "ignore", str(script), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"},
        )
        return cls(name, process, log)

    def epoch(self) -> None:
        """Let it train one epoch."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("EPOCH "):
                told = json.loads(line.removeprefix("EPOCH "))
                self.seconds.append(told["seconds"])
                self.peak_memory_bytes = told["peak_memory_bytes"]
                return
        self.log.seek(0)
        raise SystemExit(f"{self.name} ended early:\n{self.log.read()[-3000:]}")

    def end(self) -> None:
        """Stop its process."""
        self.process.kill()
        self.process.wait()
        self.log.close()


def compare(
    trainers: dict[str, dict[str, Any]], job: dict[str, Any], tokens: int, epochs: int
) -> dict[str, dict[str, float]]:
    """Tokens of prompts a second (medians over epochs) and peak memory of each trainer, their epochs interleaved."""
    with tempfile.TemporaryDirectory() as name:
        running: list[Trainer] = []
        try:
            job = {**job, "epochs": epochs + 1}
            for label, settings in trainers.items():  # one loads while none trains
                running.append(Trainer.start(label, settings, job, Path(name)))
                running[-1].epoch()
            for _ in range(epochs):
                for trainer in running:
                    trainer.epoch()
        finally:
            for trainer in running:
                trainer.end()
        found = {
            trainer.name: {
                "tokens_per_s": tokens / statistics.median(trainer.seconds[1:]),
                "peak_memory_bytes": trainer.peak_memory_bytes,
            }
            for trainer in running
        }
    for label, row in found.items():
        print(
            f"{label:36} {row['tokens_per_s']:7.0f} tokens/s {row['peak_memory_bytes'] / 2**20:7.0f} MiB",
            flush=True,
        )
    return found


def peer_versions() -> dict[str, str]:
    """Versions of what we compare with."""
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in %r}))"
    names = ("trl", "transformers", "peft", "torch")
    return json.loads(subprocess.check_output([str(PEERS), "-c", code % (names,)], text=True))


def over(found: dict[str, dict[str, float]], ours: str, peer: str) -> tuple[float, float]:
    """Our rate and memory as multiples of another's."""
    return tuple(found[ours][key] / found[peer][key] for key in ("tokens_per_s", "peak_memory_bytes"))  # type: ignore[return-value]


def job_of(load: Workload, queries: int, batch_size: int) -> tuple[dict[str, Any], int]:
    """What all train on, and its tokens: zero-shot prompts with their labels' words, and soft labels for ours."""
    writer, labels = load.writer, load.task.labels
    rows = [
        {
            "fields": dict(example.fields),
            "prompt": writer.query_text(example),
            "completion": writer.verbalizer.words[labels.index(str(example.label))],
            "soft_label": [0.9 if label == example.label else 0.1 / (len(labels) - 1) for label in labels],
        }
        for example in load.queries(queries)
    ]
    tokens = sum(len(ids) for ids in load.encoder.encode_all([row["prompt"] for row in rows]))
    job = {
        "task": load.task.name,
        "student": TEACHER,
        "model": str(resolve_model(TEACHER).location),
        "tuning": "lora",
        "lora": {"r": 8, "lora_alpha": 16},
        "batch_size": batch_size,
        "learning_rate": 2e-4,
        "threads": torch.get_num_threads(),
        "arguments": {},
        "rows": rows,
    }
    return job, tokens


BF16 = {"model_init_kwargs": {"dtype": "bfloat16"}}  # as ours keeps weights that do not train
GROUPED = {"train_sampling_strategy": "group_by_length"}
LORA: dict[str, dict[str, Any]] = {
    "stillshot": {},
    "trl SFTTrainer": {"trainer": "sft", "arguments": BF16},
    "trl SFTTrainer, grouped by length": {"trainer": "sft", "arguments": {**BF16, **GROUPED}},
    "trl SFTTrainer, float32 weights (its default)": {"trainer": "sft"},
    "plain loop, whole vocabulary": {"trainer": "plain"},
}
FULL: dict[str, dict[str, Any]] = {
    "stillshot": {"tuning": "full"},
    "trl SFTTrainer": {"trainer": "sft", "tuning": "full"},
}
PARTS: dict[str, dict[str, Any]] = {
    "stillshot": {},
    "whole batch in one pass": {"arguments": {"pass_tokens": 10**9}},
    "gradient checkpointing": {"arguments": {"gradient_checkpointing": True}},
    "layers compiled, epochs after the first": {"arguments": {"compile_layers": True}},
    "adapters in the last 10 layers, epochs after the first": {"layers": 10},
}


def distillation(load: Workload, queries: int = 16, shots: int = 32) -> dict[str, float]:
    """Distilling with a context, one epoch: soft labels and a training on them, against TRL's ``SDFTTrainer``."""
    job, tokens = job_of(load, queries, batch_size=16)
    prompts = load.prompts(shots, queries)
    query = job["rows"][0]["prompt"]
    whole = load.encoder.tokenizer.decode(prompts[0].sequences[0].ids)
    assert whole.endswith(query)
    context = whole.removesuffix(query)
    teacher = LocalTeacher(TeacherSection(model=TEACHER))
    labelling = interleaved({"label": lambda: list(teacher.score(prompts, load.label_tokens))}, rounds=3)[
        "label"
    ]
    peer = {"trainer": "sdft", "context": context, "arguments": BF16}
    trainers = {"stillshot": {}, "trl SDFTTrainer": peer}
    rates = compare(trainers, job, tokens, epochs=EPOCHS)
    ours, theirs = (tokens / rates[name]["tokens_per_s"] for name in trainers)
    return {
        "queries": queries,
        "context_tokens": prefix_tokens(prompts, load.prompts(0, queries)),
        "label_seconds": labelling,
        "epoch_seconds": ours,
        "trl_epoch_seconds": theirs,
        "over_trl": theirs / (labelling + ours),
        "peak_memory_over_trl": over(rates, *trainers)[1],
    }


def stages(rates: dict[str, dict[str, float]], tokens: int) -> list[dict[str, Any]]:
    """Operations a second of an epoch: those of the frozen layers, forward and back to their inputs.

    With all weights trained, also those of the weights' gradients. Adapters, attention and padding are not
    counted: they are overhead.
    """
    linear = Operations.of(LocalTeacher(TeacherSection(model=TEACHER)).model).linear
    rows = []
    for stage, factor in (("training, adapters", 2), ("training, all weights", 3)):
        taken = tokens / rates[stage]["tokens_per_s"]
        work = factor * linear * tokens
        rows.append({"stage": stage, "seconds": taken, "operations": work, "operations_per_s": work / taken})
    return rows


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="adapters against SFTTrainer's defaults alone")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/training.json")
    arguments = parser.parse_args()
    started = time.perf_counter()
    load = Workload.read()
    job, tokens = job_of(load, QUERIES, batch_size=16)
    chosen = dict(list(LORA.items())[:2]) if arguments.quick else LORA
    lora = compare(chosen, job, tokens, epochs=EPOCHS)
    figures = {}
    figures["lora_tokens_per_s_over_trl"], figures["lora_peak_memory_over_trl"] = over(
        lora, "stillshot", "trl SFTTrainer"
    )
    details: dict[str, Any] = {
        "task": load.task.name,
        "queries": QUERIES,
        "tokens": tokens,
        "batch_size": 16,
        "lora": lora,
    }
    if not arguments.quick:
        details["full"] = full = compare(FULL, job, tokens, epochs=EPOCHS)
        figures["full_tokens_per_s_over_trl"], figures["full_peak_memory_over_trl"] = over(
            full, "stillshot", "trl SFTTrainer"
        )
        details["parts"] = compare(PARTS, job, tokens, epochs=EPOCHS)
        both = {"training, adapters": lora["stillshot"], "training, all weights": full["stillshot"]}
        details["stages"], details["roofline"] = stages(both, tokens), roofline(torch.bfloat16)
        details["distillation"] = distilled = distillation(load)
        figures["distillation_over_trl"] = distilled["over_trl"]
    details["peers"] = peer_versions()
    details["seconds"] = time.perf_counter() - started
    finish("training", figures, details, as_json=arguments.json, keep=arguments.keep)


if __name__ == "__main__":
    main()
