"""The losses: what they equal, where they vanish, how rows are weighed and masked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from torch import Tensor

from stillshot.student.losses import distillation_loss, divergence, row_weights, vocabulary_targets

Array = NDArray[np.float64]
LOGITS = arrays(np.float64, (4, 3), elements=st.floats(-8, 8))
BETAS = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


def tensor(values: Array) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def kl(p: Array, q: Array) -> Array:
    return rel_entr(p, q).sum(-1)


@given(student=LOGITS, teacher=LOGITS)
def test_beta_zero_is_the_forward_kl_and_one_the_reverse(student: Array, teacher: Array) -> None:
    p, q = softmax(teacher, -1), softmax(student, -1)
    found = divergence(tensor(student), tensor(p), beta=0.0)
    np.testing.assert_allclose(found.numpy(), kl(p, q), rtol=1e-3, atol=1e-5)
    found = divergence(tensor(student), tensor(p), beta=1.0)
    np.testing.assert_allclose(found.numpy(), kl(q, p), rtol=1e-3, atol=1e-5)


@given(student=LOGITS, teacher=LOGITS)
def test_beta_one_half_is_the_jensen_shannon_divergence(student: Array, teacher: Array) -> None:
    p, q = softmax(teacher, -1), softmax(student, -1)
    expected = (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
    found = divergence(tensor(student), tensor(p), beta=0.5).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert (found <= math.log(2) + 1e-6).all()


@given(student=LOGITS, shift=st.floats(-5, 5), beta=BETAS)
def test_a_divergence_vanishes_where_student_and_teacher_agree(
    student: Array, shift: float, beta: float
) -> None:
    """Logits are defined up to a constant a row, which is no disagreement."""
    found = divergence(tensor(student + shift), tensor(softmax(student, -1)), beta)
    np.testing.assert_allclose(found.numpy(), 0.0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_divergence_is_positive_where_they_differ(beta: float) -> None:
    teacher = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    student = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert (divergence(student, teacher, beta) > 0.01).all()


def test_a_certain_teacher_makes_the_forward_kl_a_cross_entropy() -> None:
    student, one_hot = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    expected = torch.nn.functional.cross_entropy(student, torch.tensor([2]), reduction="none")
    torch.testing.assert_close(divergence(student, one_hot), expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 2.0, 5.0])
def test_temperature_softens_both_sides_and_scales_by_its_square(temperature: float, beta: float) -> None:
    logits, teacher = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.2, 0.5, 0.3]])
    softened = (teacher.log() / temperature).softmax(-1)
    expected = divergence(logits / temperature, softened, beta) * temperature**2
    torch.testing.assert_close(divergence(logits, teacher, beta, temperature), expected)


def test_large_logits_stay_finite() -> None:
    logits, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 1.0]])
    for beta in (0.0, 0.5, 1.0):
        assert torch.isfinite(divergence(logits, teacher, beta)).all()


@given(
    num_soft=st.integers(1, 60), num_hard=st.integers(1, 60), weight=st.floats(0, 1), seed=st.integers(0, 5)
)
def test_the_mean_over_rows_balances_soft_and_hard_means(
    num_soft: int, num_hard: int, weight: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    soft, hard = rng.random(num_soft), rng.random(num_hard)
    soft_weight, hard_weight = row_weights(num_soft, num_hard, weight)
    over_rows = np.concatenate([soft * soft_weight, hard * hard_weight]).mean()
    assert over_rows == pytest.approx((1 - weight) * soft.mean() + weight * hard.mean())


@pytest.mark.parametrize("counts", [(5, 0), (0, 5)])
def test_rows_of_one_sort_have_all_the_weight(counts: tuple[int, int]) -> None:
    assert row_weights(*counts, 0.2) == (1.0, 1.0)


def test_soft_rows_are_taught_by_soft_labels_and_hard_rows_by_labels() -> None:
    logits = torch.tensor([[0.5, -0.5], [1.0, 0.0], [0.0, 3.0]])
    soft = torch.tensor([[0.3, 0.7], [float("nan")] * 2, [0.9, 0.1]])  # the hard row's are not read
    soft_only = torch.stack([divergence(logits[:1], soft[:1])[0], divergence(logits[2:], soft[2:])[0]])
    cross_entropy = -torch.log_softmax(logits[1], -1)[1]
    found = distillation_loss(logits, soft, torch.tensor([-100, 1, -100]), torch.tensor([1.0, 3.0, 0.5]))
    expected = (soft_only[0] * 1.0 + cross_entropy * 3.0 + soft_only[1] * 0.5) / 3
    torch.testing.assert_close(found, expected)


def test_temperature_does_not_touch_the_cross_entropy() -> None:
    logits, soft = torch.tensor([[0.5, -0.5]]), torch.tensor([[0.5, 0.5]])
    labels, weight = torch.tensor([0]), torch.ones(1)
    cold, hot = (distillation_loss(logits, soft, labels, weight, temperature=t, beta=0.5) for t in (1.0, 4.0))
    torch.testing.assert_close(cold, hot)


def test_the_gradient_goes_to_the_student_alone() -> None:
    student = torch.tensor([[0.5, -0.5], [0.1, 0.2]], requires_grad=True)
    soft = torch.tensor([[0.3, 0.7], [0.5, 0.5]])
    distillation_loss(student, soft, torch.tensor([-100, -100]), torch.ones(2)).backward()
    assert student.grad is not None
    # The gradient of KL(teacher || student) is the student's distribution less the teacher's.
    expected = (student.detach().softmax(-1) - soft) / 2
    torch.testing.assert_close(student.grad, expected)
    assert soft.grad is None


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5])
def test_over_a_vocabulary_all_other_tokens_count_as_one(beta: float, temperature: float) -> None:
    """The target has no mass on them, at any temperature, so only their mass together matters."""
    logits = torch.randn(3, 40_000, generator=torch.Generator().manual_seed(0))
    soft, labels, tokens = torch.tensor([[0.3, 0.7]]).repeat(3, 1), torch.tensor([-100, 1, -100]), [7, 31_000]
    spread, token_ids = vocabulary_targets(soft, labels, tokens, logits.shape[1])
    assert token_ids.tolist() == [-100, 31_000, -100]
    torch.testing.assert_close(spread[:, tokens], soft)
    assert spread.sum() == pytest.approx(3.0)
    found = distillation_loss(logits, spread, token_ids, torch.ones(3), beta=beta, temperature=temperature)
    softened = (logits / temperature).log_softmax(-1)
    others = [token for token in range(logits.shape[1]) if token not in tokens]
    grouped = torch.cat([softened[:, tokens], softened[:, others].logsumexp(-1, keepdim=True)], dim=-1)
    target = torch.cat([(soft.log() / temperature).softmax(-1), torch.zeros(3, 1)], dim=-1)
    divergences = divergence(grouped, target, beta) * temperature**2
    hard = -logits.log_softmax(-1)[1, 31_000]
    torch.testing.assert_close(found, (divergences[0] + hard + divergences[2]) / 3, rtol=1e-4, atol=1e-4)


def test_what_the_teacher_rules_out_stays_ruled_out_at_any_temperature() -> None:
    soft = torch.tensor([[0.5, 0.5, 0.0]])
    agreeing = torch.tensor([[0.0, 0.0, -1e4]])
    for beta in (0.0, 0.5, 1.0):
        found = divergence(agreeing, soft, beta, temperature=5.0)
        torch.testing.assert_close(found, torch.zeros(1), atol=1e-5, rtol=0.0)


def test_reduced_precision_logits_are_raised_to_float32() -> None:
    logits = torch.tensor([[0.5, -0.5]], dtype=torch.bfloat16)
    assert divergence(logits, torch.tensor([[0.3, 0.7]])).dtype == torch.float32


def test_hand_example() -> None:
    found = divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.25, 0.75]]))
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert found.item() == pytest.approx(expected, abs=1e-6)
