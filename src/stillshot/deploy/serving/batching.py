"""Dynamic batching: inputs of many requests share forward passes, and each request gets its own answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.refusals import Refusal, overloaded
from stillshot.errors import StillshotError
from stillshot.models.load import best_device
from stillshot.teacher.packing import cut
from stillshot.types import Example

logger = logging.getLogger(__name__)
Observe = Callable[[int, int, float], None]  # (rows, tokens, seconds) of a batch

# What a forward pass costs besides its tokens, in tokens of the smallest student on a processor. An accelerator computes
# tokens so fast that no padding is worth another pass.
_PASS_COST = 32


class Model(Protocol):
    """What a batcher asks, from one thread at a time."""

    def count_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Tokens that the model reads of each example.

        Raises:
            StillshotError: It cannot read one of them.
        """
        ...

    def answer(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Probabilities over labels, shape ``(examples, labels)``."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        probabilities: Shape ``(inputs, labels)``.
        tokens: Read of all inputs.
        queue_seconds: From its arrival to the begin of its first batch.
        inference_seconds: Of all batches that it was part of.
    """

    probabilities: NDArray[np.float64]
    tokens: int
    queue_seconds: float
    inference_seconds: float


@dataclass(eq=False)
class _Piece:
    """Inputs of one request that stay together in a batch."""

    examples: Sequence[Example]
    future: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Gathers the inputs of one model's requests and answers them batch by batch.

    A batch is as many forward passes as its texts' lengths make worthwhile: padding is computed like text.
    All state belongs to the event loop's thread; only the model runs in the executor's, one batch at a time. A request
    that is cancelled, by a timeout or because its answer cannot be had, leaves the queue at once.

    Args:
        executor: With one thread: tokenizers must not be used by two at once, and forward passes at one time would
            only take each other's cores.
        observe: Told of every batch.
    """

    def __init__(self, model: Model, executor: Executor, limits: Limits, observe: Observe) -> None:
        self._model, self._executor, self._limits, self._observe = model, executor, limits, observe
        self._pass_cost = _PASS_COST if best_device().type == "cpu" else limits.batch_tokens
        self._waiting: deque[_Piece] = deque()
        self._asked: list[_Piece] = []  # the batch that is with the model
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a batch."""
        return sum(len(piece.examples) for piece in self._waiting)

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Answer nothing more; whoever waits is refused."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for piece in (*self._asked, *self._waiting):
            _fail(piece, Refusal(503, "Unhealthy", "The server is stopping."))

    def check_room(self, rows: int) -> None:
        """See that so many rows may be asked now; an empty queue takes any number.

        Raises:
            Refusal: The queue is full.
        """
        waiting = self.waiting_rows
        if waiting and waiting + rows > self._limits.queue_rows:
            raise overloaded(f"{waiting} inputs are waiting already.")

    async def ask(self, examples: Sequence[Example]) -> Answer:
        """The answer to one request.

        Raises:
            Refusal: The model cannot read an example (422), or it failed (424).
        """
        loop, rows = asyncio.get_running_loop(), self._limits.batch_rows
        pieces = [
            _Piece(examples[at : at + rows], loop.create_future()) for at in range(0, len(examples), rows)
        ]
        self._waiting.extend(pieces)
        self._arrived.set()
        try:
            parts = await asyncio.gather(*(piece.future for piece in pieces))
        finally:
            for piece in pieces:
                if piece.future.cancel() or piece.future.cancelled():
                    with contextlib.suppress(ValueError):  # it was taken into a batch already
                        self._waiting.remove(piece)
        return Answer(
            np.concatenate([part.probabilities for part in parts]),
            sum(part.tokens for part in parts),
            parts[0].queue_seconds,
            sum(part.inference_seconds for part in parts),
        )

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gathered()
            batch = self._asked = self._taken()
            if not batch:
                continue
            started = time.monotonic()
            try:
                outcomes = await loop.run_in_executor(
                    self._executor, self._answers, [piece.examples for piece in batch]
                )
            except Exception:
                logger.exception("A batch of %d requests failed.", len(batch))
                said = "The model failed on this batch; the log says why."
                outcomes = [Refusal(424, "Backend", said) for _ in batch]
            seconds = time.monotonic() - started
            told = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
            self._observe(sum(len(rows) for rows, _ in told), sum(tokens for _, tokens in told), seconds)
            for piece, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Refusal):
                    _fail(piece, outcome)
                elif not piece.future.done():
                    piece.future.set_result(Answer(*outcome, started - piece.arrived, seconds))

    async def _gathered(self) -> None:
        """Return once there is a full batch, or its first piece has waited long enough."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        deadline = self._waiting[0].arrived + self._limits.wait_seconds
        while self.waiting_rows < self._limits.batch_rows and (left := deadline - time.monotonic()) > 0:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()

    def _taken(self) -> list[_Piece]:
        """The next pieces, of as many rows as a batch has; the first in any case. None, if all were given up."""
        batch: list[_Piece] = []
        rows = 0
        while self._waiting and (
            not batch or rows + len(self._waiting[0].examples) <= self._limits.batch_rows
        ):
            batch.append(self._waiting.popleft())
            rows += len(batch[-1].examples)
        return batch

    def _answers(
        self, pieces: Sequence[Sequence[Example]]
    ) -> list[tuple[NDArray[np.float64], int] | Refusal]:
        """Probabilities and tokens of each piece, or why it has none. Runs in the executor."""
        counted = [self._counted(examples) for examples in pieces]
        rows = [
            e
            for piece, counts in zip(pieces, counted, strict=True)
            if isinstance(counts, list)
            for e in piece
        ]
        lengths = [n for counts in counted if isinstance(counts, list) for n in counts]
        found: dict[int, NDArray[np.float64]] = {}
        ones = [1] * len(lengths)
        for positions in cut(lengths, ones, self._limits.batch_tokens, self._pass_cost):
            probabilities = self._model.answer([rows[i] for i in positions])
            if not np.isfinite(probabilities).all():
                raise FloatingPointError("probabilities that are not finite")
            found.update(zip(positions, probabilities, strict=True))
        outcomes: list[tuple[NDArray[np.float64], int] | Refusal] = []
        at = 0
        for counts in counted:
            if isinstance(counts, Refusal):
                outcomes.append(counts)
                continue
            outcomes.append((np.stack([found[i] for i in range(at, at + len(counts))]), sum(counts)))
            at += len(counts)
        return outcomes

    def _counted(self, examples: Sequence[Example]) -> list[int] | Refusal:
        try:
            return self._model.count_tokens(examples)
        except StillshotError as error:
            return Refusal(422, "Tokenizer", str(error))


def _fail(piece: _Piece, refusal: Refusal) -> None:
    if not piece.future.done():
        piece.future.set_exception(refusal)
