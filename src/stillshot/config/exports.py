"""Exports: their kinds, and what they are verified by."""

from __future__ import annotations

from typing import Literal

ExportKind = Literal["merged", "onnx", "onnx-int8", "gguf", "hub"]
# The share of held-out queries that an export must answer as its student does.
AGREEMENT_FLOORS: dict[ExportKind, float] = {
    **dict.fromkeys(("merged", "onnx", "gguf", "hub"), 0.99),
    "onnx-int8": 0.97,
}
# Held-out queries that an export is verified on, at most.
VERIFIED_QUERIES = 512
