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

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, create_model

from stillshot.deploy.serving.batching import Truncation
from stillshot.deploy.serving.refusals import Kind
from stillshot.types import Keep

# Requests ----------------------------------------------------------------------------------------


def _truth(value: Any) -> Any:
    """Refuse 0 and 1, which are equal to false and true."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _whole(value: Any) -> Any:
    """Refuse false and 0.0, which are equal to 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


class Asked(BaseModel):
    """What all requests have. Every key of the forms is honoured or refused, and so are keys that are none of theirs."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None, description="The name of a student, see /v1/models. Without it, the first one answers."
    )


class PredictBase(Asked):
    """A request to ``/predict`` or ``/teacher``, whatever the tasks."""

    inputs: Any
    raw_scores: Annotated[Literal[False], BeforeValidator(_truth)] = Field(
        False, description="Scores are probabilities; raw scores are not given."
    )
    truncate: StrictBool | None = Field(
        None,
        description="It is true, false or null. False refuses texts that are too long; else they are cut.",
    )
    truncation_direction: Literal["Right", "Left", "right", "left"] = Field(
        "Right",
        description="Where texts that are too long are cut: Right keeps their beginning, Left their end.",
    )

    def sequences(self) -> tuple[list[list[str]], bool]:
        """The texts of each input, and whether there is one input that is not in a batch."""
        if isinstance(self.inputs, str):
            return [[self.inputs]], True
        if isinstance(self.inputs[0], str):
            return [self.inputs], True
        return self.inputs, False

    def truncation(self) -> Truncation:
        """What is done with texts that are too long."""
        return Truncation(_kept(self.truncation_direction), self.truncate is not False)


class ClassifyBase(Asked):
    """A request to ``/classify``, whatever the tasks."""

    input: Any
    use_activation: Annotated[Literal[True], BeforeValidator(_truth)] | None = Field(
        None, description="Probabilities are given; logits are not."
    )
    activation: Annotated[Literal[True], BeforeValidator(_truth)] | None = Field(
        None, description="The former name of `use_activation`. Probabilities are given; logits are not."
    )
    softmax: Annotated[Literal[True], BeforeValidator(_truth)] | None = Field(
        None, description="The former name of `use_activation`. Probabilities are given; logits are not."
    )
    truncate_prompt_tokens: Annotated[Literal[-1], BeforeValidator(_whole)] | None = Field(
        None, description="It is null or -1: texts are cut to what the student reads (`max_model_len`)."
    )
    truncation_side: Literal["right", "left"] | None = Field(
        None,
        description="Where texts that are too long are cut: right keeps their beginning, left their end.",
    )
    add_special_tokens: Annotated[Literal[True], BeforeValidator(_truth)] = Field(
        True, description="Special tokens are added, as in training."
    )
    padding: Literal["do_not_pad"] | None = Field(
        None, description="It is null or do_not_pad: texts are not padded to a fixed length."
    )
    priority: Annotated[Literal[0], BeforeValidator(_whole)] = Field(
        0, description="It is 0: requests are answered in the order in which they come."
    )
    request_id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="A text of 1 to 200 characters; it ends the answer's `id`.",
    )
    user: str | None = Field(None, description="A text, which changes nothing.")
    cache_salt: str | None = Field(
        None, description="A text, which changes nothing: no answer is kept for another request."
    )
    mm_processor_kwargs: None = Field(None, description="It is null: students read texts alone.")

    def sequences(self) -> list[list[str]]:
        """The texts of each input."""
        if isinstance(self.input, str):
            return [[self.input]]
        return [[text] if isinstance(text, str) else text for text in self.input]

    def truncation(self) -> Truncation:
        """What is done with texts that are too long."""
        return Truncation(_kept(self.truncation_side or "right"))


def _kept(cut: str) -> Keep:
    return "end" if cut.lower() == "left" else "start"


def predict_request(fields: Collection[Sequence[str]], inputs: int) -> type[PredictBase]:
    """The class of requests to ``/predict``, for tasks with these fields and at most ``inputs`` inputs."""
    shown = _shown(fields)
    sequences = [_sequence(count) for count in shown]
    forms = [*([_Text] if 1 in shown else []), *sequences, _batch(_either(sequences), inputs)]
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
    forms: list[Any] = [_Text, _batch(_Text, inputs)] if 1 in shown else []
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


# That a text is neither blank nor has a NUL is checked with its position (:class:`Service`); the description says it too.
_Text = Annotated[str, Field(json_schema_extra={"pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$"})]


def _sequence(count: int) -> Any:
    return Annotated[list[_Text], Field(min_length=count, max_length=count, fail_fast=True)]


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
