"""How a server says no: a status, a kind and a message, in the shape of Text Embeddings Inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from starlette.responses import JSONResponse

Kind = Literal[
    "Backend",
    "MethodNotAllowed",
    "NotFound",
    "Overloaded",
    "Timeout",
    "Tokenizer",
    "Unauthorized",
    "Unhealthy",
    "Validation",
]
CLOSE = {"connection": "close"}


class Refusal(Exception):  # noqa: N818 (an answer, not a fault)
    """A request is not answered; ``message`` says why and what to do."""

    def __init__(
        self, status: int, kind: Kind, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, dict(headers or {})

    def response(self) -> JSONResponse:
        """The answer that says so."""
        content = {"error": self.message, "error_type": self.kind}
        return JSONResponse(content, self.status, self.headers)


def overloaded(what: str) -> Refusal:
    """More is asked than the server takes on; it may be asked again in a second."""
    return Refusal(429, "Overloaded", f"{what} Try again in a second.", {"retry-after": "1"})
