"""Malformed and hostile requests to a running server: none may get a 5xx, and its memory must not grow.

    python benchmarks/fuzz_serving.py                # 10,000 requests to a tiny student
    python benchmarks/fuzz_serving.py --count 300 --seed 1

Ends with exit code 1 where a response was a server error, a valid request in between was not answered, or the
resident set grew by more than it is allowed to.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from serving_process import ServerProcess

from stillshot.config import Prompt
from stillshot.config import Student as StudentSection
from stillshot.student.saved import Student
from stillshot.tasks import load_task

VALID = json.dumps({"inputs": [["a stirring film"], ["no movement"]]}).encode()
GROWTH_BYTES = 64 * 2**20
_MALFORMED = "malformed HTTP"  # may be cut off without a response
Request = tuple[str, bytes]


def post(body: bytes, path: str = "/predict", headers: str = "content-type: application/json") -> bytes:
    """The bytes of a request with a body."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )


def valid(_: random.Random) -> Request:
    return "valid", post(VALID)


def noise(rng: random.Random) -> Request:
    return "noise", post(rng.randbytes(rng.randrange(400)))


def mutated(rng: random.Random) -> Request:
    body = bytearray(VALID)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(body))
        body[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
    return "mutated", post(bytes(body), rng.choice(["/predict", "/classify"]))


def truncated(rng: random.Random) -> Request:
    return "truncated JSON", post(VALID[: rng.randrange(len(VALID))])


def nested(rng: random.Random) -> Request:
    depth = rng.choice([10, 199, 1000, 100_000])
    opened, closed = rng.choice([(b"[", b"]"), (b'{"inputs":', b"}")])
    inside = opened * depth + b"1" + closed * rng.choice([0, depth])
    return "deep JSON", post(b'{"inputs": ' + inside + b"}")


def numbers(rng: random.Random) -> Request:
    number = rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "-0", "1" + "0" * 400 + ".5"])
    key = rng.choice(["inputs", "model", "raw_scores", "extra"])
    return "odd numbers", post(f'{{"inputs": "x", "{key}": {number}}}'.encode())


def wrong_types(rng: random.Random) -> Request:
    values = [
        None,
        True,
        7,
        1.5,
        {},
        [],
        [[]],
        [[[]]],
        [None],
        ["a", 1],
        [["a"], "b"],
        [["a", "b", "c"]],
        {"text": "a"},
    ]
    body = {rng.choice(["inputs", "input", "model", "raw_scores", "use_activation"]): rng.choice(values)}
    if rng.random() < 0.5:
        body = {"inputs": "x", "input": "x"} | body
    content = json.dumps(rng.choice([body, list(body), 3, "x", None])).encode()
    return "wrong types", post(content, rng.choice(["/predict", "/classify"]))


def odd_texts(rng: random.Random) -> Request:
    texts = [
        b'"\xff\xfe"', b'"\xc3"', rb'"\ud800"', rb'"\udc00\ud800"', b'"\x00"', rb'"\u0000"', b'"\n"', rb'"\u202e"',
        json.dumps("\U0001f600" * rng.randint(1, 4000)).encode(), json.dumps("a" * rng.randint(1, 60_000)).encode(),
        b'"' + b"[MASK] <eos> <pad> " * 50 + b'"', b'""', b'" "',
    ]  # fmt: skip
    return "odd texts", post(b'{"inputs": ' + rng.choice(texts) + b"}")


def many_inputs(rng: random.Random) -> Request:
    count = rng.choice([257, 5000, 100_000])
    return "many inputs", post(
        b'{"inputs": [' + b",".join([rng.choice([b'["a"]', b"[1]", b"[]"])] * count) + b"]}"
    )


def large(rng: random.Random) -> Request:
    size = rng.choice([2_000_001, 3_000_000])
    return "large body", post(b'{"inputs": "' + b"x" * size + b'"}')


def other_headers(rng: random.Random) -> Request:
    kind = rng.choice(["text/plain", "application/xml", "", "application/json; charset=utf-16", "\xe9"])
    extra = rng.choice(
        ["", "\r\nauthorization: Bearer x", "\r\ncookie: a=b; =; ;;", "\r\ncontent-encoding: gzip"]
    )
    return "other headers", post(VALID, headers=f"content-type: {kind}{extra}")


