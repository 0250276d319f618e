"""What exports are worth: size, agreement and speed on one core, beside PyTorch and the teacher with its context.

    python benchmarks/deploy.py --quick --json      # MiniLM alone, fewer rounds: two minutes
    python benchmarks/deploy.py --keep              # also a decoder, into benchmarks/records/deploy.json

The students are fine-tuned on a few hundred labelled texts: neither size nor speed depends on where labels are
from. The teacher has a context of 16 shots, which it reads again for each query.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import finish
from workload import TEACHER, Workload

from stillshot.config import ExportKind, Finetuning, Prompt
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.deploy.exporting import Export, export_student
from stillshot.deploy.predictor import load_predictor
from stillshot.student.saved import Student
from stillshot.student.training import TrainingSet, train_student
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Example

SHOTS, BATCH = 16, 32
# By name: the student, how many texts it learns from, and what it is exported to.
STUDENTS: dict[str, tuple[StudentSection, int, tuple[ExportKind, ...]]] = {
    "MiniLM-L6": (
        StudentSection(model="bundled:minilm-l6", finetune=Finetuning(epochs=3, batch_size=16)),
        384,
        ("merged", "onnx", "onnx-int8"),
    ),
    "SmolLM2-135M, LoRA": (
        StudentSection(model=TEACHER, tuning="lora", finetune=Finetuning(epochs=1)),
        64,
        ("merged", "onnx", "onnx-int8", "gguf"),
    ),
}
Row = dict[str, Any]


def timed(
    answer: Callable[[Sequence[Example]], object], queries: Sequence[Example], batch: int, rounds: int
) -> Row:
    """Milliseconds of a batch (median and 95th percentile), and queries a second at the median."""
    answer(queries[:batch])
    taken = []
    for number in range(rounds):
        at = number * batch % (len(queries) - batch)
        started = time.perf_counter()
        answer(queries[at : at + batch])
        taken.append(time.perf_counter() - started)
    middle = float(np.median(taken))
    return {
        "p50_ms": 1000 * middle,
        "p95_ms": 1000 * float(np.percentile(taken, 95)),
        "queries_per_s": batch / middle,
    }


def both(answer: Callable[[Sequence[Example]], object], queries: Sequence[Example], rounds: int) -> Row:
    """Alone, and in batches."""
    return {
        "alone": timed(answer, queries, 1, rounds),
        "batch": timed(answer, queries, BATCH, max(3, rounds // 8)),
    }


def exports(load: Workload, name: str, folder: Path, held_out: int) -> tuple[Path, list[Export]]:
    """A student, and all its exports."""
    section, labelled, kinds = STUDENTS[name]
    examples = load.examples[-labelled - held_out :]
    student = folder / "student"
    data = TrainingSet(labelled=examples[held_out:])
    train_student(section, load.task, Prompt(), section.finetune, data, student, seed=0)
    queries = folder / "queries.jsonl"
    queries.write_text(
        "".join(json.dumps(dict(e.fields)) + "\n" for e in examples[:held_out]), encoding="utf-8"
    )
    return student, export_student(student, kinds, folder / "exports", queries=queries, floor=0.0)


def measured(load: Workload, name: str, rounds: int, held_out: int) -> list[Row]:
    """One row an export, after one for the student in PyTorch."""
    queries = load.queries(512)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        student, made = exports(load, name, Path(scratch), held_out)
        model = Student.load(student).model
        size = sum(
            weight.nbytes for weight in model.parameters()
        )  # a folder with adapters holds no more than these
        rows.append({"student": name, "kind": "PyTorch", "size_bytes": size})
        rows += [
            {
                "student": name,
                "kind": export.kind,
                "size_bytes": export.size_bytes,
                "agreement": export.agreement.share,
                "largest_difference": export.agreement.largest_difference,
                "held_out": export.agreement.queries,
            }
            for export in made
        ]
        for row, folder in zip(rows, [student, *(export.folder for export in made)], strict=True):
            predictor = load_predictor(folder)
            row |= both(lambda part, p=predictor: p.predict_proba(part, BATCH), queries, rounds)
    return rows


def asked_teacher(load: Workload, rounds: int) -> Row:
    """The teacher, which reads its context again for each query."""
    teacher = LocalTeacher(TeacherSection(model=TEACHER, prefix="none"))
    context = load.context(SHOTS)

    def answer(part: Sequence[Example]) -> None:
        prompts = load.writer.prompts("direct", context, part)
        for prompt in prompts:
            list(teacher.score([prompt], load.label_tokens))

    found = timed(answer, load.queries(64), 1, rounds)
    size = sum(weight.nbytes for weight in teacher.model.parameters())
    return {"student": "teacher, 16 shots", "kind": "PyTorch", "size_bytes": size, "alone": found}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="MiniLM alone, and fewer rounds")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/deploy.json")
    arguments = parser.parse_args()
    load = Workload.read()
    rounds = 40 if arguments.quick else 200
    torch.set_num_threads(1)
    rows = measured(load, "MiniLM-L6", rounds, held_out=400)
    if not arguments.quick:
        rows += measured(load, "SmolLM2-135M, LoRA", rounds // 5, held_out=200)
    teacher = asked_teacher(load, rounds=5 if arguments.quick else 20)
    int8 = next(row for row in rows if row["kind"] == "onnx-int8")
    figures = {
        "int8_queries_per_s_over_teacher": int8["batch"]["queries_per_s"] / teacher["alone"]["queries_per_s"],
        "int8_mb": int8["size_bytes"] / 1e6,
        "int8_agreement": int8["agreement"],
    }
    details = {
        "task": load.task.name,
        "threads": 1,
        "batch": BATCH,
        "rounds": rounds,
        "rows": [*rows, teacher],
    }
    finish("deploy", figures, details, as_json=arguments.json, keep=arguments.keep)


if __name__ == "__main__":
    main()
