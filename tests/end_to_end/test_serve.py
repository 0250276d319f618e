"""``stillshot serve`` as a process: hostile clients, its own description, and its end under load."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_doubles import save_tiny

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from fuzz_serving import GROWTH_BYTES, fuzz  # noqa: E402
from serving_process import Client, ServerProcess  # noqa: E402

SLOW_SENDERS = """
import sys
from pathlib import Path
from stillshot.deploy.serving.app import create_app
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.server import address_of, bind, run_server
from stillshot.deploy.serving.students import load_students

limits, bound = Limits(send_seconds=0.5), bind("127.0.0.1", 0)
app = create_app(load_students([Path(sys.argv[1])], with_teachers=False), limits)
run_server(app, limits, bound, lambda: print(bound.getsockname()[1], flush=True))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("students") / "tiny")


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tiny) as running:
        yield running


def test_hostile_requests_get_no_server_error_and_take_no_memory(server: ServerProcess) -> None:
    fuzz(server.host, server.port, 200, seed=1)
    before = server.resident_bytes
    found, wrong = fuzz(server.host, server.port, 400, seed=2)
    assert wrong == []
    assert found["valid", 200] == 8
    assert server.resident_bytes - before < GROWTH_BYTES


# Too many inputs are 413, as in Text Embeddings Inference; that is no status of a refusal to schemathesis.
STATUSES = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""


def test_the_description_is_true(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(STATUSES, encoding="utf-8")
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{server.url}/openapi.json",
        "--checks=all",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=15",
        "--seed=1",
        "--no-color",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_slow_senders_are_cut_off(tiny: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_SENDERS, str(tiny)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        answers = [
            _answer_to(port, b""),
            _answer_to(port, b"POST /predict HTTP/1.1\r\nho"),
            _answer_to(
                port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET /hea"
            ),  # the second head is late
            _answer_to(
                port,
                b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
            ),
        ]
    finally:
        process.send_signal(signal.SIGINT)  # Ctrl-C is an end like any other
        assert process.wait(60) == 0
    assert [b" 408 " in answer for answer in answers] == [True] * 4
    assert answers[2].startswith(b"HTTP/1.1 200 ")


def _answer_to(port: int, first: bytes, then: bytes = b"") -> bytes:
    """All that comes back until the server closes the connection; ``then`` is sent after the first response."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(first)
        before = connection.recv(4096) if then else b""
        connection.sendall(then)
        return before + b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_stopping_under_load_loses_no_accepted_request(tiny: Path) -> None:
    async def drive(server: ServerProcess) -> tuple[int, int]:
        received = broken = 0

        async def one(number: int) -> None:
            nonlocal received, broken
            client = Client(server.host, server.port)
            for _ in range(10_000):
                try:
                    status, answer = await client.post("/predict", {"inputs": [[f"{number}"], ["another"]]})
                except (OSError, EOFError):
                    broken += 1
                    return
                assert (status, len(answer)) == (200, 2)
                received += 1

        asyncio.get_running_loop().call_later(1.0, server.process.send_signal, signal.SIGTERM)
        await asyncio.gather(*(one(number) for number in range(16)))
        return received, broken

    with ServerProcess(tiny, "--batch", "4") as server:
        received, broken = asyncio.run(drive(server))
        assert server.stop() == 0
        assert server.counted == (received, received)
        assert received > 16
        assert broken == 16  # every client was refused in the end
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((server.host, server.port), 5)
