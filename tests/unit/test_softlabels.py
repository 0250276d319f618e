"""The store: nothing is asked twice, a kill loses one batch at most, and a full disk corrupts nothing."""

from __future__ import annotations

import errno
import itertools
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from doubles import LABELS, SENTIMENT, StubTeacher, context, reviews, stir
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from stillshot import softlabels
from stillshot.config import Prompt, TaskDefinition
from stillshot.config import Teacher as TeacherSection
from stillshot.errors import PromptError, WorkError
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt
from stillshot.softlabels import SoftLabelStore, label_queries
from stillshot.teacher.local import LocalTeacher
from stillshot.teacher.protocol import Teacher
from stillshot.types import LabelScores

QUERIES = reviews(18, seed=4)


def label(
    teacher: Teacher,
    folder: Path,
    kind: Kind = "direct",
    task: TaskDefinition = SENTIMENT,
    shots: int = 2,
    queries: Sequence[Any] = QUERIES,
    **prompt: Any,
) -> LabelScores:
    """Label with a store opened anew, as a new process would."""
    writer = PromptWriter(task, Prompt(**prompt), teacher.encoder)
    return label_queries(teacher, writer, kind, context(shots), queries, SoftLabelStore(folder))


def stored_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row for shard in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(shard).to_pylist()
    ]


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("part-")]


def test_the_second_call_computes_nothing(tmp_path: Path) -> None:
    teacher = StubTeacher()
    first, second = label(teacher, tmp_path), label(teacher, tmp_path)
    assert (first.computed, second.computed, teacher.scored) == (18, 0, 18)
    assert (first.scores == second.scores).all()
    assert first.scores.shape == (18, 2)
    assert first.query_tokens == second.query_tokens > 0
    assert first.labels == tuple(LABELS)


def test_more_queries_compute_only_what_is_new(tmp_path: Path) -> None:
    teacher = StubTeacher(batch=1)
    few = label(teacher, tmp_path, queries=QUERIES[:7])
    all_of_them = label(teacher, tmp_path)
    assert all_of_them.computed == 11
    assert (all_of_them.scores[:7] == few.scores).all()


def test_rows_say_what_was_asked_of_whom(tmp_path: Path) -> None:
    label(StubTeacher("weights float32"), tmp_path, shots=2)
    rows = stored_rows(tmp_path)
    assert len(rows) == len({row["key"] for row in rows}) == 18
    assert {row["query"] for row in rows} == {query.key for query in QUERIES}
    for row in rows:
        assert (row["teacher"], row["kind"], row["shots"]) == ("weights float32", "direct", 2)
        assert row["labels"] == LABELS
        assert len(row["scores"]) == 2


def test_the_store_is_a_plain_parquet_data_set(tmp_path: Path) -> None:
    expected = label(StubTeacher(), tmp_path / "store")
    files = str(tmp_path / "store" / "*.parquet")
    data = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    found = {row["query"]: row["scores"] for row in data}
    assert [found[query.key] for query in QUERIES] == expected.scores.tolist()


def test_no_queries_are_no_rows(tmp_path: Path) -> None:
    found = label(StubTeacher(), tmp_path, queries=[])
    assert found.scores.shape == (0, 2)
    assert stored_rows(tmp_path) == []


# What a stored score depends on --------------------------------------------------------------------


def reworded(**words: str) -> TaskDefinition:
    direct = SENTIMENT.patterns["yes-no"].model_copy(update={"label_words": words})
    return SENTIMENT.model_copy(update={"patterns": {"yes-no": direct}})


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "several"},
        {"kind": "channel"},
        {"shots": 3},
        {"instruction": "Judge."},
        {"separator": "\n"},
        {"task": reworded(negative="No", positive="True")},
        {"task": reworded(negative="Yes", positive="No")},
    ],
    ids=["pattern", "kind", "shots", "instruction", "separator", "label word", "label order"],
)
def test_another_prompt_is_asked_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    teacher = StubTeacher()
    # Demonstrations show the label words; without them only the scored tokens differ.
    shots = 0 if "task" in change else 2
    label(teacher, tmp_path, shots=shots)
    changed = label(teacher, tmp_path, **{"shots": shots, **change})
    assert changed.computed == 18
    assert len(stored_rows(tmp_path)) == 36


