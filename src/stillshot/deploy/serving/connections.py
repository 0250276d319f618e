"""Connections: a bounded number of them, whose clients have a bounded time for everything."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import h11
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.refusals import overloaded

_OWN_FILES = 16  # that the process opens while it serves, such as reports
_TURNS = 4  # of the event loop, from accepting a connection that is too many to its end
_LIKELY_OPENED = 64  # where the system does not tell what is open at the start


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 whose clients have a bounded time for everything; uvicorn itself waits for ever.

    That is: for a request's head; for the rest of a body whose answer went out before its end (more bytes of it do not
    lengthen the time; such an answer does not close its connection at once, since who still sends might then not get to read
    it); and for receiving the next part of a response, without which the connection is aborted.

    Beyond ``most_connections``, a new one takes the place of that which has been idle for the longest time. Where all are
    busy, some more are taken on, at which ``/health`` alone is answered; then the new one is closed.
    """

    bounds: Limits
    most_connections: int
    _timer: asyncio.TimerHandle | None = None
    _awaited: Any = None  # what the timer is for, as a state of the client
    _receiving: asyncio.TimerHandle | None = None
    _unsent = 0  # bytes that were not sent when that timer was set
    _idle_since = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so pause_writing tells of any byte that is not taken
        self._idle_since = self.loop.time()
        if len(self.connections) > self.most_connections:
            self._find_room()
        self._watch()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_receiving()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unwatch_receiving()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._unwatch_receiving()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock where a head or a rest is awaited, and stop it where that has come."""
        state: Any = self.conn.their_state
        is_rest = state is h11.SEND_BODY and self.cycle.response_complete
        awaited = state if state is h11.IDLE or is_rest else None
        if awaited is not self._awaited:
            self._unwatch()
        if awaited is not None and self._timer is None and self.timeout_keep_alive_task is None:
            self._timer, self._awaited = (
                self.loop.call_later(self.bounds.send_seconds, self._is_late),
                awaited,
            )

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

    def _watch_receiving(self) -> None:
        self._unwatch_receiving()
        self._unsent = self.transport.get_write_buffer_size()
        self._receiving = self.loop.call_later(self.bounds.receive_seconds, self._is_received)

    def _unwatch_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _is_received(self) -> None:
        """Give more time to who has received enough, and end the connection of who has not."""
        if self._unsent - self.transport.get_write_buffer_size() < self.bounds.receive_bytes:
            self.transport.abort()
        else:
            self._watch_receiving()

    def _is_idle(self) -> bool:
        """Whether it waits for a request of which not even the head is there."""
        state: Any = self.conn.their_state
        return state is h11.IDLE and self._receiving is None and not self.transport.is_closing()

    def _find_room(self) -> None:
        """Close the connection that was idle for the longest time; where all are busy, answer ``/health`` alone."""
        others = [other for other in self.connections if isinstance(other, BoundedProtocol)]
        is_open = [other for other in others if not other.transport.is_closing()]
        if len(is_open) <= self.most_connections:
            return
        idle = [other for other in is_open if other is not self and other._is_idle()]
        if idle:
            min(idle, key=lambda other: other._idle_since).transport.close()
        elif len(is_open) <= self.most_connections + self.bounds.spare_connections:
            self.app = _health_alone(self.app)
        else:
            self.transport.abort()


def _health_alone(app: Any) -> Any:
    """The application of a connection that is one too many."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        if scope["path"] == "/health":
            await app(scope, receive, closing)
        else:
            await overloaded("Too many connections at one time.").response()(scope, receive, closing)

    return answer


def connections_within(limits: Limits, accepted_at_once: int) -> int:
    """How many connections a server may keep open: fewer than the limit where the system does not let it open more files."""
    try:
        import resource
    except ImportError:  # Windows counts handles otherwise
        return limits.connections
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return limits.connections
    try:
        opened = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        opened = _LIKELY_OPENED
    room = most - opened - _OWN_FILES - limits.spare_connections - _TURNS * accepted_at_once
    return max(1, min(limits.connections, room))
