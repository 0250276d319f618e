"""Every field of a request is honoured or refused; hosts, methods and compressed bodies are, too."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import pytest
from doubles import PAIRS, SENTIMENT
from serving_doubles import StubPredictor, chance, label_and_train, save_tiny, served

from stillshot.config import TaskDefinition
from stillshot.deploy.serving.guard import host_name
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.students import ServedStudent, load_students

P = ParamSpec("P")
JSON = {"content-type": "application/json"}
WINDOW = StubPredictor().featurizer.max_tokens
LONG = "begin " + "and so on " * 20 + "end"
KINDS = [
    ("random:tiny-bert", SENTIMENT, {}),
    ("random:tiny-bert", PAIRS, {}),
    ("random:tiny-llama", SENTIMENT, {}),
    ("random:tiny-llama", SENTIMENT, {"head": "channel"}),
    ("random:tiny-llama", SENTIMENT, {"head": "language_model"}),
]


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))  # type: ignore[arg-type]

    return run


def first_label(answer: list[dict[str, Any]]) -> float:
    """What the first label of :data:`SENTIMENT` gets."""
    return next(entry["score"] for entry in answer if entry["label"] == SENTIMENT.labels[0])


# Long texts --------------------------------------------------------------------------------------


@in_loop
async def test_the_end_is_kept_where_it_is_asked_for_and_a_cut_is_told() -> None:
    start, end = pytest.approx(chance(LONG[:WINDOW])), pytest.approx(chance(LONG[-WINDOW:]))
    async with served(StubPredictor()) as client:

        async def predict(**fields: Any) -> tuple[float, str | None]:
            answer = await client.post("/predict", json={"inputs": LONG, **fields})
            return first_label(answer.json()), answer.headers.get("x-truncated")

        async def classify(**fields: Any) -> tuple[float, str | None]:
            answer = await client.post("/classify", json={"input": ["short", LONG], **fields})
            return answer.json()["data"][1]["probs"][0], answer.headers.get("x-truncated")

        for fields in ({}, {"truncate": None}, {"truncate": True, "truncation_direction": "Right"}):
            assert await predict(**fields) == (start, "0")
        assert await predict(truncation_direction="Left") == (end, "0")
        assert await predict(truncation_direction="left", truncate=True) == (end, "0")
        for fields in ({}, {"truncation_side": "right"}, {"truncate_prompt_tokens": -1}):
            assert await classify(**fields) == (start, "1")
        assert await classify(truncation_side="left", truncate_prompt_tokens=-1) == (end, "1")
        short = await client.post("/predict", json={"inputs": "short", "truncation_direction": "Left"})
    assert "x-truncated" not in short.headers


@in_loop
async def test_requests_that_keep_other_parts_share_a_batch() -> None:
    stub = StubPredictor()
    async with served(stub, limits=Limits(wait_seconds=0.1, batch_rows=3)) as client:
        stub.gate.clear()
        first = asyncio.create_task(client.post("/predict", json={"inputs": "first"}))
        await asyncio.sleep(0.05)
        bodies = [{"truncation_direction": "Left"}, {}, {"truncate": False}]
        tasks = [
            asyncio.create_task(client.post("/predict", json={"inputs": [[LONG], ["x"]], **body}))
            for body in bodies
        ]
        await asyncio.sleep(0.05)
        stub.gate.set()
        left, right, refused = await asyncio.gather(*tasks)
        await first
    assert first_label(left.json()[0]) == pytest.approx(chance(LONG[-WINDOW:]))
    assert first_label(right.json()[0]) == pytest.approx(chance(LONG[:WINDOW]))
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("Input 0 (counted from 0) is longer than the model reads.")


@in_loop
async def test_positions_of_cuts_are_those_of_the_request() -> None:
    texts = ["x", LONG, "y", LONG, "z"]
    async with served(StubPredictor(), limits=Limits(batch_rows=2)) as client:
        answer = await client.post("/predict", json={"inputs": [[text] for text in texts]})
        refused = await client.post(
            "/predict", json={"inputs": [["x"], ["y"], ["z"], [LONG]], "truncate": False}
        )
        whole = await client.post("/predict", json={"inputs": [["x"], ["y"]], "truncate": False})
    assert answer.headers["x-truncated"] == "1,3"
    assert (refused.status_code, whole.status_code) == (422, 200)
    assert refused.json()["error"].startswith("Input 3 ")


@pytest.mark.parametrize(("model", "task", "settings"), KINDS)
@in_loop
async def test_the_end_of_a_long_text_is_answered_like_the_end_alone(
    tmp_path: Path, model: str, task: TaskDefinition, settings: dict[str, Any]
) -> None:
    (student,) = load_students(
        [save_tiny(tmp_path / "s", task, model, max_tokens=48, **settings)], with_teachers=False
    )
    ends = ["and then it ends well", "as it had begun"][: len(task.fields)]
    long = ["so dull that " * 200 + text for text in ends]
    async with served(s=student) as client:
        asked = {"inputs": [long], "truncation_direction": "Left"}
        left = (await client.post("/predict", json=asked)).json()[0]
        right = (await client.post("/predict", json={"inputs": [long]})).json()[0]
        short = await client.post("/predict", json={"inputs": [ends]})
        alike = await client.post(
            "/predict",
            json={"inputs": [["grim " * 300 + text for text in long]], "truncation_direction": "Left"},
        )
    assert alike.json()[0] == left  # what stands before the part that is kept changes nothing
    assert left != right
    assert (alike.headers["x-truncated"], short.headers.get("x-truncated")) == ("0", None)


# Fields ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("/predict", {"truncate": 1}, "`truncate` is not"),
        ("/predict", {"truncation_direction": "Middle"}, "`truncation_direction` is not"),
        ("/predict", {"truncation_direction": None}, "`truncation_direction` is not"),
        ("/predict", {"raw_scores": True}, "raw scores are not given"),
        ("/predict", {"truncation_direcion": "Left"}, "the key `truncation_direcion`, which this endpoint does not know. It knows: `model`,"),
        ("/predict", {"parameters": {"top_k": 1}}, "the key `parameters`, which this endpoint does not know"),
        ("/classify", {"use_activation": False}, "logits are not"),
        ("/classify", {"activation": False}, "logits are not"),
        ("/classify", {"softmax": False}, "logits are not"),
        ("/classify", {"truncate_prompt_tokens": 5}, "`truncate_prompt_tokens` is not as it must be. It is null or -1"),
        ("/classify", {"truncate_prompt_tokens": True}, "`truncate_prompt_tokens` is not"),
        ("/classify", {"truncation_side": "Left"}, "`truncation_side` is not"),
        ("/classify", {"add_special_tokens": False}, "`add_special_tokens` is not"),
        ("/classify", {"padding": "max_length"}, "`padding` is not"),
        ("/classify", {"priority": 1}, "`priority` is not"),
        ("/classify", {"priority": False}, "`priority` is not"),
        ("/classify", {"request_id": ""}, "`request_id` is not"),
        ("/classify", {"mm_processor_kwargs": {}}, "`mm_processor_kwargs` is not"),
        ("/classify", {"messages": []}, "the key `messages`, which this endpoint does not know"),
    ],
)  # fmt: skip
@in_loop
async def test_a_field_that_is_not_honoured_is_refused(path: str, fields: dict[str, Any], said: str) -> None:
    async with served(StubPredictor()) as client:
        answer = await client.post(path, json={"inputs" if path == "/predict" else "input": "x", **fields})
    assert answer.status_code == 422
    assert said in answer.json()["error"]


@in_loop
async def test_the_fields_of_vllm_that_change_nothing_are_taken() -> None:
    fields = {
        "use_activation": True, "activation": None, "truncate_prompt_tokens": None, "truncation_side": None,
        "add_special_tokens": True, "padding": "do_not_pad", "priority": 0, "user": "me", "cache_salt": "salt",
        "mm_processor_kwargs": None, "request_id": "mine-1",
    }  # fmt: skip
    async with served(StubPredictor()) as client:
        answer = await client.post("/classify", json={"input": "x", **fields})
    assert answer.status_code == 200
    assert answer.json()["id"] == "classify-mine-1"


# Texts that `predict` refuses --------------------------------------------------------------------


@in_loop
async def test_what_predict_refuses_is_refused() -> None:
    stub = StubPredictor()
    async with served(stub, StubPredictor(PAIRS)) as client:
        for text, said in (
            ("", "no text"),
            (" \n\t", "no text"),
            ("\u3000", "no text"),
            ("a\0b", "NUL character"),
        ):
            for path, key in (("/predict", "inputs"), ("/classify", "input")):
                answer = await client.post(path, json={key: text})
                assert answer.status_code == 422
                assert (
                    f"Input 0 (counted from 0) has {'a ' * (said[0] == 'N')}{said}" in answer.json()["error"]
                )
        batch = await client.post("/predict", json={"inputs": [["fine"], [" "]]})
        pair = await client.post("/predict", json={"inputs": ["fine", ""], "model": "s1"})
    assert "Input 1 (counted from 0) has no text in `text`" in batch.json()["error"]
    assert "in `hypothesis`" in pair.json()["error"]
    assert (batch.status_code, pair.status_code, stub.batches) == (
        422,
        422,
        [],
    )  # none of the batch is answered


@in_loop
async def test_the_teacher_refuses_blank_texts_and_cuts_none(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = run / "students" / label_and_train(run)
    (student,) = load_students([folder], with_teachers=True)
    async with served(run=student) as client:
        blank = await client.post("/teacher", json={"inputs": " "})
        long = await client.post("/teacher", json={"inputs": "so long " * 100_000, "truncate": True})
    assert (blank.status_code, long.status_code) == (422, 422)
    assert "has at least" in long.json()["error"]


# Compressed bodies, methods, hosts ---------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "identity, gzip"])
@in_loop
async def test_a_compressed_body_is_refused_unread(encoding: str) -> None:
    body = gzip.compress(json.dumps({"inputs": "x" * 100_000}).encode())
    async with served(StubPredictor()) as client:
        answer = await client.post("/predict", content=body, headers=JSON | {"content-encoding": encoding})
        plain = await client.post("/predict", json={"inputs": "x"}, headers={"content-encoding": "identity"})
    assert (answer.status_code, plain.status_code) == (415, 200)
    assert "content-encoding" in answer.json()["error"]


@in_loop
async def test_head_is_a_get_without_its_body(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<!DOCTYPE html><title>r</title>", encoding="utf-8")
    async with served(s=ServedStudent("s", StubPredictor(), report)) as client:
        for path in (
            "/",
            "/assets/playground.js",
            "/health",
            "/v1/models",
            "/metrics",
            "/openapi.json",
            "/report/s",
            "/nowhere",
        ):
            get, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (get.status_code, b""), path
            assert head.headers["content-type" if get.content else "content-length"]
            if path != "/metrics":
                assert head.headers["content-length"] == str(len(get.content)), path
        wrong, posted = await client.head("/predict"), await client.post("/health")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"), ("LOCALHOST:80", "localhost"), ("127.0.0.1:8000", "127.0.0.1"),
        ("localhost:", "localhost"), ("[::1]", "::1"), ("[0:0:0:0:0:0:0:1]:8000", "::1"), ("a.example", "a.example"),
        ("", None), (" localhost", None), ("localhost:x", None), ("localhost:99999", None), ("localhost:²", None),
        ("localhost:80:80", None), ("user@localhost", None), ("localhost/", None), ("localhost?x", None),
        ("localhost#x", None), ("::1", None), ("[::1", None), ("[::1]x", None), ("[127.0.0.1]", None), ("[]", None),
        ("localhost, evil.example", None), ("localhost\\@evil", None), ("locaIhost\t", None), ("[::1%25lo]", None),
        ("evil@127.0.0.1:80", None), ("localhost:+80", None),
    ],
)  # fmt: skip
def test_a_host_is_parsed_strictly(host: str, name: str | None) -> None:
    assert host_name(host) == name


@in_loop
async def test_only_a_host_of_this_server_is_answered() -> None:
    async with served(StubPredictor(), hosts=("localhost", "127.0.0.1", "::1")) as client:
        for host, status in {
            "localhost:8080": 200, "[0::1]": 200, "localhost.evil.example": 421, "user@localhost": 421,
            "localhost:80:80": 421, "": 421, "evil.example": 421,
        }.items():  # fmt: skip
            assert (await client.get("/health", headers={"host": host})).status_code == status, host
        twice = await client.get("/health", headers=[("host", "localhost"), ("host", "localhost")])
    async with served(StubPredictor(), token="sesame") as client:
        statuses = [
            (await client.get("/health", headers={"host": host})).status_code
            for host in ("any.example:80", "user@any.example", "any.example:x")
        ]
    assert (twice.status_code, statuses) == (421, [200, 400, 400])
