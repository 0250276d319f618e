"""What a student is trained on: divergence from soft labels, cross-entropy on labelled demonstrations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The log-probability that stands for none.
_LEAST = math.log(1e-12)


def divergence(
    student_logits: Tensor, soft_labels: Tensor, beta: float = 0.0, temperature: float = 1.0
) -> Tensor:
    """Divergence of a student's label distribution from its teacher's, one a row.

    ``beta`` 0 is the forward KL(teacher || student), 1 the reverse KL, between them the generalised
    Jensen-Shannon divergence (Agarwal et al. 2024, eq. 1). Both distributions are softened by the
    temperature and the result is multiplied by its square (Hinton et al. 2015).

    Args:
        student_logits: Shape ``(batch, labels)``.
        soft_labels: Probabilities, same shape; each row sums to one.

    Returns:
        Shape ``(batch,)``, float32, not negative.
    """
    student = torch.log_softmax(student_logits.float() / temperature, dim=-1)
    # What the teacher rules out stays ruled out at any temperature, and finitely so for the reverse KL.
    teacher = torch.log_softmax(soft_labels.float().log() / temperature, dim=-1).clamp_min(_LEAST)
    if beta == 0.0:
        result = _kl(teacher, student)
    elif beta == 1.0:
        result = _kl(student, teacher)
    else:
        mixture = torch.logaddexp(student + math.log(1 - beta), teacher + math.log(beta))
        result = beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)
    return result * temperature**2


def _kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) of log-distributions, over the last axis."""
    return (left.exp() * (left - right)).sum(-1)


def row_weights(num_soft: int, num_hard: int, hard_label_weight: float) -> tuple[float, float]:
    """Weights of a soft and of a hard row, for a mean over all rows of a data set.

    With them the mean over rows is ``(1 - w)`` times the mean divergence over the soft rows plus ``w``
    times the mean cross-entropy over the hard ones, however few these are and however batches fall.
    Where there is only one sort of rows, it has all the weight.
    """
    if not num_soft or not num_hard:
        return 1.0, 1.0
    rows = num_soft + num_hard
    return (1 - hard_label_weight) * rows / num_soft, hard_label_weight * rows / num_hard


def vocabulary_targets(
    soft_labels: Tensor, labels: Tensor, label_tokens: Sequence[int], size: int
) -> tuple[Tensor, Tensor]:
    """Targets over a vocabulary: soft labels stand at the tokens of their label words, and no mass elsewhere.

    The loss over the vocabulary then teaches two things: to answer with a label word at all, and with which.

    Args:
        soft_labels: Shape ``(batch, labels)``.
        labels: Label indices, shape ``(batch,)``; -100 for rows taught by soft labels.
        label_tokens: The token of each label.
        size: Tokens in the vocabulary.

    Returns:
        ``soft_labels`` of shape ``(batch, size)``, and ``labels`` as token ids (-100 stays).
    """
    tokens = torch.tensor(label_tokens, device=labels.device)
    spread = soft_labels.new_zeros(len(soft_labels), size)
    spread[:, tokens] = soft_labels
    return spread, torch.where(labels == -100, labels, tokens[labels.clamp_min(0)])


def distillation_loss(
    student_logits: Tensor,
    soft_labels: Tensor,
    labels: Tensor,
    row_weight: Tensor,
    *,
    beta: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """The weighted mean over a batch of divergence and cross-entropy.

    Args:
        student_logits: Shape ``(batch, labels)``, or ``(batch, vocabulary)`` with the targets of
            :func:`vocabulary_targets`.
        soft_labels: Same shape; rows with a gold label are not read.
        labels: Gold label indices, shape ``(batch,)``; -100 for rows taught by soft labels.
        row_weight: Shape ``(batch,)``, from :func:`row_weights`.

    Returns:
        A scalar.
    """
    hard = torch.nn.functional.cross_entropy(
        student_logits.float(), labels, ignore_index=-100, reduction="none"
    )
    soft = divergence(student_logits, soft_labels, beta, temperature)
    return (torch.where(labels == -100, soft, hard) * row_weight).mean()
