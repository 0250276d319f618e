"""Pairs of MNLI whose hypothesis has hardly a word that its premise lacks, for the sweep ``counter-examples``.

    python experiments/overlapping.py    # writes runs/overlapping.jsonl

Among them those that are not entailed are counter-examples to judging by overlap, as HANS asks for. Which pairs these
are is seen without labels; labels are only needed of those that a context shows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from stillshot.data.sources import read_split
from stillshot.tasks import load_task
from stillshot.types import Example

TARGET = Path("runs/overlapping.jsonl")
LEAST_SHARE, LEAST_WORDS, MOST_WORDS = 0.9, 4, 30  # of the hypothesis, of it again, of the premise


def overlaps(pair: Example) -> bool:
    """Whether nearly all words of the hypothesis are in the premise, and neither is too short or long."""
    premise, hypothesis = (
        re.findall(r"[\w']+", pair.fields[name].lower()) for name in ("premise", "hypothesis")
    )
    known = set(premise)
    shared = sum(word in known for word in hypothesis)
    return (
        len(hypothesis) >= LEAST_WORDS
        and len(premise) <= MOST_WORDS
        and shared >= LEAST_SHARE * len(hypothesis)
    )


def main() -> None:
    """Write the pairs, and say how many there are of each label."""
    task = load_task("mnli")
    found = [pair for pair in read_split(task, "train") if overlaps(pair)]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({**pair.fields, "label": pair.label}, ensure_ascii=False) for pair in found)
    TARGET.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    counts = {label: sum(pair.label == label for pair in found) for label in task.labels}
    print(f"{TARGET}: {', '.join(f'{count} {label}' for label, count in counts.items())}")


if __name__ == "__main__":
    main()
