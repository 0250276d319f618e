"""The server of a process: clients that keep its connections, its end, and what it cannot listen on."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from cli_calls import call
from fastapi import FastAPI
from serving_doubles import StubPredictor, save_tiny

from stillshot.deploy.serving.app import create_app
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.server import bind, run_server
from stillshot.deploy.serving.students import ServedStudent
from stillshot.deploy.serving.workers import Workers
from stillshot.errors import WorkError

T = TypeVar("T")
TOKEN = "sesame"
SHORT = Limits(send_seconds=0.5)
PATIENCE = 20.0  # seconds after which a client takes it that nothing will come
MIDWAY = "content-length: 20000\r\n\r\n"
ASKING = f"POST /predict HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
BODY = b'{"inputs": "x"}'
ASKED = f"{ASKING}content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY


def app_of(stub: StubPredictor, limits: Limits = SHORT) -> FastAPI:
    return create_app([ServedStudent("s", stub)], limits, TOKEN, workers=Workers(1, 1))


def told_by(client: Callable[[int], T], app: FastAPI, limits: Limits = SHORT) -> T:
    """What a client, given the port, finds while a server runs in this process; the server ends with it."""

    def run(port: int) -> T:
        try:
            return client(port)
        finally:
            signal.raise_signal(signal.SIGTERM)

    bound, found = bind("127.0.0.1", 0), list[Future[T]]()
    port = bound.getsockname()[1]
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # the server may have ended first
    try:
        with ThreadPoolExecutor(1) as threads:
            run_server(app, limits, bound, lambda: found.append(threads.submit(run, port)))
            return found[0].result()
    finally:
        signal.signal(signal.SIGTERM, before)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def response(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next response."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(1)
        assert part, "closed without a response"
        received += part
    status = int(received.split(b" ", 2)[1])
    (length,) = (
        int(line.partition(b":")[2])
        for line in received.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    return status, connection.recv(length, socket.MSG_WAITALL) if length else b""


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection.

    Raises:
        TimeoutError: It does not.
    """
    received = b""
    try:
        while part := connection.recv(4096):
            received += part
    except ConnectionError:  # closed while bytes were under way
        pass
    return received


def wait_for(stub: StubPredictor) -> None:
    """Return once it computes."""
    until = time.monotonic() + PATIENCE
    while not stub.computing:
        assert time.monotonic() < until
        time.sleep(0.01)


# Of these, the answer does not need the body.
EARLY = [
    ("POST /predict HTTP/1.1\r\nhost: localhost\r\n", 401),
    (f"{ASKING}content-type: text/plain\r\n", 415),
    (f"POST /nowhere HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n", 404),
    ("GET /health HTTP/1.1\r\nhost: localhost\r\n", 200),
]


@pytest.mark.parametrize(("head", "status"), EARLY)
def test_a_body_that_was_answered_must_end_in_time(head: str, status: int) -> None:
    def client(port: int) -> tuple[int, bytes]:
        with connected(port) as connection:
            connection.sendall((head + MIDWAY).encode())
            found, _ = response(connection)
            connection.sendall(b"{")
            return found, rest(connection)

    assert told_by(client, app_of(StubPredictor())) == (status, b"")


def test_more_bytes_of_a_body_that_was_answered_give_no_more_time() -> None:
    def client(port: int) -> bool:
        with connected(port) as connection:
            connection.sendall((EARLY[0][0] + MIDWAY).encode())
            response(connection)
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                try:
                    connection.sendall(b" ")
                except ConnectionError:
                    return True
                time.sleep(SHORT.send_seconds / 10)
        return False

    assert told_by(client, app_of(StubPredictor()))


def test_a_body_that_was_answered_may_end_and_be_followed_by_another_request() -> None:
    def client(port: int) -> tuple[list[int], bytes]:
        statuses = []
        with connected(port) as connection:
            for rests in (
                [BODY, ASKED],
                [BODY + ASKED],
            ):  # the next request comes later, or with the body's end
                connection.sendall(f"{EARLY[0][0]}content-length: {len(BODY) + 1}\r\n\r\n".encode())
                statuses.append(response(connection)[0])
                for content in (b" ", *rests):
                    connection.sendall(content)
                statuses.append(response(connection)[0])
            connection.sendall(b"GET /hea")  # a late head is told of, as ever
            return statuses, rest(connection).split(b"\r\n")[0]

    stub, limits = StubPredictor(), Limits(send_seconds=2)
    statuses, last = told_by(client, app_of(stub, limits), limits)
    assert (statuses, last) == ([401, 200, 401, 200], b"HTTP/1.1 408 Request Timeout")
    assert stub.batches == [1, 1]


def send_twice(number: signal.Signals) -> None:
    for _ in range(2):
        signal.raise_signal(number)
        time.sleep(0.5)  # the server looks for signals each tenth of a second


def test_a_second_sigterm_loses_no_accepted_request() -> None:
    stub, limits = StubPredictor(), Limits()
    stub.gate.clear()

    def client(port: int) -> tuple[int, bytes]:
        with connected(port) as connection:
            connection.sendall(ASKED)
            wait_for(stub)
            send_twice(signal.SIGTERM)
            stub.gate.set()
            return response(connection)

    status, answer = told_by(client, app_of(stub, limits), limits)
    assert status == 200
    assert {entry["label"] for entry in json.loads(answer)} == set(stub.task.labels)


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    stub, limits = StubPredictor(), Limits()
    stub.gate.clear()

    def client(port: int) -> tuple[bytes, int]:
        with connected(port) as connection:
            connection.sendall(ASKED)
            wait_for(stub)
            send_twice(signal.SIGINT)
            return rest(connection), stub.computing

    try:
        assert told_by(client, app_of(stub, limits), limits) == (b"", 1)
    finally:
        stub.gate.set()


@pytest.mark.parametrize("host", ["a..b", "a" * 64, f"{'a' * 64}.example", ".example"])
def test_a_host_that_is_no_name(host: str) -> None:
    with pytest.raises(WorkError, match="cannot be listened on: that is no name of a host"):
        bind(host, 0)


def test_the_command_refuses_a_host_that_is_no_name(tmp_path: Path) -> None:
    result = call("serve", str(save_tiny(tmp_path / "tiny")), "--host", "a..b", "--token", TOKEN)
    assert result.exit_code == 1
    assert "error: a..b:8080 cannot be listened on" in result.stderr
