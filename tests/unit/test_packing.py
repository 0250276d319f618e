"""How prompts are cut into batches."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stillshot.teacher.packing import _BATCH_COST, Row, batches

BUDGET = 256


def chains(lengths: list[int]) -> list[Row]:
    return [Row([0] * length, list(range(-1, length - 1)), []) for length in lengths]


def cost(rows: list[list[Row]], found: list[list[int]]) -> int:
    """Tokens with padding, and what batches cost themselves."""
    groups = [[row for position in batch for row in rows[position]] for batch in found]
    return sum(len(group) * max(len(row.tokens) for row in group) + _BATCH_COST for group in groups)


prompts = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=3), min_size=1, max_size=8)


@given(prompts)
def test_every_prompt_is_in_one_batch_that_fits(lengths: list[list[int]]) -> None:
    rows = [chains(own) for own in lengths]
    found = batches(rows, BUDGET)
    assert sorted(itertools.chain.from_iterable(found)) == list(range(len(rows)))
    assert all(len(batch) == 1 or cost(rows, [batch]) - _BATCH_COST <= BUDGET for batch in found)


@given(prompts)
def test_no_other_cut_of_the_sorted_prompts_costs_less(lengths: list[list[int]]) -> None:
    rows = [chains(own) for own in lengths]
    found = batches(rows, BUDGET)
    order = list(itertools.chain.from_iterable(found))
    cuts = itertools.product([False, True], repeat=len(order) - 1)
    for cut in cuts:
        starts = [0, *(i + 1 for i, is_cut in enumerate(cut) if is_cut), len(order)]
        other = [order[a:b] for a, b in itertools.pairwise(starts)]
        fits = all(len(batch) == 1 or cost(rows, [batch]) - _BATCH_COST <= BUDGET for batch in other)
        assert not fits or cost(rows, found) <= cost(rows, other)
