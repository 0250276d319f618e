"""What is allowed in the data of a recipe, but likely a mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stillshot.config import Recipe, Student
from stillshot.data.balance import UNEVEN_ADVICE, absent_labels, count_labels, describe_uneven
from stillshot.methods.cells import settings
from stillshot.methods.materials import Materials
from stillshot.student.features import Featurizer
from stillshot.types import Example

# More characters a word than any language has that puts spaces between words.
FEW_SPACES = 25


def data_doubts(recipe: Recipe, materials: Materials) -> list[tuple[str, str]]:
    """What reading the data found, and labels that are absent or uneven: what it is about, and the doubt."""
    return [*(("data", note) for note in data_notes(materials)), *_balance(recipe, materials)]


def data_notes(materials: Materials) -> list[str]:
    """What reading all the data found."""
    _ = materials.labelled, materials.unlabelled, materials.evaluation_sets
    notes = list(materials.notes)
    words = materials.recipe.data.max_words
    if words is not None and materials.recipe.data.max_tokens is None:
        examples = {e.identity: e for e in (*materials.labelled, *materials.unlabelled)}.values()
        long = sum(any(map(_has_few_spaces, example.fields.values())) for example in examples)
        if long:
            notes.append(
                f"data.max_words {words} counts words between spaces, and {long:,} texts have hardly any, so that it does "
                "not cut them. Use data.max_tokens."
            )
    return notes


def _has_few_spaces(text: str) -> bool:
    return len(text) > FEW_SPACES * (len(text.split()) + 1)


def _balance(recipe: Recipe, materials: Materials) -> list[tuple[str, str]]:
    """Labels that are evaluated on no item, and labels so uneven that batch calibration may do harm."""
    doubts, labels = [], materials.task.labels
    own = [s for s in materials.evaluation_sets if s.in_domain and s.task.labels == labels]
    for evaluation in own:
        if absent := absent_labels(count_labels(evaluation.examples), labels):
            detail = f"{evaluation.name} has no item with the label {', '.join(map(repr, absent[:5]))}"
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            doubts.append(("absent labels", f"{detail}{more}. Nothing will be known of it."))
    if recipe.teacher.calibration == "batch" or recipe.teacher.select:
        sets: list[tuple[str, Callable[[], Sequence[Example]]]] = [
            (recipe.data.labelled, lambda: materials.labelled),
            *((s.name, lambda s=s: s.examples) for s in own),
            (
                recipe.data.unlabelled,
                materials.unlabelled_as_labelled,
            ),  # read again, so only where the others are even
        ]
        for name, read in sets:
            if uneven := describe_uneven(count_labels(read()), labels):
                detail = f"of {name}, {uneven}. {UNEVEN_ADVICE}"
                doubts.append(("calibration", detail))
                break
    return doubts


def cut_by_student(
    recipe: Recipe, materials: Materials, student: Student, featurizer: Featurizer, window: int
) -> str | None:
    """How many texts are longer than what a student reads, if any is."""
    limit = featurizer.max_tokens
    read = {
        e.identity: e for s in settings(recipe) for e in materials.all_asked(materials.draw(s.budget, s.seed))
    }
    long = [example for example in read.values() if _bytes(example) > limit // 2]
    cut = sum(bool(feature.get("cut")) for feature in featurizer.features(long)) if long else 0
    if not cut:
        return None
    advice = f" Raise its max_tokens, up to {window:,}." if window > limit else ""
    return (
        f"{student.model} reads {limit:,} tokens, and {cut:,} of {len(read):,} texts are longer, so that it sees their "
        f"beginning alone.{advice}"
    )


def _bytes(example: Example) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in example.fields.values())
