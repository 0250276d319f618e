"""The store between teacher and student: a folder of Parquet shards, content-addressed and resumable.

A row is found by a digest of everything its scores depend on: weights and dtype, the exact prompt
token ids, the label token ids, and the kind of scoring. Batch size, device and retries are not in it.
Scores are raw; calibration, ensembling and temperature are applied afterwards
(:mod:`stillshot.teacher.answers`). Readable with ``datasets.load_dataset("parquet")``.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stillshot.errors import WorkError
from stillshot.prompt.budget import fitted_prompts
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt
from stillshot.teacher.protocol import Teacher
from stillshot.types import Context, Example, LabelScores

Progress = Callable[[int, int], None]  # (done, total)

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("query", pa.string()),
        ("kind", pa.string()),
        ("teacher", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("shots", pa.int32()),
        ("query_tokens", pa.int32()),
        ("seconds", pa.float32()),  # the row's share of the time its batch took
    ]
)


class SoftLabelStore:
    """Raw label scores on disk.

    Every batch becomes a shard, written under a temporary name and renamed: a kill at any moment loses
    at most the batch in flight and corrupts nothing, and several writers may share a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scores: dict[str, list[float]] = {}
        self._seconds: dict[str, float] = {}
        self._seen: set[str] = set()

    def lookup(self, keys: Iterable[str]) -> dict[str, list[float]]:
        """The stored scores of those keys that have any."""
        self._read_new_shards()
        return {key: self._scores[key] for key in keys if key in self._scores}

    def seconds(self, keys: Iterable[str]) -> float:
        """What computing the scores of these keys took, whenever that was."""
        return sum(self._seconds[key] for key in set(keys))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows (see the module's schema) as one shard.

        Raises:
            WorkError: The folder cannot be written, e.g. because the disk is full.
        """
        name = f"part-{uuid.uuid4().hex}.parquet"
        scratch = self.folder / f".{name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), scratch)
            scratch.replace(self.folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise WorkError(
                f"Soft labels could not be written to {self.folder}: {error}. What was written before is kept; "
                "free some space and run the same command again."
            ) from error
        self._seen.add(name)
        self._scores.update({row["key"]: row["scores"] for row in rows})
        self._seconds.update({row["key"]: row["seconds"] for row in rows})

    def _read_new_shards(self) -> None:
        for shard in sorted(self.folder.glob("part-*.parquet")):
            if shard.name not in self._seen:
                table = pq.read_table(shard, columns=["key", "scores", "seconds"]).to_pydict()
                self._scores.update(zip(table["key"], table["scores"], strict=True))
                self._seconds.update(zip(table["key"], table["seconds"], strict=True))
                self._seen.add(shard.name)


def prompt_key(
    fingerprint: str, kind: Kind, label_tokens: Sequence[Sequence[int]], prompt: ScoredPrompt
) -> str:
    """The digest that a prompt's scores are stored under."""
    digest = hashlib.sha256(f"{fingerprint}\n{kind}\n{list(map(list, label_tokens))}\n".encode())
    for sequence in prompt.sequences:
        digest.update(f"{sequence.scored_from}:".encode())
        digest.update(np.asarray(sequence.ids, dtype="<u4").tobytes())
    return digest.hexdigest()[:40]


def label_queries(
    teacher: Teacher,
    writer: PromptWriter,
    kind: Kind,
    context: Context,
    queries: Sequence[Example],
    store: SoftLabelStore,
    progress: Progress | None = None,
) -> LabelScores:
    """The teacher's raw scores of all queries under one context; only what the store lacks is computed.

    Raises:
        PromptError: A prompt does not fit the teacher's window.
        WorkError: The store cannot be written.
    """
    prompts = fitted_prompts(writer, kind, context, queries, teacher.window)
    tokens = writer.verbalizer.scored_ids if kind == "direct" else ()
    keys = [prompt_key(teacher.fingerprint, kind, tokens, prompt) for prompt in prompts]
    found = store.lookup(keys)
    known = {index for index, key in enumerate(keys) if key in found}
    next_tokens = [ids[0] for ids in tokens] if kind == "direct" and writer.verbalizer.single_token else None
    computed = 0
    report = progress or (lambda *_: None)
    report(len(known), len(keys))
    started = time.perf_counter()
    for positions, scores in teacher.score(prompts, next_tokens, skip=known):
        rows = []
        seconds = (time.perf_counter() - started) / len(positions)
        for index, row in zip(positions, scores, strict=True):
            found[keys[index]] = row.tolist()
            rows.append(
                {
                    "key": keys[index],
                    "query": queries[index].key,
                    "kind": kind,
                    "teacher": teacher.fingerprint,
                    "labels": list(writer.task.labels),
                    "scores": row.tolist(),
                    "shots": len(context),
                    "query_tokens": prompts[index].query_tokens,
                    "seconds": seconds,
                }
            )
        store.add(rows)
        computed += len(rows)
        report(min(len(known) + computed, len(keys)), len(keys))
        started = time.perf_counter()
    return LabelScores(
        scores=np.array([found[key] for key in keys], dtype=np.float64).reshape(-1, len(writer.task.labels)),
        labels=tuple(writer.task.labels),
        query_tokens=sum(prompt.query_tokens for prompt in prompts),
        computed=computed,
        seconds=store.seconds(keys),
    )