def routes(rng: random.Random) -> Request:
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
    path = rng.choice(
        ["/predict", "/classify", "/%00", "/%ff", "/..%2f..%2fetc/passwd", "/assets/../app.py", "/assets/%2e%2e/x",
         "/report/none", "/" + "a" * 5000, "/?" + "q" * 5000, "/metrics", "/v1/models", "//", "/teacher"]
    )  # fmt: skip
    return "routes", f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()


def malformed(rng: random.Random) -> Request:
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    chunked = head + b"transfer-encoding: chunked\r\n"
    return _MALFORMED, rng.choice(
        [
            rng.randbytes(200),
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /predict\r\n\r\n",
            head + b"content-length: -1\r\n\r\n",
            head + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
            head + b"content-length: 99999999999999999999\r\n\r\n" + VALID,
            head + b"content-length: 1000000\r\n\r\n" + VALID,
            chunked + b"content-length: 5\r\n\r\n0\r\n\r\n",
            chunked + b"\r\nzz\r\n" + VALID,
            chunked + b"\r\nffffffffffffffff\r\n" + VALID,
            head + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
            head + b"".join(b"x%d: y\r\n" % i for i in range(3000)) + b"\r\n",
            head + b"bad header\r\n\r\n",
            b"\r\n" * rng.randint(1, 50),
        ]
    )


KINDS: list[Callable[[random.Random], Request]] = [
    noise, mutated, truncated, nested, numbers, wrong_types, odd_texts, other_headers, routes, malformed,
]  # fmt: skip
RARE: list[Callable[[random.Random], Request]] = [many_inputs, large]


def send(host: str, port: int, content: bytes, seconds: float) -> int:
    """The status of the response, 0 where there is none within some seconds."""
    with socket.create_connection((host, port), seconds) as connection:
        received = b""
        try:
            connection.sendall(content)
            while len(received) < 4096 and (part := connection.recv(4096)):
                received += part
                if b"\r\n" in received:
                    break
        except (ConnectionError, TimeoutError):
            pass
    status = received.split(b" ", 2)[1:2]
    return int(status[0]) if status and status[0].isdigit() else 0


def fuzz(host: str, port: int, count: int, seed: int) -> tuple[Counter[tuple[str, int]], list[str]]:
    """How often each kind got each status, and what went wrong."""
    rng = random.Random(seed)
    found: Counter[tuple[str, int]] = Counter()
    wrong: list[str] = []
    for number in range(count):
        kind = valid if number % 50 == 0 else rng.choice(RARE if number % 40 == 1 else KINDS)
        name, content = kind(rng)
        # The server waits for the rest of a request that is cut off; the sender does not.
        status = send(host, port, content, 0.2 if name == _MALFORMED else 30.0)
        found[name, status] += 1
        lost = status == 0 and name != _MALFORMED
        if status >= 500 or lost or (name == "valid" and status != 200):
            wrong.append(f"request {number} ({name}) got {status or 'no response'}: {content[:200]!r}")
    return found, wrong


def save_tiny_student(folder: Path) -> None:
    """A student that answers in a millisecond."""
    Student.create(StudentSection(model="random:tiny-bert"), load_task("sst2"), Prompt()).save(folder)


def main() -> int:
    """Parse arguments, send, tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        save_tiny_student(Path(scratch) / "tiny")
        with ServerProcess(Path(scratch) / "tiny") as server:
            fuzz(server.host, server.port, max(200, arguments.count // 10), seed=arguments.seed + 1)  # warm
            before = server.resident_bytes
            found, wrong = fuzz(server.host, server.port, arguments.count, arguments.seed)
            grown = server.resident_bytes - before
    for (name, status), times in sorted(found.items()):
        print(f"{name:16} {status or 'none':>5} {times:6}")
    print(f"resident set: {before / 2**20:.0f} MiB, grown by {grown / 2**20:.1f} MiB")
    print("\n".join(wrong) or f"{sum(found.values()):,} requests, no server error")
    return int(bool(wrong) or grown > GROWTH_BYTES)


if __name__ == "__main__":
    sys.exit(main())
