"""What stands before all endpoints: the token, headers that every response has, and the counting of requests."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Collection
from urllib.parse import urlsplit

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


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, service: Service, hosts: Collection[str] | None = None) -> None:
        self._app, self._service, self._hosts = app, service, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["x-total-time"] = _milliseconds(time.monotonic() - started)
            await send(message)

        try:
            if not self._is_meant(scope):
                await _misdirected().response()(scope, receive, sent)
            elif self._may_enter(scope):
                await self._app(scope, receive, sent)
            else:
                await _unauthorized().response()(scope, receive, sent)
        finally:
            endpoint = getattr(scope.get("route"), "path", _UNKNOWN)
            self._service.metrics.observe_request(endpoint, status, time.monotonic() - started)
            if scope.get("state", {}).get("accepted"):
                self._service.metrics.answered += 1

    def _is_meant(self, scope: Scope) -> bool:
        if self._hosts is None:
            return True
        try:
            return urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname in self._hosts
        except ValueError:  # not a host
            return False

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


def _unauthorized() -> Refusal:
    message = "This server needs its token: send the header `authorization: Bearer TOKEN`."
    return Refusal(401, "Unauthorized", message, {"www-authenticate": "Bearer"})


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
