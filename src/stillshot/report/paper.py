"""What the paper that this package implements reports: points read off its figures, and its claims."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from stillshot.evaluate.records import Results

_FILE = "reference/arxiv-2412.13243.json"
_STUDENT = "opt-125m"

Curves = dict[str, list[float]]  # by method, with its tuning at the end unless that is ``full``


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AccuracyFigure(_Part):
    """Accuracies as shares, one value for each of the paper's ``support_examples``."""

    title: str
    in_domain: Curves
    out_of_domain: Curves

    def on(self, inside: bool) -> Curves:
        """The panel of in-domain or of out-of-domain accuracies."""
        return self.in_domain if inside else self.out_of_domain


class CostFigure(_Part):
    """Peak memory in decimal gigabytes and training time in seconds, by support examples."""

    title: str
    peak_memory_gb: Curves
    train_seconds: Curves


class Figures(_Part):
    """The claims of the abstract; gains and the reduction are shares."""

    teacher_parameters: float
    student_parameters: float
    teacher_size_gb: float
    student_size_gb: float
    out_of_domain_gain_over_in_context_relative: float
    out_of_domain_gain_over_pattern_finetune_relative: float
    peak_memory_reduction_vs_pattern_finetune: float


class Paper(_Part):
    """Numbers of arXiv 2412.13243, with how they were come by in ``source``."""

    source: str
    support_examples: list[int]
    figure_1: AccuracyFigure
    figure_5: AccuracyFigure
    figure_6: CostFigure
    claims: Figures


@cache
def read_paper() -> Paper:
    """The numbers as they ship with the package."""
    text = files("stillshot.report").joinpath(_FILE).read_text(encoding="utf-8")
    return Paper.model_validate_json(text)


def is_language_inference(results: Results) -> bool:
    """Whether the task is natural-language inference, which the paper is about."""
    return "entailment" in results.labels


def is_paper_setting(results: Results) -> bool:
    """Whether the paper's points belong behind ours: its task with its student."""
    students = {(line.student or "").rstrip("/").rsplit("/", 1)[-1].lower() for line in results.summary}
    return is_language_inference(results) and _STUDENT in students
