"""What stands before all endpoints: the token, headers that every response has, and the counting of requests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stillshot.deploy.serving.refusals import Refusal
from stillshot.deploy.serving.service import Service

# The page holds nothing secret; it asks for the token where one is needed.
OPEN_PATHS = ("/", "/health")
OPEN_FOLDERS = ("/assets/",)
REPORT_FOLDER = "/report/"
REPORT_COOKIE = "stillshot_report"
_UNKNOWN = "other"  # endpoint of what is at none
# A name or an address, and perhaps a port; nothing else that a URL may have (RFC 9110, 7.2).
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._~-]+))(?::([0-9]{0,5}))?", re.ASCII)
_LARGEST_PORT = 65_535


class Guard:
    """The outermost layer of the application.

    A HEAD request is answered as a GET whose body stays behind.
    """

    def __init__(self, app: ASGIApp, service: Service, hosts: Collection[str] | None = None) -> None:
        self._app, self._service, self._hosts = app, service, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, without_body = time.monotonic(), 500, scope["method"] == "HEAD"
        if without_body:
            scope = {**scope, "method": "GET"}

        async def sent(message: Message) -> None:
            nonlocal status
            if without_body and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["x-total-time"] = _milliseconds(time.monotonic() - started)
            await send(message)

        try:
            if (refusal := self._refusal(scope)) is None:
                await self._app(scope, receive, sent)
            else:
                await refusal.response()(scope, receive, sent)
        finally:
            endpoint = getattr(scope.get("route"), "path", _UNKNOWN)
            self._service.metrics.observe_request(endpoint, status, time.monotonic() - started)
            if scope.get("state", {}).get("accepted"):
                self._service.metrics.answered += 1

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Why a request is not let in, if it is not."""
        hosts = Headers(scope=scope).getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if self._hosts is not None:
            if name not in self._hosts:
                return _misdirected()
        elif name is None and hosts not in ([], [""]):
            return _not_a_host()
        return None if self._may_enter(scope) else _unauthorized()

    def _may_enter(self, scope: Scope) -> bool:
        token, path = self._service.token, scope["path"]
        if token is None or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return True
        headers = Headers(scope=scope)
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), token):
            return True
        # A link cannot carry a header, so whoever has shown the token gets a cookie that opens reports.
        cookie = cookie_parser(headers.get("cookie", "")).get(REPORT_COOKIE, "")
        return path.startswith(REPORT_FOLDER) and _same(cookie, report_cookie(token))


def host_name(value: str) -> str | None:
    """The name or address that a ``Host`` header names, in lower case; ``None`` if it is malformed.

    >>> host_name("LocalHost:8080"), host_name("[0:0::1]"), host_name("user@localhost")
    ('localhost', '::1', None)
    """
    found = _HOST.fullmatch(value)
    if found is None or int(found[3] or 0) > _LARGEST_PORT:
        return None
    if found[1] is None:
        return found[2].lower()
    try:
        return ipaddress.IPv6Address(found[1]).compressed
    except ValueError:
        return None


def report_cookie(token: str) -> str:
    """What opens the reports and nothing else, and from which the token cannot be told."""
    return hmac.new(token.encode(), REPORT_COOKIE.encode(), hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    # Headers come decoded as Latin-1, whatever bytes were sent.
    return hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())


def _misdirected() -> Refusal:
    return Refusal(
        421, "Validation", "This server answers to this machine's own names alone, unless it has a token."
    )


def _not_a_host() -> Refusal:
    message = "The header `host` must be one name or address, and may have a port: `host: example.org:8080`."
    return Refusal(400, "Validation", message)


def _unauthorized() -> Refusal:
    message = "This server needs its token: send the header `authorization: Bearer TOKEN`."
    return Refusal(401, "Unauthorized", message, {"www-authenticate": "Bearer"})


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
