"""From the bytes of a request to a checked one, within bounds of size and time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.refusals import CLOSE, Refusal, overloaded
from stillshot.escaping import visible

M = TypeVar("M", bound=BaseModel)

# A body that is too large is read to its end and dropped, so that its sender gets to read the refusal, unless it
# is larger than so many times the limit.
_DROPPED_BODIES = 8
_LONGEST_KEY = 40  # characters of a key that a refusal names


class Gate:
    """Bounds the requests that are taken on at once, and the bytes of their bodies."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def admitted(self) -> Iterator[Ticket]:
        """One request, from before its body is read until it is answered.

        Raises:
            Refusal: There are too many already.
        """
        if self._requests >= self._limits.requests:
            raise overloaded("Too many requests at one time.")
        ticket = Ticket(self)
        self._requests += 1
        try:
            yield ticket
        finally:
            self._requests -= 1
            self._bytes -= ticket.held_bytes

    def hold(self, count: int) -> None:
        """Count bytes of a body.

        Raises:
            Refusal: There are too many bytes already.
        """
        if self._bytes + count > self._limits.buffered_bytes:
            raise overloaded("Too many large requests at one time.")
        self._bytes += count


class Ticket:
    """One request's part of what a :class:`Gate` bounds."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.held_bytes = 0

    def hold(self, count: int) -> None:
        """Count bytes of this request's body; see :meth:`Gate.hold`."""
        self._gate.hold(count)
        self.held_bytes += count


async def read_body(request: Request, form: type[M], limits: Limits, ticket: Ticket) -> M:
    """The checked body of a request.

    Raises:
        Refusal: It is not JSON (400, 415), too large (413), sent too slowly (408), or not of the form (422).
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refusal(415, "Validation", "Send JSON, with the header content-type: application/json.")
    # A few bytes could be unpacked to any number.
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        message = "Send the body as it is, without a content-encoding: compressed bodies are not unpacked."
        raise Refusal(415, "Validation", message, {"accept-encoding": "identity"})
    try:
        async with asyncio.timeout(limits.send_seconds):
            content = await _content(request, limits, ticket)
    except TimeoutError:
        message = f"The body was not sent within {limits.send_seconds:g} s."
        raise Refusal(408, "Timeout", message, CLOSE) from None
    except ClientDisconnect:
        raise Refusal(400, "Validation", "The connection was closed before the body's end.", CLOSE) from None
    try:
        body = form.model_validate_json(content)
    except ValidationError as error:
        raise _refused(error, form, limits) from None
    _refuse_repeated(content)
    return body


async def _content(request: Request, limits: Limits, ticket: Ticket) -> bytes:
    most = _DROPPED_BODIES * limits.body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and len(declared) <= 20 and int(declared) > most:
        raise _too_large(limits)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            break
        if size <= limits.body_bytes:
            ticket.hold(len(chunk))
            chunks.append(chunk)
        else:
            chunks.clear()
    if size > limits.body_bytes:
        raise _too_large(limits)
    return b"".join(chunks)


def _too_large(limits: Limits) -> Refusal:
    message = f"The body is larger than {limits.body_bytes:,} bytes. Send fewer or shorter inputs."
    return Refusal(413, "Validation", message, CLOSE)


def _refuse_repeated(content: bytes) -> None:
    """See that no key comes twice in a body of the right form, whose only object is the body itself.

    Raises:
        Refusal: One does.
    """

    def once(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            key = next(key for key in keys if keys.count(key) > 1)
            raise Refusal(422, "Validation", f"The body has the key `{_shown(key)}` twice. Send it once.")

    json.loads(content, object_pairs_hook=once, strict=False)


def _shown(key: str) -> str:
    return visible(key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}...", keep="")


def _refused(error: ValidationError, form: type[BaseModel], limits: Limits) -> Refusal:
    """What is wrong first, without a word of what was sent but for the name of an unknown key."""
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        return Refusal(400, "Validation", f"The body is not valid JSON: {first['msg'].split(': ', 1)[-1]}.")
    if not first["loc"]:
        return Refusal(422, "Validation", "The body must be a JSON object.")
    name = str(first["loc"][0])
    if any(p["type"] == "too_long" and p.get("ctx", {}).get("max_length") == limits.inputs for p in problems):
        return Refusal(
            413, "Validation", f"`{name}` has more than {limits.inputs} inputs. Send them in parts."
        )
    if first["type"] == "extra_forbidden":
        known = ", ".join(f"`{key}`" for key in form.model_fields)
        return Refusal(
            422,
            "Validation",
            f"The body has the key `{_shown(name)}`, which this endpoint does not know. It knows: {known}.",
        )
    if first["type"] == "missing":
        return Refusal(422, "Validation", f"The body lacks `{name}`.")
    described = form.model_fields[name].description
    return Refusal(422, "Validation", f"`{name}` is not as it must be. {described}")
