"""The schema of run records: what a cell measured, and ``results.json``.

The one place that says which keys exist; reports and tests read records through these classes. ``peers.json``,
where it is, holds what other tools did on the same budgets (:class:`Peers`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

# Keys whose values are measured and so differ between two runs of the same cell.
MEASURED_KEYS = frozenset(
    {
        "peak_memory_bytes",
        "train_seconds",
        "label_seconds",
        "evaluate_seconds",
        "latency_ms",
        "hardware",
        "versions",
    }
)


class Record(BaseModel):
    """A part of the schema: unknown keys are refused. Numbers are finite where they are written, as JSON has no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupResult(Record):
    n: int
    accuracy: float


class SplitResult(Record):
    """What one predictor did on one evaluation set.

    Attributes:
        n: Evaluated items.
        ci95: Exact limits of the accuracy (Clopper and Pearson 1934); in older records a bootstrap over items.
        nll: Mean negative log-likelihood of the gold label, in nats.
        ece: Expected calibration error (Guo et al. 2017).
        calibrated_accuracy: Were the predictor's bias towards labels divided out, as its answers to this set show it
            without their gold labels (batch calibration, Zhou et al. 2024). Null in records that are older.
        predicted: Rate at which each label is predicted; a constant predictor shows here.
        confusion: Gold labels in rows, predicted ones in columns, in the order of ``labels``.
        by_group: Accuracy by group name and value, e.g. ``{"heuristic": {"subsequence": ...}}``.
    """

    n: int
    labels: list[str]
    accuracy: float
    ci95: tuple[float, float]
    macro_f1: float
    nll: float
    ece: float
    calibrated_accuracy: float | None = None
    predicted: dict[str, float]
    confusion: list[list[int]]
    by_group: dict[str, dict[str, GroupResult]] = {}


class Experts(Record):
    """Weights of the teacher's and of the student's own expert in soft labels, and how each answers held-out labels."""

    teacher: float
    own: float
    held_out_teacher: float
    held_out_own: float


class Cell(Record):
    """One method with one student (or teacher), one budget of labels and one seed.

    ``student`` is null for methods that train nothing; ``teacher`` is null for those that ask no
    teacher. ``labelled`` counts labelled examples used, ``unlabelled`` queries taught by soft labels.
    ``peak_memory_bytes`` is what training (or, where nothing is trained, asking the model) took above
    the process with its libraries loaded. ``teacher_agreement`` is, by evaluation set, the share of
    items where the student's answer is its teacher's. ``experts`` says what its soft labels were mixed of, where
    a student's ``own_expert`` was asked. ``control`` marks a distillation that is to show what
    the context gave: its teacher saw none, or one with shuffled labels.
    """

    id: str
    method: Literal["zero_shot", "in_context", "pattern_finetune", "context_distillation"]
    teacher: str | None = None
    student: str | None = None
    head: Literal["label", "channel", "language_model"] | None = None
    tuning: Literal["full", "lora", "bitfit"] | None = None
    pattern: str | None = None
    channel: str | None = None
    scoring: Literal["direct", "channel", "both"] | None = None
    calibration: Literal["none", "contextual", "batch"] | None = None
    num_shots: int = 0
    num_contexts: int = 0
    control: Literal["zero_shot_teacher", "shuffled_labels"] | None = None
    seed: int
    labelled: int = 0
    unlabelled: int = 0
    in_domain: dict[str, SplitResult] = {}
    out_of_domain: dict[str, SplitResult] = {}
    teacher_agreement: dict[str, float] = {}
    experts: Experts | None = None
    parameters: int
    trainable_parameters: int = 0
    model_bytes: int
    peak_memory_bytes: int
    train_steps: int = 0
    train_seconds: float = 0.0
    label_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    query_tokens: int = 0
    latency_ms: dict[str, float] = {}
    failed: str | None = None

    @property
    def splits(self) -> dict[str, SplitResult]:
        """In- and out-of-domain results together."""
        return {**self.in_domain, **self.out_of_domain}


class Interval(Record):
    """A mean over seeds; ``ci95`` is a bootstrap over seeds and items.

    Of one seed it is exact, and where few items are answered wrongly or rightly, it is widened by exact limits; in older
    records it is not.
    """

    mean: float
    ci95: tuple[float, float]
    seeds: int


