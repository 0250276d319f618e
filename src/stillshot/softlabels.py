"""The store between teacher and student: a folder of Parquet shards, content-addressed and resumable.

A row is found by a digest of everything its scores depend on: weights and dtype, the exact prompt
token ids, the label token ids, and the kind of scoring. Batch size, device and retries are not in it.
A shard's name holds the checksum of its content, so a damaged one is found out and computed again.
Scores are raw; calibration, ensembling and temperature are applied afterwards
(:mod:`stillshot.teacher.answers`). Readable with ``datasets.load_dataset("parquet")``.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from stillshot.errors import WorkError
from stillshot.prompt.budget import fitted_prompts
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt
from stillshot.storage import cannot_write, notices, remove_scratch, scratch_beside
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


_NAMED_BY_CONTENT = re.compile(r"part-([0-9a-f]{40})\.parquet")  # older shards have names of 32 digits
_SLOTS = 64  # files of locks by which batches are claimed
_PATIENCE = 0.05  # seconds between looks at what another process does


class SoftLabelStore:
    """Raw label scores on disk.

    Every batch becomes a shard, written under a temporary name and renamed: a kill at any moment loses
    at most the batch in flight and corrupts nothing, and several writers may share a folder. A damaged shard is set
    aside, as if it had never been written, and that is said.

    Args:
        shared: Whether other processes may write here at the same time. A batch is then claimed before it is computed, so
            that no two compute the same.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder, self.shared = folder.expanduser(), shared
        self._scores: dict[str, list[float]] = {}
        self._seconds: dict[str, float] = {}
        self._seen: set[str] = set()
        self._claim: FileLock | None = None

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
        scratch = scratch_beside(self.folder / "part.parquet")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(list(rows), schema=_SCHEMA), scratch)
            name = f"part-{hashlib.sha256(scratch.read_bytes()).hexdigest()[:40]}.parquet"
            scratch.replace(self.folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise cannot_write(self.folder, error, "Soft labels that were written before are kept") from error
        self._seen.add(name)
        self._scores.update({row["key"]: row["scores"] for row in rows})
        self._seconds.update({row["key"]: row["seconds"] for row in rows})

    def set_damaged_aside(self) -> None:
        """Look at every shard, so that one that was damaged is known, and said, before it is needed."""
        for shard in sorted(self.folder.glob("part-*.parquet")):
            named = _NAMED_BY_CONTENT.fullmatch(shard.name)
            try:
                whole = named and hashlib.sha256(shard.read_bytes()).hexdigest().startswith(named[1])
            except OSError:  # gone meanwhile, or closed to this user: reading it says so
                whole = False
            if not whole:
                self._read(shard)

    def claim(self, keys: Sequence[str]) -> bool:
        """Claim a batch for this process, until :meth:`release`; false where another has claimed it."""
        self.release()
        lock = self._slot(keys)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except (OSError, NotImplementedError):  # no locks there: what two compute at once is computed twice
            return True
        self._claim = lock
        return True

    def release(self) -> None:
        """Let go of the claimed batch."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def wait_for(self, keys: Sequence[str]) -> None:
        """Wait until no other process has claimed a batch: it is stored then, or was given up."""
        while not self.claim(keys):
            time.sleep(_PATIENCE)
        self.release()

    def _slot(self, keys: Sequence[str]) -> FileLock:
        slot = int(hashlib.sha256(" ".join(keys).encode()).hexdigest()[:8], 16) % _SLOTS
        return FileLock(self.folder / ".claims" / f"{slot:02}.lock")

    def _read_new_shards(self) -> None:
        if not self._seen:
            remove_scratch(self.folder)
        for shard in sorted(self.folder.glob("part-*.parquet")):
            if shard.name not in self._seen and (table := self._read(shard)) is not None:
                self._scores.update(zip(table["key"], table["scores"], strict=True))
                self._seconds.update(zip(table["key"], table["seconds"], strict=True))
                self._seen.add(shard.name)

    def _read(self, shard: Path) -> dict[str, list[Any]] | None:
        """The rows of a shard; null where it is damaged, and so was set aside.

        Raises:
            WorkError: It cannot be read at all.
        """
        try:
            content = shard.read_bytes()
        except FileNotFoundError:  # another process has set it aside
            return None
        except IsADirectoryError:
            content = b""  # no shard at all: set aside as a damaged one
        except OSError as error:
            raise WorkError(f"{shard} cannot be read: {error}. Make it readable for this user.") from error
        named = _NAMED_BY_CONTENT.fullmatch(shard.name)
        if not named or hashlib.sha256(content).hexdigest().startswith(named[1]):
            try:
                table = pq.read_table(pa.BufferReader(content), columns=["key", "scores", "seconds"])
                return table.to_pydict()
            except (pa.ArrowException, OSError, KeyError, ValueError):
                pass
        aside = shard.with_name(f"{shard.name}.damaged")
        done = f"was set aside as {aside.name}"
        try:
            shard.rename(aside)
        except FileNotFoundError:  # another process has set it aside
            pass
        except OSError as error:
            done = f"could not be set aside ({error.strerror})"
        self._seen.add(shard.name)
        notices.warning("%s is damaged and %s. What it held is scored again where it is needed.", shard, done)
        return None


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
    turns = _Turns(store, keys)
    next_tokens = [ids[0] for ids in tokens] if kind == "direct" and writer.verbalizer.single_token else None
    computed = 0
    report = progress or (lambda *_: None)
    report(len(turns.known), len(keys))
    try:
        while turns.begin():
            started = time.perf_counter()
            for positions, scores in teacher.score(
                prompts, next_tokens, skip=turns.known, wants=turns.wants if store.shared else None
            ):
                seconds = (time.perf_counter() - started) / len(positions)
                rows = [
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
                    for index, row in zip(positions, scores, strict=True)
                ]
                store.add(rows)
                turns.stored(positions.tolist())
                computed += len(rows)
                report(len(turns.known), len(keys))
                started = time.perf_counter()
    finally:
        store.release()
    found = store.lookup(keys)
    return LabelScores(
        scores=np.array([found[key] for key in keys], dtype=np.float64).reshape(-1, len(writer.task.labels)),
        labels=tuple(writer.task.labels),
        query_tokens=sum(prompt.query_tokens for prompt in prompts),
        computed=computed,
        seconds=store.seconds(keys),
    )


class _Turns:
    """Which of a call's prompts are still to be computed, and by whom, where several processes share a store."""

    def __init__(self, store: SoftLabelStore, keys: Sequence[str]) -> None:
        self.store, self.keys = store, keys
        self.known: set[int] = set()
        self._elsewhere: list[list[str]] = []  # batches that others are at
        self._look_up(range(len(keys)))

    def begin(self) -> bool:
        """Whether prompts are still to be computed, once others have ended what they are at."""
        for batch in self._elsewhere:
            self.store.wait_for(batch)
        self._elsewhere.clear()
        self._look_up(range(len(self.keys)))
        return len(self.known) < len(self.keys)

    def wants(self, positions: Sequence[int]) -> bool:
        """Whether this process is to compute a batch: nobody has, and nobody is at it."""
        if self._look_up(positions):
            return False
        batch = [self.keys[position] for position in positions]
        if not self.store.claim(batch):
            self._elsewhere.append(batch)
            return False
        if self._look_up(positions):  # it was stored while it was claimed
            self.store.release()
            return False
        return True

    def stored(self, positions: Sequence[int]) -> None:
        """Some prompts have been computed and stored."""
        self.store.release()
        self.known.update(positions)

    def _look_up(self, positions: Collection[int]) -> bool:
        """Whether all of these are stored by now."""
        found = self.store.lookup([self.keys[position] for position in positions])
        self.known.update(position for position in positions if self.keys[position] in found)
        return self.known.issuperset(positions)
