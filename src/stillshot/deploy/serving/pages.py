"""The playground's files, and the reports of the runs that students lie in."""

from __future__ import annotations

from importlib import resources
from pathlib import PurePath

from fastapi import APIRouter
from fastapi.responses import Response

from stillshot.deploy.serving.refusals import Refusal
from stillshot.deploy.serving.service import Service

_PAGE = "index.html"
# Not looked up: what a system has registered may differ, and browsers run no script of another type.
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_COMMON = {"referrer-policy": "no-referrer", "cache-control": "no-cache"}
# Nothing but the server's own files, and no page may frame it.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report is one file with its own styles and no script.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def page_routes(service: Service) -> APIRouter:
    """``/``, ``/assets/FILE`` and ``/report/MODEL``."""
    router = APIRouter(include_in_schema=False)
    folder = resources.files("stillshot.deploy.serving").joinpath("playground")
    files = {
        file.name: file.read_bytes() for file in folder.iterdir() if PurePath(file.name).suffix in _TYPES
    }

    @router.get("/")
    async def page() -> Response:
        return _file(_PAGE, files[_PAGE])

    @router.get("/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in files:
            raise Refusal(404, "NotFound", "There is no such file.")
        return _file(name, files[name])

    @router.get("/report/{name}")
    def report(name: str) -> Response:
        path = service.choose(name).report
        try:
            content = path.read_bytes() if path is not None else None
        except OSError:
            content = None
        if content is None:
            raise Refusal(404, "NotFound", "The run of this model has no report, or it lies in no run.")
        headers = {**_COMMON, "content-security-policy": _REPORT_POLICY}
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)

    return router


def _file(name: str, content: bytes) -> Response:
    headers = {**_COMMON, "content-security-policy": _PAGE_POLICY}
    return Response(content, media_type=_TYPES[PurePath(name).suffix], headers=headers)
