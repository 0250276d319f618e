"""What requests and answers look like.

``/predict`` and errors are those of Text Embeddings Inference, ``/classify`` and ``/v1/models`` those of vLLM. How many
texts an input has depends on the tasks that are served, so the classes of requests are made for them: what the
OpenAPI description promises is what is checked.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model

from stillshot.deploy.serving.refusals import Kind

# Requests ----------------------------------------------------------------------------------------


def _truth(value: Any) -> Any:
    """Refuse 0 and 1, which are equal to false and true."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


class Asked(BaseModel):
    """What all requests have; keys that are not known are ignored, as the servers whose form this is do."""

    model: str | None = Field(
        None, description="The name of a student, see /v1/models. Without it, the first one answers."
    )


class PredictBase(Asked):
    """A request to ``/predict`` or ``/teacher``, whatever the tasks."""

    inputs: Any
    raw_scores: Annotated[Literal[False], BeforeValidator(_truth)] = Field(
        False, description="Scores are probabilities; raw scores are not given."
    )

    def sequences(self) -> tuple[list[list[str]], bool]:
        """The texts of each input, and whether there is one input that is not in a batch."""
        if isinstance(self.inputs, str):
            return [[self.inputs]], True
        if isinstance(self.inputs[0], str):
            return [self.inputs], True
        return self.inputs, False


class ClassifyBase(Asked):
    """A request to ``/classify``, whatever the tasks."""

    input: Any
    use_activation: Annotated[Literal[True], BeforeValidator(_truth)] | None = Field(
        None, description="Probabilities are given; logits are not."
    )

    def sequences(self) -> list[list[str]]:
        """The texts of each input."""
        if isinstance(self.input, str):
            return [[self.input]]
        return [[text] if isinstance(text, str) else text for text in self.input]


def predict_request(fields: Collection[Sequence[str]], inputs: int) -> type[PredictBase]:
    """The class of requests to ``/predict``, for tasks with these fields and at most ``inputs`` inputs."""
    shown = _shown(fields)
    sequences = [_sequence(count) for count in shown]
    forms = [*([str] if 1 in shown else []), *sequences, _batch(_either(sequences), inputs)]
    said = [
        *(["a text"] if 1 in shown else []),
        *shown.values(),
        f"a batch [{' | '.join(shown.values())}, ...]",
    ]
    field = Field(description=_description(said, inputs))
    return create_model("PredictRequest", __base__=PredictBase, inputs=(_either(forms), field))


def classify_request(fields: Collection[Sequence[str]], inputs: int) -> type[ClassifyBase]:
    """The class of requests to ``/classify``: a text, a list of texts, or for several fields a list of lists."""
    shown = _shown(fields)
    forms: list[Any] = [str, _batch(str, inputs)] if 1 in shown else []
    said = ["a text", "a list of texts"] if 1 in shown else []
    for count, texts in shown.items():
        if count > 1:
            forms.append(_batch(_sequence(count), inputs))
            said.append(f"a list of {texts}")
    field = Field(description=_description(said, inputs))
    return create_model("ClassifyRequest", __base__=ClassifyBase, input=(_either(forms), field))


def _description(forms: Sequence[str], inputs: int) -> str:
    said = f"One of: {'; '.join(forms)}" if len(forms) > 1 else f"It takes {forms[0]}"
    return f"{said}. At most {inputs} inputs."


def _shown(fields: Collection[Sequence[str]]) -> dict[int, str]:
    """By the number of an input's texts, in order: the list of them, by name where all tasks with so many agree."""
    named: dict[int, str] = {}
    for names in sorted(fields, key=len):
        count, own = len(names), f"[{', '.join(names)}]"
        named[count] = (
            own if count > 1 and named.get(count, own) == own else f"[{', '.join(['text'] * count)}]"
        )
    return named


def _sequence(count: int) -> Any:
    return Annotated[list[str], Field(min_length=count, max_length=count, fail_fast=True)]


def _batch(item: Any, inputs: int) -> Any:
    return Annotated[list[item], Field(min_length=1, max_length=inputs, fail_fast=True)]


def _either(forms: Iterable[Any]) -> Any:
    return functools.reduce(operator.or_, forms)


# Answers -----------------------------------------------------------------------------------------


class Prediction(BaseModel):
    """One label of an input's distribution."""

    score: float = Field(ge=0, le=1)
    label: str


Predictions = list[Prediction] | list[list[Prediction]]


class Classification(BaseModel):
    """An input's distribution: ``probs`` are in the order of the student's labels, ``label`` has the largest."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Usage(BaseModel):
    """Tokens that the student read."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class Classifications(BaseModel):
    """The answer of ``/classify``."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classification]
    usage: Usage


class ModelCard(BaseModel):
    """A student. What vLLM's cards do not have: its task, the order of fields and labels, and what is beside it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["stillshot"] = "stillshot"
    max_model_len: int = Field(description="Tokens that it reads of an input; longer texts are cut.")
    task: str
    description: str
    fields: list[str]
    labels: list[str]
    report: bool = Field(description="Whether /report/{id} shows the report of its run.")
    teacher: str | None = Field(description="The model that /teacher asks, if it is served.")


class ModelList(BaseModel):
    """The answer of ``/v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    """Why a request was not answered."""

    error: str
    error_type: Kind
