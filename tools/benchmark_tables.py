"""Fill the tables of the docs from benchmarks/records/.

A table stands between ``<!-- benchmark: NAME -->`` and ``<!-- end -->``; a test holds pages and records together.

    python tools/benchmark_tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs/explanation/efficiency.md", ROOT / "docs/how-to/export.md")
RECORDS = ROOT / "benchmarks/records"
_BLOCK = re.compile(r"(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
Record = dict[str, Any]


def record(name: str) -> Record:
    """A kept record."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def table(header: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    names = header.split(" | ")
    lines = [header, " | ".join(["---", *["---:"] * (len(names) - 1)]), *(" | ".join(row) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def machine() -> str:
    """The machine that the records were made on, and what it reaches."""
    lines = []
    for name in ("teacher", "training", "kernels"):
        kept = record(name)
        hardware, versions = kept["hardware"], kept["versions"]
        reached = kept.get("roofline")
        speed = (
            f"; bfloat16 product {reached['product_flops'] / 1e9:.0f} GFLOP/s, "
            f"memory {reached['memory_bytes_per_s'] / 1e9:.1f} GB/s"
            if reached
            else ""
        )
        lines.append(
            f"- `{name}.json`: {hardware['processor']}, {hardware['threads']} threads, torch {versions['torch']}, "
            f"transformers {versions['transformers']}{speed}\n"
        )
    return "".join(lines)


def main_ratios() -> str:
    """32 shots and 1,000 queries, all ways to keep the context."""
    kept = record("teacher")
    rates, figures = kept["queries_per_s"], kept["figures"]
    names = {
        "zero_shot": "no context",
        "shared": "shared prefix",
        "repeat": "repeated cache",
        "none": "context read again for every query",
        "plain": "plain loop of transformers (context read again)",
    }
    rows = [[names[key], f"{rates[key]:.2f}", f"{rates[key] / rates['zero_shot']:.3f}"] for key in names]
    rows.append(["what the operations allow", "", f"{figures['bound']:.3f}"])
    return table("labelling | queries/s | of no context", rows)


def shots() -> str:
    """Rates by shots."""
    rows = record("teacher")["tables"]["shots"]
    middle = _middle([row["operations_per_s"] for row in rows if row["shots"]])
    return table(
        "shots | context tokens | shared, queries/s | repeated | read again | shared: operations/s, of the median",
        [
            [
                str(row["shots"]),
                f"{row['context_tokens']:,}",
                *(f"{row['queries_per_s'][mode]:.2f}" for mode in ("shared", "repeat", "none")),
                f"{row['operations_per_s'] / middle:.2f}",
            ]
            for row in rows
        ],
    )


def queries() -> str:
    """Time by number of queries."""
    rows = record("teacher")["tables"]["queries"]
    middle = _middle([row["operations_per_s"] for row in rows])
    return table(
        "queries | seconds | queries/s | operations/s, of the median",
        [
            [
                f"{row['queries']:,}",
                f"{row['seconds']:.1f}",
                f"{row['queries_per_s']:.1f}",
                f"{row['operations_per_s'] / middle:.2f}",
            ]
            for row in rows
        ],
    )


def labels() -> str:
    """Rates by number of labels."""
    return table(
        "labels of several tokens | query read once, queries/s | once a label | ratio",
        [
            [
                str(row["labels"]),
                f"{row['tree_queries_per_s']:.2f}",
                f"{row['row_a_label_queries_per_s']:.2f}",
                f"{row['tree_queries_per_s'] / row['row_a_label_queries_per_s']:.1f}",
            ]
            for row in record("teacher")["tables"]["labels"]
        ],
    )


def models() -> str:
    """The shared prefix by size of model."""
    return table(
        "model | no context, queries/s | context read once, s | shared over no context, 1,000 queries | operations allow",
        [
            [
                f"`{row['model']}`",
                f"{row['zero_shot_queries_per_s']:.1f}",
                f"{row['context_seconds']:.2f}",
                f"{row['shared_over_zero_shot_of_1000']:.3f}",
                f"{row['bound']:.3f}",
            ]
            for row in record("teacher")["tables"]["models"]
        ],
    )


def answers() -> str:
    """The teacher with its context against students without."""
    rows = record("teacher")["tables"]["answers"]
    slowest = rows[0]["queries_per_s"]
    return table(
        "who answers | queries/s | ratio",
        [
            [row["answers"], f"{row['queries_per_s']:.1f}", f"{row['queries_per_s'] / slowest:.0f}"]
            for row in rows
        ],
    )


def memory() -> str:
    """Peak memory of labelling."""
    return table(
        "model, bfloat16, 32 shots | weights, MiB | peak of loading, MiB | labelling adds, MiB | peak over weights",
        [
            [
                f"`{row['model']}`",
                *(
                    f"{row[key] / 2**20:,.0f}"
                    for key in ("weights_bytes", "loading_peak_bytes", "labelling_above_weights_bytes")
                ),
                f"{row['peak_over_weights']:.2f}",
            ]
            for row in record("teacher")["tables"]["memory"]
        ],
    )


def agreement() -> str:
    """Differences of scores in bfloat16."""
    keys = (
        "in_full_between_batch_sizes",
        "repeated_from_in_full",
        "shared_from_in_full",
        "in_full_from_float32",
        "repeated_from_float32",
        "shared_from_float32",
        "spread_of_scores",
    )
    return table(
        "model | in full, between batch sizes | repeated cache from in full | shared from in full | in full from float32 | repeated cache from float32 | shared from float32 | spread of scores",
        [
            [f"`{row['model']}`", *(f"{row[key]:.4f}" for key in keys)]
            for row in record("teacher")["tables"]["agreement"]
        ],
    )


def roofline() -> str:
    """Each stage against what the machine reaches."""
    teacher = record("teacher")
    reached = teacher["roofline"]
    rows = [
        [
            row["stage"],
            f"{row['operations'] / 1e12:.2f}",
            f"{row['seconds']:.2f}",
            f"{row['operations_per_s'] / reached['product_flops']:.2f}",
            f"{row['bytes_per_s'] / reached['memory_bytes_per_s']:.2f}",
        ]
        for row in teacher["tables"]["stages"]
    ]
    trained = record("training")["stages"]
    rows += [
        [
            row["stage"],
            f"{row['operations'] / 1e12:.2f}",
            f"{row['seconds']:.2f}",
            f"{row['operations_per_s'] / record('training')['roofline']['product_flops']:.2f}",
            "",
        ]
        for row in trained
    ]
    return table("stage | 10^12 operations | seconds | of the product's rate | of the memory's rate", rows)


def trainers(part: str) -> Callable[[], str]:
    """Rows of trainers, against TRL's where there is one, else against the first."""

    def rows() -> str:
        kept = record("training")[part]
        base = kept.get("trl SFTTrainer", kept["stillshot"])
        return table(
            "trainer | prompt tokens/s | ratio | peak memory, MiB | ratio",
            [
                [
                    name,
                    f"{row['tokens_per_s']:.0f}",
                    f"{row['tokens_per_s'] / base['tokens_per_s']:.2f}",
                    f"{row['peak_memory_bytes'] / 2**20:,.0f}",
                    f"{row['peak_memory_bytes'] / base['peak_memory_bytes']:.2f}",
                ]
                for name, row in kept.items()
            ],
        )

    return rows


def distillation() -> str:
    """One epoch of distilling with a context."""
    kept = record("training")["distillation"]
    return table(
        f"{kept['queries']} queries, {kept['context_tokens']} context tokens | soft labels, s | first epoch, s | a further epoch, s",
        [
            [
                "stillshot",
                f"{kept['label_seconds']:.1f}",
                f"{kept['label_seconds'] + kept['epoch_seconds']:.1f}",
                f"{kept['epoch_seconds']:.1f}",
            ],
            ["trl SDFTTrainer", "", *[f"{kept['trl_epoch_seconds']:.1f}"] * 2],
        ],
    )


def attention() -> str:
    """Attention of a training step in one layer."""
    return table(
        "tokens of a row | flash kernel, ms | plain products, ms | ratio",
        [
            [
                str(row["length"]),
                f"{row['flash_ms']:.1f}",
                f"{row['plain_ms']:.1f}",
                f"{row['flash_ms'] / row['plain_ms']:.1f}",
            ]
            for row in record("kernels")["training_attention"]
        ],
    )


def serving() -> str:
    """Requests to a server, by how they come and whether they share batches."""
    kept = record("serving")
    clients, alone = kept["clients"], kept["rates"]["float32"]["single"]["requests_per_s"]
    names = {
        "single": "1 client, one request after the other",
        "unbatched": f"{clients} clients, no batching",
        "batched": f"{clients} clients, batches",
    }
    return table(
        "one text a request | requests/s | ratio | p50, ms | p99, ms",
        [
            [
                f"{name}, {kept['auto'] if dtype == 'auto' else dtype}",
                f"{row['requests_per_s']:.0f}",
                f"{row['requests_per_s'] / alone:.1f}",
                f"{row['p50_ms']:.1f}",
                f"{row['p99_ms']:.1f}",
            ]
            for dtype, rates in kept["rates"].items()
            for key, name in names.items()
            for row in [rates[key]]
        ],
    )


def exports() -> str:
    """Exports by student, beside PyTorch and the teacher."""
    return _exports(record("deploy"))


def run_exports() -> str:
    """Exports of a run's own students, beside PyTorch and the run's teacher."""
    return _exports(record("deploy")["run"])


def _exports(kept: Record) -> str:
    rows = []
    for row in kept["rows"]:
        alone, batch = row["alone"], row.get("batch")
        share = row.get("agreement")
        rows.append(
            [
                f"{row['student']}: {row['kind']}",
                f"{row['size_bytes'] / 1e6:.1f}",
                "" if share is None else f"{100 * share:.1f}",
                f"{alone['p50_ms']:.1f}",
                f"{alone['p95_ms']:.1f}",
                f"{batch['p50_ms']:.0f}" if batch else "",
                f"{batch['p95_ms']:.0f}" if batch else "",
                f"{(batch or alone)['queries_per_s']:,.1f}",
            ]
        )
    return table(
        "student: form | MB | same answer, % | one query, p50 ms | p95 | 32 queries, p50 ms | p95 | queries/s",
        rows,
    )


def waiting() -> str:
    """Seconds of labelling by how long threads spin for each other."""
    kept = record("waiting")["seconds"]
    rows = [
        [name.replace("_", " "), f"{ways['as_long_as_usual']:.2f}", f"{ways['briefly']:.2f}"]
        for name, ways in kept.items()
    ]
    return table("labelling 32 queries with 2 threads, seconds | 300,000 rounds | 1,000 rounds", rows)


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


TABLES: dict[str, Callable[[], str]] = {
    "machine": machine,
    "main": main_ratios,
    "shots": shots,
    "queries": queries,
    "labels": labels,
    "models": models,
    "answers": answers,
    "memory": memory,
    "agreement": agreement,
    "roofline": roofline,
    "lora": trainers("lora"),
    "full": trainers("full"),
    "parts": trainers("parts"),
    "distillation": distillation,
    "attention": attention,
    "serving": serving,
    "exports": exports,
    "run_exports": run_exports,
    "waiting": waiting,
}


def filled(page: str) -> str:
    """The page with its tables made anew."""

    def made(name: str) -> str:
        try:
            return TABLES[name]()
        except FileNotFoundError:
            return "No record yet: `make bench` makes it.\n"

    return _BLOCK.sub(lambda match: f"{match[1]}{made(match[2])}{match[3]}", page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
