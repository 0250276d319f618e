"""Items on which student and teacher differ, for a reader to judge by eye."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stillshot.evaluate.assemble import setting_of
from stillshot.evaluate.records import Cell, Results
from stillshot.report import names
from stillshot.report.folder import evaluation_path, predictions_path, read_lines
from stillshot.report.lines import cells_of, evaluation_sets, headline

SHOWN = 6


@dataclass(frozen=True)
class Answer:
    """The likeliest label and its probability."""

    label: str
    probability: float

    @property
    def shown(self) -> str:
        """Label and probability for a reader."""
        return f"{names.shorten(self.label, 60)}, {names.percent(self.probability, 0)}%"


@dataclass(frozen=True)
class Disagreement:
    """An item that one of the two answers rightly and the other wrongly."""

    split: str
    fields: tuple[tuple[str, str], ...]
    gold: str
    student: Answer
    teacher: Answer


@dataclass(frozen=True)
class Tally:
    """On how many items of an evaluation set which of the two is right."""

    split: str
    both: int
    student_only: int
    teacher_only: int
    neither: int


@dataclass(frozen=True)
class Examples:
    """What the section of examples shows; ``missing`` says why there is nothing, where there is nothing."""

    student: str = ""
    teacher: str = ""
    seed: int = 0
    tallies: tuple[Tally, ...] = ()
    student_right: tuple[Disagreement, ...] = ()
    teacher_right: tuple[Disagreement, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class _Pair:
    """Both answers to one item."""

    index: int
    gold: str
    student: Answer
    teacher: Answer


def choose_examples(run_dir: Path, results: Results) -> Examples:
    """Items where a student and its teacher differ, spread evenly over the evaluation sets' own order.

    The first seed of the headline's line is set against the in-context cell with the same seed and
    labelled examples that has the most contexts. Files that are absent or broken are no error.
    """
    pair = paired_cells(results)
    if pair is None:
        return Examples(
            missing="No student was run beside an in-context teacher with the same seed and labels."
        )
    student, teacher = pair
    try:
        answers = [_answers(predictions_path(run_dir, cell.id)) for cell in (student, teacher)]
    except OSError:
        return Examples(missing="The answers to single items were not kept with these records.")
    except (ValueError, KeyError, TypeError) as error:
        return Examples(
            missing=f"The answers to single items cannot be read: {names.shorten(str(error), 200)}."
        )
    splits = [split for split, _ in evaluation_sets(results) if split in answers[0] and split in answers[1]]
    pairs = {split: _pairs(answers[0][split], answers[1][split]) for split in splits}
    texts = {split: _texts(run_dir, split) for split in splits}
    if not any(texts.values()):
        return Examples(missing="The texts of the evaluation sets were not kept with these records.")
    return Examples(
        student=names.model_name(student.student),
        teacher=names.model_name(teacher.teacher),
        seed=student.seed,
        tallies=tuple(_tally(split, pairs[split]) for split in splits),
        student_right=_disagreements(pairs, texts, student_right=True),
        teacher_right=_disagreements(pairs, texts, student_right=False),
    )


def paired_cells(results: Results) -> tuple[Cell, Cell] | None:
    """A context distillation cell and the in-context cell it is set against."""
    line = headline(results)
    for student in cells_of(results, line) if line else []:
        teachers = [
            cell
            for cell in results.cells
            if cell.method == "in_context"
            and cell.failed is None
            and (cell.seed, cell.labelled) == (student.seed, student.labelled)
        ]
        if teachers:
            return student, max(teachers, key=partial(_likeness, student))
    return None


def _likeness(student: Cell, teacher: Cell) -> tuple[bool, bool, bool, int]:
    """The greater, the nearer an in-context cell is to what taught the student."""
    asked = ("scoring", "calibration", "num_contexts")
    return (
        teacher.teacher == student.teacher,
        setting_of(teacher.id) == setting_of(student.id),
        all(getattr(teacher, name) == getattr(student, name) for name in asked),
        teacher.num_contexts,
    )


def _answers(path: Path) -> dict[str, dict[int, tuple[str, Answer]]]:
    """Gold label and answer by evaluation set and index."""
    found: dict[str, dict[int, tuple[str, Answer]]] = {}
    for record in read_lines(path):
        probabilities: Mapping[str, Any] = record["probabilities"]
        label = max(probabilities, key=lambda name: probabilities[name])
        answer = Answer(str(label), float(probabilities[label]))
        found.setdefault(str(record["split"]), {})[int(record["index"])] = (str(record["gold"]), answer)
    return found


def _pairs(student: dict[int, tuple[str, Answer]], teacher: dict[int, tuple[str, Answer]]) -> list[_Pair]:
    return [
        _Pair(index, student[index][0], student[index][1], teacher[index][1])
        for index in sorted(student.keys() & teacher.keys())
    ]


def _texts(run_dir: Path, split: str) -> dict[int, tuple[tuple[str, str], ...]]:
    """The fields of an evaluation set's items by index; empty where they were not kept."""
    try:
        return {
            int(record["index"]): tuple(
                (names.shorten(str(name), 60), names.shorten(str(text)))
                for name, text in record["fields"].items()
            )
            for record in read_lines(evaluation_path(run_dir, split))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _tally(split: str, pairs: Sequence[_Pair]) -> Tally:
    right = [(pair.student.label == pair.gold, pair.teacher.label == pair.gold) for pair in pairs]
    return Tally(
        names.shorten(split, 60),
        both=right.count((True, True)),
        student_only=right.count((True, False)),
        teacher_only=right.count((False, True)),
        neither=right.count((False, False)),
    )


def _disagreements(
    pairs: Mapping[str, Sequence[_Pair]],
    texts: Mapping[str, Mapping[int, tuple[tuple[str, str], ...]]],
    *,
    student_right: bool,
) -> tuple[Disagreement, ...]:
    found: dict[str, list[Disagreement]] = {}
    for split, items in pairs.items():
        for pair in items:
            right = (pair.student.label == pair.gold, pair.teacher.label == pair.gold)
            if right == (student_right, not student_right) and pair.index in texts[split]:
                shown = Disagreement(
                    names.shorten(split, 60),
                    texts[split][pair.index],
                    names.shorten(pair.gold, 60),
                    pair.student,
                    pair.teacher,
                )
                found.setdefault(split, []).append(shown)
    return tuple(_share_out(found.values()))


def _share_out(lists: Iterable[Sequence[Disagreement]]) -> list[Disagreement]:
    """Up to :data:`SHOWN` items, about as many from each list, spread evenly within it."""
    filled = [items for items in lists if items][:SHOWN]
    chosen: list[Disagreement] = []
    for position, items in enumerate(filled):
        # A list with too few leaves its places to those after it.
        quota = min(len(items), (SHOWN - len(chosen)) // (len(filled) - position))
        chosen += [items[step * len(items) // quota] for step in range(quota)]
    return chosen
