"""Metrics against hand examples, intervals, paired comparisons, and the choice of how to ask."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import LABELS, SENTIMENT, StubTeacher, review
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from report_fixtures import cell
from scipy.stats import binomtest

from stillshot.config import Budget, Prompt
from stillshot.evaluate.assemble import SplitAnswers, _comparable, _comparisons, _summary, cells_by_line
from stillshot.evaluate.metrics import (
    expected_calibration_error,
    measure,
    negative_log_likelihood,
    project,
)
from stillshot.evaluate.statistics import (
    accuracy_interval,
    holm,
    mcnemar,
    paired_difference,
    samples_for,
    seeds_interval,
    sign_test,
)
from stillshot.methods.asking import Interview
from stillshot.methods.selection import MAX_FOLDS, leave_out_folds, merit, select_asking
from stillshot.prompt.writer import ScoredPrompt
from stillshot.softlabels import SoftLabelStore
from stillshot.types import Example

Array = NDArray[np.float64]
RIGHTS = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60).map(np.array)


# Metrics -------------------------------------------------------------------------------------------


def test_negative_log_likelihood_by_hand() -> None:
    probabilities, gold = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0])
    assert negative_log_likelihood(probabilities, gold) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert negative_log_likelihood(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx(-math.log(1e-12))


def test_expected_calibration_error_by_hand() -> None:
    """Two bins of ten: 0.9-1.0 is right half of the time, 0.6-0.7 always."""
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.65, 0.35]])
    gold = np.array([0, 1, 0, 0])
    expected = 0.5 * abs(0.5 - 0.95) + 0.5 * abs(1.0 - 0.65)
    assert expected_calibration_error(probabilities, gold, bins=10) == pytest.approx(expected)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0.0


def test_measure_by_hand() -> None:
    examples = [
        Example({"text": str(i)}, label, {"length": group})
        for i, (label, group) in enumerate(
            [("negative", "short"), ("negative", "long"), ("positive", "short"), ("positive", "short")]
        )
    ]
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    result = measure(examples, probabilities, LABELS, bins=15)
    assert (result.n, result.accuracy) == (4, 0.75)
    assert result.confusion == [[1, 1], [0, 2]]
    assert result.predicted == {"negative": 0.25, "positive": 0.75}
    assert result.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert result.by_group["length"]["short"].n == 3
    assert result.by_group["length"]["short"].accuracy == 1.0
    assert result.by_group["length"]["long"].accuracy == 0.0
    assert result.ci95[0] <= result.accuracy <= result.ci95[1]


def test_a_constant_predictor_is_seen_in_the_rates() -> None:
    examples = [Example({"text": str(i)}, LABELS[i % 2]) for i in range(10)]
    result = measure(examples, np.tile([0.2, 0.8], (10, 1)), LABELS, bins=15)
    assert result.accuracy == 0.5
    assert result.predicted == {"negative": 0.0, "positive": 1.0}


def test_what_calibration_on_the_set_gives() -> None:
    examples = [
        Example({"text": str(i)}, label)
        for i, label in enumerate(["negative", "positive", "positive", "negative"])
    ]
    leaning = np.array(
        [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]
    )  # towards negative, in the right order
    result = measure(examples, leaning, LABELS, bins=15)
    assert (result.accuracy, result.calibrated_accuracy) == (0.5, 1.0)


def test_labels_read_as_the_same_one_are_summed() -> None:
    three_way = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    np.testing.assert_allclose(project(three_way, [0, 1, 1], 2), [[0.5, 0.5], [0.1, 0.9]])
    np.testing.assert_allclose(project(three_way, [2, 0, 1], 3), three_way[:, [1, 2, 0]])


# Intervals -----------------------------------------------------------------------------------------


@given(correct=RIGHTS)
def test_an_interval_contains_its_mean_and_stays_in_bounds(correct: Array) -> None:
    low, high = accuracy_interval(correct)
    assert 0 <= low <= correct.mean() <= high <= 1
    assert high - low > 0
    exact = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))


@given(seeds=st.integers(1, 5), items=st.integers(1, 60), wrong=st.data())
def test_few_errors_leave_an_interval_with_room_for_more(
    seeds: int, items: int, wrong: st.DataObject
) -> None:
    """Whether all items are right in every seed, or one is wrong in one seed: others may be wrong."""
    correct = [np.ones(items) for _ in range(seeds)]
    if wrong.draw(st.booleans()):
        correct[0][0] = 0.0
    low, high = seeds_interval(correct, 200)
    assert low <= np.mean(correct) <= high
    assert low <= accuracy_interval(np.ones(items))[0]
    swapped = seeds_interval([1 - values for values in correct], 200)
    assert swapped == pytest.approx((1 - high, 1 - low))


def test_more_items_make_narrower_intervals() -> None:
    few, many = np.tile([0.0, 1.0], 10), np.tile([0.0, 1.0], 1000)
    low, high = accuracy_interval(few)
    assert 0.3 < high - low < 0.6  # 2 x 1.96 x 0.5 / sqrt(20) = 0.44
    low, high = accuracy_interval(many)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(2000), rel=0.15)


def test_seeds_are_resampled_as_well_as_items() -> None:
    """Seeds that disagree widen the interval beyond what items alone would."""
    same = [np.tile([0.0, 1.0], 200)] * 4
    apart = [np.repeat([0.0, 1.0], [400 - n, n]) for n in (40, 160, 240, 360)]
    narrow, wide = seeds_interval(same, 500), seeds_interval(apart, 500)
    assert narrow[0] <= 0.5 <= narrow[1]
    assert wide[0] <= 0.5 <= wide[1]
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


@given(
    pair=st.integers(2, 40).flatmap(
        lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2)
    )
)
def test_a_paired_difference_is_antisymmetric(pair: tuple[list[bool], list[bool]]) -> None:
    a, b = ([np.array(values, dtype=float)] for values in pair)
    found, opposite = paired_difference(a, b, 200), paired_difference(b, a, 200)
    low, high = found.ci95
    assert found.mean == pytest.approx(a[0].mean() - b[0].mean())
    assert (opposite.mean, *opposite.ci95) == pytest.approx((-found.mean, -high, -low))
    assert opposite.p == found.p
    assert 0 < found.p <= 1


def test_equal_answers_to_few_items_do_not_show_that_two_are_equal() -> None:
    answers = [np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0])]
    found = paired_difference(answers, answers, 300)
    assert (found.mean, found.p) == (0.0, 1.0)
    assert found.ci95 == pytest.approx(
        (-0.7076, 0.7076), abs=1e-4
    )  # of three items none differs: 1 - 0.025 ** (1 / 3)
    many = [np.tile([0.0, 1.0, 1.0], 300)]
    assert paired_difference(many, many, 300).ci95 == pytest.approx((0.0, 0.0), abs=0.005)


def test_one_item_shows_nothing() -> None:
    right, wrong = [np.array([1.0])], [np.array([0.0])]
    found = paired_difference(right, wrong, 800)
    assert (found.mean, found.p) == (1.0, 1.0)
    assert found.ci95[0] < 0
    assert found.ci95[1] == 1.0


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (6, 0), (9, 1), (10, 2), (3, 3), (15, 5), (1, 0)])
def test_where_few_items_differ_the_exact_test_decides(wins: int, losses: int) -> None:
    a = [np.repeat([1.0, 0.0, 1.0], [wins, losses, 300 - wins - losses])]
    b = [np.repeat([0.0, 1.0, 1.0], [wins, losses, 300 - wins - losses])]
    found, exact = paired_difference(a, b, 2000), binomtest(wins, wins + losses).pvalue
    assert found.p >= mcnemar(a, b) == pytest.approx(exact) == sign_test(a, b)
    assert (found.ci95[0] > 0) == (exact < 0.05)
    assert found.ci95[0] < found.mean < found.ci95[1]
    # Seeds that answer alike are no further evidence.
    assert paired_difference(a * 5, b * 5, 2000).p >= exact
    again = paired_difference(a * 5, b * 5, 2000).ci95
    assert again[0] <= found.ci95[0] + 0.002
    assert (again[0] > 0) == (exact < 0.05)


def test_where_many_items_differ_the_bootstrap_decides() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.random((3, 500)) < share for share in (0.8, 0.7))
    found = paired_difference(list(a.astype(float)), list(b.astype(float)), 2000)
    assert found.ci95[1] - found.ci95[0] < 0.15
    assert found.p < 0.02


def test_intervals_of_small_sets_hold_what_is_true() -> None:
    """Of 95% intervals, 95 of 100 do at least: of accuracies, and of differences between two predictors."""
    rng = np.random.default_rng(11)
    held, held_difference, repeats = 0, 0, 400
    for _ in range(repeats):
        a, b = (rng.random(25) < share for share in (0.95, 0.85))
        low, high = accuracy_interval(a.astype(float))
        held += low <= 0.95 <= high
        low, high = paired_difference([a.astype(float)], [b.astype(float)], 200).ci95
        held_difference += low <= 0.1 <= high
    assert held >= 0.95 * repeats
    assert held_difference >= 0.95 * repeats


def test_pairing_finds_what_unpaired_intervals_cannot() -> None:
    """`a` is right wherever `b` is, and on 12 items more: certain, though both intervals overlap."""
    b = np.repeat([1.0, 0.0], [200, 200])
    a = np.repeat([1.0, 0.0], [212, 188])
    found = paired_difference([a], [b], 1000)
    assert found.mean == pytest.approx(0.03)
    assert found.ci95[0] > 0
    assert found.p < 0.01
    assert accuracy_interval(a)[0] < accuracy_interval(b)[1]


def test_resampling_by_patterns_is_resampling_of_items() -> None:
    """The spread is that of drawing seeds and items one by one, which is slower."""
    rng = np.random.default_rng(7)
    values = (rng.random((3, 80)) < [[0.4], [0.6], [0.7]]).astype(float)
    slowly = [
        values[rng.integers(3, size=3)].mean(0)[rng.integers(80, size=80)].mean() for _ in range(20_000)
    ]
    assert seeds_interval(list(values), 20_000) == pytest.approx(np.percentile(slowly, [2.5, 97.5]), abs=0.01)


def test_a_relative_gain_by_hand() -> None:
    a, b = np.repeat([1.0, 0.0], [300, 100]), np.repeat([1.0, 0.0], [200, 200])
    found = paired_difference([a, a], [b, b], 2000)
    assert found.relative == pytest.approx(0.5)
    assert found.relative_ci95 is not None
    # 100 of 400 items are won: by the delta method the ratio 1.5 has a standard error of 0.061.
    assert found.relative_ci95 == pytest.approx((0.5 - 1.96 * 0.061, 0.5 + 1.96 * 0.061), abs=0.03)


@given(a=RIGHTS)
def test_no_relative_gain_over_what_is_never_right(a: Array) -> None:
    assert paired_difference([a], [np.zeros_like(a)], 100).relative is None
    assert paired_difference([np.zeros_like(a)], [np.ones_like(a)], 100).relative == -1.0


# Many comparisons ----------------------------------------------------------------------------------


def test_mcnemar_by_hand() -> None:
    """Ten discordant items, nine of them won: twice the chance of nine or ten heads in ten."""
    a, b = np.array([1.0] * 9 + [0.0] + [1.0] * 30), np.array([0.0] * 9 + [1.0] + [1.0] * 30)
    assert mcnemar([a], [b]) == pytest.approx(2 * 11 / 1024)
    assert mcnemar([a], [a]) == 1.0


def test_mcnemar_counts_pooled_seeds_as_further_items() -> None:
    """The caveat: the same answers from five seeds look like five times the evidence."""
    a, b = np.array([1.0] * 6 + [0.0] * 2), np.array([0.0] * 6 + [1.0] * 2)
    assert mcnemar([a] * 5, [b] * 5) < mcnemar([a], [b]) / 10


@given(
    pair=st.integers(1, 40).flatmap(
        lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2)
    ),
    agreed=st.integers(0, 20),
)
def test_mcnemar_is_symmetric_and_ignores_what_both_get(
    pair: tuple[list[bool], list[bool]], agreed: int
) -> None:
    a, b = (np.array(values, dtype=float) for values in pair)
    p = mcnemar([a], [b])
    assert 0 < p <= 1
    assert mcnemar([b], [a]) == p
    assert mcnemar([1 - a], [1 - b]) == p
    assert mcnemar([np.append(a, np.ones(agreed))], [np.append(b, np.ones(agreed))]) == p


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=30), data=st.data())
def test_holm_corrects_upwards_in_the_same_order_whatever_theirs(
    p_values: list[float], data: st.DataObject
) -> None:
    corrected = holm(p_values)
    number = len(p_values)
    assert all(raw <= p <= min(1.0, number * raw) for raw, p in zip(p_values, corrected, strict=True))
    ranked = sorted(zip(p_values, corrected, strict=True))
    assert [p for _, p in ranked] == sorted(corrected)
    order = data.draw(st.permutations(range(number)))
    assert holm([p_values[index] for index in order]) == [corrected[index] for index in order]
    assert holm([*p_values, 1.0])[0] >= corrected[0]


@pytest.mark.parametrize("comparisons", [1, 48, 500])
def test_a_large_family_gets_enough_resamples_to_find_anything(comparisons: int) -> None:
    samples = samples_for(comparisons, 100)
    smallest = 2 / (samples + 1)
    assert comparisons * smallest <= 0.01 or samples == 100
    assert samples_for(comparisons, 10**6) == 10**6


# Choosing how to ask -------------------------------------------------------------------------------


def labelled(of_negative: int, of_positive: int) -> list[Example]:
    return [review(f"bad {i}", "negative") for i in range(of_negative)] + [
        review(f"good {i}", "positive") for i in range(of_positive)
    ]


@given(of_negative=st.integers(1, 40), of_positive=st.integers(1, 40))
def test_folds_are_disjoint_cover_everything_and_have_every_label(of_negative: int, of_positive: int) -> None:
    examples = labelled(of_negative, of_positive)
    folds = leave_out_folds(examples, LABELS)
    assert len(folds) == min(MAX_FOLDS, of_negative, of_positive)
    held_out = [example.fields["text"] for fold in folds for example in fold]
    assert sorted(held_out) == sorted(example.fields["text"] for example in examples)
    for label, count in (("negative", of_negative), ("positive", of_positive)):
        sizes = [sum(example.label == label for example in fold) for fold in folds]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == count


def test_merit_by_hand() -> None:
    gold = np.array([0, 0, 1, 1])
    assert merit(np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]]), gold) == 1.0
    # Always the first label, but less so where it is wrong: half right, perfectly ranked.
    assert merit(np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), gold) == 0.75


class Judge(StubTeacher):
    """Knows the answer only where it is asked in one way, and always leans to ``positive``."""

    def __init__(self, knows: str) -> None:
        super().__init__(f"judge of {knows}")
        self.knows = knows
        self.shown: list[str] = []

    def answer(self, prompt: ScoredPrompt) -> list[float]:
        text = self.encoder.tokenizer.decode(list(prompt.sequences[0].ids))
        self.shown.append(text)
        query = text.rsplit("\n\n", 1)[-1]
        signal = ("good" in query.replace("Good?", "")) - ("bad" in query.removeprefix("It is bad:"))
        return [0.0, 5.0 + (2.0 * signal if self.knows in query else 0.0)]


@pytest.mark.parametrize(
    ("knows", "scoring", "name"),
    [("Good?", "direct", "yes-no"), ("\nIt is", "direct", "several"), ("It is bad:", "channel", "review")],
)
def test_the_way_of_asking_that_answers_held_out_examples_is_chosen(
    tmp_path: Path, knows: str, scoring: str, name: str
) -> None:
    teacher, examples = Judge(knows), labelled(4, 4)
    interview = Interview(teacher, SENTIMENT, SoftLabelStore(tmp_path))
    budget = Budget(labelled=8, num_contexts=2, num_shots=4)
    asking, merits = select_asking(interview, examples, budget, Prompt(), seed=0)
    assert asking.scoring == scoring
    assert (asking.prompt.channel if scoring == "channel" else asking.prompt.pattern) == name
    assert asking.calibration == "batch"  # it leans so far that without calibration half is wrong
    assert max(merits.values()) == merits[f"{scoring}:{name} / batch"] == 1.0
    assert merits[f"{scoring}:{name} / none"] == 0.75
    assert len(merits) == 3 * (3 + 2)  # three ways, and each direct one with the channel


@pytest.mark.parametrize(("of_negative", "of_positive", "shots"), [(8, 2, 4), (2, 8, 8), (5, 4, 7)])
def test_folds_of_few_examples_of_a_label_are_asked_with_fewer(
    tmp_path: Path, of_negative: int, of_positive: int, shots: int
) -> None:
    interview = Interview(Judge("Good?"), SENTIMENT, SoftLabelStore(tmp_path))
    budget = Budget(labelled=of_negative + of_positive, num_contexts=1, num_shots=shots)
    asking, merits = select_asking(
        interview, labelled(of_negative, of_positive), budget, Prompt(), seed=0, temperature=0.25
    )
    assert asking.prompt.pattern == "yes-no"
    assert asking.temperature == 0.25
    assert max(merits.values()) > 0.5


def test_no_held_out_example_is_among_its_demonstrations(tmp_path: Path) -> None:
    teacher, examples = Judge("Good?"), labelled(4, 4)
    interview = Interview(teacher, SENTIMENT, SoftLabelStore(tmp_path))
    select_asking(interview, examples, Budget(labelled=8, num_contexts=1), Prompt(), seed=0)
    texts = [example.fields["text"] for example in examples]
    asked = [text for text in teacher.shown if "N/A" not in text]
    assert asked
    for shown in asked:
        assert sum(shown.count(text) for text in texts) == 7  # six demonstrations and the query
        assert all(shown.count(text) <= 1 for text in texts)


def test_a_summary_leaves_out_what_differs_by_seed() -> None:
    members = [
        cell(
            "in_context",
            id=f"in_context-a-n16x4x8-s{seed}",
            seed=seed,
            pattern=pattern,
            scoring="direct",
            in_domain={},
            out_of_domain={},
        )
        for seed, pattern in enumerate(["one", "two"])
    ]
    line = _summary("in_context-a-n16x4x8", members, {}, samples=10)
    assert (line.pattern, line.scoring) == (None, "direct")


@pytest.mark.parametrize("method", ["in_context", "pattern_finetune"])
def test_methods_of_another_budget_are_not_compared(method: str) -> None:
    distilled = cell("context_distillation", id="context_distillation-a-n16x4x8-s0")
    assert _comparable(distilled, cell(method, id=f"{method}-a-n16x4x8-s1"))
    assert not _comparable(distilled, cell(method, id=f"{method}-a-n32x4x8-s0"))


def test_comparisons_hold_every_pair_and_one_correction_for_all() -> None:
    """A distilled student against zero-shot, both kinds of in-context learning, and its own fine-tuning."""
    at = "n16x4x8"
    names = {
        "zero_shot-m": ("zero_shot", (0,)),
        f"in_context-m-raw-{at}": ("in_context", (0, 1)),
        f"in_context-m-teacher-{at}": ("in_context", (0, 1)),
        f"pattern_finetune-m-{at}": ("pattern_finetune", (0, 1)),
        f"context_distillation-m-{at}": ("context_distillation", (0, 1)),
    }
    cells = [
        cell(method, id=name if method == "zero_shot" else f"{name}-s{seed}", seed=seed)
        for name, (method, seeds) in names.items()
        for seed in seeds
    ]
    rng = np.random.default_rng(3)
    right = {"zero_shot": 0.4, "in_context": 0.5, "pattern_finetune": 0.78, "context_distillation": 0.8}
    found = {
        one.id: {
            split: SplitAnswers([], (rng.random(200) < right[one.method]).astype(float), list(range(200)))
            for split in one.splits
        }
        for one in cells
    }
    made = _comparisons(cells_by_line(cells), found, samples=100)
    keys = list(names)
    assert {(one.a, one.b, one.split) for one in made} == {
        (keys[-1], other, split) for other in keys[:-1] for split in ("snli", "hans")
    }
    assert [one.p_holm for one in made] == holm([one.p for one in made])
    for one in made:
        assert one.seeds == 2
        assert one.p_mcnemar is not None
        assert one.relative is not None
        assert one.relative_ci95 is not None
        assert one.relative_ci95[0] <= one.relative <= one.relative_ci95[1]
        assert (one.relative > 0) == (one.difference > 0)
        far = one.b != f"pattern_finetune-m-{at}"
        assert (one.p_holm is not None and one.p_holm < 0.05) is far
        assert (one.p_mcnemar < 0.05) is far


def test_a_control_is_compared_with_the_line_it_stands_beside() -> None:
    distilled = cell("context_distillation", id="context_distillation-a-n16x4x8-s0")
    control: dict[str, Any] = {"id": "shuffled_labels-a-n16x4x8-s0", "control": "shuffled_labels"}
    assert _comparable(distilled, cell("context_distillation", **control))
    assert not _comparable(distilled, cell("context_distillation", **control | {"tuning": "lora"}))
    assert not _comparable(
        distilled, cell("context_distillation", **control | {"id": "shuffled_labels-a-n32x4x8-s0"})
    )
    assert not _comparable(distilled, distilled)


def test_student_sized_in_context_learning_is_compared_too() -> None:
    distilled = cell("context_distillation", id="context_distillation-a-n16x4x8-s0", student="small")
    for model, comparable in (("small", True), (distilled.teacher, True), ("another", False)):
        other = cell("in_context", id="in_context-m-raw-n16x4x8-s0", teacher=model)
        assert _comparable(distilled, other) is comparable
