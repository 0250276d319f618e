"""Cells and the settings that their ids end in."""

from __future__ import annotations

from doubles import SENTIMENT

from stillshot.config import Recipe
from stillshot.methods.cells import cells, find_setting

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "task": SENTIMENT.model_dump(),
        "data": {"in_domain": {"test": "test.jsonl"}},
        # Names of which some are ends or beginnings of others.
        "budgets": [
            {"labelled": labelled, "num_contexts": contexts, "num_shots": shots}
            for labelled, contexts, shots in ((4, 1, 2), (14, 1, 2), (4, 11, 2), (4, 1, None))
        ],
        "seeds": [0, 10, 100],
        "controls": ["zero_shot_teacher", "shuffled_labels"],
        "students": [{"model": "random:tiny-bert"}, {"model": "random:tiny-n4x1x2-s0-llama"}],
    }
)


def test_a_students_cell_leads_to_its_setting_without_looking_at_models() -> None:
    plain = RECIPE.model_copy(update={"students": RECIPE.students[:1]})
    trained = [spec for spec in cells(plain) if spec.student is not None]
    assert len({spec.setting for spec in trained}) == 4 * 3 * 3
    for spec in trained:
        # No model of the other recipe's second student can be had.
        assert find_setting(RECIPE, spec.id, spec.setting.control) == spec.setting


def test_what_a_recipe_does_not_have_is_not_found() -> None:
    assert find_setting(RECIPE, "context_distillation-x-label-full-n5x1x2-s0", None) is None
    assert find_setting(RECIPE, "zero_shot-tiny-llama", None) is None
