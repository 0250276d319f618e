"""Students, their queues, and how one request is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.requests import Request

from stillshot.data.values import is_blank
from stillshot.deploy.serving.batching import Answer, Batcher, Truncation
from stillshot.deploy.serving.intake import Gate
from stillshot.deploy.serving.limits import Limits
from stillshot.deploy.serving.metrics import Metrics
from stillshot.deploy.serving.refusals import Refusal
from stillshot.deploy.serving.students import ServedStudent
from stillshot.deploy.serving.workers import Pool, Workers
from stillshot.types import Example


class Service:
    """Everything behind the endpoints.

    Students share the workers; teachers, which are slow, share one of their own, with all threads.
    """

    def __init__(
        self, students: Sequence[ServedStudent], limits: Limits, token: str | None, workers: Workers
    ) -> None:
        self.students = {student.name: student for student in students}
        self.limits, self.token = limits, token
        self.gate, self.metrics = Gate(limits), Metrics()
        self._pools = [Pool(workers, "students"), Pool(Workers.of(1), "teachers")]
        patient = replace(limits, batch_rows=1, queue_rows=limits.teacher_queue_rows)
        self._queues: dict[str, Batcher] = {}
        self._teacher_queues: dict[str, Batcher] = {}
        for student in students:
            observe = self.metrics.batch_observer(student.name)
            self._queues[student.name] = Batcher(
                student, self._pools[0], limits, observe, side_by_side=student.predictor.side_by_side
            )
            if student.teacher is not None:
                observe = self.metrics.batch_observer(f"teacher of {student.name}")
                queue = Batcher(student.teacher, self._pools[1], patient, observe)
                self._teacher_queues[student.name] = queue
        for name, queue in self._queues.items():
            self.metrics.watch_queue(name, lambda queue=queue: queue.waiting_rows)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer as long as the block lasts."""
        queues = [*self._queues.values(), *self._teacher_queues.values()]
        for queue in queues:
            queue.start()
        try:
            yield
        finally:
            for queue in queues:
                await queue.stop()
            for pool in self._pools:
                pool.shutdown()

    def choose(self, name: str | None) -> ServedStudent:
        """The student of a name; the first without one.

        Raises:
            Refusal: There is none.
        """
        if name is None:
            return next(iter(self.students.values()))
        if name not in self.students:
            raise Refusal(404, "NotFound", f"There is no such model. There are: {', '.join(self.students)}.")
        return self.students[name]

    async def answer(
        self,
        request: Request,
        student: ServedStudent,
        sequences: Sequence[Sequence[str]],
        truncation: Truncation,
        *,
        by_teacher: bool = False,
    ) -> Answer:
        """A student's answer, or that of its teacher, to inputs whose texts are the task's fields in order.

        Raises:
            Refusal: See :class:`Batcher`; or an input has other texts than the task, or a blank one (422), the student has
                no teacher here (404), or there is no answer in time (504).
        """
        fields, queues = student.task.fields, self._teacher_queues if by_teacher else self._queues
        if any(len(texts) != len(fields) for texts in sequences):
            raise Refusal(
                422,
                "Validation",
                f"Each input of {student.name} has these texts, in this order: {', '.join(fields)}.",
            )
        if student.name not in queues:
            raise Refusal(
                404, "NotFound", "No teacher is served for this model. Start the server with --teacher."
            )
        examples = [Example(dict(zip(fields, texts, strict=True))) for texts in sequences]
        for position, example in enumerate(examples):
            _check_texts(position, example)
        queues[student.name].check_room(len(examples))
        self.metrics.accepted += 1
        request.state.accepted = True  # the guard counts its response
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                return await queues[student.name].ask(examples, truncation)
        except TimeoutError:
            message = (
                f"There was no answer within {self.limits.timeout_seconds:g} s. Send fewer inputs at a time."
            )
            raise Refusal(504, "Timeout", message) from None


def _check_texts(position: int, example: Example) -> None:
    """Refuse what ``stillshot predict`` refuses too; one such input refuses its whole request.

    Raises:
        Refusal: A text is blank, or holds a NUL character.
    """
    for field, text in example.fields.items():
        if is_blank(text):
            message = (
                f"Input {position} (counted from 0) has no text in `{field}`. Leave it out, or fill it in."
            )
            raise Refusal(422, "Validation", message)
        if "\0" in text:
            message = (
                f"Input {position} (counted from 0) has a NUL character (U+0000) in `{field}`. Remove it."
            )
            raise Refusal(422, "Validation", message)
