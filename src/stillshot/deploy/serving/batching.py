"""Dynamic batching: inputs of many requests share forward passes, and each request gets its own answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.refusals import Refusal, overloaded
from stillshot.deploy.serving.workers import Pool
from stillshot.errors import StillshotError
from stillshot.models.load import best_device
from stillshot.student.features import Feature
from stillshot.teacher.packing import cut
from stillshot.types import Example, Keep

logger = logging.getLogger(__name__)
Observe = Callable[[int, int, float], None]  # (rows, tokens, seconds) of a batch
# Probabilities, tokens, the longest sequence and which texts were cut of a piece, or why it has none.
Outcome = tuple[NDArray[np.float64], int, int, tuple[int, ...]] | Refusal
Tell = Callable[[Sequence[tuple["_Piece", "Answer | Refusal"]]], object]

# What a forward pass costs besides its tokens, in tokens of the smallest student on a processor. An accelerator computes
# tokens so fast that no padding is worth another pass.
_PASS_COST = 32
# Requests whose texts are longer together are read one by one, so that the memory which that takes is one request's.
_CHARACTERS_READ = 200_000


class Model(Protocol):
    """What a batcher asks."""

    def read(self, examples: Sequence[Example], keep: Keep = "start") -> list[Feature]:
        """What the model computes on, one an example.

        Each has its tokens as ``length``, and ``cut`` where a text of it was cut to the part that ``keep`` says. One of
        several sequences has their number as ``sequences``, the longest one's tokens as ``length``, and the tokens of them
        all as ``tokens``.

        One thread asks at a time: tokenizers must not be used by two at once.

        Raises:
            StillshotError: It cannot read one of them.
        """
        ...

    def answer(self, features: Sequence[Feature]) -> NDArray[np.float64]:
        """Probabilities over labels, shape ``(features, labels)``. Several threads ask at once."""
        ...


@dataclass(frozen=True)
class Truncation:
    """What is done with texts that are longer than a model reads: one part is kept, or the request is refused."""

    keep: Keep = "start"
    allowed: bool = True


CUT_AT_THE_END = Truncation()


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        probabilities: Shape ``(inputs, labels)``.
        tokens: Read of all inputs, in all their sequences.
        longest: Tokens of the longest sequence.
        cut: Positions of inputs of which a text was cut.
        queue_seconds: From its arrival to the begin of its first batch.
        inference_seconds: From there to the end of the last pass with one of them.
    """

    probabilities: NDArray[np.float64]
    tokens: int
    longest: int
    cut: tuple[int, ...]
    queue_seconds: float
    inference_seconds: float


