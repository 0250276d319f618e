"""What exports are worth: size, agreement and speed on one core, beside PyTorch and the teacher with its context.

    python benchmarks/deploy.py --quick --json            # MiniLM alone, fewer rounds: two minutes
    python benchmarks/deploy.py --run runs/demo --keep    # all, into benchmarks/records/deploy.json

With ``--run``, every distilled student of a finished run is exported to every kind that its family allows, and
timed on the run's own evaluated items, beside the run's teacher with the run's context. The other students are
fine-tuned on a few hundred texts, since neither size nor speed depends on where labels are from; among them is a
decoder with a label head, which ONNX can hold. A teacher reads its context of 16 shots again for each query.
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
from stillshot.deploy.held_out import held_out_queries
from stillshot.deploy.predictor import load_predictor
from stillshot.deploy.serving.teacher import RunTeacher
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.runner import quiet_libraries
from stillshot.prompt.writer import PromptWriter
from stillshot.report.names import TUNINGS, model_name
from stillshot.student.saved import Student
from stillshot.student.training import TrainingSet, train_student
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Context, Example

SHOTS, BATCH = 16, 32
KINDS: tuple[ExportKind, ...] = ("merged", "onnx", "onnx-int8", "gguf")
# By name: the student, and how many texts it learns from.
STUDENTS: dict[str, tuple[StudentSection, int]] = {
    "MiniLM-L6": (
        StudentSection(model="bundled:minilm-l6", finetune=Finetuning(epochs=3, batch_size=16)),
        384,
    ),
    "SmolLM2-135M, LoRA": (
        StudentSection(model=TEACHER, tuning="lora", finetune=Finetuning(epochs=1)),
        64,
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


def measured(
    name: str, student: Path, made: Sequence[Export], queries: Sequence[Example], rounds: int
) -> list[Row]:
    """One row an export, after one for the student in PyTorch."""
    model = Student.load(student).model
    # A folder with adapters holds no more than these.
    size = sum(weight.nbytes for weight in model.parameters())
    rows: list[Row] = [{"student": name, "kind": "PyTorch", "size_bytes": size}]
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


def exported(student: Path, target: Path, queries: Path | None = None) -> list[Export]:
    """A student in every kind that its family and head allow, however well it agrees."""
    return export_student(student, KINDS, target, queries=queries, floor=0.0, leave_out=lambda *_: None)


def of_finetuned(load: Workload, name: str, rounds: int, held_out: int) -> list[Row]:
    """A student fine-tuned now, and all its exports."""
    section, labelled = STUDENTS[name]
    examples = load.examples[-labelled - held_out :]
    data = TrainingSet(labelled=examples[held_out:])
    with tempfile.TemporaryDirectory() as scratch:
        student, queries = Path(scratch) / "student", Path(scratch) / "queries.jsonl"
        train_student(section, load.task, Prompt(), section.finetune, data, student, seed=0)
        lines = (json.dumps(dict(example.fields)) + "\n" for example in examples[:held_out])
        queries.write_text("".join(lines), encoding="utf-8")
        made = exported(student, Path(scratch) / "exports", queries)
        return measured(name, student, made, load.queries(512), rounds)


def of_run(run: Path, rounds: int) -> tuple[list[Row], Row]:
    """Every distilled student of a run with all its exports, and the run's teacher."""
    rows: list[Row] = []
    folders = sorted(path.parent for path in run.glob("students/context_distillation-*/stillshot.json"))
    if not folders:
        raise SystemExit(f"{run} has no distilled student; `make demo` makes runs/demo.")
    for folder in folders:
        student = Student.load(folder)
        name = f"{model_name(student.section.model)}, {student.head} head, {TUNINGS[student.section.tuning]}"
        queries = held_out_queries(folder, student.task, None).queries
        fewer = 1 if student.head == "label" else 5
        with tempfile.TemporaryDirectory() as scratch:
            made = exported(folder, Path(scratch))
            rows += measured(name, folder, made, queries, rounds // fewer)
    asked = RunTeacher.of(folders[0], {})
    teacher = LocalTeacher(RunFolder(run).open_recipe().teacher.model_copy(update={"prefix": "none"}))
    queries = held_out_queries(folders[0], asked.writer.task, None).queries
    return rows, asked_teacher(teacher, asked.writer, asked.contexts[0], queries, rounds // 10)


def asked_teacher(
    teacher: LocalTeacher, writer: PromptWriter, context: Context, queries: Sequence[Example], rounds: int
) -> Row:
    """A teacher that reads one context again for each query, once for all labels."""
    tokens = [ids[0] for ids in writer.verbalizer.token_ids]

    def answer(part: Sequence[Example]) -> None:
        for prompt in writer.prompts("direct", context, part):
            list(teacher.score([prompt], tokens))

    size = sum(weight.nbytes for weight in teacher.model.parameters())
    row: Row = {"student": f"teacher, {len(context)} shots", "kind": "PyTorch", "size_bytes": size}
    return row | {"alone": timed(answer, queries, 1, rounds)}


def figures(rows: Sequence[Row], teacher: Row) -> dict[str, float]:
    """What the encoder in 8 bits gains, the headline."""
    int8 = next(row for row in rows if row["kind"] == "onnx-int8")
    return {
        "int8_queries_per_s_over_teacher": int8["batch"]["queries_per_s"] / teacher["alone"]["queries_per_s"],
        "int8_mb": int8["size_bytes"] / 1e6,
        "int8_agreement": int8["agreement"],
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="MiniLM alone, and fewer rounds")
    parser.add_argument("--run", type=Path, help="a finished run, whose students are measured too")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/deploy.json")
    arguments = parser.parse_args()
    quiet_libraries()
    load = Workload.read()
    rounds = 40 if arguments.quick else 200
    torch.set_num_threads(1)
    rows = of_finetuned(load, "MiniLM-L6", rounds, held_out=400)
    if not arguments.quick:
        rows += of_finetuned(load, "SmolLM2-135M, LoRA", rounds // 5, held_out=200)
    asked = LocalTeacher(TeacherSection(model=TEACHER, prefix="none"))
    teacher = asked_teacher(asked, load.writer, load.context(SHOTS), load.queries(64), rounds // 10)
    found = figures(rows, teacher)
    details: dict[str, Any] = {
        "task": load.task.name,
        "threads": 1,
        "batch": BATCH,
        "rounds": rounds,
        "rows": [*rows, teacher],
    }
    if arguments.run:
        rows, teacher = of_run(arguments.run, rounds)
        details["run"] = {"name": RunFolder(arguments.run).open_recipe().name, "rows": [*rows, teacher]}
        found |= {f"run_{name}": value for name, value in figures(rows, teacher).items()}
    finish("deploy", found, details, as_json=arguments.json, keep=arguments.keep)


if __name__ == "__main__":
    main()
