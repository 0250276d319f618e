"""The process: a socket, uvicorn, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from stillshot.deploy.serving.limits import Limits
from stillshot.errors import WorkError

_HEAD_BYTES = 16_384
_BACKLOG = 1024
_TICK_SECONDS = 0.1
# How long a thread that computes may be kept waiting by the one that reads requests: a forward pass asks for Python's
# lock between any two products.
_SWITCH_SECONDS = 0.00002


def bind(host: str, port: int) -> socket.socket:
    """A socket of this process's own, which does not listen yet; port 0 takes a free one.

    Raises:
        WorkError: The address is taken, is not this machine's, or is none.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except UnicodeError:  # cannot even be looked up: a part of it is empty or too long
        raise WorkError(
            f"{host}:{port} cannot be listened on: that is no name of a host. Choose another --host."
        ) from None
    except OSError as error:
        raise WorkError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}. Choose another --port or --host."
        ) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: FastAPI, limits: Limits, bound: socket.socket, on_start: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what was accepted and return.

    From the signal on no connection is accepted. A second Ctrl-C ends at once; a second SIGTERM changes nothing, since
    one stop may send it twice: to all processes of a service, and by a script that passes it on.
    """

    class Protocol(TimedProtocol):
        send_seconds = limits.send_seconds

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        # By then every request has its answer or its timeout; what is left are clients that do not read theirs.
        timeout_graceful_shutdown=int(limits.timeout_seconds + limits.send_seconds) + 1,
    )
    server = _Server(config, on_start)
    gc.collect()
    gc.freeze()  # looking through all that was loaded would hold up every request
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)

    def stop(number: int, frame: FrameType | None) -> None:
        server.handle_exit(number, frame)

    # uvicorn takes these over while it runs, and raises them once more when it has stopped; they are to end the
    # process as a finished one.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[bound])
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn does not wait for connections once it is forced, but from Python 3.12 on asyncio does.
        ending = asyncio.ensure_future(super().shutdown(sockets))
        while not (await asyncio.wait([ending], timeout=_TICK_SECONDS))[0]:
            if self.force_exit:
                for connection in list(self.server_state.connections):
                    connection.transport.abort()
        await ending


class TimedProtocol(H11Protocol):
    """HTTP/1.1 whose clients have a bounded time for what no endpoint waits for; uvicorn itself waits for ever.

    That is a request's head, and the rest of a body whose answer went out before its end. More bytes of it do not
    lengthen the time. Such an answer does not close its connection at once: who still sends might then not get to read it.
    """

    send_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _awaited: Any = None  # what the timer is for, as a state of the client

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock where a head or a rest is awaited, and stop it where that has come."""
        state: Any = self.conn.their_state
        is_rest = state is h11.SEND_BODY and self.cycle.response_complete
        awaited = state if state is h11.IDLE or is_rest else None
        if awaited is not self._awaited:
            self._unwatch()
        if awaited is not None and self._timer is None and self.timeout_keep_alive_task is None:
            self._timer, self._awaited = self.loop.call_later(self.send_seconds, self._is_late), awaited

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._awaited = None, None

    def _is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._awaited is h11.IDLE:
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
        self.transport.close()