class SummaryLine(Record):
    """A cell's line over its seeds, with medians of what was measured; null is what differs by seed."""

    key: str
    method: str
    teacher: str | None
    student: str | None
    head: str | None
    tuning: str | None
    pattern: str | None = None
    channel: str | None = None
    scoring: str | None
    calibration: str | None
    num_shots: int
    num_contexts: int
    control: str | None = None
    labelled: int
    unlabelled: int
    in_domain: dict[str, Interval]
    out_of_domain: dict[str, Interval]
    parameters: int
    trainable_parameters: int
    model_bytes: int
    peak_memory_bytes: int
    train_seconds: float
    label_seconds: float
    latency_ms: dict[str, float]


class Comparison(Record):
    """Accuracy of ``a`` minus that of ``b`` on the same items and seeds, by paired bootstrap.

    ``a`` and ``b`` are keys of summary lines; ``seeds`` says how many seeds both have. What has a
    default was not yet computed by the first versions that wrote this schema. Where few items differ, exact limits and
    the exact test over these items widen the bootstrap, unless the record is older.

    Attributes:
        p: Two-sided, by the same bootstrap as ``ci95``; where few items differ, no smaller than the exact test's.
        p_holm: ``p`` after Holm's correction over all comparisons of the run.
        p_mcnemar: McNemar's exact test, seeds pooled; not corrected.
        relative: Gain of ``a`` as a share of the accuracy of ``b``; null where ``b`` is nearly never right.
    """

    a: str
    b: str
    split: str
    seeds: int = 1
    difference: float
    ci95: tuple[float, float]
    p: float
    p_holm: float | None = None
    p_mcnemar: float | None = None
    relative: float | None = None
    relative_ci95: tuple[float, float] | None = None


class Results(Record):
    """``results.json``."""

    schema_: int = SCHEMA_VERSION
    name: str
    task: str
    labels: list[str]
    description: str = ""
    versions: dict[str, str]
    hardware: dict[str, Any]
    cells: list[Cell]
    summary: list[SummaryLine]
    comparisons: list[Comparison]

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: "schema" if name == "schema_" else name,
        populate_by_name=True,
    )


# Peers -------------------------------------------------------------------------------------------


class PeerCell(Record):
    """Another tool, given the labelled examples of one budget and seed of a run.

    ``peer`` is its name (e.g. ``setfit``), ``encoder`` the pretrained model it uses, if any.
    ``unlabelled`` counts the queries it was given, ``pseudo_labelled`` those that it labelled itself and
    learned from. What was measured means what it means in a :class:`Cell`.
    """

    id: str
    peer: str
    encoder: str | None = None
    seed: int
    labelled: int
    unlabelled: int = 0
    pseudo_labelled: int = 0
    in_domain: dict[str, SplitResult] = {}
    out_of_domain: dict[str, SplitResult] = {}
    parameters: int = 0
    trainable_parameters: int = 0
    model_bytes: int = 0
    peak_memory_bytes: int = 0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    latency_ms: dict[str, float] = {}
    failed: str | None = None

    @property
    def splits(self) -> dict[str, SplitResult]:
        """In- and out-of-domain results together."""
        return {**self.in_domain, **self.out_of_domain}


class PeerLine(Record):
    """A peer over its seeds, with medians of what was measured."""

    key: str
    peer: str
    encoder: str | None = None
    labelled: int
    unlabelled: int
    seeds: list[int]
    in_domain: dict[str, Interval]
    out_of_domain: dict[str, Interval]
    parameters: int
    trainable_parameters: int
    model_bytes: int
    peak_memory_bytes: int
    train_seconds: float
    label_seconds: float = 0.0
    latency_ms: dict[str, float]


class Peers(Record):
    """``peers.json``; in ``comparisons``, ``a`` is a line of the run and ``b`` one of a peer."""

    schema_: int = SCHEMA_VERSION
    versions: dict[str, str]
    hardware: dict[str, Any]
    cells: list[PeerCell]
    summary: list[PeerLine]
    comparisons: list[Comparison]

    model_config = Results.model_config
