"""How the cost of labelling grows: with shots, queries, contexts, labels and the model; and students beside it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agreement import agreement
from measure import interleaved, paused_for
from operations import Operations
from workload import TEACHER, Workload, prefix_tokens, within

from stillshot.config import DirectPattern, Prompt, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.prompt.writer import PromptWriter, ScoredPrompt
from stillshot.student.saved import Student
from stillshot.teacher import local
from stillshot.teacher.local import LocalTeacher
from stillshot.teacher.packing import Row, batches, rows_of

Figures = dict[str, Any]
OPT = "random:facebook/opt-1.3b"


def measured_tables(load: Workload, names: Sequence[str]) -> dict[str, Any]:
    """Tables by their names in :data:`TABLES`, each measured by itself."""
    tables: dict[str, Any] = {}
    for name in names:
        print(f"measuring: {name}", flush=True)
        tables[name] = TABLES[name](load)
    return tables


def _label(teacher: LocalTeacher, prompts: list[ScoredPrompt], tokens: list[int] | None) -> None:
    for _ in teacher.score(prompts, tokens):
        pass


def by_shots(load: Workload, queries: int = 256) -> list[Figures]:
    """Rates by shots; the shared prefix also against its count of operations."""
    teachers = {
        m: LocalTeacher(TeacherSection(model=TEACHER, prefix=m)) for m in ("shared", "repeat", "none")
    }
    operations = Operations.of(teachers["shared"].model)
    all_prompts = {shots: load.prompts(shots, queries) for shots in (0, 8, 16, 32, 64)}
    part = {
        (shots, mode): {"shared": queries, "repeat": queries // 8, "none": 4 if shots else queries // 8}[mode]
        for shots, mode in itertools.product(all_prompts, teachers)
    }
    seconds = interleaved(
        {
            (shots, mode): partial(_label, teachers[mode], all_prompts[shots][:count], load.label_tokens)
            for (shots, mode), count in part.items()
        },
        rounds=5,
    )
    rows = []
    for shots, prompts in all_prompts.items():
        tokens = prefix_tokens(prompts, all_prompts[0])
        rows.append(
            {
                "shots": shots,
                "context_tokens": tokens,
                "queries_per_s": {mode: part[shots, mode] / seconds[shots, mode] for mode in teachers},
                "operations_per_s": operations.labelling(prompts, tokens) / seconds[shots, "shared"],
            }
        )
    return rows


def by_queries(load: Workload, shots: int = 32) -> list[Figures]:
    """Time by number of queries; the longest labelling is paused for the others."""
    teacher = LocalTeacher(TeacherSection(model=TEACHER))
    operations = Operations.of(teacher.model)
    *few, most = 100, 300, 1000, 10_000
    all_prompts = {queries: load.prompts(shots, queries) for queries in (*few, most)}
    longest, seconds = paused_for(
        (len(positions) for positions, _ in teacher.score(all_prompts[most], load.label_tokens)),
        most,
        {queries: partial(_label, teacher, all_prompts[queries], load.label_tokens) for queries in few},
        rounds=5,
    )
    seconds[most] = longest
    tokens = prefix_tokens(all_prompts[100], load.prompts(0, 1))
    return [
        {
            "queries": queries,
            "seconds": seconds[queries],
            "queries_per_s": queries / seconds[queries],
            "operations_per_s": operations.labelling(prompts, tokens) / seconds[queries],
        }
        for queries, prompts in all_prompts.items()
    ]


def by_labels(load: Workload, shots: int = 16, queries: int = 32) -> list[Figures]:
    """Label words of several tokens: the query read once for all of them, and once a label."""
    teacher = LocalTeacher(TeacherSection(model=TEACHER))
    rows = []
    for count in (2, 10, 50, 150):
        task = _many_labels(load, count)
        prompts = PromptWriter(task, Prompt(), load.encoder).prompts(
            "direct", load.context(shots), load.queries(queries)
        )
        few = prompts[: max(2, queries // count)]

        def one_row_a_label(few: list[ScoredPrompt] = few) -> None:
            packed = local.rows_of
            local.rows_of = partial(_row_a_label, packed)
            try:
                _label(teacher, few, None)
            finally:
                local.rows_of = packed

        def context_alone(prompts: list[ScoredPrompt] = prompts) -> None:
            _label(teacher, prompts[:1], None)

        seconds = interleaved(
            {
                "tree": lambda prompts=prompts: _label(teacher, prompts, None),
                "rows": one_row_a_label,
                "context": context_alone,
            },
            rounds=3,
        )
        rows.append(
            {
                "labels": count,
                "tree_queries_per_s": (queries - 1) / (seconds["tree"] - seconds["context"]),
                "row_a_label_queries_per_s": (len(few) - 1) / max(1e-9, seconds["rows"] - seconds["context"]),
            }
        )
    return rows


def _row_a_label(
    packed: Callable[..., list[list[Row]]], asked: list[ScoredPrompt], start: int, *, share: bool
) -> list[list[Row]]:
    return packed(asked, start, share=False)


def _many_labels(load: Workload, count: int) -> TaskDefinition:
    """The task with ``count`` labels of several tokens; demonstrations keep their two."""
    kept = load.task.labels
    others = [f"label {number}" for number in range(count - len(kept))]
    words = {label: f"quite {label}" for label in kept} | {name: f"kind {name} of text" for name in others}
    pattern = next(iter(load.task.patterns.values()))
    spelled = DirectPattern(pattern=pattern.pattern, target_prefix=pattern.target_prefix, label_words=words)
    return TaskDefinition(
        name="many", labels=[*kept, *others], fields=load.task.fields, patterns={"many": spelled}
    )


def by_models(load: Workload, shots: int = 32) -> list[Figures]:
    """The rate with a shared context over that without, by model size, the context read once for all queries."""
    rows = []
    for model, queries in (
        ("random:tiny-llama", 1000),
        ("random:facebook/opt-125m", 1000),
        (TEACHER, 1000),
        (OPT, 150),
    ):
        teacher = LocalTeacher(TeacherSection(model=model))
        size = 320 if "tiny" in model else None
        tokens = [token % size if size else token for token in load.label_tokens]
        prompts, alone = (within(load.prompts(n, queries), size) for n in (shots, 0))
        seconds = interleaved(
            {
                "shared": lambda teacher=teacher, p=prompts, t=tokens: _label(teacher, p, t),
                "context": lambda teacher=teacher, p=prompts, t=tokens: _label(teacher, p[:1], t),
                "zero_shot": lambda teacher=teacher, p=alone, t=tokens: _label(teacher, p, t),
            },
            rounds=3,  # the first of a large model is slow
        )
        bound = Operations.of(teacher.model).bound(prefix_tokens(prompts, alone))
        behind = (seconds["shared"] - seconds["context"]) / queries
        zero_shot = seconds["zero_shot"] / queries
        rows.append(
            {
                "model": model,
                "queries": queries,
                "zero_shot_queries_per_s": 1 / zero_shot,
                "context_seconds": seconds["context"],
                "shared_over_zero_shot": seconds["zero_shot"] / seconds["shared"],
                "shared_over_zero_shot_of_1000": 1000 * zero_shot / (seconds["context"] + 1000 * behind),
                "bound": bound,
            }
        )
    return rows


def answering(load: Workload, queries: int = 256) -> list[Figures]:
    """Queries a second of the teacher with its context and of untrained students of its and another size."""
    teachers = {m: LocalTeacher(TeacherSection(model=TEACHER, prefix=m)) for m in ("shared", "none")}
    prompts, examples = load.prompts(16, queries), load.queries(queries)
    runs = {
        "teacher, 16 shots, context read again": lambda: _label(
            teachers["none"], prompts[:8], load.label_tokens
        ),
        "teacher, 16 shots, context shared": lambda: _label(teachers["shared"], prompts, load.label_tokens),
    }
    counts = {name: 8 if "again" in name else queries for name in runs}
    for name in ("bundled:minilm-l6", TEACHER):
        with tempfile.TemporaryDirectory() as folder:
            Student.create(StudentSection(model=name), load.task, Prompt()).save(folder)
            student = Student.load(folder)
        student.model.to(dtype=teachers["none"].model.dtype)
        runs[f"student {name}"] = lambda student=student: student.predict_proba(examples)
        counts[f"student {name}"] = queries
    seconds = interleaved(runs, rounds=3)
    return [{"answers": name, "queries_per_s": counts[name] / seconds[name]} for name in runs]


_MEMORY = """
import sys, torch
sys.path.insert(0, {folder!r})
from workload import Workload
from stillshot.config import Teacher
from stillshot.evaluate.resources import measured
from stillshot.teacher.local import LocalTeacher
from stillshot.teacher.packing import Row
load = Workload.read()
prompts = load.prompts(32, 64)
teacher = LocalTeacher(Teacher(model={model!r}, dtype="bfloat16"))
with measured() as loading:
    weights = sum(p.numel() * p.element_size() for p in teacher.model.parameters())
