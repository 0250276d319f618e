"""How far label scores in bfloat16 lie apart by how they were computed."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from workload import TEACHER, Workload, within

from stillshot.config import Teacher as TeacherSection
from stillshot.teacher.local import LocalTeacher

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "opt")


def agreement(load: Workload, shots: int = 8, queries: int = 32) -> list[dict[str, Any]]:
    """How far label scores in bfloat16 lie apart: root mean squares of differences, in nats.

    Reading in full differs between batch sizes by rounding alone. A prefix kept as keys and values rounds otherwise
    than one that is read with each query, also where transformers' own cache keeps it (``repeat``); so each is
    compared with float32 too.
    """
    rows = []
    for model in (TEACHER, "random:facebook/opt-125m", *(f"random:tiny-{kind}" for kind in FAMILIES)):
        size = 320 if "tiny" in model else None
        prompts = within(load.prompts(shots, queries), size)
        tokens = [token % size if size else token for token in load.label_tokens]
        longest = len(prompts[0].sequences[0].ids) + 64

        def scores(mode: str, batch_tokens: int, dtype: str = "bfloat16") -> NDArray[np.float64]:
            section = TeacherSection(model=model, prefix=mode, batch_tokens=batch_tokens, dtype=dtype)  # type: ignore[arg-type]  # noqa: B023
            found = np.zeros((queries, len(tokens)))  # noqa: B023
            for positions, values in LocalTeacher(section).score(prompts, tokens):  # noqa: B023
                found[positions] = values
            return found - found.mean(-1, keepdims=True)

        exact = scores("none", 8 * longest, "float32")
        in_full = [scores("none", rows_each * longest) for rows_each in (1, 4, 16)]
        repeated = [scores("repeat", rows_each * longest) for rows_each in (1, 4, 16)]
        shared = [scores("shared", batch_tokens) for batch_tokens in (64, 512, 4096)]
        rows.append(
            {
                "model": model,
                "in_full_between_batch_sizes": max(_rms(a - b) for a, b in combinations(in_full, 2)),
                "shared_from_in_full": max(_rms(a - b) for a in shared for b in in_full),
                "repeated_from_in_full": max(_rms(a - b) for a in repeated for b in in_full),
                "in_full_from_float32": max(_rms(a - exact) for a in in_full),
                "repeated_from_float32": max(_rms(a - exact) for a in repeated),
                "shared_from_float32": max(_rms(a - exact) for a in shared),
                "spread_of_scores": _rms(exact),
            }
        )
    return rows


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean()))
