"""The endpoints: what they answer, what they refuse and how, and whose answers are whose."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import httpx
import numpy as np
import pytest
import torch
from cli_calls import call, refused
from doubles import PAIRS, SENTIMENT
from fastapi import FastAPI
from saved_students import save_student
from serving_doubles import UNREADABLE, StubPredictor, chance, label_and_train, save_tiny, served

from stillshot.deploy.serving.batching import Answer, Batcher, _Piece
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.refusals import Refusal
from stillshot.deploy.serving.server import address_of, bind, run_server
from stillshot.deploy.serving.students import ServedStudent, load_students
from stillshot.deploy.serving.teacher import RunTeacher
from stillshot.deploy.serving.workers import Pool, Workers
from stillshot.errors import ModelError, RunFolderError, WorkError
from stillshot.evaluate.folder import RunFolder
from stillshot.student.saved import Student
from stillshot.types import Dtype, Example

P = ParamSpec("P")
JSON = {"content-type": "application/json"}


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))  # type: ignore[arg-type]

    return run


def labels_of(answer: list[dict[str, Any]]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer}


def chances(texts: Iterable[str]) -> Any:
    """What stubs give the first label of each text, but for rounding."""
    return pytest.approx([chance(text) for text in texts], abs=1e-12)


def batcher_of(stub: StubPredictor, limits: Limits, workers: int = 1, observed: Any = None) -> Batcher:
    pool = Pool(Workers(workers, 1), "test")
    return Batcher(ServedStudent("s", stub), pool, limits, observed or (lambda *_: None))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("what was waited for did not come")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("students") / "tiny")


@pytest.fixture(scope="module")
def run_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student of a tiny run."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    return run / "students" / label_and_train(run)


# Answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("random:tiny-bert", {}),
        ("random:tiny-llama", {"tuning": "lora"}),
        ("random:tiny-llama", {"head": "channel"}),
        ("random:tiny-llama", {"head": "language_model", "tuning": "lora"}),
    ],
)
def test_students_compute_in_the_dtype_that_is_asked_for(
    tmp_path: Path, model: str, settings: dict[str, str]
) -> None:
    folder = save_student(tmp_path / "student", model, **settings)
    texts = ["a stirring film", "no movement, no yuks, and no end to it"]
    found = {}
    asked: tuple[Dtype | None, ...] = (None, "float32", "bfloat16")
    for dtype in asked:
        (student,) = load_students([folder], with_teachers=False, dtype=dtype)
        assert isinstance(student.predictor, Student)
        assert {weight.dtype for weight in student.predictor.model.parameters()} == {
            torch.bfloat16 if dtype == "bfloat16" else torch.float32
        }
        # Positions are turned into angles in float32, or far ones would be off.
        angles = [b for n, b in student.predictor.model.named_buffers() if n.endswith("inv_freq")]
        assert len(angles) == (2 if "llama" in model else 0)
        assert all(buffer.dtype == torch.float32 for buffer in angles)
        found[dtype] = student.predictor.predict_proba(texts)
    assert np.array_equal(found[None], found["float32"])
    assert not np.array_equal(found["bfloat16"], found["float32"])
    assert (found["bfloat16"].argmax(-1) == found["float32"].argmax(-1)).all()
    # Noise on all weights amplifies rounding.
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.1)


@in_loop
async def test_predict_answers_as_the_student_does_in_the_form_of_tei(tiny: Path) -> None:
    texts = ["a stirring film", "no movement, no yuks", "."]
    expected = [prediction.probabilities for prediction in Student.load(tiny).predict(texts)]
    (student,) = load_students([tiny], with_teachers=False)
    async with served(tiny=student) as client:
        single = await client.post("/predict", json={"inputs": texts[0]})
        listed = await client.post("/predict", json={"inputs": [texts[0]]})
        batch = await client.post("/predict", json={"inputs": [[text] for text in texts], "truncate": True})
    assert single.status_code == batch.status_code == 200
    assert set(single.json()[0]) == {"label", "score"}
    assert labels_of(single.json()) == pytest.approx(expected[0], abs=1e-6)
    assert listed.json() == single.json()
    for answer, probabilities in zip(batch.json(), expected, strict=True):
        assert labels_of(answer) == pytest.approx(probabilities, abs=1e-6)
        assert answer[0]["score"] >= answer[1]["score"]
    features = student.predictor.featurizer.features([Example({"text": text}) for text in texts])
    assert batch.headers["x-compute-tokens"] == str(sum(feature["length"] for feature in features))
    assert float(batch.headers["x-inference-time"]) > 0


@in_loop
async def test_a_pair_is_the_fields_in_order(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "pairs", PAIRS)
    pairs = [("it rains", "it is wet"), ("it is wet", "it rains")]
    queries = [{"premise": premise, "hypothesis": hypothesis} for premise, hypothesis in pairs]
    expected = [prediction.probabilities for prediction in Student.load(folder).predict(queries)]
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)
    (student,) = load_students([folder], with_teachers=False)
    async with served(pairs=student) as client:
        single = await client.post("/predict", json={"inputs": list(pairs[0])})
        batch = await client.post("/predict", json={"inputs": pairs})
        classified = await client.post("/classify", json={"input": pairs})
        bare = await client.post("/predict", json={"inputs": "it rains"})
        ones = await client.post("/classify", json={"input": ["it rains", "it is wet"]})
    assert labels_of(single.json()) == pytest.approx(expected[0], abs=1e-6)
    assert [labels_of(answer) for answer in batch.json()] == [pytest.approx(e, abs=1e-6) for e in expected]
    assert [row["probs"] for row in classified.json()["data"]] == [
        pytest.approx(list(e.values()), abs=1e-6) for e in expected
    ]
    assert bare.status_code == ones.status_code == 422
    assert "[premise, hypothesis]" in bare.json()["error"]
    assert "It takes a list of [premise, hypothesis]." in ones.json()["error"]


@in_loop
async def test_classify_is_that_of_vllm() -> None:
    async with served(StubPredictor()) as client:
        answer = (await client.post("/classify", json={"model": "s0", "input": ["one", "two"]})).json()
        single = (await client.post("/classify", json={"input": "one", "user": "me"})).json()
    assert answer["object"] == "list"
    assert answer["model"] == "s0"
    assert answer["id"].startswith("classify-")
    assert answer["usage"] == {
        "prompt_tokens": 6, "total_tokens": 6, "completion_tokens": 0, "prompt_tokens_details": None
    }  # fmt: skip
    for index, (row, text) in enumerate(zip(answer["data"], ["one", "two"], strict=True)):
        probs = [chance(text), 1 - chance(text)]
        label = SENTIMENT.labels[int(np.argmax(probs))]
        assert row == {"index": index, "label": label, "probs": pytest.approx(probs), "num_classes": 2}
    assert single["data"] == answer["data"][:1]


@in_loop
async def test_a_request_chooses_its_student() -> None:
    async with served(StubPredictor(), StubPredictor(PAIRS)) as client:
        first = await client.post("/predict", json={"inputs": "x"})
        pair = await client.post("/predict", json={"inputs": ["x", "y"], "model": "s1"})
        unfit = await client.post("/predict", json={"inputs": "x", "model": "s1"})
        unknown = await client.post("/classify", json={"input": "x", "model": "s2"})
        cards = (await client.get("/v1/models")).json()["data"]
    assert set(labels_of(first.json())) == set(SENTIMENT.labels)
    assert set(labels_of(pair.json())) == set(PAIRS.labels)
    assert (unfit.status_code, unknown.status_code) == (422, 404)
    assert unfit.json()["error"] == "Each input of s1 has these texts, in this order: premise, hypothesis."
    assert unknown.json()["error_type"] == "NotFound"
    assert [card["id"] for card in cards] == ["s0", "s1"]
    assert cards[1]["fields"] == PAIRS.fields
    assert cards[1]["labels"] == PAIRS.labels
    assert (cards[0]["max_model_len"], cards[0]["report"], cards[0]["teacher"]) == (64, False, None)


@in_loop
async def test_health_and_metrics() -> None:
    async with served(StubPredictor()) as client:
        assert (await client.get("/health")).status_code == 200
        await client.post("/predict", json={"inputs": [["four"], ["five"]]})
        await client.post("/predict", content=b"{")
        await client.get("/nowhere/at/all")
        # A batch is counted after its answers.
        await until(lambda: b'stillshot_tokens_total{model="s0"} 8.0' in _service(client).metrics.text())
        metrics = (await client.get("/metrics")).text
    assert 'stillshot_requests_total{endpoint="/predict",status="200"} 1.0' in metrics
    assert 'stillshot_requests_total{endpoint="/predict",status="415"} 1.0' in metrics
    assert 'stillshot_requests_total{endpoint="other",status="404"} 1.0' in metrics
    assert 'stillshot_tokens_total{model="s0"} 8.0' in metrics
    assert 'stillshot_batch_rows_sum{model="s0"} 2.0' in metrics
    assert 'stillshot_waiting_rows{model="s0"} 0.0' in metrics


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not valid JSON"),
        (b'{"inputs": "x"', 400, "not valid JSON"),
        (b'{"inputs": "\xff"}', 400, "not valid JSON"),
        (rb'{"inputs": "\ud800"}', 400, "not valid JSON"),
        (b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "not valid JSON"),
        (b"[1]", 422, "must be a JSON object"),
        (b"{}", 422, "lacks `inputs`"),
        (b'{"inputs": NaN}', 422, "`inputs` is not as it must be. One of: a text; [text]; a batch"),
        (b'{"inputs": 1}', 422, "`inputs` is not"),
        (b'{"inputs": []}', 422, "`inputs` is not"),
        (b'{"inputs": [[]]}', 422, "`inputs` is not"),
        (b'{"inputs": ["a", "b"]}', 422, "`inputs` is not"),
        (b'{"inputs": [["a"], "b"]}', 422, "`inputs` is not"),
        (b'{"inputs": "x", "model": 3}', 422, "`model` is not"),
        (b'{"inputs": "x", "raw_scores": true}', 422, "raw scores are not given"),
        (json.dumps({"inputs": [["x"]] * 257}).encode(), 413, "more than 256 inputs"),
        (json.dumps({"inputs": UNREADABLE}).encode(), 422, "nothing to read"),
        (
            rb'{"inputs": "x", "a\u001b\u202e": 1}',
            422,
            r"the key `a\u001b\u202e`, which this endpoint does not",
        ),
        (json.dumps({"inputs": "x", "k" * 10**5: 1}).encode(), 422, f"the key `{'k' * 40}...`, which"),
        (b'{"inputs": "x", "inputs": "y"}', 422, "The body has the key `inputs` twice. Send it once."),
        (rb'{"inputs": 1, "truncate": null, "\u0069nputs": ["y"]}', 422, "the key `inputs` twice"),
    ],
)
@in_loop
async def test_what_is_refused(body: bytes, status: int, said: str) -> None:
    async with served(StubPredictor()) as client:
        answer = await client.post("/predict", content=body, headers=JSON)
    assert (answer.status_code, set(answer.json())) == (status, {"error", "error_type"})
    assert said in answer.json()["error"]


@in_loop
async def test_what_is_at_no_endpoint_or_is_not_json() -> None:
    async with served(StubPredictor()) as client:
        nowhere, wrong_method = await client.get("/nowhere"), await client.get("/predict")
        plain = await client.post(
            "/predict", content=b'{"inputs": "x"}', headers={"content-type": "text/plain"}
        )
        no_teacher = await client.post("/teacher", json={"inputs": "x"})
        assert "Start the server with --teacher" in no_teacher.json()["error"]
    assert nowhere.json() == {"error": "Not Found.", "error_type": "NotFound"}
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    assert (plain.status_code, no_teacher.status_code) == (415, 404)


async def _dribble(parts: int, size: int, seconds: float) -> AsyncIterator[bytes]:
    for _ in range(parts):
        await asyncio.sleep(seconds)
        yield b" " * size


@in_loop
async def test_bodies_are_bounded_in_size_and_time() -> None:
    limits = Limits(body_bytes=1000, send_seconds=0.2, buffered_bytes=1500)
    async with served(StubPredictor(), limits=limits) as client:
        declared = await client.post("/predict", content=b" " * 1001, headers=JSON)
        enormous = await client.post("/predict", content=b" " * 9000, headers=JSON)
        chunked = await client.post("/predict", content=_dribble(30, 100, 0), headers=JSON)
        slow = await client.post("/predict", content=_dribble(100, 1, 0.05), headers=JSON)
        crowd = await asyncio.gather(
            *(client.post("/predict", content=_dribble(9, 100, 0.01), headers=JSON) for _ in range(3))
        )
        after = await client.post("/predict", json={"inputs": "x"})
    assert [r.status_code for r in (declared, enormous, chunked, slow)] == [413, 413, 413, 408]
    assert slow.json()["error_type"] == "Timeout"
    assert sorted(r.status_code for r in crowd) == [400, 429, 429]  # all blanks is no JSON
    assert after.status_code == 200


@in_loop
async def test_a_full_queue_is_told_of_and_empties_again() -> None:
    stub = StubPredictor()
    limits = Limits(queue_rows=2, batch_rows=2)
    async with served(stub, limits=limits) as client:
        stub.gate.clear()
        first = asyncio.create_task(client.post("/predict", json={"inputs": [["a"], ["b"]]}))
        await until(lambda: _waiting(client) == 0 and not first.done())
        await asyncio.sleep(0.05)  # the first batch is with the model; the second will be next, and leave one
        second = asyncio.create_task(client.post("/predict", json={"inputs": [["c"], ["d"], ["e"]]}))
        await until(lambda: _waiting(client) == 1)
        full = await client.post("/predict", json={"inputs": [["f"], ["g"]]})
        room = asyncio.create_task(client.post("/predict", json={"inputs": "h"}))
        await until(lambda: _waiting(client) == 2)
        stub.gate.set()
        answers = await asyncio.gather(first, second, room)
        again = await client.post("/predict", json={"inputs": [["f"], ["g"]]})
    assert (full.status_code, full.headers["retry-after"], full.json()["error_type"]) == (
        429,
        "1",
        "Overloaded",
    )
    assert [a.status_code for a in (*answers, again)] == [200] * 4
    assert [labels_of(row)["negative"] for row in answers[1].json()] == chances("cde")


def _waiting(client: httpx.AsyncClient) -> int:
    return _service(client)._queues["s0"].waiting_rows


def _service(client: httpx.AsyncClient) -> Any:
    return client._transport.app.state.service  # type: ignore[attr-defined]


@in_loop
async def test_too_many_requests_at_one_time() -> None:
    stub = StubPredictor()
    async with served(stub, limits=Limits(requests=2)) as client:
        stub.gate.clear()
        tasks = [asyncio.create_task(client.post("/predict", json={"inputs": "x"})) for _ in range(2)]
        await asyncio.sleep(0.1)
        third = await client.post("/predict", json={"inputs": "x"})
        health = await client.get("/health")
        stub.gate.set()
        answers = await asyncio.gather(*tasks)
    assert (third.status_code, health.status_code) == (429, 200)
    assert [a.status_code for a in answers] == [200, 200]


@in_loop
async def test_an_answer_that_takes_too_long_leaves_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    stub = StubPredictor()
    async with served(stub, limits=Limits(timeout_seconds=0.2, batch_rows=1)) as client:
        stub.gate.clear()
        late = await asyncio.gather(*(client.post("/predict", json={"inputs": "x"}) for _ in range(3)))
        assert _waiting(client) == 0
        stub.gate.set()
        after = await client.post("/predict", json={"inputs": "x"})
    assert {(r.status_code, r.json()["error_type"]) for r in late} == {(504, "Timeout")}
    assert after.status_code == 200
    assert len(stub.batches) == 2  # the one under way, and that after; the two between were never computed
    assert not caplog.records


@in_loop
async def test_a_failing_model_and_an_unreadable_text_fail_no_other_request() -> None:
    stub = StubPredictor()
    async with served(stub, limits=Limits(wait_seconds=0.1)) as client:
        broken = await client.post("/predict", json={"inputs": "broken"})
        together = await asyncio.gather(
            *(client.post("/predict", json={"inputs": text}) for text in ("a", UNREADABLE, "b"))
        )
    assert (broken.status_code, broken.json()["error_type"]) == (424, "Backend")
    assert [r.status_code for r in together] == [200, 422, 200]
    assert together[1].json()["error_type"] == "Tokenizer"
    assert [labels_of(together[i].json())["negative"] for i in (0, 2)] == chances("ab")
    assert stub.batches[-1] == 2


# Batches -----------------------------------------------------------------------------------------


@in_loop
async def test_answers_are_never_crossed_and_batches_are_shared() -> None:
    stub = StubPredictor()

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        texts = [f"{number}-{i}" for i in range(1 + number % 5)]
        answer = await client.post("/predict", json={"inputs": [[text] for text in texts]})
        assert [labels_of(row)["negative"] for row in answer.json()] == chances(texts)

    async with served(stub, limits=Limits(batch_rows=8, batch_tokens=100)) as client:
        await asyncio.gather(*(ask(client, number) for number in range(300)))
    assert sum(stub.batches) == sum(1 + number % 5 for number in range(300))
    assert max(stub.batches) <= 8
    assert len(stub.batches) < 150


@in_loop
async def test_without_batching_every_input_is_a_batch() -> None:
    stub = StubPredictor()
    async with served(stub, limits=Limits(batch_rows=1)) as client:
        await client.post("/predict", json={"inputs": [["a"], ["b"], ["c"]]})
    assert stub.batches == [1, 1, 1]


@in_loop
async def test_workers_share_what_waits() -> None:
    stub, texts = StubPredictor(), "abcdefgh"
    stub.gate.clear()
    batcher = batcher_of(stub, Limits(), workers=3)
    asked = [asyncio.create_task(batcher.ask([Example({"text": text})])) for text in texts]
    await until(lambda: batcher.waiting_rows == len(texts))
    batcher.start()
    await until(lambda: batcher.waiting_rows == 0)  # a third, a half of the rest, and what is left
    stub.gate.set()
    answers = await asyncio.gather(*asked)
    await batcher.stop()
    assert sorted(stub.batches) == [2, 3, 3]
    assert [answer.probabilities[0, 0] for answer in answers] == chances(texts)


@in_loop
async def test_what_is_not_to_be_asked_side_by_side_is_not() -> None:
    stub = StubPredictor()
    stub.gate.clear()
    pool = Pool(Workers(3, 1), "test")
    batcher = Batcher(
        ServedStudent("s", stub), pool, Limits(batch_rows=1), lambda *_: None, side_by_side=False
    )
    asked = [asyncio.create_task(batcher.ask([Example({"text": text})])) for text in "abcd"]
    batcher.start()
    await until(lambda: stub.computing == 1)
    await asyncio.sleep(0.05)
    assert (stub.computing, pool.asked, batcher.waiting_rows) == (1, 1, 3)
    stub.gate.set()
    answers = await asyncio.gather(*asked)
    await batcher.stop()
    assert [answer.probabilities[0, 0] for answer in answers] == chances("abcd")


@in_loop
async def test_one_worker_answers_while_another_computes() -> None:
    class HeldUp(StubPredictor):
        def logits(self, inputs: dict[str, Any]) -> torch.Tensor:
            if "slow" not in inputs["texts"]:
                self.gate.set()
            return super().logits(inputs)

    stub = HeldUp()
    stub.gate.clear()
    async with served(stub, workers=2) as client:
        first = asyncio.create_task(client.post("/predict", json={"inputs": "slow"}))
        await until(lambda: stub.computing == 1)
        second = await client.post("/predict", json={"inputs": "quick"})
        assert second.status_code == (await first).status_code == 200
    assert stub.batches == [1, 1]
    assert not stub.gave_up


@in_loop
async def test_an_answer_does_not_wait_for_the_rest_of_its_batch() -> None:
    class Stopping(StubPredictor):
        def logits(self, inputs: dict[str, Any]) -> torch.Tensor:
            if self.batches:  # the second pass
                self.gate.clear()
            return super().logits(inputs)

    stub, long, short = Stopping(), "x" * 60, "xy"
    rows, observed = [long, short], []
    # No pass takes texts of both lengths.
    batcher = batcher_of(stub, Limits(batch_tokens=124), observed=lambda rows, *_: observed.append(rows))
    asked = [asyncio.create_task(batcher.ask([Example({"text": text})])) for text in rows]
    both = asyncio.create_task(batcher.ask([Example({"text": text}) for text in rows]))
    await until(lambda: batcher.waiting_rows == 4)
    batcher.start()
    first = await asked[0]  # the longest are computed first
    await until(lambda: stub.computing == 1)
    assert not any(task.done() for task in (asked[1], both))
    assert observed == []
    stub.gate.set()
    answers = [first, await asked[1], await both]
    await until(lambda: observed == [4])
    await batcher.stop()
    assert stub.batches == [2, 2]
    assert [row[0] for answer in answers for row in answer.probabilities] == chances(rows + rows)
    assert first.inference_seconds < answers[1].inference_seconds


@in_loop
async def test_what_was_answered_before_a_batch_failed_is_answered_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stub, rows = StubPredictor(), ["x" * 60, "broken"]
    observed: list[tuple[int, int]] = []
    batcher = batcher_of(
        stub, Limits(batch_tokens=64), observed=lambda rows, tokens, _: observed.append((rows, tokens))
    )
    asked = [asyncio.create_task(batcher.ask([Example({"text": text})])) for text in rows]
    await until(lambda: batcher.waiting_rows == 2)
    batcher.start()
    answer, refusal = await asyncio.gather(*asked, return_exceptions=True)
    await batcher.stop()
    assert isinstance(answer, Answer)
    assert [row[0] for row in answer.probabilities] == chances(rows[:1])
    assert isinstance(refusal, Refusal)
    assert refusal.status == 424
    assert observed == [(1, 60)]
    assert "A batch failed; 1 of its 2 requests are refused." in caplog.text


@in_loop
async def test_workers_share_a_request_of_many_inputs() -> None:
    stub, seconds = StubPredictor(), []
    batcher = batcher_of(stub, Limits(), 4, lambda rows, tokens, spent: seconds.append(spent))
    batcher.start()
    stub.gate.clear()
    began = time.monotonic()
    asked = asyncio.create_task(batcher.ask([Example({"text": text}) for text in "abcdefghijklmnop"]))
    await until(lambda: stub.computing == 4)
    stub.gate.set()
    answer = await asked
    await until(lambda: len(seconds) == 4)
    await batcher.stop()
    assert stub.batches == [4] * 4
    assert answer.probabilities[:, 0].tolist() == chances("abcdefghijklmnop")
    # They were computed at one time, not one after the other.
    assert answer.inference_seconds <= time.monotonic() - began
    assert answer.inference_seconds < sum(seconds)


@in_loop
async def test_a_busy_student_does_not_starve_another() -> None:
    busy, other = StubPredictor(), StubPredictor()
    busy.gate.clear()
    async with served(busy, other, limits=Limits(batch_rows=1)) as client:
        flood = [asyncio.create_task(client.post("/predict", json={"inputs": text})) for text in "abcdefgh"]
        await until(lambda: _waiting(client) == 6)  # one is computed, one is next
        asked = asyncio.create_task(client.post("/predict", json={"inputs": "x", "model": "s1"}))
        await asyncio.sleep(0.05)
        order: list[int] = []
        other.when_asked = lambda: order.append(len(busy.batches))
        busy.gate.set()
        answers = await asyncio.gather(asked, *flood)
    assert [answer.status_code for answer in answers] == [200] * 9
    assert order == [2]


@in_loop
async def test_a_batch_that_cannot_be_begun_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run, failures = Pool.run, ["can't start new thread"]

    async def failing(self: Pool, work: Any, batch: Any) -> Any:
        if failures:
            raise RuntimeError(failures.pop())
        return await run(self, work, batch)

    monkeypatch.setattr(Pool, "run", failing)
    async with served(StubPredictor()) as client:
        answers = [await client.post("/predict", json={"inputs": "x"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [424, 200, 200]


@in_loop
async def test_every_pool_has_its_own_number_of_threads() -> None:
    before = torch.get_num_threads()
    pools = [Pool(Workers(1, threads), str(threads)) for threads in (1, 2, 3)]

    def ready(_: None) -> None:
        pass

    for pool in pools:  # each sets the number that threads begin with
        await pool.run(ready, None)
    assert [await pool.run(lambda _: torch.get_num_threads(), None) for pool in pools] == [1, 2, 3]
    assert torch.get_num_threads() == before
    for pool in pools:
        pool.shutdown()


def test_threads_are_divided_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillshot.deploy.serving.workers.best_device", lambda: torch.device("cpu"))
    for threads, asked, divided in [
        (2, None, (2, 1)), (16, None, (8, 2)), (2, 1, (1, 2)), (16, 3, (3, 5)), (2, 4, (4, 1)),
    ]:  # fmt: skip
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert Workers.of(asked) == Workers(*divided)
    monkeypatch.setattr("stillshot.deploy.serving.workers.best_device", lambda: torch.device("cuda"))
    assert Workers.of().count == 1


@pytest.mark.parametrize("model", ["random:tiny-bert", "random:tiny-llama"])
@in_loop
async def test_workers_give_each_request_its_own_answer(model: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "student", model=model)
    texts = [f"film {i}, " + "grim and warm, " * (i % 7) for i in range(60)]
    expected = [prediction.probabilities for prediction in Student.load(folder).predict(texts)]
    students = load_students([folder], with_teachers=False)
    async with served(s=students[0], workers=3, limits=Limits(batch_rows=4)) as client:
        for _ in range(3):
            answers = await asyncio.gather(
                *(client.post("/predict", json={"inputs": text}) for text in texts)
            )
            assert [labels_of(answer.json()) for answer in answers] == [
                pytest.approx(probabilities, abs=1e-5) for probabilities in expected
            ]


@in_loop
async def test_who_waits_when_the_server_stops_is_told() -> None:
    stub = StubPredictor()
    stub.gate.clear()
    batcher = batcher_of(stub, Limits(batch_rows=1))
    batcher.start()
    tasks = [asyncio.create_task(batcher.ask([Example({"text": text})])) for text in "ab"]
    await asyncio.sleep(0.05)
    await batcher.stop()
    stub.gate.set()
    with pytest.raises(Exception, match="stopping"):
        await tasks[1]
    with pytest.raises(Exception, match="stopping"):
        await tasks[0]


def test_what_is_loaded_is_frozen_while_the_server_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> tuple[int, float]:
        return gc.get_freeze_count(), sys.getswitchinterval()

    def run(self: object, sockets: Any) -> None:
        seen.append(state())
        raise RuntimeError("it ended")

    seen: list[tuple[int, float]] = []
    before = state()
    monkeypatch.setattr("uvicorn.Server.run", run)
    with pytest.raises(RuntimeError, match="it ended"):
        run_server(FastAPI(), Limits(), bind("127.0.0.1", 0), lambda: None)
    ((frozen, interval),) = seen
    assert frozen > 10_000
    assert interval < before[1]
    assert state() == before


def test_texts_of_unlike_length_do_not_share_a_pass() -> None:
    stub = StubPredictor()
    batcher = batcher_of(stub, Limits(batch_tokens=80))
    texts = ["x" * length for length in (60, 2, 2, 40, 2, 39, 2)]
    loop = asyncio.new_event_loop()
    piece = _Piece([Example({"text": text}) for text in texts], loop.create_future())
    (outcomes,) = filter(None, batcher._answers([piece]))
    loop.close()
    ((probabilities, tokens, longest, _),) = outcomes.values()
    assert stub.batches == [1, 2, 4]
    assert (tokens, longest) == (sum(map(len, texts)), 60)
    assert probabilities[:, 0].tolist() == chances(texts)


@in_loop
async def test_a_channel_student_reads_a_sequence_for_each_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(tmp_path / "student", model="random:tiny-llama", head="channel")
    texts = [f"film {i}, " + "grim and warm, " * (i % 5) for i in range(12)]
    expected = Student.load(folder).predict_proba(texts)
    (student,) = load_students([folder], with_teachers=False)
    logits, shapes = student.predictor.logits, list[torch.Size]()

    def seen(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        shapes.append(inputs["input_ids"].shape)
        return logits(inputs)

    monkeypatch.setattr(student.predictor, "logits", seen)
    features = student.read([Example({"text": text}) for text in texts])
    lengths = [len(ids) for feature in features for ids in feature["input_ids"]]
    assert len(lengths) == 2 * len(texts)
    limits = Limits(batch_tokens=4 * max(lengths))
    async with served(s=student, limits=limits) as client:
        predicted = await client.post("/predict", json={"inputs": [[text] for text in texts]})
        counted = f'stillshot_tokens_total{{model="student"}} {float(sum(lengths))}'.encode()
        await until(lambda: counted in _service(client).metrics.text())
        classified = (await client.post("/classify", json={"input": texts})).json()
    assert max(shape.numel() for shape in shapes) <= limits.batch_tokens
    assert max(shape[0] for shape in shapes) > 1
    assert predicted.headers["x-compute-tokens"] == str(sum(lengths))
    assert predicted.headers["x-longest-sequence"] == str(max(lengths))
    assert classified["usage"]["total_tokens"] == sum(lengths)
    assert np.array([row["probs"] for row in classified["data"]]) == pytest.approx(expected, abs=1e-5)


# The token, and the page's files -----------------------------------------------------------------


@in_loop
async def test_another_name_of_this_machine_is_not_answered_to(tiny: Path) -> None:
    async with served(Student.load(tiny), hosts=("localhost", "127.0.0.1", "::1")) as client:
        for host, status in {
            "localhost": 200, "127.0.0.1:8000": 200, "[::1]:8000": 200, "evil.example": 421, "[oops": 421, "": 421,
        }.items():  # fmt: skip
            answer = await client.get("/v1/models", headers={"host": host})
            assert answer.status_code == status, host


@in_loop
async def test_the_token_opens_all_and_health_and_page_are_open(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<!DOCTYPE html><title>r</title>", encoding="utf-8")
    student = ServedStudent("s", StubPredictor(), report)
    async with served(s=student, token="sésame") as client:
        right = {"authorization": "Bearer sésame".encode()}
        for path in ("/", "/health", "/assets/playground.js"):
            assert (await client.get(path)).status_code == 200
        for headers in ({}, {"authorization": "Bearer sesame"}, {"authorization": "Basic sésame".encode()}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/report/s", "/nowhere"):
                answer = await client.get(path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert (await client.post("/predict", json={"inputs": "x"}, headers=headers)).status_code == 401
        assert (await client.post("/predict", json={"inputs": "x"}, headers=right)).status_code == 200
        assert (await client.get("/v1/models", headers=right)).status_code == 200
        # The cookie that came with it opens the report, which a link leads to, and nothing else.
        assert (await client.get("/report/s")).status_code == 200
        assert (await client.get("/metrics")).status_code == 401
        described = (await client.get("/openapi.json", headers=right)).json()
    assert described["security"] == [{"token": []}]
    assert "401" in described["paths"]["/predict"]["post"]["responses"]


@in_loop
async def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with served(
        StubPredictor(), s=ServedStudent("s", StubPredictor(), tmp_path / "none.html")
    ) as client:
        page = await client.get("/")
        style = await client.get("/assets/playground.css")
        missing = [
            (await client.get(path)).status_code for path in ("/assets/none.js", "/report/none", "/report/s")
        ]
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in page.text.replace("http-equiv", "")
    assert "//" not in style.text
    assert style.headers["content-type"].startswith("text/css")
    assert style.headers["x-content-type-options"] == "nosniff"
    assert missing == [404, 404, 404]


# Teachers, and what is served --------------------------------------------------------------------


def test_the_teacher_gives_the_soft_labels_of_its_run(run_student: Path) -> None:
    run = run_student.parents[1]
    (stored,) = (run / "softlabels").glob("*.json")
    labels = json.loads(stored.read_text(encoding="utf-8"))
    rows = [
        json.loads(line) for line in (run.parent / "tiny-data/queries.jsonl").read_text("utf-8").splitlines()
    ]
    queries = {example.key: example for row in rows if (example := Example({"text": row["text"]}))}
    teacher = RunTeacher.of(run_student, {})
    asked = [queries[key] for key in labels["queries"]]
    read = teacher.read(asked)
    assert teacher.answer(read) == pytest.approx(np.array(labels["soft_labels"]), abs=1e-5)
    own = teacher.writer.prompts("direct", teacher.contexts[0], asked[:1])[0]
    assert read[0]["tokens"] > 2 * own.query_tokens  # both contexts are read


@in_loop
async def test_student_and_teacher_answer_side_by_side(run_student: Path) -> None:
    (student,) = load_students([run_student], with_teachers=True)
    assert student.teacher is not None
    text = "a bright film"
    expected = student.teacher.answer(student.teacher.read([Example({"text": text})]))[0].tolist()
    async with served(run=student) as client:
        card = (await client.get("/v1/models")).json()["data"][0]
        by_teacher = await client.post("/teacher", json={"inputs": text})
        by_student = await client.post("/predict", json={"inputs": text})
        documented = (await client.get("/openapi.json")).json()["paths"]
    assert card["teacher"] == "random:tiny-llama"
    assert list(labels_of(sorted_by_label(by_teacher.json())).values()) == pytest.approx(expected, abs=1e-6)
    assert int(by_teacher.headers["x-compute-tokens"]) > int(by_student.headers["x-compute-tokens"])
    assert "/teacher" in documented


def sorted_by_label(answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(answer, key=lambda entry: SENTIMENT.labels.index(entry["label"]))


def test_a_teacher_is_refused_where_none_is_known(tiny: Path, run_student: Path) -> None:
    with pytest.raises(RunFolderError, match="lies in no run"):
        load_students([tiny], with_teachers=True)
    stranger = save_tiny(run_student.parent / "stranger")
    with pytest.raises(RunFolderError, match="no labels of a teacher for 'stranger'"):
        load_students([stranger], with_teachers=True)
    data = run_student.parents[1].parent / "tiny-data/labelled.jsonl"
    before = data.read_text(encoding="utf-8")
    try:
        data.write_text(before.replace("warm", "cold"), encoding="utf-8")
        with pytest.raises(RunFolderError, match="other data"):
            load_students([run_student], with_teachers=True)
    finally:
        data.write_text(before, encoding="utf-8")


def test_a_teacher_writes_nothing_into_its_run(run_student: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}

    run = run_student.parents[1]
    known = run / "data.json"
    before = content()
    RunTeacher.of(run_student, {})
    assert content() == before
    digests = {name: d for name, d in json.loads(before[known]).items() if "weights" not in name}
    RunFolder(run).write_json(known, digests)
    whole = known.read_bytes()
    try:
        known.write_bytes(whole + b" ")
        with pytest.raises(
            RunFolderError, match=r"data\.json cannot be used: it was changed since it was written"
        ):
            RunTeacher.of(run_student, {})
        assert known.read_bytes() == whole + b" "
    finally:
        RunFolder(run).write(known, before[known].decode())


def test_two_students_of_one_name(tiny: Path, tmp_path: Path) -> None:
    other, third = save_tiny(tmp_path / "a/tiny"), save_tiny(tmp_path / "b/third")
    loaded = load_students([tiny, other, third], with_teachers=False)
    assert [student.name for student in loaded] == [f"{tiny.parent.name}-tiny", "a-tiny", "third"]
    with pytest.raises(ModelError, match="have the same name"):
        load_students([tiny, other, other], with_teachers=False)


def test_an_address_that_is_taken() -> None:
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = int(address_of(bound).rpartition(":")[2])
        with pytest.raises(WorkError, match=f"127.0.0.1:{port} cannot be listened on"):
            bind("127.0.0.1", port)
    with pytest.raises(WorkError, match="cannot be listened on"):
        bind("no.such.host.invalid", 0)


def test_the_command_refuses_what_cannot_be(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "holds no student itself" in refused("serve", str(tmp_path))
    for token in (" ", "密"):
        message = refused("serve", str(tiny), "--token", token)
        assert "The token is empty, has spaces or is not ASCII." in message
    result = call("serve", str(tiny), "--teacher", "--port", "0")  # progress is on stderr before
    assert result.exit_code == 2
    assert "lies in no run" in result.stderr
    monkeypatch.setattr("stillshot.cli.serve.NEEDED", ("fastapi", "no_such_module"))
    assert "pip install 'stillshot[serve]'" in refused("serve", str(tiny))