with measured() as labelling:
    list(teacher.score(prompts, load.label_tokens))
print(weights, loading.peak_memory_bytes, labelling.peak_memory_bytes)
"""


def labelling_memory(load: Workload) -> list[Figures]:
    """Peak memory of labelling at 32 shots above a process with its libraries loaded, in a process of its own."""
    rows = []
    for model in (TEACHER, "random:facebook/opt-125m", OPT):
        code = _MEMORY.format(folder=str(Path(__file__).parent), model=model)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        weights, loading, labelling = map(int, done.stdout.split()[-3:])
        peak = max(loading, weights + labelling)
        rows.append(
            {
                "model": model,
                "weights_bytes": weights,
                "loading_peak_bytes": loading,
                "labelling_above_weights_bytes": labelling,
                "peak_over_weights": peak / weights,
            }
        )
    return rows


def stages(load: Workload, shots: int = 32, queries: int = 512) -> list[Figures]:
    """Operations and bytes a second of reading the context, and of queries with and without it.

    Bytes are those that must be read: the weights and the context's keys and values once a batch.
    """
    teacher = LocalTeacher(TeacherSection(model=TEACHER))
    prompts, alone = load.prompts(shots, queries), load.prompts(0, queries)
    tokens, operations = prefix_tokens(prompts, alone), Operations.of(teacher.model)
    seconds = interleaved(
        {
            "context": lambda: teacher._read_prefix(prompts[0].sequences[0].ids[:tokens]),
            "queries": lambda: _label(teacher, alone, load.label_tokens),
            "both": lambda: _label(teacher, prompts, load.label_tokens),
        },
        rounds=5,
    )
    reads = len(batches(rows_of(alone, 0, share=True), TeacherSection(model=TEACHER).batch_tokens))
    inner = teacher.model.base_model
    weights = sum(p.numel() * p.element_size() for n, p in inner.named_parameters() if "embed" not in n)
    config = teacher.model.config
    kept = 2 * 2 * tokens * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    work = {
        "context read": (seconds["context"], operations.sequence(tokens, 0), weights + kept),
        "queries alone": (seconds["queries"], operations.labelling(alone, 0), reads * weights),
        "queries behind the context": (
            seconds["both"] - seconds["context"],
            operations.labelling(prompts, tokens) - operations.sequence(tokens, 0),
            reads * (weights + kept),
        ),
    }
    return [
        {
            "stage": name,
            "seconds": taken,
            "operations": count,
            "operations_per_s": count / taken,
            "bytes_per_s": size / taken,
        }
        for name, (taken, count, size) in work.items()
    ]


TABLES: dict[str, Callable[[Workload], list[Figures]]] = {
    "shots": by_shots,
    "queries": by_queries,
    "labels": by_labels,
    "models": by_models,
    "answers": answering,
    "memory": labelling_memory,
    "stages": stages,
    "agreement": agreement,
}
