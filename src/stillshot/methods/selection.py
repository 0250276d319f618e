"""Choose how to ask the teacher on the labelled examples alone, at the cost of no further label."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_auc_score

from stillshot.config import Budget, Calibration, Prompt, Scoring, TaskDefinition
from stillshot.errors import DataError
from stillshot.methods.asking import Asking, Interview
from stillshot.prompt.demonstrations import draw_contexts
from stillshot.prompt.writer import Kind
from stillshot.teacher import answers
from stillshot.types import Context, Example

MAX_FOLDS = 16


def select_asking(
    interview: Interview,
    labelled: Sequence[Example],
    budget: Budget,
    prompt: Prompt,
    seed: int,
    temperature: float = 1.0,
) -> tuple[Asking, dict[str, float]]:
    """The way of asking under which held-out labelled examples are answered best.

    Each fold leaves out one example of every label (more, where that would make over 16 folds) and
    asks about them under one balanced context of the rest. Candidates are every pattern
    and channel of the task and every calibration; batch calibration takes the held-out answers of all
    folds as its pool.

    Raises:
        DataError: A label has no example to leave out.

    Returns:
        The best candidate, and every candidate's merit: the mean of accuracy and of the macro-averaged
        area under the ROC curve, which a handful of examples tells apart better than accuracy alone.
    """
    task = interview.task
    check_selection(labelled, task.labels)
    folds = leave_out_folds(labelled, task.labels)
    gold = np.array([task.labels.index(str(e.label)) for fold in folds for e in fold])
    scores: dict[tuple[Kind, str], NDArray[np.float64]] = {}
    biases: dict[tuple[Kind, str], NDArray[np.float64]] = {}
    for kind, name in variants(task, prompt):
        asking = Asking(kind, "contextual", named(prompt, kind, name))
        scores[kind, name], biases[kind, name] = _held_out(interview, asking, folds, labelled, budget, seed)
    merits: dict[str, float] = {}
    candidates: dict[str, Asking] = {}
    for asking, parts in _candidates(task, prompt, list(scores)):
        total = sum(_calibrated(scores[part], biases[part], asking.calibration) for part in parts)
        label = " + ".join(f"{kind}:{name}" for kind, name in parts) + f" / {asking.calibration}"
        candidates[label], merits[label] = asking, merit(np.asarray(total), gold)
    best = max(merits, key=lambda label: merits[label])
    return replace(candidates[best], temperature=temperature), merits


def held_out_answers(
    interview: Interview, asking: Asking, labelled: Sequence[Example], budget: Budget, seed: int
) -> NDArray[np.float64]:
    """What a teacher says of each labelled example under one context of others.

    Returns:
        Probabilities before any sharpening, shape ``(labelled, labels)``. Batch calibration takes them all as its pool.
    """
    folds = leave_out_folds(labelled, interview.task.labels)
    total = np.zeros((len(labelled), len(interview.task.labels)))
    for kind in answers.kinds_of(asking.scoring):
        way = Asking(kind, "contextual", asking.prompt)
        scores, biases = _held_out(interview, way, folds, labelled, budget, seed)
        total += _calibrated(scores, biases, asking.calibration)
    places = [labelled.index(example) for fold in folds for example in fold]
    found = np.zeros_like(total)
    found[places] = softmax(total, axis=-1)
    return found


def check_selection(labelled: Sequence[Example], labels: Sequence[str]) -> None:
    """See that there is an example of every label to leave out.

    Raises:
        DataError: A label has none.
    """
    missing = [label for label in labels if not any(example.label == label for example in labelled)]
    if missing:
        raise DataError(
            f"teacher.select leaves out one labelled example of each label, but {missing[0]!r} has none among the "
            f"{len(labelled)} of this budget. Ask for at least {len(labels)} (budgets.labelled), or set "
            "teacher.select to false."
        )


def leave_out_folds(labelled: Sequence[Example], labels: Sequence[str]) -> list[list[Example]]:
    """At most 16 disjoint groups of all examples, each with one or more of every label."""
    by_label = {label: [e for e in labelled if e.label == label] for label in labels}
    count = min(MAX_FOLDS, min(map(len, by_label.values())))
    return [[e for label in labels for e in by_label[label][index::count]] for index in range(count)]


def merit(log_probabilities: NDArray[np.float64], gold: NDArray[np.int64]) -> float:
    """Mean of accuracy and macro one-against-rest area under the ROC curve.

    Args:
        log_probabilities: Shape ``(items, labels)``.
        gold: Label indices, shape ``(items,)``; every label occurs.
    """
    accuracy = (log_probabilities.argmax(-1) == gold).mean()
    normalised = log_softmax(log_probabilities, axis=-1)
    areas = [roc_auc_score(gold == label, normalised[:, label]) for label in range(normalised.shape[1])]
    return float((accuracy + np.mean(areas)) / 2)


def _held_out(
    interview: Interview,
    asking: Asking,
    folds: Sequence[Sequence[Example]],
    labelled: Sequence[Example],
    budget: Budget,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of the held-out examples, and for each the bias its context shows on a query without content."""
    rows, shifts = [], []
    for fold in folds:
        rest = [example for example in labelled if example not in fold]
        shots = _shots(rest, budget)
        contexts = (
            draw_contexts(
                rest, interview.task.labels, Budget(labelled=len(rest), num_contexts=1, num_shots=shots), seed
            )
            if rest
            else (Context(),)  # one example a label: nothing is left to show
        )
        contexts = interview.fitted(asking, contexts, fold)
        kind = answers.kinds_of(asking.scoring)[0]
        rows.append(interview.scores(asking, contexts, fold)[kind][0])
        shifts.append(np.repeat(np.asarray(interview.biases(asking, contexts)[kind])[0], len(fold), axis=0))
    return np.concatenate(rows), np.concatenate(shifts)


