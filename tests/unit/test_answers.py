"""From raw scores to soft labels: what calibration removes, what ensembling means. All pure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import softmax

from stillshot.teacher.answers import batch_bias, calibrate, ensemble, kinds_of, soft_labels

Array = NDArray[np.float64]
FLOATS = st.floats(-20, 20)
POOL = st.integers(1, 12).flatmap(lambda rows: arrays(np.float64, (rows, 3), elements=FLOATS))
CONTEXTS = st.tuples(st.integers(1, 4), st.integers(1, 8)).flatmap(
    lambda shape: arrays(np.float64, (*shape, 3), elements=FLOATS)
)
ROW = arrays(np.float64, 3, elements=FLOATS)


@given(scores=POOL, bias=ROW)
def test_calibrated_rows_sum_to_one(scores: Array, bias: Array) -> None:
    for calibrated in (
        calibrate(scores, 0.0),
        calibrate(scores, bias),
        calibrate(scores, batch_bias(scores)),
    ):
        np.testing.assert_allclose(np.exp(calibrated).sum(-1), 1.0)


@given(scores=POOL, constants=st.floats(-50, 50))
def test_a_constant_a_row_is_no_information(scores: Array, constants: float) -> None:
    shifted = scores + constants * np.arange(len(scores))[:, None]
    np.testing.assert_allclose(calibrate(shifted, 0.0), calibrate(scores, 0.0), atol=1e-8)
    np.testing.assert_allclose(batch_bias(shifted), batch_bias(scores), atol=1e-8)


@given(scores=POOL, bias=ROW)
def test_contextual_calibration_removes_the_bias_it_is_told(scores: Array, bias: Array) -> None:
    biased = calibrate(scores, 0.0) + bias
    np.testing.assert_allclose(calibrate(biased, bias), calibrate(scores, 0.0), atol=1e-8)


@given(bias=ROW)
def test_batch_calibration_of_a_pool_without_signal_is_uniform(bias: Array) -> None:
    """Every query gets the same answer, so all of it is bias."""
    pool = np.tile(bias, (5, 1))
    np.testing.assert_allclose(np.exp(calibrate(pool, batch_bias(pool))), 1 / 3, atol=1e-8)


def test_batch_calibration_brings_a_tilted_pool_towards_balance() -> None:
    rng = np.random.default_rng(0)
    tilted = rng.normal(size=(400, 3)) + np.array([4.0, 0.0, -4.0])
    before = softmax(tilted, -1)
    after = np.exp(calibrate(tilted, batch_bias(tilted)))
    assert before.mean(0).max() > 0.9
    assert after.mean(0).max() < 0.55
    assert (np.bincount(after.argmax(-1), minlength=3) > 60).all()


def test_the_bias_of_each_context_is_its_own() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 6, 3))
    scores[1] += np.array([3.0, 0.0, 0.0])
    bias = batch_bias(scores)
    assert bias.shape == (2, 1, 3)
    for context in range(2):
        np.testing.assert_allclose(bias[context], batch_bias(scores[context]))


@given(scores=CONTEXTS)
def test_an_ensemble_is_the_mean_distribution(scores: Array) -> None:
    answers = calibrate(scores, 0.0)
    np.testing.assert_allclose(np.exp(ensemble(answers)), np.exp(answers).mean(0), atol=1e-9)
    np.testing.assert_allclose(ensemble(answers[:1]), answers[0], atol=1e-9)
    np.testing.assert_allclose(ensemble(answers[::-1]), ensemble(answers), atol=1e-9)


@given(scores=CONTEXTS, temperature=st.floats(0.2, 5))
def test_soft_labels_are_distributions_sharpened_by_temperature(scores: Array, temperature: float) -> None:
    found = soft_labels({"direct": scores}, {"direct": 0.0}, temperature)
    np.testing.assert_allclose(found.sum(-1), 1.0)
    plain = np.exp(calibrate(scores, 0.0)).mean(0)
    sharpened = plain ** (1 / temperature)
    np.testing.assert_allclose(found, sharpened / sharpened.sum(-1, keepdims=True), atol=1e-6)


@given(direct=CONTEXTS)
def test_kinds_are_multiplied(direct: Array) -> None:
    channel = direct[:, ::-1] * 0.5
    both = soft_labels({"direct": direct, "channel": channel}, {"direct": 0.0, "channel": 0.0})
    product = soft_labels({"direct": direct}, {"direct": 0.0}) * soft_labels(
        {"channel": channel}, {"channel": 0.0}
    )
    np.testing.assert_allclose(both, product / product.sum(-1, keepdims=True), atol=1e-6)


@given(scores=CONTEXTS, bias=ROW)
def test_soft_labels_divide_the_bias_out_before_averaging(scores: Array, bias: Array) -> None:
    biased = calibrate(scores, 0.0) + bias
    np.testing.assert_allclose(
        soft_labels({"direct": biased}, {"direct": bias}),
        soft_labels({"direct": scores}, {"direct": 0.0}),
        atol=1e-8,
    )


def test_nothing_is_changed_in_place() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 4, 3))
    before = scores.copy()
    soft_labels({"direct": scores}, {"direct": batch_bias(scores)}, 2.0)
    assert (scores == before).all()


@pytest.mark.parametrize(
    ("scoring", "kinds"),
    [("direct", ("direct",)), ("channel", ("channel",)), ("both", ("direct", "channel"))],
)
def test_scorings_and_their_kinds(scoring: str, kinds: tuple[str, ...]) -> None:
    assert kinds_of(scoring) == kinds  # type: ignore[arg-type]
