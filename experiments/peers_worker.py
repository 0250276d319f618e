"""Trains and asks one peer: another way to use the same labelled examples.

Runs in an environment of its own (``make peers-accuracy``) and knows nothing of Stillshot:

    python peers_worker.py JOB.json ANSWER.json

A job names the peer and holds what it may learn from, and texts to answer; a text is a list of its fields.
Everything that is not said here is the library's default.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Texts = Sequence[list[str]]
VERSIONS = ("setfit", "sentence-transformers", "scikit-learn", "transformers", "torch", "numpy")


@dataclass(frozen=True)
class Lesson:
    """What a peer learns from: labels are numbers from 0; some peers use ``unlabelled`` and ``encoder``."""

    texts: Texts
    labels: list[int]
    unlabelled: Texts
    encoder: str | None  # a folder or Hub id
    seed: int


class Peer(Protocol):
    """A peer imports its libraries when it is made, so that memory can be counted from there."""

    def fit(self, lesson: Lesson) -> None:
        """Learn."""

    def probabilities(self, texts: Texts) -> np.ndarray:
        """One row a text, one column a label that was learnt."""

    def sizes(self) -> tuple[int, int, int]:
        """All parameters, those that were trained, and bytes of all."""

    @property
    def pseudo_labelled(self) -> int:
        """Unlabelled texts that it labelled itself and learned from."""


class LogisticRegressionOnFeatures:
    """Logistic regression on TF-IDF or on a frozen encoder's embeddings, with self-training if asked.

    Not the defaults: weaker regularization (``C`` 10), without which unit vectors give probabilities that
    hardly leave 1/labels and self-training adds nothing; and balanced classes, without which self-training
    ends in one label. Both were chosen on development sets (SST-2, TREC), where no setting of self-training
    gained on 16 labels, and ``k_best`` lost most.
    """

    def __init__(self, features: Callable[[], Features], *, self_training: bool) -> None:
        import sklearn.linear_model
        import sklearn.semi_supervised  # noqa: F401

        self.features, self.self_training = features(), self_training
        self.model: Any = None

    def fit(self, lesson: Lesson) -> None:
        """See :class:`Peer`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.semi_supervised import SelfTrainingClassifier

        self.model = LogisticRegression(
            C=10, class_weight="balanced", max_iter=1000, random_state=lesson.seed
        )
        if not self.self_training:
            self.model.fit(self.features.fit(lesson, lesson.texts), lesson.labels)
            return
        self.model = SelfTrainingClassifier(self.model)
        unknown = [-1] * len(lesson.unlabelled)
        self.model.fit(
            self.features.fit(lesson, [*lesson.texts, *lesson.unlabelled]), [*lesson.labels, *unknown]
        )

    def probabilities(self, texts: Texts) -> np.ndarray:
        """See :class:`Peer`."""
        return self.model.predict_proba(self.features.of(texts))

    def sizes(self) -> tuple[int, int, int]:
        """See :class:`Peer`."""
        head = self.model.estimator_ if self.self_training else self.model
        trained, trained_bytes = _head_sizes(head)
        frozen, frozen_bytes = self.features.sizes()
        return frozen + trained, trained, frozen_bytes + trained_bytes

    @property
    def pseudo_labelled(self) -> int:
        """See :class:`Peer`."""
        return int((self.model.labeled_iter_ > 0).sum()) if self.self_training else 0


class Features(Protocol):
    """Texts as rows of numbers."""

    def fit(self, lesson: Lesson, texts: Texts) -> Any:
        """Get ready, and the features of the texts that there are to learn from."""

    def of(self, texts: Texts) -> Any:
        """The features of other texts."""

    def sizes(self) -> tuple[int, int]:
        """Parameters and bytes."""


class Tfidf:
    """Words and pairs of neighbouring words, with sublinear counts."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)

    def fit(self, lesson: Lesson, texts: Texts) -> Any:
        """See :class:`Features`."""
        return self.vectorizer.fit_transform([" ".join(fields) for fields in texts])

    def of(self, texts: Texts) -> Any:
        """See :class:`Features`."""
        return self.vectorizer.transform([" ".join(fields) for fields in texts])

    def sizes(self) -> tuple[int, int]:
        """See :class:`Features`: the inverse document frequencies and the vocabulary's words."""
        words = sum(len(word.encode()) for word in self.vectorizer.vocabulary_)
        return len(self.vectorizer.idf_), self.vectorizer.idf_.nbytes + words


class Embeddings:
    """What a frozen sentence encoder makes of a text; the fields of a pair stand side by side."""

    def __init__(self) -> None:
        import sentence_transformers  # noqa: F401

        self.model: Any = None

    def fit(self, lesson: Lesson, texts: Texts) -> Any:
        """See :class:`Features`."""
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(lesson.encoder)
        return self.of(texts)

    def of(self, texts: Texts) -> Any:
        """See :class:`Features`."""
        return self.model.encode(_side_by_side(texts, self.model.tokenizer), show_progress_bar=False)

    def sizes(self) -> tuple[int, int]:
        """See :class:`Features`."""
        return _encoder_sizes(self.model)


