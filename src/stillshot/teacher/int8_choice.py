"""Whether a teacher gives the same answers in int8, and sooner: tried once on the embedded sample, and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from stillshot.config import Budget, Prompt
from stillshot.data.sources import read_split
from stillshot.data.splits import draw_evaluation, draw_labelled
from stillshot.errors import StillshotError
from stillshot.prompt.demonstrations import draw_contexts
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import PromptWriter, ScoredPrompt
from stillshot.storage import cache_folder, notices, write_whole
from stillshot.tasks import load_task
from stillshot.teacher import answers
from stillshot.types import Example
from stillshot.working import tell

# Of parameters that are in products: smaller teachers take seconds either way, and compiling takes seconds too.
LEAST_PARAMETERS = 500_000_000
# What is asked for: the same label on so many of the sample's queries, and probabilities so close on average.
AGREEMENT, DIFFERENCE = 0.98, 0.02
# And the least gain in speed that it is worth: 16-bit products are nearly as fast on some processors.
GAIN = 1.2
_QUERIES, _SHOTS = 100, 8
# Of what is remembered: raised when the way of rounding changes.
_VERSION = 2


class Scores(Protocol):
    """What is asked of a teacher here."""

    @property
    def encoder(self) -> PromptEncoder: ...

    def score(self, prompts: Sequence[ScoredPrompt], label_tokens: Sequence[int] | None) -> Any: ...


@cache
def _sample() -> tuple[Example, ...]:
    return tuple(read_split(load_task("nli-sample"), "train"))


def known_choice(weights: str) -> bool | None:
    """What was found before for these weights on this kind of processor; ``None`` where they were not tried."""
    with contextlib.suppress(OSError, ValueError, KeyError, StillshotError):
        return bool(json.loads(_file(weights).read_text(encoding="utf-8"))["int8"])
    return None


def choose(name: str, weights: str, teacher: Callable[[str], Scores]) -> bool:
    """Whether a teacher is asked in int8.

    Args:
        name: The model's, for messages.
        weights: Their fingerprint.
        teacher: Makes the teacher in a dtype.
    """
    known = known_choice(weights)
    if known is not None:
        return known
    given, seconds = [], []
    for number, dtype in enumerate(("bfloat16", "int8")):
        tell(name, "trying whether int8 answers alike", number, 2)
        probabilities, taken = _asked(teacher(dtype))
        given.append(probabilities)
        seconds.append(taken)
    agreement = float((given[0].argmax(-1) == given[1].argmax(-1)).mean())
    difference = float(np.abs(given[0] - given[1]).mean())
    gain = seconds[0] / seconds[1]
    chosen = agreement >= AGREEMENT and difference <= DIFFERENCE and gain >= GAIN
    notices.warning(
        "%s is asked in %s: on %d queries of a sample, int8 gives the same label on %.0f %%, probabilities that differ by %.3f "
        "on average, and is %.1f times as fast. teacher.dtype sets it.",
        name,
        "int8" if chosen else "bfloat16",
        _QUERIES,
        100 * agreement,
        difference,
        gain,
    )
    record = {
        "int8": chosen,
        "agreement": agreement,
        "difference": difference,
        "gain": gain,
        "weights": weights,
    }
    with contextlib.suppress(StillshotError):  # a cache that is closed to this user: tried again next time
        write_whole(_file(weights), json.dumps(record).encode())
    return chosen


def _file(weights: str) -> Path:
    able = torch.cpu.get_capabilities()
    kind = f"{_VERSION} {weights} {torch.__version__} {bool(able.get('amx_int8'))}"
    return cache_folder() / "int8" / f"{hashlib.sha256(kind.encode()).hexdigest()[:32]}.json"


def _asked(teacher: Scores) -> tuple[NDArray[np.float64], float]:
    """Calibrated probabilities of the sample's queries, shape ``(queries, labels)``, and seconds a second pass takes."""
    task = load_task("nli-sample")
    labelled = draw_labelled(_sample(), task, _SHOTS, seed=0)
    (context,) = draw_contexts(labelled, task.labels, Budget(labelled=_SHOTS, num_contexts=1), seed=0)
    writer = PromptWriter(task, Prompt(), teacher.encoder)
    prompts = writer.prompts("direct", context, draw_evaluation(read_split(task, "test"), _QUERIES))
    tokens = [ids[0] for ids in writer.verbalizer.token_ids] if writer.verbalizer.single_token else None
    scores, seconds = np.zeros((len(prompts), len(task.labels))), 0.0
    for _ in range(2):  # the first pass compiles, and reads weights from disk
        started = time.perf_counter()
        for positions, values in teacher.score(prompts, tokens):
            scores[positions] = values
        seconds = time.perf_counter() - started
    return softmax(answers.calibrate(scores, answers.batch_bias(scores)), axis=-1), seconds