def test_another_teacher_is_asked_anew(tmp_path: Path) -> None:
    label(StubTeacher("one"), tmp_path)
    assert label(StubTeacher("two"), tmp_path).computed == 18


def test_a_fingerprint_is_of_weights_and_dtype_and_nothing_else(
    lively: Callable[[str], str], tmp_path: Path
) -> None:
    def fingerprint(model: str, **settings: Any) -> str:
        return LocalTeacher(TeacherSection(model=model, **{"dtype": "float32", **settings})).fingerprint

    folder = lively("llama")
    reference = fingerprint(folder)
    for how in ({"batch_tokens": 7}, {"prefix": "none"}, {"calibration": "none"}, {"temperature": 2.0}):
        assert fingerprint(folder, **how) == reference
    assert fingerprint(folder, dtype="bfloat16") != reference
    assert fingerprint(lively("qwen2")) != reference
    assert fingerprint("random:tiny-llama") != fingerprint("random:tiny-qwen2")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert fingerprint(str(copy)) == reference  # where it lies does not matter
    model = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32)
    stir(model, 0.01)
    model.save_pretrained(copy)
    assert fingerprint(str(copy)) != reference


def test_batch_size_is_no_part_of_the_key(lively: Callable[[str], str], tmp_path: Path) -> None:
    for batch_tokens, computed in ((64, 18), (4096, 0)):
        teacher = LocalTeacher(
            TeacherSection(model=lively("llama"), dtype="float32", batch_tokens=batch_tokens)
        )
        assert label(teacher, tmp_path).computed == computed
        assert ("model" in vars(teacher)) == bool(computed)  # stored labels need no weights


# Interruptions -------------------------------------------------------------------------------------


