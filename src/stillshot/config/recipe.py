"""Recipes: a whole comparison and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from stillshot.config.task import NameOrDefinition, Section
from stillshot.file_names import check_file_names
from stillshot.types import TeacherDtype

Scoring = Literal["direct", "channel", "both"]
Calibration = Literal["none", "contextual", "batch"]
Head = Literal["auto", "label", "channel", "language_model"]
Tuning = Literal["full", "lora", "bitfit"]
Method = Literal["zero_shot", "in_context", "pattern_finetune", "context_distillation"]
Control = Literal["zero_shot_teacher", "shuffled_labels"]
PositiveInt = Annotated[int, Field(ge=1)]


class Data(Section):
    """Which examples play which part.

    A reference is a split of the recipe's task (``train``), a split of another task (``imdb:test``),
    or a file (``my/data.csv``). ``root`` is a folder with local copies of public data; without it the
    environment variable ``STILLSHOT_DATA``, then the Hub, are used. ``max_tokens`` cuts every text after
    so many tokens of the teacher's tokenizer, for teacher and student alike; ``max_words``, its older form, after so
    many words between spaces, which some scripts do not write. Rows of files that lack a text, or a label they need, are
    left out, and ``check`` says how many and where; ``strict`` refuses them. Of ``unlabelled``, texts that are evaluated on or are
    among the labelled examples are left out. ``max_evaluation`` evaluates a seeded, stratified part of
    every evaluation set, or of those that it names.
    """

    root: Path | None = None
    labelled: str = "train"
    unlabelled: str = "train"
    num_unlabelled: PositiveInt = 512
    in_domain: dict[str, str] = Field(default_factory=dict)
    out_of_domain: dict[str, str] = Field(default_factory=dict)
    max_evaluation: PositiveInt | dict[str, PositiveInt] | None = None
    max_tokens: PositiveInt | None = None
    max_words: PositiveInt | None = None
    strict: bool = False

    @model_validator(mode="after")
    def _names_are_distinct_and_name_files(self) -> Data:
        twice = set(self.in_domain) & set(self.out_of_domain)
        if twice:
            raise ValueError(f"evaluation sets named twice: {sorted(twice)}")
        check_file_names([*self.in_domain, *self.out_of_domain])
        limits = self.max_evaluation if isinstance(self.max_evaluation, dict) else {}
        if unknown := sorted(set(limits) - {*self.in_domain, *self.out_of_domain}):
            raise ValueError(f"max_evaluation names {unknown[0]!r}, which is no evaluation set")
        return self

    def evaluation_limit(self, name: str) -> int | None:
        """The most items of an evaluation set that are evaluated; null is all."""
        limit = self.max_evaluation
        return limit.get(name) if isinstance(limit, dict) else limit


class Budget(Section):
    """How many labelled examples are given, and how contexts are made from them.

    Contexts use the examples about equally often: ``num_contexts`` sets of ``num_shots``, disjoint
    where there are enough of them, else subsets and orders of the same few. ``num_shots`` null puts
    all of them in every context.
    """

    labelled: PositiveInt = 16
    num_contexts: PositiveInt = 4
    num_shots: PositiveInt | None = None

    @model_validator(mode="after")
    def _shots_are_labelled(self) -> Budget:
        if self.num_shots is not None and self.num_shots > self.labelled:
            raise ValueError(f"num_shots {self.num_shots} is more than the {self.labelled} labelled examples")
        return self

    @property
    def shots(self) -> int:
        """Demonstrations in one context."""
        return self.num_shots or self.labelled


class Prompt(Section):
    """How prompts are written. ``pattern`` and ``channel`` name variants of the task; null is its first.

    In chat form, ``template_options`` are variables of the chat template (``{enable_thinking: false}``), and
    ``answer_prefix`` is what the query's answer begins with, before the label word (what ends a thought).
    """

    pattern: str | None = None
    channel: str | None = None
    instruction: str | None = None
    separator: str = "\n\n"
    chat: bool = False
    template_options: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    answer_prefix: str = ""
    max_tokens: PositiveInt | None = None
    drop_to_fit: bool = False


class Teacher(Section):
    """The model that sees the context, and how it is asked.

    ``model`` is a Hub id, a folder, a GGUF file (a path, ``owner/repo:file.gguf`` or ``owner/repo:Q4_K_M``; looked for in the
    folder that ``STILLSHOT_MODELS`` names, then on the Hub), ``bundled:smollm2-135m``, or ``random:SHAPE`` (a shape with
    random weights, for memory and time).

    ``dtype`` int8 rounds weights and activations to int8 for the products of a processor; ``auto`` takes it for teachers of
    500 million parameters or more that answer alike in int8, and sooner, on a sample, else what the device computes in
    natively.

    With ``select``, pattern, scoring and calibration are chosen on the labelled examples alone, by
    leaving out one example of each label at a time. ``store`` is a folder with a score
    cache; several runs may share it, also at the same time. Null is the run folder's own.
    Times are kept with the scores; the peak memory of a cell that finds its scores there is that of asking one query.
    """

    model: str = "bundled:smollm2-135m"
    revision: str | None = None
    dtype: TeacherDtype = "auto"
    scoring: Scoring = "direct"
    calibration: Calibration = "batch"
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    select: bool = False
    prefix: Literal["auto", "shared", "repeat", "none"] = "auto"
    batch_tokens: PositiveInt = 2048
    store: Path | None = None


class Lora(Section):
    """Low-rank adaptation (Hu et al. 2022), in the terms of ``peft.LoraConfig``.

    ``layers`` adapts the last so many layers alone: the backward pass ends where the adapters do, and what
    the layers below give is computed once (without dropout) for all epochs. Null adapts all.
    """

    rank: PositiveInt = 8
    alpha: PositiveInt = 16
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    layers: PositiveInt | None = None


class Training(Section):
    """One way to train a student. ``learning_rate`` null is chosen by tuning and model (see :data:`LEARNING_RATES`).

    ``hard_label_weight``, ``temperature`` and ``beta`` concern distillation alone: the weight of
    cross-entropy on labelled demonstrations against the divergence from the soft labels, the
    temperature of both distributions, and the divergence (0 forward KL, 0.5 JSD, 1 reverse KL).

    A batch goes through the model in passes of at most ``pass_tokens`` tokens, whose gradients add up: memory
    is bounded by these, not by the batch. Null is chosen by tuning and device. ``gradient_checkpointing`` saves
    more memory, and computes every layer twice. ``compile_layers`` makes long trainings faster, behind a first
    step in which they are compiled; a processor needs a C++ compiler for it.
    """

    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 16
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    hard_label_weight: float = Field(default=0.1, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    beta: float = Field(default=0.0, ge=0, le=1)
    pass_tokens: PositiveInt | None = None
    gradient_checkpointing: bool = False
    compile_layers: bool = False


class Finetuning(Training):
    """Pattern-based fine-tuning on the labelled examples: few of them, so many epochs of small batches."""

    epochs: PositiveInt = 40
    batch_size: PositiveInt = 8
    hard_label_weight: float = Field(default=1.0, ge=0, le=1)


# By (tuning, whether the student is an encoder with a fresh head).
LEARNING_RATES: dict[tuple[str, bool], float] = {
    ("full", True): 1e-4,
    ("full", False): 2e-5,
    ("lora", True): 5e-4,
    ("lora", False): 2e-4,
    ("bitfit", True): 1e-3,
    ("bitfit", False): 1e-3,
}


class Student(Section):
    """The model that sees the query alone.

    ``head`` auto is ``label``: a sequence-classification model whose score layer starts, for a
    decoder, from the output embedding at the label words. ``channel`` keeps a decoder's language-model
    head and scores the query after each label's words. ``language_model`` keeps it too, answers by the next
    token, and is trained over the whole vocabulary; its label words are one token each.

    With ``own_expert``, what is distilled is a product of experts: the teacher's soft labels, and those of this student
    fine-tuned on the labelled examples (as ``finetune`` says), where these make labelled examples clearly likelier that are
    held out from both. The run says how much each weighs.
    """

    model: str = "bundled:minilm-l6"
    revision: str | None = None
    head: Head = "auto"
    tuning: Tuning = "full"
    lora: Lora = Lora()
    max_tokens: PositiveInt = 256
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    own_expert: bool = False
    finetune: Finetuning = Finetuning()
    distill: Training = Training()


class Evaluation(Section):
    """How cells are measured.

    ``teacher_items`` evaluates the teacher on a part of so many items of every evaluation set, for one that is slow: a
    stratified part of those that students are evaluated on. Comparisons with it are on these.
    """

    teacher_items: PositiveInt | None = None
    batch_size: PositiveInt = 32
    bootstrap_samples: PositiveInt = 2000
    calibration_bins: PositiveInt = 15
    latency_queries: PositiveInt = 32


class Recipe(Section):
    """A whole comparison: one task, one teacher, some students, methods, budgets and seeds.

    ``in_context_models`` says who else than the teacher is asked in context: with ``students`` each decoder
    student's model, untrained, with one raw context, which is in-context learning at the student's size.
    ``controls`` are distillations whose soft labels carry nothing of the labelled examples, each beside
    every ``context_distillation``: from the teacher without a context (``zero_shot_teacher``), and from
    contexts whose labels are shuffled (``shuffled_labels``).
    """

    name: str
    description: str = ""
    task: NameOrDefinition
    data: Data = Data()
    budgets: list[Budget] = Field(default=[Budget()], min_length=1)
    prompt: Prompt = Prompt()
    teacher: Teacher = Teacher()
    students: list[Student] = Field(default=[Student()], min_length=1)
    methods: list[Method] = Field(
        default=["zero_shot", "in_context", "pattern_finetune", "context_distillation"], min_length=1
    )
    in_context_models: list[Literal["teacher", "students"]] = Field(default=["teacher"], min_length=1)
    controls: list[Control] = Field(default_factory=list)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32, strict=True)]] = Field(default=[0], min_length=1)
    evaluation: Evaluation = Evaluation()

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds_are_listed(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            several = f", {list(range(value))} for {value} seeds" if 1 < value <= 10 else ""
            raise ValueError(f"must be a list: [{value}] for the one seed {value}{several}")
        return value

    @model_validator(mode="after")
    def _controls_have_what_they_control(self) -> Recipe:
        if self.controls and "context_distillation" not in self.methods:
            raise ValueError(
                "controls stand beside context_distillation: add it to methods, or leave them out"
            )
        return self

    @field_validator("seeds", "methods", "budgets", "students", "in_context_models", "controls")
    @classmethod
    def _nothing_twice(cls, values: list[Any]) -> list[Any]:
        for index, value in enumerate(values):
            if value in values[:index]:
                raise ValueError(f"given twice: {value}")
        return values

    @field_validator("budgets")
    @classmethod
    def _budgets_differ(cls, budgets: list[Budget]) -> list[Budget]:
        sizes = [(budget.labelled, budget.num_contexts, budget.shots) for budget in budgets]
        for budget, size in zip(budgets, sizes, strict=True):
            if sizes.count(size) > 1:  # e.g. with num_shots written out, and without
                raise ValueError(f"given twice: {budget}")
        return budgets
