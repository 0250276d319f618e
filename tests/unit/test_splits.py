"""Draws are balanced, nested, seeded and disjoint; leakage is found; labels are projected."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillshot.config import Recipe, TaskDefinition
from stillshot.data.splits import (
    check_leakage,
    draw_evaluation,
    draw_labelled,
    draw_unlabelled,
    label_projection,
)
from stillshot.errors import DataError
from stillshot.methods.materials import Materials
from stillshot.tasks import load_task
from stillshot.types import Example

LABELS = ["red", "green", "blue"]
TASK = TaskDefinition.model_validate(
    {
        "name": "colours",
        "labels": LABELS,
        "fields": ["text"],
        "patterns": {"p": {"pattern": "{text}", "label_words": {label: label for label in LABELS}}},
    }
)


def example(text: str, label: str | None = None, origin: str = "", **groups: str) -> Example:
    return Example(fields={"text": text}, label=label, groups=groups, origin=origin)


POOL = [example(f"text {number}", LABELS[number % 3], f"pool:{number}") for number in range(120)]

# Texts repeat, with any label or none.
EXAMPLES = st.lists(
    st.builds(example, st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.sampled_from([*LABELS, None])),
    max_size=60,
)
SEEDS = st.integers(0, 5)


def keys(examples: tuple[Example, ...]) -> list[str]:
    return [item.key for item in examples]


# Labelled ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 16, 96])
def test_labelled_draws_are_balanced_and_distinct(count: int) -> None:
    drawn = draw_labelled([*POOL, *POOL], TASK, count, seed=0)
    assert len(drawn) == len(set(keys(drawn))) == count
    sizes = Counter(item.label for item in drawn).values()
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 1


def test_a_small_draw_begins_a_large_one() -> None:
    large = draw_labelled(POOL, TASK, 96, seed=3)
    for count in range(1, 96):
        assert draw_labelled(POOL, TASK, count, seed=3) == large[:count]


def test_a_labelled_draw_depends_on_the_seed_and_not_on_the_order_of_the_file() -> None:
    shuffled = random.Random(0).sample(POOL, len(POOL))
    assert draw_labelled(POOL, TASK, 16, seed=1) == draw_labelled(shuffled, TASK, 16, seed=1)
    assert draw_labelled(POOL, TASK, 16, seed=1) != draw_labelled(POOL, TASK, 16, seed=2)


def test_the_remainder_goes_to_labels_by_the_seed() -> None:
    extra = {
        Counter(i.label for i in draw_labelled(POOL, TASK, 4, seed)).most_common(1)[0][0]
        for seed in range(20)
    }
    assert extra == set(LABELS)


def test_a_labelled_draw_stays_the_same_between_releases() -> None:
    drawn = draw_labelled(POOL, TASK, 4, seed=0)
    assert [item.origin for item in drawn] == ["pool:49", "pool:83", "pool:78", "pool:113"]


def test_unlabelled_copies_of_a_text_are_passed_over() -> None:
    unlabelled = [example(item.fields["text"]) for item in POOL]
    assert draw_labelled([*unlabelled, *POOL], TASK, 9, seed=0) == draw_labelled(POOL, TASK, 9, seed=0)


def test_fewer_than_the_labels_have_labels_of_their_own_by_the_seed() -> None:
    """One shot is a budget too: the label that it has is drawn like all else."""
    assert {draw_labelled(POOL, TASK, 1, seed)[0].label for seed in range(20)} == set(LABELS)
    assert all(len({item.label for item in draw_labelled(POOL, TASK, 2, seed)}) == 2 for seed in range(20))


def test_a_label_without_examples() -> None:
    pool = [item for item in POOL if item.label != "blue"]
    with pytest.raises(DataError, match="No labelled example has the label 'blue'"):
        draw_labelled(pool, TASK, 3, seed=0)


def test_a_label_with_too_few_distinct_examples() -> None:
    pool = [item for item in POOL if item.label != "blue"] + [example("sky", "blue"), example("sky", "blue")]
    with pytest.raises(DataError, match=r"need 2 distinct ones with the label 'blue', but there are 1\."):
        draw_labelled(pool, TASK, 6, seed=0)


@given(EXAMPLES, st.integers(1, 12), SEEDS)
def test_a_labelled_draw_is_right_or_an_error(examples: list[Example], count: int, seed: int) -> None:
    try:
        drawn = draw_labelled(examples, TASK, count, seed)
    except DataError:
        return
    assert len(set(keys(drawn))) == count
    assert all(item in examples and item.label is not None for item in drawn)
    assert drawn[:1] == draw_labelled(examples, TASK, 1, seed)


# Unlabelled --------------------------------------------------------------------------------------


@given(EXAMPLES, st.integers(1, 12), SEEDS, st.integers(0, 60))
def test_unlabelled_draws_are_disjoint_and_have_no_labels(
    examples: list[Example], count: int, seed: int, excluded: int
) -> None:
    exclude = {item.key for item in examples[:excluded]}
    available = {item.key for item in examples} - exclude
    if len(available) < count:
        with pytest.raises(DataError, match=f"but there are {len(available)} distinct texts"):
            draw_unlabelled(examples, count, seed, exclude)
        return
    drawn = draw_unlabelled(examples, count, seed, exclude)
    assert len(set(keys(drawn))) == count
    assert set(keys(drawn)) <= available
    assert all(item.label is None for item in drawn)
    assert drawn[:1] == draw_unlabelled(examples, 1, seed, exclude)


def test_too_few_unlabelled_says_how_many_there_are() -> None:
    with pytest.raises(DataError) as error:
        draw_unlabelled([*POOL, *POOL], 119, 0, exclude=[item.key for item in POOL[:2]])
    assert "119 unlabelled queries are asked for, but there are 118 distinct texts, with 2 more" in str(
        error.value
    )


# Evaluation --------------------------------------------------------------------------------------


def test_all_are_evaluated_without_a_limit_in_order_and_once() -> None:
    assert draw_evaluation([*POOL, *POOL[::-1]], None) == tuple(POOL)
    assert draw_evaluation(POOL, 120) == tuple(POOL)


def test_600_of_hans_has_20_of_each_subcase() -> None:
    pool = [
        example(
            f"{subcase} {number}",
            "entailment" if number % 2 else "other",
            heuristic=str(subcase // 10),
            subcase=str(subcase),
        )
        for subcase in range(30)
        for number in range(50)
    ]
    drawn = draw_evaluation(pool, 600)
    assert set(Counter(item.groups["subcase"] for item in drawn).values()) == {20}
    assert Counter(item.label for item in drawn) == {"entailment": 300, "other": 300}
    assert drawn == draw_evaluation(pool, 600)
    assert drawn != draw_evaluation(pool, 600, seed=1)
    places = [pool.index(item) for item in drawn]
    assert places == sorted(places)


def test_shares_of_labels_are_kept() -> None:
    pool = [example(f"t{n}", "red" if n < 90 else "green") for n in range(120)]
    assert Counter(item.label for item in draw_evaluation(pool, 40)) == {"red": 30, "green": 10}


def test_every_label_keeps_an_item_where_there_is_room() -> None:
    pool = [example(f"t{n}", "red" if n < 96 else ("green", "blue")[n % 2]) for n in range(100)]
    assert Counter(item.label for item in draw_evaluation(pool, 10)) == {"red": 8, "green": 1, "blue": 1}
    assert len(draw_evaluation(pool, 2)) == 2


def test_texts_that_are_cut_alike_are_two() -> None:
    cut = [replace(example("the same", LABELS[n % 3]), uncut=f"whole text {n}") for n in range(6)]
    assert len(draw_evaluation([*cut, *cut], None)) == 6
    assert len({item.identity for item in draw_labelled(cut, TASK, 6, 0)}) == 6
    assert len(draw_unlabelled(cut, 4, 0, exclude=[item.identity for item in cut[:2]])) == 4
    check_leakage({"labelled": cut[:3], "test": cut[3:]})
    with pytest.raises(DataError, match="1 text is both in"):
        check_leakage({"labelled": cut[:3], "test": cut[2:]})


@given(EXAMPLES, st.integers(1, 30), SEEDS)
def test_an_evaluation_sample_has_its_size(examples: list[Example], limit: int, seed: int) -> None:
    drawn = draw_evaluation(examples, limit, seed)
    assert len(drawn) == len(set(keys(drawn))) == min(limit, len({item.key for item in examples}))


# Projection and leakage --------------------------------------------------------------------------


def test_labels_are_projected_by_name_then_by_mapping() -> None:
    hans = load_task("hans")
    assert label_projection(["entailment", "contradiction"], hans) == [0, 1]
    assert label_projection(["contradiction", "neutral", "entailment"], hans) == [1, 1, 0]
    assert label_projection(["positive", "negative"], load_task("imdb")) == [1, 0]
    assert label_projection(load_task("rte").labels, load_task("mnli")) == [0, 1]


def test_a_label_that_cannot_be_projected() -> None:
    with pytest.raises(DataError) as error:
        label_projection(["entailed"], load_task("hans"))
    assert "The label 'entailed' cannot be read as a label of task 'hans'. Did you mean 'entailment'?" in str(
        error.value
    )
    assert "label_mapping, e.g. entailed: non-entailment" in str(error.value)


def test_leakage_says_which_parts_how_many_and_where() -> None:
    shots = [example("a", "red", "train.csv:2"), example("b", "red", "train.csv:3")]
    test = [example("c", None, "test.csv:2"), example("b", "blue", "test.csv:9")]
    with pytest.raises(DataError) as error:
        check_leakage({"labelled": shots, "unlabelled": [example("z")], "test": test})
    assert "1 text is both in 'labelled' and in 'test', e.g. train.csv:3 and test.csv:9." in str(error.value)
    with pytest.raises(DataError, match="2 texts are both"):
        check_leakage({"labelled": shots, "test": shots})


def test_no_leakage() -> None:
    check_leakage({"labelled": [example("a"), example("a")], "test": iter([example("b")])})


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (None, {"pairs": 226, "hans": 600}),
        (6, {"pairs": 6, "hans": 6}),
        ({"hans": 5}, {"pairs": 226, "hans": 5}),
    ],
    ids=["none", "for all", "for one"],
)
def test_a_limit_is_for_all_evaluation_sets_or_for_those_it_names(
    limit: int | dict[str, int] | None, sizes: dict[str, int]
) -> None:
    data = {
        "in_domain": {"pairs": "nli-sample:test"},
        "out_of_domain": {"hans": "hans-style:test"},
        "max_evaluation": limit,
    }
    materials = Materials(Recipe.model_validate({"name": "r", "task": "nli-sample", "data": data}))
    assert {one.name: len(one.examples) for one in materials.evaluation_sets} == sizes


def test_what_is_evaluated_on_is_asked_of_no_teacher_and_shown_in_no_context(tmp_path: Path) -> None:
    def written(name: str, rows: Sequence[Example]) -> str:
        path = tmp_path / name
        lines = (json.dumps({**row.fields, "label": row.label}) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
        return str(path)

    def drawn(labelled: str, unlabelled: str, seed: int) -> set[str]:
        data = {"labelled": labelled, "unlabelled": unlabelled, "in_domain": {"test": test}}
        recipe = {"name": "r", "task": TASK.model_dump(), "data": {**data, "num_unlabelled": 60}}
        materials = Materials(Recipe.model_validate({**recipe, "budgets": [{"labelled": 6}]}))
        draw = materials.draw(materials.recipe.budgets[0], seed)
        assert len(draw.queries) == 60
        return {one.fields["text"] for one in (*draw.queries, *draw.labelled)}

    tested = {one.fields["text"] for one in POOL[:40]}
    every, test, own = (
        written("every.jsonl", POOL),
        written("test.jsonl", POOL[:40]),
        written("own.jsonl", POOL[40:60]),
    )
    assert all(drawn(own, every, seed).isdisjoint(tested) for seed in range(5))
    with pytest.raises(DataError, match="both in 'labelled' and in 'test'"):
        drawn(test, every, 0)
    both, found = written("both.jsonl", POOL[:12] + POOL[40:]), []  # labelled texts and queries of one file
    for seed in range(20):
        with contextlib.suppress(DataError):  # where a labelled text is in the test
            found.append(drawn(both, both, seed))
    assert found
    assert all(texts.isdisjoint(tested) for texts in found)


def test_a_text_is_known_whatever_else_its_row_has(tmp_path: Path) -> None:
    """Evaluated as a task with a field more, it is the same text."""
    rows = [{**one.fields, "label": one.label, "title": f"no. {n}"} for n, one in enumerate(POOL[:40])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    titled = TASK.model_dump() | {"name": "titled", "fields": [*TASK.fields, "title"]}
    titled["sources"] = {"local": {"splits": {"test": "rows.jsonl"}}}
    (tmp_path / "titled.yaml").write_text(json.dumps(titled), encoding="utf-8")
    data = {
        "root": str(tmp_path),
        "labelled": str(tmp_path / "rows.jsonl"),
        "unlabelled": str(tmp_path / "rows.jsonl"),
        "num_unlabelled": 4,
        "in_domain": {"test": f"{tmp_path / 'titled.yaml'}:test"},
    }
    recipe = Recipe.model_validate(
        {"name": "r", "task": TASK.model_dump(), "data": data, "budgets": [{"labelled": 6}]}
    )
    materials = Materials(recipe)
    assert {one.key for one in materials.evaluation_sets[0].examples} == {one.key for one in POOL[:40]}
    with pytest.raises(DataError, match="there are 0 distinct texts, with 40 more in use"):
        materials.draw(recipe.budgets[0], 0)


def test_a_split_to_take_queries_from_needs_no_labels(tmp_path: Path) -> None:
    task = TASK.model_dump() | {"drop_labels": ["other"]}
    task["sources"] = {"local": {"splits": {"train": "train.jsonl", "pool": "pool.jsonl"}}}
    dropped = [{"text": "dropped", "label": "other"}]
    pool = [dict(one.fields) for one in POOL[40:60]]
    for name, rows in (
        ("train", [{**one.fields, "label": one.label} for one in POOL[:40]]),
        ("pool", pool + dropped),
    ):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    data = {"root": str(tmp_path), "unlabelled": "pool", "num_unlabelled": 20}
    recipe = Recipe.model_validate({"name": "r", "task": task, "data": data, "budgets": [{"labelled": 6}]})
    draw = Materials(recipe).draw(recipe.budgets[0], 0)
    assert {one.fields["text"] for one in draw.queries} == {row["text"] for row in pool}
