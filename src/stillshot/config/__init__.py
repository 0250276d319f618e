"""The shape of the files a user writes: recipes and task definitions. The only place with defaults.

Both are read from YAML by :func:`stillshot.config_files.load_recipe` and :func:`stillshot.tasks.load_task`.
"""

from stillshot.config.exports import (
    AGREEMENT_FLOORS,
    VERIFIED_QUERIES,
    ExportKind,
)
from stillshot.config.recipe import (
    LEARNING_RATES,
    Budget,
    Calibration,
    Control,
    Data,
    Evaluation,
    Finetuning,
    Head,
    Lora,
    Method,
    PositiveInt,
    Prompt,
    Recipe,
    Scoring,
    Student,
    Teacher,
    Training,
    Tuning,
)
from stillshot.config.task import (
    ChannelPattern,
    DirectPattern,
    NameOrDefinition,
    Section,
    Source,
    Sources,
    TaskDefinition,
)

__all__ = [
    "AGREEMENT_FLOORS",
    "LEARNING_RATES",
    "VERIFIED_QUERIES",
    "Budget",
    "Calibration",
    "ChannelPattern",
    "Control",
    "Data",
    "DirectPattern",
    "Evaluation",
    "ExportKind",
    "Finetuning",
    "Head",
    "Lora",
    "Method",
    "NameOrDefinition",
    "PositiveInt",
    "Prompt",
    "Recipe",
    "Scoring",
    "Section",
    "Source",
    "Sources",
    "Student",
    "TaskDefinition",
    "Teacher",
    "Training",
    "Tuning",
]
