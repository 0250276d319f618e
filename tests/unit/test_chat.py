"""Chat templates: tried before they are used, and refused with the reason where they would change a prompt's sense."""

from __future__ import annotations

from typing import Any

import pytest
from doubles import SENTIMENT, context, review

from stillshot.config import Prompt, TaskDefinition
from stillshot.errors import PromptError
from stillshot.models.random_weights import random_tokenizer
from stillshot.prompt import chat
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import PromptWriter

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
ANSWER = "{% if add_generation_prompt %}<assistant>{% endif %}"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
THOUGHT = "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
OPTIONAL_THOUGHT = (
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is not defined or enable_thinking %}<think>\n"
    "{% endif %}{% endif %}"
)


def writer_of(template: Any, task: TaskDefinition = SENTIMENT, **prompt: Any) -> PromptWriter:
    tokenizer = random_tokenizer("tiny-llama")
    tokenizer.chat_template = template
    return PromptWriter(task, Prompt(chat=True, **prompt), PromptEncoder(tokenizer))


def test_a_template_without_a_system_role_says_where_an_instruction_can_stand() -> None:
    writer_of(NO_SYSTEM + TURNS + ANSWER)
    with pytest.raises(
        PromptError, match=r"'random:tiny-llama' takes no system message \(System role not supported\)"
    ) as raised:
        writer_of(NO_SYSTEM + TURNS + ANSWER, instruction="Judge.")
    assert "Leave prompt.instruction out" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('never') }}",
        "{{ messages[99].content }}",
        "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}",
        "{{ missing.name }}",
    ],
)
def test_whatever_a_template_raises_ends_in_one_message(template: str) -> None:
    with pytest.raises(
        PromptError, match=r"chat template of 'random:tiny-llama' cannot write the prompt: "
    ) as raised:
        writer_of(template)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("template", "lost"),
    [
        ("<user>{{ messages[-1].content }}" + ANSWER, "user"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}" + ANSWER, "assistant"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}" + ANSWER, "system"),
    ],
)
def test_a_template_that_loses_a_turn_is_refused(template: str, lost: str) -> None:
    with pytest.raises(PromptError, match=rf"leaves out the {lost} turn"):
        writer_of(template, instruction="Judge." if lost == "system" else None)


def test_an_open_thought_is_refused_with_what_helps() -> None:
    with pytest.raises(PromptError, match=r"open thought \(<think>\).*Set prompt\.answer_prefix to"):
        writer_of(TURNS + THOUGHT)
    with pytest.raises(PromptError, match=r"prompt\.template_options: \{enable_thinking: false\}"):
        writer_of(TURNS + OPTIONAL_THOUGHT)
    closed = writer_of(TURNS + THOUGHT, answer_prefix="</think>\n\n")
    assert closed.query_text(review("fine")).endswith("<assistant><think>\n</think>\n\n")
    off = writer_of(TURNS + OPTIONAL_THOUGHT, template_options={"enable_thinking": False})
    assert off.query_text(review("fine")).endswith("</user><assistant>")


@pytest.mark.parametrize(
    "opened",
    ["<thinking>\n", "<thought>", "<|START_THINKING|>", "[THINK]", "◁think▷", "<|channel|>analysis<|message|>",
     "<think>\nOkay, ", "<seed:think>", "<|begin_of_thought|>\n\n"],
)  # fmt: skip
def test_thoughts_are_known_by_what_they_are_called(opened: str) -> None:
    with pytest.raises(PromptError, match="open thought"):
        writer_of(TURNS + ANSWER + opened)


@pytest.mark.parametrize(
    "closed", ["<think>\n\n</think>", "<|START_THINKING|><|END_THINKING|>", "[THINK][/THINK]"]
)
def test_a_thought_that_is_closed_is_no_thought(closed: str) -> None:
    assert writer_of(TURNS + ANSWER + closed).query_text(review("fine")).endswith(closed)


@pytest.mark.parametrize("kept", ["messages[-3:]", "messages[:1] + messages[-1:]"])
def test_a_template_that_keeps_a_few_turns_is_refused(kept: str) -> None:
    with pytest.raises(PromptError, match=r"leaves out the (user|assistant) turn"):
        writer_of("{% set messages = " + kept + " %}" + TURNS + ANSWER)


def test_a_template_that_cuts_texts_is_refused() -> None:
    with pytest.raises(PromptError, match="leaves out the user turn"):
        writer_of(TURNS.replace("m.content", "m.content[:200]") + ANSWER)


def test_label_words_stand_behind_the_answers_prefix() -> None:
    """As the first words of the answer, in every context."""
    writer = writer_of(TURNS + THOUGHT, answer_prefix="</think>\n\n")
    (prompt,) = writer.prompts("direct", context(2), [review("fine")])
    text = writer.encoder.tokenizer.decode(prompt.sequences[0].ids)
    assert text.endswith("<assistant><think>\n</think>\n\nNo")
    assert "<assistant>Yes</assistant>" in text


def test_a_template_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 2)
    counting = (
        "{% for a in range(20000) %}{% for b in range(20000) %}{% endfor %}{% endfor %}"  # some ten seconds
    )
    with pytest.raises(PromptError, match=r"does not write a short conversation within 2 s"):
        writer_of(counting + TURNS + ANSWER)


def test_a_template_that_writes_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_LONGEST_TEXT", 1000)
    with pytest.raises(PromptError, match=r"does not write a short conversation"):
        writer_of(TURNS + "{{ '-' * 2000 }}" + ANSWER)


def test_the_default_of_several_templates_is_used() -> None:
    writer = writer_of({"default": TURNS + ANSWER, "tool_use": "other"})
    assert writer.query_text(review("fine")).endswith("<assistant>")


def test_special_tokens_that_no_map_names_are_refused_in_data() -> None:
    tokenizer = random_tokenizer("tiny-llama")
    tokenizer.add_tokens(["<turn>"], special_tokens=True)
    tokenizer.chat_template = TURNS + ANSWER
    writer = PromptWriter(SENTIMENT, Prompt(chat=True), PromptEncoder(tokenizer))
    with pytest.raises(PromptError, match=r"contains '<turn>', a special token"):
        writer.query_text(review("a <turn> b"))


def test_a_template_that_writes_the_date_is_known_to() -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b') }}" + TURNS + ANSWER
    template = writer_of(dated).chat_template
    assert template is not None
    assert template.changes_by_day
    fixed = writer_of(dated, template_options={"date_string": "1 Jan"}).chat_template
    assert fixed is not None
    assert not fixed.changes_by_day
