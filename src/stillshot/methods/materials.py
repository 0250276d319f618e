"""The examples of a recipe, and who gets which."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from stillshot.config import Budget, Control, Recipe, TaskDefinition
from stillshot.data.sources import is_file_reference, read_reference
from stillshot.data.splits import (
    check_leakage,
    draw_evaluation,
    draw_labelled,
    draw_unlabelled,
    label_projection,
)
from stillshot.errors import DataError, StillshotError
from stillshot.models.load import load_tokenizer
from stillshot.models.resolve import resolve_model
from stillshot.prompt.budget import first_tokens
from stillshot.prompt.demonstrations import draw_contexts, with_shuffled_labels
from stillshot.prompt.encoder import PromptEncoder
from stillshot.tasks import load_task
from stillshot.types import Context, Example


@dataclass(frozen=True)
class EvaluationSet:
    """Items to evaluate on; ``projection`` says how the recipe's labels are read as this set's."""

    name: str
    task: TaskDefinition
    examples: tuple[Example, ...]
    projection: tuple[int, ...]
    in_domain: bool

    def part(self, limit: int | None) -> list[int]:
        """The places of a stratified part of the items, at most ``limit`` of them; all where it is null."""
        chosen = {example.identity for example in draw_evaluation(self.examples, limit)}
        return [index for index, example in enumerate(self.examples) if example.identity in chosen]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The items as a run folder keeps them."""
        return [
            {"index": index, "fields": dict(e.fields), "label": e.label, "groups": dict(e.groups)}
            for index, e in enumerate(self.examples)
        ]


@dataclass(frozen=True)
class Draw:
    """What every method of one budget and seed gets: the same labelled examples, contexts and queries."""

    labelled: tuple[Example, ...]
    contexts: tuple[Context, ...]
    queries: tuple[Example, ...]


