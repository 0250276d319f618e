"""Unlabelled texts of which half are like the out-of-domain ones: for sweeps ``target-queries-*``, nli-hans-queries.

    python experiments/target_queries.py    # writes runs/target-queries-sentiment.jsonl and ...-hans.jsonl

Their labels are left out: what someone has who knows where a student will be asked, but has nothing labelled from
there. Texts that are evaluated on are among them, and a run leaves those out itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stillshot.data.sources import read_reference
from stillshot.errors import StillshotError
from stillshot.tasks import load_task
from stillshot.types import Example

FOLDER = Path("runs")
# By name: the task, where the other half of the texts are from, and how many of each there are: about as many once
# evaluated ones are left out.
MIXTURES = {"sentiment": ("sst2", "imdb:test", 700, 1_000), "hans": ("snli", "hans:test", 3_000, 3_200)}


def evenly(examples: list[Example], most: int) -> list[Example]:
    """So many examples from the whole length of a file, which may be sorted."""
    return examples[:: max(1, len(examples) // most)][:most]


def mixture(task_name: str, target: str, own: int, other: int) -> list[Example]:
    """Texts of a task's own training split, and of a target's split."""
    task = load_task(task_name)
    parts = ((own, "train"), (other, target))
    return [text for most, reference in parts for text in evenly(read_reference(reference, task)[1], most)]


def main() -> None:
    """Write the texts, and say how many."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, source in MIXTURES.items():
        try:
            texts = mixture(*source)
        except StillshotError as error:
            sys.exit(f"error: {error}")
        path = FOLDER / f"target-queries-{name}.jsonl"
        rows = (json.dumps(dict(text.fields), ensure_ascii=False) for text in texts)
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(texts):,} texts")


if __name__ == "__main__":
    main()
