"""The endpoints that programs use."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse

from stillshot.deploy.serving.batching import Answer
from stillshot.deploy.serving.guard import REPORT_COOKIE, REPORT_FOLDER, report_cookie
from stillshot.deploy.serving.intake import read_body
from stillshot.deploy.serving.schema import (
    Classifications,
    ClassifyBase,
    ErrorBody,
    ModelList,
    PredictBase,
    Predictions,
)
from stillshot.deploy.serving.service import Service

_ERRORS = {
    400: "The body is not valid JSON.",
    404: "There is no such model, or no teacher is served for it.",
    408: "The body was sent too slowly.",
    413: "The body is too large, or has too many inputs.",
    415: "The body is not declared as JSON, or is compressed.",
    422: "The body is not of the right form, or a text cannot be read.",
    424: "The model failed.",
    429: "Too much is waiting already; try again after the seconds in the header retry-after.",
    503: "The server is stopping.",
    504: "There was no answer in time.",
}
_CUT = (
    "Texts longer than the student reads (`max_model_len` of /v1/models) are cut, as `stillshot predict` cuts them; the "
    "header `x-truncated` then has the positions of these inputs. A blank text refuses the whole request."
)


class _Direct(APIRoute):
    """A route whose endpoint reads the request itself and makes the response: FastAPI's own way there only takes time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def errors(service: Service, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of an endpoint's errors; those of the token where there is one."""
    said = {status: _ERRORS[status] for status in statuses}
    if service.token is not None:
        said[401] = "The token is missing or wrong."
    return {status: {"model": ErrorBody, "description": text} for status, text in said.items()}


def body_of(name: str) -> dict[str, Any]:
    """The description of a body that the endpoint itself reads and checks."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answering_routes(
    service: Service, predict_form: type[PredictBase], classify_form: type[ClassifyBase]
) -> APIRouter:
    """``/predict``, ``/classify`` and, where a teacher is served, ``/teacher``."""
    router = APIRouter(tags=["answers"], route_class=_Direct)
    documented = errors(service, *_ERRORS)

    async def predicted(request: Request, *, by_teacher: bool) -> Response:
        with service.gate.admitted() as ticket:
            body = await read_body(request, predict_form, service.limits, ticket)
            student = service.choose(body.model)
            sequences, single = body.sequences()
            answer = await service.answer(
                request, student, sequences, body.truncation(), by_teacher=by_teacher
            )
        rows = [_sorted(student.task.labels, row.tolist()) for row in answer.probabilities]
        return JSONResponse(rows[0] if single else rows, headers=_headers(answer))

    @router.post(
        "/predict",
        summary="Labels with their probabilities, the most probable first",
        description=f"As Text Embeddings Inference has it. A task's fields are the texts of an input, in order. {_CUT}",
        responses={200: {"model": Predictions}, **documented},
        openapi_extra=body_of("PredictRequest"),
    )
    async def predict(request: Request) -> Response:
        return await predicted(request, by_teacher=False)

    @router.post(
        "/classify",
        summary="Probabilities in the order of the labels",
        description=f"As vLLM has it. For a task of several fields, each input is a list of its texts. {_CUT}",
        responses={200: {"model": Classifications}, **documented},
        openapi_extra=body_of("ClassifyRequest"),
    )
    async def classify(request: Request) -> Response:
        with service.gate.admitted() as ticket:
            body = await read_body(request, classify_form, service.limits, ticket)
            student = service.choose(body.model)
            answer = await service.answer(request, student, body.sequences(), body.truncation())
        content = _classified(student.name, student.task.labels, answer, body.request_id)
        return JSONResponse(content, headers=_headers(answer))

    if any(student.teacher is not None for student in service.students.values()):

        @router.post(
            "/teacher",
            summary="What the student's teacher says, with its context",
            description="Like /predict. The contexts are read again for every input, which takes long.",
            responses={200: {"model": Predictions}, **documented},
            openapi_extra=body_of("PredictRequest"),
        )
        async def teacher(request: Request) -> Response:
            return await predicted(request, by_teacher=True)

    return router


def state_routes(service: Service) -> APIRouter:
    """``/v1/models``, ``/health`` and ``/metrics``."""
    router = APIRouter(tags=["state"])

    @router.get(
        "/v1/models",
        summary="The students that are served",
        responses={200: {"model": ModelList}, **errors(service)},
    )
    async def models() -> Response:
        cards = [
            {
                "id": student.name,
                "object": "model",
                "created": student.created,
                "owned_by": "stillshot",
                "max_model_len": student.predictor.featurizer.max_tokens,
                "task": student.task.name,
                "description": student.task.description,
                "fields": student.task.fields,
                "labels": student.task.labels,
                "report": student.report is not None and student.report.is_file(),
                "teacher": student.teacher.model_id if student.teacher else None,
            }
            for student in service.students.values()
        ]
        response = JSONResponse({"object": "list", "data": cards})
        if service.token is not None:
            response.set_cookie(
                REPORT_COOKIE,
                report_cookie(service.token),
                path=REPORT_FOLDER,
                httponly=True,
                samesite="strict",
            )
        return response

    @router.get("/health", summary="200 while requests are answered", response_class=Response)
    async def health() -> Response:
        return Response()

    @router.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=PlainTextResponse,
        responses=errors(service),
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _sorted(labels: list[str], probabilities: list[float]) -> list[dict[str, Any]]:
    pairs = sorted(zip(probabilities, labels, strict=True), key=lambda pair: pair[0], reverse=True)
    return [{"score": score, "label": label} for score, label in pairs]


def _classified(name: str, labels: list[str], answer: Answer, request_id: str | None) -> dict[str, Any]:
    return {
        "id": f"classify-{request_id or uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": name,
        "data": [
            {
                "index": index,
                "label": labels[int(np.argmax(row))],
                "probs": row.tolist(),
                "num_classes": len(labels),
            }
            for index, row in enumerate(answer.probabilities)
        ],
        "usage": {
            "prompt_tokens": answer.tokens,
            "total_tokens": answer.tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


def _headers(answer: Answer) -> dict[str, str]:
    """Headers by the names of Text Embeddings Inference, but for the longest sequence and cuts; times in milliseconds."""
    cut = {"x-truncated": ",".join(map(str, answer.cut))} if answer.cut else {}
    return {
        **cut,
        "x-compute-tokens": str(answer.tokens),
        "x-longest-sequence": str(answer.longest),
        "x-queue-time": f"{1000 * answer.queue_seconds:.1f}",
        "x-inference-time": f"{1000 * answer.inference_seconds:.1f}",
    }
