"""The built-in tasks, the published patterns among them, and the checks on a user's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stillshot.config import TaskDefinition
from stillshot.errors import RecipeError
from stillshot.tasks import builtin_tasks, load_task

BUILTIN = builtin_tasks()
NLI = ("nli-sample", "mnli", "snli", "rte", "hans", "hans-style")
NLI_3WAY = ("nli-sample-3way", "mnli-3way", "snli-3way")

OWN_TASK = {
    "name": "tickets",
    "labels": ["bug", "question"],
    "fields": ["text"],
    "patterns": {
        "plain": {"pattern": "{text}\nKind:", "label_words": {"bug": "Bug", "question": "Question"}}
    },
    "channels": {
        "kind": {
            "lead": "Kind: {label_words}\nTicket:",
            "text": " {text}",
            "label_words": {"bug": "Bug", "question": "Question"},
        }
    },
}


def own(**changes: object) -> TaskDefinition:
    return TaskDefinition.model_validate({**OWN_TASK, **changes})


def direct(task: str, name: str) -> tuple[str, str, list[str]]:
    """A pattern as the paper's table has it: pattern, target prefix, label words in the order of the labels."""
    definition = load_task(task)
    pattern = definition.patterns[name]
    return pattern.pattern, pattern.target_prefix, [pattern.label_words[label] for label in definition.labels]


def test_the_builtin_tasks_are_these() -> None:
    nli = "hans hans-style mnli mnli-3way nli-sample nli-sample-3way rte snli snli-3way"
    assert set(BUILTIN) == set(f"{nli} ag_news cola cola_ood imdb paws_qqp qqp sst2 trec".split())


@pytest.mark.parametrize("name", BUILTIN)
def test_a_builtin_task_is_complete(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.description.endswith(".")
    assert "\n" not in task.description
    for pattern in task.patterns.values():
        assert set(re.findall(r"\{(\w+)\}", pattern.pattern)) == set(task.fields)
        assert len(set(pattern.label_words.values())) == len(task.labels)
    for channel in task.channels.values():
        assert set(re.findall(r"\{(\w+)\}", channel.lead + channel.text)) == {*task.fields, "label_words"}
        assert len(set(channel.label_words.values())) == len(task.labels)


@pytest.mark.parametrize("name", BUILTIN)
def test_label_words_start_without_a_space_and_literal_escapes_are_absent(name: str) -> None:
    task = load_task(name)
    for pattern in [*task.patterns.values(), *task.channels.values()]:
        assert all(word == word.strip() and word for word in pattern.label_words.values())
        texts = [value for value in pattern.model_dump().values() if isinstance(value, str)]
        assert not any("\\" in text for text in texts)
    for pattern in task.patterns.values():
        assert pattern.target_prefix.endswith(" ")


@pytest.mark.parametrize("name", BUILTIN)
def test_hub_labels_are_labels_of_the_task_or_dropped(name: str) -> None:
    task = load_task(name)
    for source in (task.sources.local, task.sources.hub):
        values = set(source.label_values.values()) if source else set()
        assert values <= {*task.labels, *task.drop_labels}
    if task.sources.hub:
        assert {*task.labels} <= set(task.sources.hub.label_values.values())


@pytest.mark.parametrize("name", NLI)
def test_two_way_nli_has_the_published_patterns(name: str) -> None:
    assert direct(name, "minimal") == ("{premise} {hypothesis} ?", " ", ["Yes", "No"])
    assert direct(name, "gpt-3") == (
        "{premise} question: {hypothesis} Yes or No?",
        " answer: ",
        ["Yes", "No"],
    )
    assert direct(name, "eval-harness") == (
        "{premise} \nQuestion: {hypothesis} True or False?",
        "\nAnswer: ",
        ["True", "False"],
    )


@pytest.mark.parametrize("name", ["qqp", "paws_qqp"])
def test_paraphrase_has_the_published_pattern(name: str) -> None:
    assert direct(name, "minimal") == ("{question1} {question2} ?", " ", ["No", "Yes"])


@pytest.mark.parametrize("name", ["cola", "cola_ood"])
def test_acceptability_has_the_published_pattern(name: str) -> None:
    assert direct(name, "minimal") == ("{sentence} ?", " ", ["No", "Yes"])


@pytest.mark.parametrize("name", [*NLI, *NLI_3WAY])
def test_the_default_patterns_of_nli(name: str) -> None:
    task = load_task(name)
    ask = "Yes or No?" if name in NLI else "Yes, No or Maybe?"
    words = ["Yes", "No"] if name in NLI else ["Yes", "Maybe", "No"]
    assert next(iter(task.patterns)) == "question"
    assert direct(name, "question") == (f"{{premise}}\nQuestion: {{hypothesis}} {ask}", "\nAnswer: ", words)
    assert next(iter(task.channels)) == "therefore"
    channel = task.channels["therefore"]
    assert (channel.lead, channel.text) == ("{premise}\n{label_words},", " {hypothesis}")
    leads = ["Therefore", "However"] if name in NLI else ["Therefore", "Perhaps", "However"]
    assert [channel.label_words[label] for label in task.labels] == leads


@pytest.mark.parametrize("pair", [("sst2", "imdb"), ("qqp", "paws_qqp"), ("cola", "cola_ood")])
def test_a_task_and_its_out_of_domain_partner_are_asked_alike(pair: tuple[str, str]) -> None:
    one, other = map(load_task, pair)
    assert (one.labels, one.fields, one.patterns, one.channels) == (
        other.labels,
        other.fields,
        other.patterns,
        other.channels,
    )


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"no built-in task 'sst3'\. Did you mean 'sst2'\?.*path of its \.yaml"
    ):
        load_task("sst3")