@dataclass
class Materials:
    """All examples of a recipe, read once.

    Attributes:
        notes: What reading them found: rows that were left out, texts that were cut, values read in another way than
            they are written.

    Raises:
        DataError: Something is missing, malformed, or in two parts that must be apart.
    """

    recipe: Recipe
    task: TaskDefinition = field(init=False)
    notes: list[str] = field(default_factory=list)
    _draws: dict[tuple[Budget, int], Draw] = field(default_factory=dict)
    _known: dict[tuple[str, bool], tuple[TaskDefinition, list[Example]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.task = load_task(self.recipe.task)

    def draw(self, budget: Budget, seed: int, control: Control | None = None) -> Draw:
        """Labelled examples, contexts made of them, and queries that are none of them.

        A control has contexts of its own, and all else as the line that it stands beside.
        """
        if (budget, seed) not in self._draws:
            self._draws[budget, seed] = self._draw(budget, seed)
        draw = self._draws[budget, seed]
        if control == "zero_shot_teacher":
            return replace(draw, contexts=(Context(),))
        if control == "shuffled_labels":
            return replace(draw, contexts=with_shuffled_labels(draw.contexts, seed))
        return draw

    def _draw(self, budget: Budget, seed: int) -> Draw:
        data = self.recipe.data
        kept_out = frozenset() if is_file_reference(data.labelled) else self._evaluated
        labelled = draw_labelled(
            [example for example in self.labelled if example.identity not in kept_out],
            self.task,
            budget.labelled,
            seed,
        )
        taken = {example.identity for example in labelled} | self._evaluated
        queries = draw_unlabelled(self.unlabelled, data.num_unlabelled, seed, taken)
        contexts = draw_contexts(labelled, self.task.labels, budget, seed)
        for evaluation in self.evaluation_sets:
            check_leakage({"labelled": labelled, evaluation.name: evaluation.examples})
            check_leakage({"unlabelled": queries, evaluation.name: evaluation.examples})
        return Draw(labelled, contexts, queries)

    def all_asked(self, draw: Draw) -> list[Example]:
        """All that a teacher is asked about with a draw's contexts."""
        return [*draw.queries, *(e for s in self.evaluation_sets for e in s.examples)]

    def digests(self, settings: Mapping[str, tuple[Budget, int]]) -> dict[str, str]:
        """Digests of the task and of what each setting draws, by which changed data are noticed."""

        found = {"the task": _digest(self.task.model_dump(exclude={"description"}))}
        for name, (budget, seed) in settings.items():
            draw = self.draw(budget, seed)
            found[name] = _digest(
                ([(e.key, e.label) for e in draw.labelled], [query.key for query in draw.queries])
            )
        return found

    @property
    def older_digests(self) -> dict[str, str]:
        """The task's digest as earlier versions took it, which included the description."""
        return {"the task": _digest(self.task.model_dump())}

    @cached_property
    def _evaluated(self) -> frozenset[str]:
        """The texts that are evaluated on, none of which is a query.

        Nor are those of a published split demonstrations, since such splits share some texts. A labelled text that is
        in a user's own test file too is a mistake to be told of.
        """
        return frozenset(e.identity for s in self.evaluation_sets for e in s.examples)

    @cached_property
    def evaluation_sets(self) -> tuple[EvaluationSet, ...]:
        """In-domain sets, then out-of-domain ones; the same items for every method and seed."""
        data = self.recipe.data
        sets = []
        for in_domain, references in ((True, data.in_domain), (False, data.out_of_domain)):
            for name, reference in references.items():
                task, examples = self._read(reference, labels=True)
                sets.append(
                    EvaluationSet(
                        name,
                        task,
                        draw_evaluation(examples, data.evaluation_limit(name)),
                        tuple(label_projection(self.task.labels, task)),
                        in_domain,
                    )
                )
        return tuple(sets)

    @cached_property
    def labelled(self) -> Sequence[Example]:
        """What labelled examples are drawn from."""
        return self._read(self.recipe.data.labelled, labels=True)[1]

    @cached_property
    def unlabelled(self) -> Sequence[Example]:
        """What queries are drawn from."""
        data = self.recipe.data
        return self._read(data.unlabelled, labels=data.unlabelled == data.labelled)[1]

    def unlabelled_as_labelled(self) -> Sequence[Example]:
        """What queries are drawn from, with the labels that stand in its file, if it has some; never to be learned from."""
        data = self.recipe.data
        if data.unlabelled == data.labelled:
            return self.labelled
        try:
            return read_reference(data.unlabelled, self.task, data.root, notes=[], leave_out=True)[1]
        except StillshotError:
            return ()

    def _read(self, reference: str, *, labels: bool) -> tuple[TaskDefinition, list[Example]]:
        if (reference, labels) not in self._known:
            task, examples = read_reference(
                reference,
                self.task,
                self.recipe.data.root,
                labels=labels,
                notes=self.notes,
                leave_out=not self.recipe.data.strict,
            )
            if missing := [name for name in self.task.fields if name not in task.fields]:
                raise DataError(
                    f"{reference!r} is of the task {task.name!r}, which has no field {missing[0]!r} (it has "
                    f"{', '.join(task.fields)}). Name data with the fields {', '.join(self.task.fields)}."
                )
            self._known[reference, labels] = (task, self._cut(reference, examples))
        return self._known[reference, labels]

    def _cut(self, reference: str, examples: Sequence[Example]) -> list[Example]:
        """The examples with the task's fields alone, by which equal texts are known, each within its budget."""
        data = self.recipe.data
        whole = [_with_fields_of(example, self.task) for example in examples]
        cut = [self._cut_one(example) for example in whole]
        changed = [example for example in cut if example.uncut]
        if changed:
            budget = " and ".join(
                f"data.{name} {limit}"
                for name, limit in (("max_tokens", data.max_tokens), ("max_words", data.max_words))
                if limit
            )
            note = (
                f"{reference}: {len(changed):,} of {len(cut):,} examples have texts that are cut to {budget}."
            )
            begun_alike = len({example.identity for example in cut}) - len({example.key for example in cut})
            if begun_alike:
                note += f" {begun_alike:,} of them then read like another; they stay examples of their own."
            self.notes.append(note)
        return cut

    def _cut_one(self, example: Example) -> Example:
        data = self.recipe.data
        fields = dict(example.fields)
        if data.max_words is not None:
            fields = {name: _first_words(text, data.max_words) for name, text in fields.items()}
        if data.max_tokens is not None:
            fields = {
                name: first_tokens(self._encoder, text, data.max_tokens) for name, text in fields.items()
            }
        return example if fields == example.fields else replace(example, fields=fields, uncut=example.key)

    @cached_property
    def _encoder(self) -> PromptEncoder:
        """The teacher's tokenizer, by whose tokens texts are cut."""
        teacher = self.recipe.teacher
        return PromptEncoder(load_tokenizer(resolve_model(teacher.model, teacher.revision)))


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _with_fields_of(example: Example, task: TaskDefinition) -> Example:
    fields = {name: example.fields[name] for name in task.fields}
    return example if fields == example.fields else replace(example, fields=fields)


def _first_words(text: str, most: int) -> str:
    parts = text.split(maxsplit=most)
    return text if len(parts) <= most else text[: len(text) - len(parts[-1])].rstrip()
