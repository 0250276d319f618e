"""A small run folder made in code: invented numbers in the shape that a real run leaves."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from stillshot.evaluate.records import (
    Cell,
    Comparison,
    GroupResult,
    Interval,
    Results,
    SplitResult,
    SummaryLine,
)

LABELS = ["entailment", "neutral", "contradiction"]
TWO_LABELS = ["entailment", "non-entailment"]
TEACHER, STUDENT = "bundled:smollm2-135m", "bundled:minilm-l6"

# Method: accuracy in-domain and out-of-domain, parameters, bytes, latency in ms.
METHODS: dict[str, tuple[float, float, int, int, float]] = {
    "zero_shot": (0.41, 0.50, 134_515_008, 269_030_016, 31.0),
    "in_context": (0.62, 0.44, 134_515_008, 269_030_016, 52.5),
    "pattern_finetune": (0.52, 0.49, 22_714_755, 90_859_020, 3.4),
    "context_distillation": (0.66, 0.52, 22_714_755, 90_859_020, 3.4),
}


def split_result(
    accuracy: float, labels: list[str] = LABELS, n: int = 300, groups: bool = False
) -> SplitResult:
    """A result with evenly spread gold labels and errors."""
    each = n // len(labels)
    right = round(each * accuracy)
    wrong = (each - right) // (len(labels) - 1)
    confusion = [
        [right if row == column else wrong for column in range(len(labels))] for row in range(len(labels))
    ]
    by_group = {
        "heuristic": {
            "lexical_overlap": GroupResult(n=100, accuracy=accuracy + 0.05),
            "subsequence": GroupResult(n=100, accuracy=accuracy),
            "constituent": GroupResult(n=100, accuracy=accuracy - 0.05),
        }
    }
    return SplitResult(
        n=n,
        labels=labels,
        accuracy=accuracy,
        ci95=(accuracy - 0.05, accuracy + 0.05),
        macro_f1=accuracy - 0.01,
        nll=1.4 - accuracy,
        ece=0.08,
        predicted=dict.fromkeys(labels, 1 / len(labels)),
        confusion=confusion,
        by_group=by_group if groups else {},
    )


def cell(method: str, seed: int = 0, labelled: int = 16, gain: float = 0.0, **changes: Any) -> Cell:
    """A finished cell of one of the four methods."""
    inside, outside, parameters, model_bytes, latency = METHODS[method]
    asks, trains = method != "pattern_finetune", method in ("pattern_finetune", "context_distillation")
    shown = method in ("in_context", "context_distillation")
    distilled = method == "context_distillation"
    values: dict[str, Any] = {
        "id": f"{method}-{labelled}-s{seed}",
        "method": method,
        "teacher": TEACHER if asks else None,
        "student": STUDENT if trains else None,
        "head": "label" if trains else None,
        "tuning": "full" if trains else None,
        "scoring": "channel" if asks else None,
        "calibration": "batch" if asks else None,
        "num_shots": labelled if shown else 0,
        "num_contexts": 4 if shown else 0,
        "seed": seed,
        "labelled": 0 if method == "zero_shot" else labelled,
        "unlabelled": 512 if distilled else 0,
        "in_domain": {"snli": split_result(inside + gain)},
        "out_of_domain": {"hans": split_result(outside + gain / 2, TWO_LABELS, groups=True)},
        "teacher_agreement": {"snli": 0.81} if distilled else {},
        "parameters": parameters,
        "trainable_parameters": parameters if trains else 0,
        "model_bytes": model_bytes,
        "peak_memory_bytes": 412_000_000 if trains else 655_000_000,
        "train_seconds": 38.2 if trains else 0.0,
        "label_seconds": 61.0 if distilled else 0.0,
        "latency_ms": {"p50": latency, "p95": latency * 1.4},
    }
    return Cell(**{**values, **changes})


def summary_line(cells: list[Cell]) -> SummaryLine:
    """The line of one cell's seeds."""
    first = cells[0]

    def intervals(side: str) -> dict[str, Interval]:
        found = {}
        for split in getattr(first, side):
            runs = [getattr(one, side)[split].accuracy for one in cells]
            mean = sum(runs) / len(runs)
            found[split] = Interval(mean=mean, ci95=(mean - 0.04, mean + 0.04), seeds=len(cells))
        return found

    shared = (
        "method teacher student head tuning scoring calibration num_shots num_contexts control labelled unlabelled "
        "parameters trainable_parameters model_bytes peak_memory_bytes train_seconds label_seconds latency_ms"
    )
    return SummaryLine(
        key=first.id.rsplit("-s", 1)[0],
        in_domain=intervals("in_domain"),
        out_of_domain=intervals("out_of_domain"),
        **{name: getattr(first, name) for name in shared.split()},
    )