def test_a_definition_is_checked_and_given_back() -> None:
    task = own()
    assert load_task(task) is task


def test_a_user_task_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "tickets.yaml"
    path.write_text(yaml.safe_dump(OWN_TASK), encoding="utf-8")
    assert load_task(path) == load_task(str(path)) == own()


def test_a_missing_task_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"There is no file .*absent\.yml"):
        load_task(str(tmp_path / "absent.yml"))


def test_a_bad_placeholder_names_file_pattern_and_placeholder(tmp_path: Path) -> None:
    broken = {**OWN_TASK, "patterns": {"plain": {**OWN_TASK["patterns"]["plain"], "pattern": "{txt}"}}}  # type: ignore[index]
    path = tmp_path / "tickets.yaml"
    path.write_text(yaml.safe_dump(broken), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_task(path)
    assert str(error.value) == (
        f"{path}: patterns.plain.pattern has the placeholder {{txt}}, which is not a field. "
        "Did you mean 'text'? Valid names: text."
    )


WORDS = {"bug": "Bug", "question": "Question"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"patterns": {"p": {"pattern": "Kind?", "label_words": WORDS}}},
            "patterns.p.pattern shows no field",
        ),
        (
            {"patterns": {"p": {"pattern": "{text}", "target_prefix": "{text}", "label_words": WORDS}}},
            "patterns.p.target_prefix has the placeholder {text}, but it holds plain text only",
        ),
        (
            {"channels": {"c": {"lead": "Kind:", "text": " {text}", "label_words": WORDS}}},
            "channels.c.lead must hold {label_words}",
        ),
        (
            {"channels": {"c": {"lead": "{label_words}:", "text": " {body}", "label_words": WORDS}}},
            "channels.c.text has the placeholder {body}, which is not a field",
        ),
        (
            {"channels": {"c": {"lead": "{label_words}: {text}", "text": "Done.", "label_words": WORDS}}},
            "channels.c.text shows no field",
        ),
        ({"sources": {"generated": {"splits": {"test": "many"}}}}, "splits.test must be a number of pairs"),
        ({"sources": {"local": {"splits": {"test": 20}}}}, "splits.test must be a name, not 20"),
        ({"sources": {"hub": {"splits": {"test": "test"}}}}, "sources.hub.path is required"),
        (
            {"sources": {"local": {"splits": {}, "columns": {"txt": "body"}}}},
            "sources.local.columns has the key 'txt', which is not a field or group. Did you mean 'text'?",
        ),
    ],
)
def test_a_task_that_contradicts_itself(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_task(own(**changes))
    assert f"task 'tickets': {'sources.' if message.startswith('splits') else ''}" in str(error.value)
    assert message in str(error.value)


def test_other_braces_in_a_pattern_are_text() -> None:
    pattern = {"pattern": '{"text": "{text}", "tags": {}}', "label_words": WORDS}
    assert load_task(own(patterns={"json": pattern})).patterns["json"].pattern == pattern["pattern"]


def test_label_words_must_cover_the_labels(tmp_path: Path) -> None:
    broken = {**OWN_TASK, "patterns": {"p": {"pattern": "{text}", "label_words": {"bug": "Bug"}}}}
    path = tmp_path / "tickets.yaml"
    path.write_text(yaml.safe_dump(broken), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_task(path)
    assert "patterns.p.label_words must have the labels as its keys: 'question' is missing (" in str(
        error.value
    )
    words = {"bug": "Bug", "qestion": "Question"}
    channel = {**OWN_TASK["channels"]["kind"], "label_words": words}
    path.write_text(yaml.safe_dump({**OWN_TASK, "channels": {"kind": channel}}), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_task(path)
    assert (
        "channels.kind.label_words must have the labels as its keys: 'question' is missing; 'qestion' is not a "
        "label (labels: bug, question)."
    ) in str(error.value)
