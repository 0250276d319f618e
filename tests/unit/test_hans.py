"""The HANS-style generator: its subcases, the property that defines each heuristic, and its determinism."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillshot.data.hans import (
    HEURISTICS,
    LABELS,
    SUBCASES,
    _pairs,
    capacity,
    generate_hans,
    max_per_subcase,
)
from stillshot.data.hans_grammar import POOLS, SHAPES, Noun
from stillshot.errors import DataError
from stillshot.types import Example

GOLDEN = Path(__file__).parents[1] / "golden" / "hans_seed0.json"

# Either number of a noun, to its singular.
NOUNS = {word.bare: family[0].text for family in POOLS["noun"] for word in family if isinstance(word, Noun)}


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return generate_hans(500)


def words(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+", sentence.lower())


def is_run(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def is_clause(hypothesis: str, premise: str) -> bool:
    """Whether the hypothesis stands in the premise between what opens a clause and what closes one."""
    clause = hypothesis[0].lower() + hypothesis[1:-1]
    lowered = premise[0].lower() + premise[1:]
    opener = r"(?:, (?:and |but |or )?| that |^(?:[a-z]+ ){0,3})"
    return re.search(rf"{opener}{re.escape(clause)}[.,]", lowered) is not None


def subcase_of(row: Example) -> str:
    return row.groups["subcase"]


def assert_heuristic_holds(row: Example) -> None:
    premise, hypothesis = words(row.fields["premise"]), words(row.fields["hypothesis"])
    assert set(hypothesis) <= set(premise), row
    assert is_run(hypothesis, premise) == (row.groups["heuristic"] != "lexical_overlap"), row
    if row.groups["heuristic"] == "constituent":
        assert is_clause(row.fields["hypothesis"], row.fields["premise"]), row


def test_there_are_30_subcases_with_balanced_heuristics_and_labels() -> None:
    assert HEURISTICS == ("lexical_overlap", "subsequence", "constituent")
    assert len(SUBCASES) == 30
    assert Counter(SUBCASES.values()) == {(h, label): 5 for h in HEURISTICS for label in LABELS}
    for subcase, (heuristic, label) in SUBCASES.items():
        assert subcase[:2] == heuristic[0] + {"entailment": "e", "non-entailment": "n"}[label]


def test_rows_carry_their_subcase_label_and_origin(rows: list[Example]) -> None:
    assert Counter(subcase_of(row) for row in rows) == dict.fromkeys(SUBCASES, 500)
    assert [row.origin for row in rows] == [f"hans:{s}:{i}" for s in SUBCASES for i in range(1, 501)]
    for row in rows:
        assert (row.groups["heuristic"], row.label) == SUBCASES[subcase_of(row)]
        assert set(row.fields) == {"premise", "hypothesis"}


def test_every_row_has_the_property_that_defines_its_heuristic(rows: list[Example]) -> None:
    for row in rows:
        assert_heuristic_holds(row)


def test_sentences_are_in_normal_spelling(rows: list[Example]) -> None:
    for row in rows:
        for sentence in row.fields.values():
            assert re.fullmatch(r"[A-Z][a-z]*(,? [a-z]+)+\.", sentence), sentence


def test_a_noun_stands_only_once_in_a_premise(rows: list[Example]) -> None:
    for row in rows:
        nouns = [NOUNS[word] for word in words(row.fields["premise"]) if word in NOUNS]
        assert len(set(nouns)) == len(nouns), row


def test_be_agrees_with_its_subject(rows: list[Example]) -> None:
    passives = [words(row.fields["premise"]) for row in rows if subcase_of(row).endswith("_passive")]
    assert len(passives) == 1000
    for premise in passives:
        assert premise[2] == ("was" if NOUNS[premise[1]].endswith(f" {premise[1]}") else "were")


def test_no_pair_occurs_twice_in_a_subcase(rows: list[Example]) -> None:
    assert len({(subcase_of(row), row.key) for row in rows}) == len(rows)


def test_no_pair_has_two_labels(rows: list[Example]) -> None:
    labels: dict[str, str | None] = {}
    for row in rows:
        assert labels.setdefault(row.key, row.label) == row.label


def test_every_shape_is_seen_equally_often() -> None:
    shapes = SHAPES["constituent"]["ce_conjunction"]
    few = [row.fields for row in generate_hans(len(shapes)) if subcase_of(row) == "ce_conjunction"]
    patterns = Counter((len(words(f["premise"])), len(words(f["hypothesis"]))) for f in few)
    assert patterns == {(11, 5): 2, (9, 5): 2, (9, 3): 2, (7, 3): 2}


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(rows: list[Example]) -> None:
    assert generate_hans(500) == rows
    other = generate_hans(500, seed=1)
    for subcase in SUBCASES:
        ours, theirs = ({r.key for r in sample if subcase_of(r) == subcase} for sample in (rows, other))
        assert len(ours & theirs) < 50


def test_a_larger_count_keeps_the_earlier_rows(rows: list[Example]) -> None:
    for count in (0, 1, 13, 200):
        kept = [row for row in rows if int(row.origin.rsplit(":", 1)[1]) <= count]
        assert generate_hans(count) == kept


def test_seed_0_gives_the_golden_rows() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    rows = generate_hans(2)
    assert list(golden) == list(SUBCASES)
    assert [pair for pairs in golden.values() for pair in pairs] == [
        [row.fields["premise"], row.fields["hypothesis"]] for row in rows
    ]


def test_the_maximum_is_what_the_smallest_subcase_really_has() -> None:
    smallest = min(SUBCASES, key=capacity)
    assert max_per_subcase() == capacity(smallest) >= 500
    pairs = list(_pairs(smallest, seed=0))
    assert len(pairs) == len(set(pairs)) == capacity(smallest)


def test_more_than_the_maximum_is_an_error_that_names_it() -> None:
    maximum = max_per_subcase()
    with pytest.raises(DataError, match=rf"only {maximum} different pairs.*at most {maximum}\."):
        generate_hans(maximum + 1)


def test_a_negative_count_is_an_error() -> None:
    with pytest.raises(DataError, match="per_subcase is -1; it must be 0 or more"):
        generate_hans(-1)


def test_the_capacity_of_an_unknown_subcase_is_an_error() -> None:
    with pytest.raises(DataError, match="Did you mean 'ce_adverb'"):
        capacity("ce_adverbs")


def test_no_pool_names_a_word_twice() -> None:
    for families in POOLS.values():
        texts = sorted(f"{word} {getattr(word, 'object', '')}" for family in families for word in family)
        assert all(one != two for one, two in pairwise(texts))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(min_value=-(2**63), max_value=2**63))
def test_any_seed_gives_distinct_rows_with_the_property(seed: int) -> None:
    rows = generate_hans(15, seed=seed)
    assert len({(subcase_of(row), row.key) for row in rows}) == 15 * len(SUBCASES)
    for row in rows:
        assert_heuristic_holds(row)