@dataclass(eq=False)
class _Piece:
    """Inputs of one request that stay together in a batch."""

    examples: Sequence[Example]
    future: asyncio.Future[Answer]
    truncation: Truncation = CUT_AT_THE_END
    first: int = 0  # position of its first input in the request
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Gathers the inputs of one model's requests and answers them batch by batch.

    A batch is as many forward passes as its texts' lengths make worthwhile: padding is computed like text.
    A model of which nothing is computed is asked at once. Else a batch is gathered: for a free worker, which takes its
    share of what waits, for a bounded time; where none is free, until it is full, so that the next has its batch
    when it is. Each request is answered as soon as the passes with its texts are done, not with its batch: whoever sends
    one after the other has sent the next while the batch is still computed. A request that is cancelled, by a timeout or
    because its answer cannot be had, leaves the queue at once.

    Args:
        pool: Computes the batches, and those of other models.
        observe: Told of every batch.
        side_by_side: Whether batches of this model may be computed at one time.
    """

    def __init__(
        self, model: Model, pool: Pool, limits: Limits, observe: Observe, *, side_by_side: bool = True
    ) -> None:
        self._model, self._pool, self._limits, self._observe = model, pool, limits, observe
        self._workers = pool.size if side_by_side else 1
        self._most_asked = pool.size + 1 if side_by_side else 1
        self._pass_cost = _PASS_COST if best_device().type == "cpu" else limits.batch_tokens
        self._waiting: deque[_Piece] = deque()
        self._asked: list[list[_Piece]] = []  # batches that are computed, and at most one that is next
        self._changed, self._turn = asyncio.Event(), asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._reading = threading.Lock()
        pool.watch(self._changed)

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a batch."""
        return sum(len(piece.examples) for piece in self._waiting)

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._most_asked)]

    async def stop(self) -> None:
        """Answer nothing more; whoever waits is refused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for piece in (*itertools.chain.from_iterable(self._asked), *self._waiting):
            _fail(piece, Refusal(503, "Unhealthy", "The server is stopping."))

    def check_room(self, rows: int) -> None:
        """See that so many rows may be asked now; an empty queue takes any number.

        Raises:
            Refusal: The queue is full.
        """
        waiting = self.waiting_rows
        if waiting and waiting + rows > self._limits.queue_rows:
            raise overloaded(f"{waiting} inputs are waiting already.")

    async def ask(self, examples: Sequence[Example], truncation: Truncation = CUT_AT_THE_END) -> Answer:
        """The answer to one request.

        Raises:
            Refusal: The model cannot read an example, or a text is too long and must not be cut (422), or it failed (424).
        """
        loop = asyncio.get_running_loop()
        rows = min(self._limits.batch_rows, math.ceil(len(examples) / self._workers))
        pieces = [
            _Piece(examples[at : at + rows], loop.create_future(), truncation, at)
            for at in range(0, len(examples), rows)
        ]
        self._waiting.extend(pieces)
        self._changed.set()
        try:
            parts = await asyncio.gather(*(piece.future for piece in pieces))
        finally:
            for piece in pieces:
                if piece.future.cancel() or piece.future.cancelled():
                    with contextlib.suppress(ValueError):  # it was taken into a batch already
                        self._waiting.remove(piece)
        ends = [part.queue_seconds + part.inference_seconds for part in parts]
        queued = min(part.queue_seconds for part in parts)
        return Answer(
            np.concatenate([part.probabilities for part in parts]),
            sum(part.tokens for part in parts),
            max(part.longest for part in parts),
            tuple(position for part in parts for position in part.cut),
            queued,
            max(ends) - queued,
        )

    async def _work(self) -> None:
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, _tell)
        while True:
            async with self._turn:  # who gathers for a batch; the others compute, or wait to gather the next
                await self._gathered()
                batch = self._taken()
                self._asked.append(batch)
            try:
                rows, tokens, seconds, failure = await self._pool.run(partial(self._computed, tell), batch)
                if rows:
                    self._observe(rows, tokens, seconds)
                if failure is not None:
                    raise failure
            except Exception:
                unanswered = [piece for piece in batch if not piece.future.done()]
                logger.exception(
                    "A batch failed; %d of its %d requests are refused.", len(unanswered), len(batch)
                )
                for piece in unanswered:
                    _fail(piece, Refusal(424, "Backend", "The model failed on this batch; the log says why."))
            self._asked.remove(batch)

    async def _gathered(self) -> None:
        """Return once a batch is to be taken."""
        while (left := self._seconds_left()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left if math.isfinite(left) else None):
                    await self._changed.wait()

    def _seconds_left(self) -> float:
        """How long the next batch is still gathered; infinity until something changes."""
        if not self._waiting:
            return math.inf
        if not self._asked:
            return 0.0
        if self.waiting_rows >= self._limits.batch_rows:
            return 0.0 if self._pool.asked <= self._pool.size else math.inf
        if self._pool.asked >= self._pool.size or len(self._asked) >= self._workers:
            return math.inf
        return self._waiting[0].arrived + self._limits.wait_seconds - time.monotonic()

    def _taken(self) -> list[_Piece]:
        """The next pieces, of as many rows as a batch has, or an idle worker's share of what waits; the first anyway."""
        batch: list[_Piece] = []
        rows = 0
        free = min(self._workers - len(self._asked), self._pool.size - self._pool.asked)
        share = math.ceil(self.waiting_rows / max(1, free))
        most = min(self._limits.batch_rows, share)
        while self._waiting and (not batch or rows + len(self._waiting[0].examples) <= most):
            batch.append(self._waiting.popleft())
            rows += len(batch[-1].examples)
        return batch

    def _computed(self, tell: Tell, batch: Sequence[_Piece]) -> tuple[int, int, float, Exception | None]:
        """Rows and tokens that were answered, the seconds they took, and what ended the batch before its end.

        Each piece that is still wanted is told as soon as it has its answer. Runs in one of the threads.
        """
        begun = time.monotonic()
        asked = [piece for piece in batch if not piece.future.done()]
        rows, tokens, failure = 0, 0, None
        try:
            for outcomes in self._answers(asked) if asked else ():
                told: list[tuple[_Piece, Answer | Refusal]] = []
                for number, outcome in outcomes.items():
                    piece = asked[number]
                    if not isinstance(outcome, Refusal):
                        rows, tokens = rows + len(piece.examples), tokens + outcome[1]
                        outcome = Answer(*outcome, begun - piece.arrived, time.monotonic() - begun)
                    told.append((piece, outcome))
                if told:
                    tell(told)
        except Exception as error:
            failure = error
        return rows, tokens, time.monotonic() - begun, failure

    def _answers(self, pieces: Sequence[_Piece]) -> Iterator[dict[int, Outcome]]:
        """Outcomes by the pieces' positions: first of those that cannot be read, then of those that a pass ends."""
        read = self._read(pieces)
        yield {number: features for number, features in enumerate(read) if isinstance(features, Refusal)}
        rows: list[Feature] = []
        spans: dict[int, range] = {}  # of rows, of pieces that have no outcome yet
        for number, features in enumerate(read):
            if not isinstance(features, Refusal):
                spans[number] = range(len(rows), len(rows) + len(features))
                rows += features
        lengths = [feature["length"] for feature in rows]
        sequences = [feature.get("sequences", 1) for feature in rows]
        tokens = [feature.get("tokens", feature["length"]) for feature in rows]
        found: dict[int, NDArray[np.float64]] = {}
        for positions in cut(lengths, sequences, self._limits.batch_tokens, self._pass_cost):
            probabilities = self._model.answer([rows[i] for i in positions])
            if not np.isfinite(probabilities).all():
                raise FloatingPointError("probabilities that are not finite")
            found.update(zip(positions, probabilities, strict=True))
            ended = {
                number: spans.pop(number) for number in list(spans) if found.keys() >= set(spans[number])
            }
            yield {
                number: (
                    np.stack([found[i] for i in span]),
                    sum(tokens[i] for i in span),
                    max(lengths[i] for i in span),
                    tuple(
                        pieces[number].first + at for at, i in enumerate(span) if rows[i].get("cut", False)
                    ),
                )
                for number, span in ended.items()
            }

    def _read(self, pieces: Sequence[_Piece]) -> list[list[Feature] | Refusal]:
        """Features of each piece, all read at once unless one of them cannot be, or all are too much."""
        found: dict[int, list[Feature] | Refusal] = {}
        with self._reading:
            for keep in ("start", "end"):
                numbers = [i for i, piece in enumerate(pieces) if piece.truncation.keep == keep]
                found |= zip(numbers, self._read_alike([pieces[i] for i in numbers], keep), strict=True)
        return [_unless_cut(found[i], piece) for i, piece in enumerate(pieces)]

    def _read_alike(self, pieces: Sequence[_Piece], keep: Keep) -> list[list[Feature] | Refusal]:
        """See :meth:`_read`; all are cut alike."""
        if not pieces:
            return []
        examples = [example for piece in pieces for example in piece.examples]
        characters = sum(len(text) for example in examples for text in example.fields.values())
        if len(pieces) == 1 or characters <= _CHARACTERS_READ:
            try:
                features = iter(self._model.read(examples, keep))
                return [list(itertools.islice(features, len(piece.examples))) for piece in pieces]
            except StillshotError as error:
                if len(pieces) == 1:
                    return [Refusal(422, "Tokenizer", str(error))]
        return [read for piece in pieces for read in self._read_alike([piece], keep)]


def _unless_cut(read: list[Feature] | Refusal, piece: _Piece) -> list[Feature] | Refusal:
    """What was read, or the refusal of a piece with a text that was cut and must not be."""
    if isinstance(read, Refusal) or piece.truncation.allowed:
        return read
    cut = [piece.first + at for at, feature in enumerate(read) if feature.get("cut", False)]
    if not cut:
        return read
    return Refusal(
        422,
        "Validation",
        f"Input {cut[0]} (counted from 0) is longer than the model reads. Send a shorter text, or have it cut: "
        "`truncate: true`.",
    )


def _tell(outcomes: Sequence[tuple[_Piece, Answer | Refusal]]) -> None:
    for piece, outcome in outcomes:
        if isinstance(outcome, Refusal):
            _fail(piece, outcome)
        elif not piece.future.done():
            piece.future.set_result(outcome)


def _fail(piece: _Piece, refusal: Refusal) -> None:
    if not piece.future.done():
        piece.future.set_exception(refusal)
