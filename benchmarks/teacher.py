"""Labelling with a context: read once and shared, read once and copied, read again for every query.

    python benchmarks/teacher.py --quick --json     # the main ratios, minutes
    python benchmarks/teacher.py --keep             # all tables, into benchmarks/records/
    python benchmarks/teacher.py --keep --only models shots     # these anew, the rest as it was kept

All runs of a table are in one process and interleaved; figures are ratios of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from measure import finish, interleaved, kept, roofline
from operations import Operations
from plain_loop import PlainLoop
from tables import TABLES, measured_tables
from workload import TEACHER, Workload, prefix_tokens

from stillshot.config import Teacher as TeacherSection
from stillshot.prompt.writer import ScoredPrompt
from stillshot.teacher.local import LocalTeacher, PrefixMode

SHOTS, QUERIES = 32, 1000


def teacher_of(mode: PrefixMode, model: str = TEACHER) -> LocalTeacher:
    """A teacher of one way to keep the prefix."""
    return LocalTeacher(TeacherSection(model=model, prefix=mode))


def label(teacher: LocalTeacher, prompts: list[ScoredPrompt], tokens: list[int] | None) -> None:
    """Score all prompts."""
    for _ in teacher.score(prompts, tokens):
        pass


def main_ratios(load: Workload, model: str, queries: int, rounds: int, budget: float) -> dict[str, Any]:
    """Rates with 32 shots: shared, repeated, read again, and without a context.

    What takes minutes is measured on fewer queries: reading the context once is then taken out of the
    time before it is carried over to all queries, and put back.
    """
    tokens = load.label_tokens
    alone, prompts = load.prompts(0, queries), load.prompts(SHOTS, queries)
    few = {"repeat": max(16, queries // 8), "none": max(4, queries // 60), "plain": max(4, queries // 60)}
    teachers = {mode: teacher_of(mode, model) for mode in ("shared", "repeat", "none")}
    plain = PlainLoop(teachers["none"].model, load.encoder.tokenizer)
    for mode in teachers:
        label(teachers[mode], prompts[:4], tokens)
    seconds = interleaved(
        {
            "zero_shot": lambda: label(teachers["shared"], alone, tokens),
            "shared": lambda: label(teachers["shared"], prompts, tokens),
            "repeat": lambda: label(teachers["repeat"], prompts[: few["repeat"]], tokens),
            "repeat_context": lambda: label(teachers["repeat"], prompts[:1], tokens),
            "none": lambda: label(teachers["none"], prompts[: few["none"]], tokens),
            "plain": lambda: plain.label(prompts[: few["plain"]], tokens),
        },
        rounds,
        budget,
    )
    context = seconds["repeat_context"]
    rate = {
        "zero_shot": queries / seconds["zero_shot"],
        "shared": queries / seconds["shared"],
        "repeat": queries / (context + (seconds["repeat"] - context) * queries / few["repeat"]),
        "none": few["none"] / seconds["none"],
        "plain": few["plain"] / seconds["plain"],
    }
    context_tokens = prefix_tokens(prompts, alone)
    bound = Operations.of(teachers["shared"].model).bound(context_tokens)
    return {
        "shared_over_zero_shot": rate["shared"] / rate["zero_shot"],
        "shared_over_bound": rate["shared"] / rate["zero_shot"] / bound,
        "shared_over_none": rate["shared"] / rate["none"],
        "shared_over_repeat": rate["shared"] / rate["repeat"],
        "shared_over_plain_loop": rate["shared"] / rate["plain"],
        "bound": bound,
        "context_tokens": context_tokens,
        "queries": queries,
        "queries_per_s": rate,
    }


def off_count(rows: list[dict[str, Any]]) -> float:
    """By how much, at most, the rate of operations in a row of a table is off that of all rows."""
    rates = [row["operations_per_s"] for row in rows]
    return max(abs(rate / statistics.median(rates) - 1) for rate in rates)


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the main ratios alone")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/teacher.json")
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, metavar="TABLE", help="measure these tables anew"
    )
    parser.add_argument("--threads", type=int, help="threads of the matrix products")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    load = Workload.read()
    if arguments.only:
        figures, details = kept("teacher")
        details["tables"] |= measured_tables(load, arguments.only)
    else:
        main = main_ratios(load, TEACHER, QUERIES, rounds=3, budget=270)
        figures = {key: value for key, value in main.items() if isinstance(value, int | float)}
        details: dict[str, Any] = {
            "task": load.task.name,
            "queries_per_s": main["queries_per_s"],
            "roofline": roofline(torch.bfloat16),
        }
        if not arguments.quick:
            details["tables"] = measured_tables(load, list(TABLES))
        details["seconds"] = time.perf_counter() - started
    if "tables" in details:
        with_context = [row for row in details["tables"]["shots"] if row["shots"]]
        figures["shots_off_operation_count"] = off_count(with_context)
        figures["queries_off_operation_count"] = off_count(details["tables"]["queries"])
    finish("teacher", figures, details, as_json=arguments.json, keep=arguments.keep)


if __name__ == "__main__":
    main()
