"""A first recipe for a file of labelled examples, as commented YAML."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stillshot.data.values import number_name
from stillshot.errors import DataError

if TYPE_CHECKING:
    from stillshot.config import Scoring, TaskDefinition
    from stillshot.types import Example

LABELLED = 16
UNLABELLED = 512


@dataclass(frozen=True)
class Files:
    """Where the examples are. ``split_from`` is set where training and test file were made of it."""

    labelled: Path
    test: Path
    unlabelled: Path | None
    split_from: Path | None


@dataclass(frozen=True)
class Sizes:
    """How much of the data is used."""

    labelled: int
    num_contexts: int
    num_shots: int
    num_unlabelled: int
    max_tokens: int | None = None


def field_names(columns: Sequence[str]) -> dict[str, str]:
    """A name that patterns can use for each column, by that name.

    >>> field_names(["Review text", "text"])
    {'Review_text': 'Review text', 'text': 'text'}
    """
    fields: dict[str, str] = {}
    for column in columns:
        field = re.sub(r"\W+", "_", column).strip("_") or "text"
        if field in fields or field == "label_words":
            field = f"{field}_{len(fields) + 1}"
        fields[field] = column
    return fields


def choose_sizes(
    labelled: Sequence[Example],
    unlabelled: Sequence[Example] | None,
    labels: Sequence[str],
    tested: Sequence[Example],
) -> Sizes:
    """Budgets that the data allows.

    Args:
        labelled: The labelled examples that may be learned from.
        unlabelled: The queries; null takes the labelled examples beyond the budget.
        labels: All labels.
        tested: The test examples.

    Raises:
        DataError: There is too little of something.
    """
    texts = {example.key: example for example in reversed(labelled)}  # of equal texts the first
    counts = Counter(example.label for example in texts.values())
    per_label = min(max(1, round(LABELLED / len(labels))), *(counts[label] for label in labels))
    if unlabelled is None:  # leave at least as many texts as are taken with their labels
        per_label = max(1, min(per_label, len(texts) // (2 * len(labels))))
    budget = per_label * len(labels)
    used = texts.keys() | {example.key for example in tested}
    queries = texts if unlabelled is None else {e.key: e for e in unlabelled if e.key not in used}
    left = len(queries) - (budget if unlabelled is None else 0)
    if per_label < 1 or left < 1:
        raise DataError(
            f"{len(texts)} labelled examples to learn from and {max(left, 0)} texts for the teacher to label are "
            "too few. Add examples, or give a file of plain texts with --unlabelled."
        )
    shots = max(1, per_label // 2) * len(labels)
    return Sizes(
        labelled=budget,
        num_contexts=4 if per_label >= 2 else 2,
        num_shots=shots,
        num_unlabelled=min(UNLABELLED, left),
    )


def draft(
    name: str,
    task: TaskDefinition,
    files: Files,
    sizes: Sizes,
    models: tuple[str, str],
    command: str,
    *,
    strict: bool = False,
) -> str:
    """The recipe's text; ``models`` are the teacher and the student."""
    teacher, student = models
    return "\n".join(
        [
            f"# Written by `{' '.join(command.split())}`; change what you like.",
            "# Paths are relative to the folder in which stillshot is called.",
            _yaml({"name": name}),
            "",
            *_task_lines(task),
            "",
            *_data_lines(files, sizes, strict),
            "",
            "# How many labelled examples are used, and how many of them each prompt shows.",
            "# Add entries to compare budgets.",
            "budgets:",
            f"  - {{labelled: {sizes.labelled}, num_contexts: {sizes.num_contexts}, num_shots: {sizes.num_shots}}}",
            "",
            "# The model that sees the examples in its prompt and labels the plain texts.",
            "teacher:",
            _indented({"model": teacher}),
            *_scoring_lines(task),
            "",
            "# The models that learn from it. For a decoder, add `tuning: lora`.",
            "students:",
            f"  - {_yaml({'model': student})}",
            "",
            "# Every method is run once a seed; five or more give honest intervals.",
            "seeds: [0]",
            "",
        ]
    )


def _task_lines(task: TaskDefinition) -> list[str]:
    content = task.model_dump(mode="json", exclude_defaults=True)
    lines = [
        "# What is classified.",
        "task:",
        _indented({"name": task.name}),
        _indented({"labels": task.labels}),
    ]
    lines.append(_indented({"fields": task.fields}))
    if "sources" in content:
        lines.append("  # How the columns and labels of your files are named.")
        source = content["sources"]["local"]
        lines.append(_indented({"sources": {"local": {"splits": {}, **source}}}))
    lines.append("  # How the teacher is asked: the pattern, then the words of a label.")
    if all(number_name(label) is not None for label in task.labels):
        lines.append(
            "  # These labels are numbers, which tell a model nothing: put words that say what they mean."
        )
    lines.append(_indented({"patterns": content["patterns"]}))
    lines.append("  # The other way round: the words of a label, then the text, whose likelihood is scored.")
    lines.append(_indented({"channels": content["channels"]}))
    return lines


def _data_lines(files: Files, sizes: Sizes, strict: bool) -> list[str]:
    lines = ["# Which file plays which part.", "data:", _indented({"labelled": str(files.labelled)})]
    if files.unlabelled is None:
        lines.append(
            "  # No file of plain texts was given: texts beyond the labelled budget, without their labels."
        )
    lines.append(_indented({"unlabelled": str(files.unlabelled or files.labelled)}))
    lines.append(_indented({"num_unlabelled": sizes.num_unlabelled}))
    if files.split_from is not None:
        lines.append(f"  # 30% of {files.split_from}, which no method learns from.".replace("\n", " "))
    lines.append(_indented({"in_domain": {"test": str(files.test)}}))
    if sizes.max_tokens is not None:
        lines.append(
            "  # Longer texts are cut after so many tokens, so that all prompts fit the teacher's window."
        )
        lines.append(_indented({"max_tokens": sizes.max_tokens}))
    if strict:
        lines.append("  # Rows without a text or a label are refused, not left out.")
        lines.append(_indented({"strict": True}))
    return lines


def scoring_of(task: TaskDefinition) -> Scoring:
    """How the teacher of a drafted recipe is asked: a pass a label is affordable where there are few."""
    return "both" if len(task.labels) <= 4 else "direct"


def _scoring_lines(task: TaskDefinition) -> list[str]:
    lines = [
        "  # direct: the label's words after the text; channel: the text after the label's words (good for"
    ]
    lines.append("  # pairs; one pass a label); both: their product.")
    return [*lines, _indented({"scoring": scoring_of(task)})]


def _indented(content: Mapping[str, Any]) -> str:
    return textwrap.indent(_yaml(content), "  ")


class _Dumper(yaml.SafeDumper):
    """Writes texts with a line break in one line, and lists between brackets."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


def _list(dumper: yaml.SafeDumper, values: Sequence[Any]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def _yaml(content: Mapping[str, Any]) -> str:
    text = yaml.dump(dict(content), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10_000)
    return text.strip("\n")