def make_results(
    methods: tuple[str, ...] = tuple(METHODS),
    budgets: tuple[int, ...] = (16,),
    seeds: tuple[int, ...] = (0, 1),
    **changes: Any,
) -> Results:
    """Records of a whole run."""
    cells, summary = [], []
    for budget, gain in zip(budgets, (0.0, 0.06, 0.1), strict=False):
        for method in methods:
            if method == "zero_shot" and budget != budgets[0]:
                continue
            line = [cell(method, seed, budget, gain) for seed in seeds]
            cells += line
            summary.append(summary_line(line))
    keys = [line.key for line in summary]
    distilled = next((key for key in keys if key.startswith("context_distillation")), None)
    differences = {
        "in_context": (("snli", 0.04, (-0.01, 0.09), 0.11), ("hans", 0.08, (0.02, 0.14), 0.008)),
        "pattern_finetune": (("snli", 0.14, (0.08, 0.2), 0.0004), ("hans", -0.03, (-0.05, -0.01), 0.01)),
    }
    comparisons = [
        Comparison(a=distilled, b=f"{method}-{budgets[0]}", split=split, difference=gain, ci95=bounds, p=p)
        for method, found in differences.items()
        for split, gain, bounds, p in found
        if distilled and f"{method}-{budgets[0]}" in keys
    ]
    values: dict[str, Any] = {
        "name": "snli-sample",
        "task": "snli",
        "labels": LABELS,
        "description": "Natural language inference from sixteen labelled pairs.",
        "versions": {"stillshot": "0.1.0", "torch": "2.9.0"},
        "hardware": {"cpu": "2 cores", "memory_bytes": 8_000_000_000, "accelerators": []},
        "cells": cells,
        "summary": summary,
        "comparisons": comparisons,
    }
    return Results(**{**values, **changes})


def write_run(folder: Path, results: Results, *, with_items: bool = True, text: str | None = None) -> Path:
    """A run folder around the records; ``text`` stands in for every field."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results.model_dump_json(by_alias=True), encoding="utf-8")
    (folder / "recipe.yaml").write_text(f"name: {results.name!r}\ntask: snli\n", encoding="utf-8")
    if with_items:
        for split, labels in (("snli", LABELS), ("hans", TWO_LABELS)):
            _write_items(folder, split, labels, text)
        for one in results.cells:
            _write_predictions(folder, one)
    return folder


def _write_items(folder: Path, split: str, labels: list[str], text: str | None) -> None:
    items = [
        {
            "index": index,
            "fields": {
                "premise": text or f"Runner {index} waited at the bridge while her friends went ahead.",
                "hypothesis": text or f"Someone is standing still, number {index}.",
            },
            "label": labels[index % len(labels)],
            "groups": {},
        }
        for index in range(60)
    ]
    path = folder / "evaluation" / f"{split}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


def _write_predictions(folder: Path, one: Cell) -> None:
    """The student errs on every fifth item and everything else on every third."""
    period = 5 if one.method == "context_distillation" else 3
    lines = []
    for split, labels in (("snli", LABELS), ("hans", TWO_LABELS)):
        for index in range(60):
            gold = index % len(labels)
            answer = (gold + (index % period == 0)) % len(labels)
            rest = 0.3 / (len(labels) - 1)
            probabilities = {label: 0.7 if label == labels[answer] else rest for label in labels}
            record = {"split": split, "index": index, "gold": labels[gold], "probabilities": probabilities}
            lines.append(json.dumps(record) + "\n")
    path = folder / "cells" / f"{one.id}.predictions.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


WITHOUT_END = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements, attributes, ids and unbalanced tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]