def _shots(rest: Sequence[Example], budget: Budget) -> int:
    """As many as the budget's contexts have, or fewer where a label has too few examples left for that."""
    if budget.shots >= len(rest):
        return len(rest)
    counts = Counter(example.label for example in rest)
    return min(budget.shots, min(counts.values()) * len(counts))


def _calibrated(
    scores: NDArray[np.float64], content_free: NDArray[np.float64], calibration: Calibration
) -> NDArray[np.float64]:
    if calibration == "contextual":
        return answers.calibrate(scores, content_free)
    return answers.calibrate(scores, answers.batch_bias(scores) if calibration == "batch" else 0.0)


def variants(task: TaskDefinition, prompt: Prompt) -> list[tuple[Kind, str]]:
    """Every pattern, and every channel where prompts are plain."""
    direct: list[tuple[Kind, str]] = [("direct", name) for name in task.patterns]
    return direct if prompt.chat else direct + [("channel", name) for name in task.channels]


def named(prompt: Prompt, kind: Kind, name: str) -> Prompt:
    """The prompt section with a pattern or channel of this name."""
    return prompt.model_copy(update={"pattern" if kind == "direct" else "channel": name})


def _candidates(
    task: TaskDefinition, prompt: Prompt, variants: list[tuple[Kind, str]]
) -> list[tuple[Asking, list[tuple[Kind, str]]]]:
    calibrations: tuple[Calibration, ...] = ("batch", "contextual", "none")
    found: list[tuple[Asking, list[tuple[Kind, str]]]] = []
    for calibration, (kind, name) in itertools.product(calibrations, variants):
        found.append((Asking(kind, calibration, named(prompt, kind, name)), [(kind, name)]))
    both: Scoring = "both"
    for calibration in calibrations:
        for direct, channel in itertools.product(task.patterns, task.channels if not prompt.chat else ()):
            chosen = prompt.model_copy(update={"pattern": direct, "channel": channel})
            found.append((Asking(both, calibration, chosen), [("direct", direct), ("channel", channel)]))
    return found