class Interrupted:
    """A teacher that is interrupted after so many batches."""

    def __init__(self, teacher: LocalTeacher, after: int) -> None:
        self.teacher, self.after = teacher, after
        self.fingerprint, self.encoder, self.window = teacher.fingerprint, teacher.encoder, teacher.window

    def score(
        self,
        prompts: Sequence[ScoredPrompt],
        label_tokens: Sequence[int] | None,
        skip: Collection[int] = (),
        wants: Callable[[Sequence[int]], bool] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        for number, batch in enumerate(self.teacher.score(prompts, label_tokens, skip, wants)):
            if number == self.after:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("kind", ["direct", "channel"])
def test_an_interruption_loses_the_batch_in_flight_alone(
    lively: Callable[[str], str], tmp_path: Path, kind: Kind
) -> None:
    """And the scores after going on are bit-identical to those of an uninterrupted call."""
    settings = TeacherSection(model=lively("llama"), dtype="float32", batch_tokens=120)
    whole = label(LocalTeacher(settings), tmp_path / "whole", kind)
    batches = sorted(pq.read_metadata(p).num_rows for p in (tmp_path / "whole").glob("*.parquet"))
    assert len(batches) > 5
    folder, kept = tmp_path / "interrupted", 0
    for after in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            label(Interrupted(LocalTeacher(settings), after), folder, kind)
        assert len(list(folder.glob("part-*.parquet"))) == after if not kept else 4
        assert len(stored_rows(folder)) > kept
        kept = len(stored_rows(folder))
    resumed = label(LocalTeacher(settings), folder, kind)
    assert resumed.computed == 18 - kept
    assert (resumed.scores == whole.scores).all()
    assert len(stored_rows(folder)) == 18  # nothing was computed twice


def test_two_writers_share_a_folder(tmp_path: Path) -> None:
    """Both work on the same queries at once; each finds what the other wrote."""
    writer = PromptWriter(SENTIMENT, Prompt(), StubTeacher().encoder)
    one, two = SoftLabelStore(tmp_path), SoftLabelStore(tmp_path)
    assert one.lookup(["x"]) == two.lookup(["x"]) == {}
    first = label_queries(StubTeacher(), writer, "direct", context(2), QUERIES[:10], one)
    second = label_queries(StubTeacher(), writer, "direct", context(2), QUERIES, two)
    assert (first.computed, second.computed) == (10, 10)  # eight, and two in a batch with them
    again = label_queries(StubTeacher(), writer, "direct", context(2), QUERIES, one)
    assert again.computed == 0
    assert (again.scores == second.scores).all()
    assert (again.scores[:10] == first.scores).all()


def test_a_shard_that_is_not_finished_is_not_read(tmp_path: Path) -> None:
    """What a kill while a shard is written leaves behind."""
    expected = label(StubTeacher(), tmp_path)
    (tmp_path / ".part-0123.parquet.tmp").write_bytes(b"PAR1 and no more")
    again = label(StubTeacher(), tmp_path)
    assert again.computed == 0
    assert (again.scores == expected.scores).all()


@pytest.mark.parametrize("written", [0, 2])
def test_a_full_disk_stops_the_work_and_corrupts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    calls = 0

    def full(table: Any, where: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > written:
            where.write_bytes(b"PAR1 half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        pq.write_table(table, where, compression="none")

    with monkeypatch.context() as patched:
        patched.setattr(softlabels, "pq", FullDisk(full))
        with pytest.raises(WorkError, match=r"No space left.*run the same command again") as raised:
            label(StubTeacher(), tmp_path)
    assert raised.value.exit_code == 1
    assert files_in(tmp_path) == []  # no temporary file
    assert len(list(tmp_path.glob("part-*"))) == written
    assert label(StubTeacher(), tmp_path).computed == 18 - 4 * written


class FullDisk:
    """`pyarrow.parquet` with another ``write_table``."""

    read_table = staticmethod(pq.read_table)

    def __init__(self, write_table: Callable[[Any, Path], None]) -> None:
        self.write_table = write_table


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WorkError, match="could not be written"):
        label(StubTeacher(), tmp_path / "file" / "store")


def test_a_prompt_over_the_window_is_refused_before_the_teacher_is_asked(tmp_path: Path) -> None:
    teacher = StubTeacher()
    teacher.window = 30
    with pytest.raises(PromptError, match="more than the window of 30"):
        label(teacher, tmp_path)
    assert teacher.scored == 0


def test_progress_counts_stored_rows_as_done(tmp_path: Path) -> None:
    writer = PromptWriter(SENTIMENT, Prompt(), StubTeacher().encoder)
    label(StubTeacher(), tmp_path, queries=QUERIES[:8])
    seen: list[tuple[int, int]] = []
    label_queries(
        StubTeacher(), writer, "direct", context(2), QUERIES, SoftLabelStore(tmp_path),
        lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(8, 18), (12, 18), (16, 18), (18, 18)]


# Damage --------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named_by_content"),
    [
        *itertools.product(["empty", "truncated", "deleted"], [True, False]),
        (
            "flipped",
            True,
        ),  # by its name alone: of a shard that earlier versions named, nothing says what it held
    ],
)
def test_a_damaged_shard_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, named_by_content: bool
) -> None:
    expected = label(StubTeacher(), tmp_path)
    shard = sorted(tmp_path.glob("part-*.parquet"))[1]
    lost = pq.read_metadata(shard).num_rows
    if not named_by_content:  # as earlier versions named them
        shard = shard.rename(tmp_path / f"part-{'0' * 32}.parquet")
    if damage == "flipped":
        flip(shard)
    elif damage == "deleted":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2] if damage == "truncated" else b"")
    again = label(StubTeacher(), tmp_path)
    assert (again.scores == expected.scores).all()
    assert again.computed == lost
    if damage != "deleted":
        assert f"{shard.name} is damaged and was set aside" in caplog.text
        assert (tmp_path / f"{shard.name}.damaged").is_file()
    caplog.clear()
    assert label(StubTeacher(), tmp_path).computed == 0
    assert caplog.text == ""