class SetFit:
    """SetFit (Tunstall et al. 2022): the encoder is tuned on pairs of examples, then a logistic regression."""

    def __init__(self) -> None:
        import setfit  # noqa: F401

        self.model: Any = None

    def fit(self, lesson: Lesson) -> None:
        """See :class:`Peer`."""
        from datasets import Dataset
        from setfit import SetFitModel, Trainer, TrainingArguments

        self.model = SetFitModel.from_pretrained(lesson.encoder)
        texts = _side_by_side(lesson.texts, self.model.model_body.tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                model=self.model,
                args=TrainingArguments(
                    output_dir=folder,
                    seed=lesson.seed,
                    report_to="none",
                    save_strategy="no",
                    show_progress_bar=False,
                ),
                train_dataset=Dataset.from_dict({"text": texts, "label": lesson.labels}),
            ).train()

    def probabilities(self, texts: Texts) -> np.ndarray:
        """See :class:`Peer`."""
        shown = _side_by_side(texts, self.model.model_body.tokenizer)
        return self.model.predict_proba(shown, as_numpy=True, show_progress_bar=False)

    def sizes(self) -> tuple[int, int, int]:
        """See :class:`Peer`."""
        body, body_bytes = _encoder_sizes(self.model.model_body)
        head, head_bytes = _head_sizes(self.model.model_head)
        return body + head, body + head, body_bytes + head_bytes

    @property
    def pseudo_labelled(self) -> int:
        """See :class:`Peer`."""
        return 0


PEERS: dict[str, Callable[[], Peer]] = {
    "setfit": SetFit,
    "linear_probe": lambda: LogisticRegressionOnFeatures(Embeddings, self_training=False),
    "linear_probe_self_training": lambda: LogisticRegressionOnFeatures(Embeddings, self_training=True),
    "tfidf": lambda: LogisticRegressionOnFeatures(Tfidf, self_training=False),
    "tfidf_self_training": lambda: LogisticRegressionOnFeatures(Tfidf, self_training=True),
}


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job: probabilities for each evaluation set, over all labels, and what it took."""
    peer = PEERS[job["peer"]]()
    lesson = Lesson(
        texts=[row["text"] for row in job["labelled"]],
        labels=[row["label"] for row in job["labelled"]],
        unlabelled=job["unlabelled"],
        encoder=job["encoder"],
        seed=job["seed"],
    )
    gc.collect()
    libraries, started = _memory("VmRSS", reset=True), time.perf_counter()
    peer.fit(lesson)
    train_seconds, peak = time.perf_counter() - started, _memory("VmHWM")
    parameters, trained, size = peer.sizes()
    columns = sorted(set(lesson.labels))
    started = time.perf_counter()
    found = {}
    for name, texts in job["evaluation"].items():
        rows = np.zeros((len(texts), job["num_labels"]))
        rows[:, columns] = peer.probabilities(texts)
        found[name] = rows.tolist()
    return {
        "probabilities": found,
        "pseudo_labelled": peer.pseudo_labelled,
        "parameters": parameters,
        "trainable_parameters": trained,
        "model_bytes": size,
        "peak_memory_bytes": max(0, peak - libraries),
        "train_seconds": train_seconds,
        "evaluate_seconds": time.perf_counter() - started,
        "latency_ms": _latencies(peer, next(iter(job["evaluation"].values()), []), job["latency_queries"]),
        "versions": _versions(),
    }


def _side_by_side(texts: Texts, tokenizer: Any) -> list[str]:
    return [f" {tokenizer.sep_token} ".join(fields) for fields in texts]


def _encoder_sizes(encoder: Any) -> tuple[int, int]:
    weights = list(encoder.parameters())
    return sum(w.numel() for w in weights), sum(w.numel() * w.element_size() for w in weights)


def _head_sizes(head: Any) -> tuple[int, int]:
    return head.coef_.size + head.intercept_.size, head.coef_.nbytes + head.intercept_.nbytes


def _latencies(peer: Peer, texts: Texts, count: int) -> dict[str, float]:
    """Milliseconds of one text at a time: median and 95th percentile of ``count``, after one more."""
    if not texts or not count:
        return {}
    taken = []
    for index in [0, *range(count)]:
        started = time.perf_counter()
        peer.probabilities([texts[index % len(texts)]])
        taken.append((time.perf_counter() - started) * 1000)
    return {"p50": float(np.percentile(taken[1:], 50)), "p95": float(np.percentile(taken[1:], 95))}


def _memory(name: str, *, reset: bool = False) -> int:
    """Bytes of this process: ``VmRSS`` resident now, ``VmHWM`` the most so far; 0 where unknown."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    source, target = sys.argv[1:]
    answered = answer(json.loads(Path(source).read_text(encoding="utf-8")))
    Path(target).write_text(json.dumps(answered), encoding="utf-8")
