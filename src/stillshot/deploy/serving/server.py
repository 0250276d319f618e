"""The process: a socket, uvicorn, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from stillshot.deploy.serving.connections import BoundedProtocol, connections_within
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.logs import Sparing
from stillshot.errors import WorkError

_HEAD_BYTES = 16_384
_BACKLOG = 1024
# asyncio accepts so many connections before the first of them can be refused: each needs a file handle.
_ACCEPTED_AT_ONCE = 8
_TICK_SECONDS = 0.1
# Of these, clients can cause any number of messages.
_LOGGERS = ("asyncio", "uvicorn.error", "stillshot.deploy.serving.batching")
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

    class Protocol(BoundedProtocol):
        bounds = limits
        most_connections = connections_within(limits, accepted_at_once=_ACCEPTED_AT_ONCE)

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_ACCEPTED_AT_ONCE,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        # By then every request has its answer or its timeout; what is left are clients that do not read theirs.
        timeout_graceful_shutdown=int(limits.timeout_seconds + limits.send_seconds) + 1,
    )
    server = _Server(config, on_start)
    quiet = Sparing()
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(quiet)
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
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(quiet)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(_BACKLOG)  # how many may wait is another matter than how many are accepted at once
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