def test_a_shard_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label(StubTeacher(), tmp_path)

    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(WorkError, match=r"part-.* cannot be read.*Make it readable"):
        label(StubTeacher(), tmp_path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_store_that_is_closed_to_this_user_is_not_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def closed(table: Any, where: Path) -> None:
        raise OSError(code, "closed")

    monkeypatch.setattr(softlabels, "pq", FullDisk(closed))
    with pytest.raises(WorkError, match="make it writable") as raised:
        label(StubTeacher(), tmp_path)
    assert "space" not in str(raised.value)


# Sharing -------------------------------------------------------------------------------------------


class SlowTeacher(StubTeacher):
    """Lets others go on between batches."""

    def score(
        self,
        prompts: Sequence[ScoredPrompt],
        label_tokens: Sequence[int] | None,
        skip: Collection[int] = (),
        wants: Callable[[Sequence[int]], bool] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """See :meth:`stillshot.teacher.protocol.Teacher.score`."""
        for batch in super().score(prompts, label_tokens, skip, wants):
            time.sleep(0.02)
            yield batch


@pytest.mark.parametrize("writers", [2, 3])
def test_writers_at_once_ask_nothing_twice(tmp_path: Path, writers: int) -> None:
    teachers = [SlowTeacher(batch=3) for _ in range(writers)]
    together = Barrier(writers)

    def work(teacher: StubTeacher) -> LabelScores:
        writer = PromptWriter(SENTIMENT, Prompt(), teacher.encoder)
        store = SoftLabelStore(tmp_path, shared=True)
        together.wait()
        return label_queries(teacher, writer, "direct", context(2), QUERIES, store)

    with ThreadPoolExecutor(writers) as pool:
        found = list(pool.map(work, teachers))
    assert sum(teacher.scored for teacher in teachers) == len(QUERIES)
    assert all((one.scores == found[0].scores).all() for one in found)
    assert sum(one.computed for one in found) == len(stored_rows(tmp_path)) == len(QUERIES)


def test_what_another_claimed_and_gave_up_is_computed_here(tmp_path: Path) -> None:
    """A process that ends, however it ends, lets go of what it had claimed."""
    claimed = []

    class Dying(SlowTeacher):
        def answer(self, prompt: ScoredPrompt) -> list[float]:
            claimed.append(prompt)
            if len(claimed) == 2:
                raise KeyboardInterrupt
            return super().answer(prompt)

    writer = PromptWriter(SENTIMENT, Prompt(), StubTeacher().encoder)
    store = SoftLabelStore(tmp_path, shared=True)
    with pytest.raises(KeyboardInterrupt):
        label_queries(Dying(), writer, "direct", context(2), QUERIES, store)
    other = SoftLabelStore(tmp_path, shared=True)
    assert label_queries(StubTeacher(), writer, "direct", context(2), QUERIES, other).computed == 18


def test_a_claim_is_one_process_until_it_is_released(tmp_path: Path) -> None:
    one, other = SoftLabelStore(tmp_path, shared=True), SoftLabelStore(tmp_path, shared=True)
    assert one.claim(["a", "b"])
    assert not other.claim(["a", "b"])
    one.release()
    assert other.claim(["a", "b"])


def test_without_locks_the_work_is_done_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(softlabels.FileLock, "acquire", none)
    writer = PromptWriter(SENTIMENT, Prompt(), StubTeacher().encoder)
    store = SoftLabelStore(tmp_path, shared=True)
    assert label_queries(StubTeacher(), writer, "direct", context(2), QUERIES, store).computed == 18


def test_a_shared_store_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    label(StubTeacher(), Path("~/scores"))
    assert len(stored_rows(tmp_path / "scores")) == 18


def test_a_damaged_shard_that_must_stay_is_not_said_to_be_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "part-0.parquet").write_text("nothing")
    monkeypatch.setattr(Path, "rename", refuse)
    assert SoftLabelStore(tmp_path).lookup(["key"]) == {}
    assert "is damaged and could not be set aside (Permission denied)." in caplog.text
    assert "was set aside" not in caplog.text
