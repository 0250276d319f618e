"""The application: endpoints, errors in one form, and a description that is true to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from stillshot.deploy.serving.guard import OPEN_PATHS, Guard
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.pages import page_routes
from stillshot.deploy.serving.refusals import Kind, Refusal
from stillshot.deploy.serving.routes import answering_routes, state_routes
from stillshot.deploy.serving.schema import classify_request, predict_request
from stillshot.deploy.serving.service import Service
from stillshot.deploy.serving.students import ServedStudent
from stillshot.deploy.serving.workers import Workers

_KINDS: dict[int, Kind] = {404: "NotFound", 405: "MethodNotAllowed"}


def create_app(
    students: Sequence[ServedStudent],
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    workers: Workers | None = None,
) -> FastAPI:
    """An ASGI application that answers with students.

    It answers while its lifespan lasts. ``app.state.service`` has its counters.

    Args:
        students: At least one; the first answers requests that name none.
        token: What requests must show, but those to the page's files and ``/health``.
        hosts: Names of this server; requests to another are refused. ``None`` answers to any.
        workers: What computes the students' batches; ``None`` is :meth:`Workers.of` itself.
    """
    service = Service(students, limits or Limits(), token, workers or Workers.of())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(
        title="Stillshot", version=version("stillshot"), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    fields = {tuple(student.task.fields) for student in students}
    forms = predict_request(fields, service.limits.inputs), classify_request(fields, service.limits.inputs)
    app.include_router(answering_routes(service, *forms))
    app.include_router(state_routes(service))
    app.include_router(page_routes(service))
    app.add_middleware(Guard, service=service, hosts=hosts)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.state.service = service
    _describe(app, service, forms)
    return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _KINDS.get(error.status_code, "Validation")
    said = f"{error.detail}."
    if request.url.path == "/teacher" and error.status_code == 404:
        said = "No teacher is served. Start the server with --teacher."
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # see Guard
    return Refusal(error.status_code, kind, said, headers).response()


def _describe(app: FastAPI, service: Service, forms: Sequence[type[BaseModel]]) -> None:
    """Have ``/openapi.json`` also describe the bodies that endpoints read themselves, and the token."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            names = ", ".join(service.students)
            described = get_openapi(
                title=app.title,
                version=app.version,
                description=f"Text classification by: {names}.",
                routes=app.routes,
            )
            schemas = described.setdefault("components", {}).setdefault("schemas", {})
            for form in forms:
                schemas[form.__name__] = form.model_json_schema()
            if service.token is not None:
                described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                described["security"] = [{"token": []}]
                for path in set(OPEN_PATHS) & set(described["paths"]):
                    for operation in described["paths"][path].values():
                        operation["security"] = []
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
