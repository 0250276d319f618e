"""Connections of a running server: answers that nobody reads, more clients than there is room for, and its log."""

from __future__ import annotations

import json
import logging
import socket
import time
from pathlib import Path

import pytest
from serving_doubles import StubPredictor
from test_serving_server import ASKED, PATIENCE, app_of, connected, response, rest, told_by

from stillshot.deploy.serving.connections import connections_within
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.logs import Sparing

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
PAGE = b"GET /assets/playground.js HTTP/1.1\r\nhost: localhost\r\n\r\n"


def health(port: int) -> int:
    with connected(port) as connection:
        connection.sendall(HEALTH)
        return response(connection)[0]


def never_reading(port: int) -> socket.socket:
    """A connection with more answers under way than all buffers take, none of which is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.settimeout(0.5)
    try:
        for _ in range(2000):
            connection.sendall(PAGE * 20)
    except TimeoutError:  # the server reads no more requests
        pass
    return connection


def is_closed(connection: socket.socket, seconds: float = PATIENCE) -> bool:
    """Whether the server closes the connection within some seconds, seen without reading what it sent."""
    until = time.monotonic() + seconds
    connection.settimeout(0.2)
    while time.monotonic() < until:
        try:
            connection.sendall(b"G")
        except TimeoutError:  # still open, and nothing is taken
            continue
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_client_that_reads_no_answer_is_let_go() -> None:
    limits = Limits(receive_seconds=0.5)

    def client(port: int) -> bool:
        with never_reading(port) as connection:
            return is_closed(connection)

    assert told_by(client, app_of(StubPredictor(), limits), limits)


def test_a_client_that_reads_slowly_gets_all_of_its_answers() -> None:
    limits = Limits(receive_seconds=0.5, receive_bytes=1)
    count = 120

    def client(port: int) -> int:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.settimeout(PATIENCE)
        with connection:
            connection.sendall(
                PAGE * (count - 1) + PAGE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
            )
            received = b""
            while part := connection.recv(50_000):
                received += part
                time.sleep(0.005)
        return received.count(b"HTTP/1.1 200")

    assert told_by(client, app_of(StubPredictor(), limits), limits) == count


def test_health_is_answered_while_all_connections_are_busy() -> None:
    limits, stub = Limits(connections=4, spare_connections=2), StubPredictor()
    app = app_of(stub, limits)
    stub.gate.clear()

    def client(port: int) -> tuple[int, tuple[int, bytes], list[int]]:
        busy = [connected(port) for _ in range(limits.connections)]
        for connection in busy:
            connection.sendall(ASKED)
        until = time.monotonic() + PATIENCE
        while app.state.service.gate._requests < limits.connections:
            assert time.monotonic() < until
            time.sleep(0.01)
        meanwhile = health(port)
        with connected(port) as connection:
            connection.sendall(ASKED)
            refused = response(connection)
            assert rest(connection) == b""  # closed
        stub.gate.set()
        return meanwhile, refused, [response(connection)[0] for connection in busy]

    meanwhile, (status, content), answered = told_by(client, app, limits)
    assert (meanwhile, status, answered) == (200, 429, [200] * 4)
    assert json.loads(content)["error"] == "Too many connections at one time. Try again in a second."


def test_a_new_connection_takes_the_place_of_the_longest_idle_one() -> None:
    limits = Limits(connections=3, spare_connections=1)

    def client(port: int) -> tuple[list[int], bool, list[int]]:
        idle, statuses = [connected(port) for _ in range(3)], []
        for connection in (idle[1], idle[2], idle[0]):  # the second has waited for the longest time then
            connection.sendall(HEALTH)
            statuses.append(response(connection)[0])
            connection.sendall(HEALTH[:9])  # whose end is late is told so before it is closed, another is not
        with connected(port) as new:
            new.sendall(ASKED)
            statuses.append(response(new)[0])
            closed = rest(idle[1]) == b""
            left = []
            for connection in (idle[0], idle[2]):
                connection.sendall(HEALTH[9:])
                left.append(response(connection)[0])
        return statuses, closed, left

    found = told_by(client, app_of(StubPredictor(), limits), limits)
    assert found == ([200] * 4, True, [200] * 2)


def test_connections_are_fewer_than_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
    for most, found in [
        (100_000, 1024),
        (opened + 164, 100),
        (opened + 10, 1),
        (resource.RLIM_INFINITY, 1024),
    ]:
        monkeypatch.setattr(resource, "getrlimit", lambda _, most=most: (most, most))
        assert connections_within(Limits(), accepted_at_once=8) == pytest.approx(found, abs=2)


# The log -----------------------------------------------------------------------------------------


def record(message: str, *values: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("uvicorn.error", level, __file__, 1, message, values, None)


def test_few_messages_of_a_kind_are_written_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("stillshot.deploy.serving.logs.time.monotonic", lambda: now)
    quiet = Sparing(most=2, seconds=60)
    assert [quiet.filter(record("Invalid request %d", i)) for i in range(1000)] == [True, True] + [
        False
    ] * 998
    assert quiet.filter(record("Another message"))
    assert quiet.filter(record("Invalid request %d", 1, level=logging.ERROR))
    now += 61
    late = record("Invalid request %d", 7)
    assert quiet.filter(late)
    assert late.getMessage() == "Invalid request 7 (998 more like it were not written)"


def test_messages_that_all_differ_are_bounded_too() -> None:
    quiet = Sparing()
    written = sum(quiet.filter(record(f"{number} is a message of its own")) for number in range(5000))
    assert written < 300


class Written(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_malformed_requests_do_not_fill_the_log() -> None:
    written, limits, logger = Written(), Limits(), logging.getLogger("uvicorn.error")

    def client(port: int) -> int:
        logger.addHandler(written)  # now that uvicorn has configured its loggers
        for _ in range(50):
            with connected(port) as connection:
                connection.sendall(b"BREW\r\n\r\n")
                rest(connection)
        return health(port)

    try:
        assert told_by(client, app_of(StubPredictor(), limits), limits) == 200
    finally:
        logger.removeHandler(written)
    assert 1 <= len([message for message in written.messages if "Invalid HTTP request" in message]) <= 5
