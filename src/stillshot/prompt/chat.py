"""Chat templates: a model's own code that writes a conversation as one text.

A template comes with the model, so what it does with a conversation is found out before it is used: that it ends in
bounded time and memory, that it keeps every turn, and where a label word would stand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from stillshot.errors import PromptError

Turn = tuple[str, str]  # role and text

# What one conversation may take to write; templates take thousandths of it.
SECONDS = 20
_MEMORY_BYTES = 2 * 2**30
_LONGEST_TEXT = 1_000_000
# Words that stand for the turns of a conversation while a template is tried.
_SYSTEM, _QUESTION, _ANSWER, _QUERY = "iqinstruction", "iqquestion", "iqanswer", "iqquery"
_DEMONSTRATIONS, _LONG = 3, " and so on" * 80
# Where a thought begins or ends: a tag, or a channel, that is called by one of the words for it.
_THOUGHT = re.compile(
    r"[<\[◁](?P<name>[^<>\[\]◁▷]{0,30}(?:think|thought|reason|analysis)[^<>\[\]◁▷]{0,30})[>\]▷]"
    r"|<\|channel\|>analysis<\|message\|>",
    re.IGNORECASE,
)
_CLOSES = re.compile(r"/|end", re.IGNORECASE)
_TRIAL = """
import json, sys
try:
    import resource
    for kind, most in ((resource.RLIMIT_CPU, {seconds}), (resource.RLIMIT_AS, {memory})):
        resource.setrlimit(kind, (most, most))
except ImportError:
    pass
from transformers.utils.chat_template_utils import render_jinja_template
asked = json.load(sys.stdin)
try:
    texts, _ = render_jinja_template(
        [asked["messages"]], chat_template=asked["template"], add_generation_prompt=True, **asked["names"]
    )
    print(len(texts[0]))
except MemoryError:
    raise SystemExit(9)
except Exception:
    print(0)
"""


class ChatTemplate:
    """The chat template of one tokenizer, with a recipe's options for it.

    Args:
        tokenizer: A transformers tokenizer.
        options: Further variables of the template, e.g. ``enable_thinking``.
        answer_prefix: What an answer begins with, before its label word, e.g. the end of a thought.
        instruction: Whether a system message is to be written.

    Raises:
        PromptError: The tokenizer has no template; the template fails, never ends, leaves turns out, or opens a
            thought where the label word is to stand.
    """

    def __init__(
        self,
        tokenizer: Any,
        options: Mapping[str, Any] | None = None,
        answer_prefix: str = "",
        *,
        instruction: bool = False,
    ) -> None:
        self._tokenizer, self._options, self._answer_prefix = tokenizer, dict(options or {}), answer_prefix
        self._model = str(tokenizer.name_or_path)
        self._text = _template_text(tokenizer)
        asked: list[Turn] = []
        for number in range(_DEMONSTRATIONS):
            asked += [("user", f"{_QUESTION}{number}{_LONG}."), ("assistant", f"{_ANSWER}{number}.")]
        asked.append(("user", f"{_QUERY}{_LONG}."))
        if instruction:
            asked.insert(0, ("system", _SYSTEM))
        self._check_bounded(asked)
        written = self._tried(asked, instruction)
        self._check_kept(asked, written)
        self.answer_end = written.partition(f"{_ANSWER}0.")[2].partition(f"{_QUESTION}1")[0]
        self._check_thought(written)

    @property
    def changes_by_day(self) -> bool:
        """Whether the template may write the date of today into every prompt."""
        return "strftime_now" in self._text and "date_string" not in self._options

    def render(self, turns: Sequence[Turn]) -> str:
        """The conversation as one text, ending where the model's answer would stand.

        Raises:
            PromptError: The template refuses or fails.
        """
        try:
            return self._render(turns)
        except Exception as error:  # a template is code, and raises what it likes
            raise self._failure(error) from error

    def _render(self, turns: Sequence[Turn]) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        written: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._options
        )
        return written + self._answer_prefix

    def _tried(self, turns: Sequence[Turn], instruction: bool) -> str:
        try:
            return self._render(turns)
        except Exception as error:
            failure = self._failure(error)
            if instruction and self._takes(turns[1:]):
                raise PromptError(
                    f"The chat template of {self._model!r} takes no system message ({_first_line(error)}), which "
                    "prompt.instruction is written as. Leave prompt.instruction out, or put the instruction into the "
                    "task's pattern, in front of the text."
                ) from error
            raise failure from error

    def _takes(self, turns: Sequence[Turn]) -> bool:
        try:
            self._render(turns)
        except Exception:
            return False
        return True

    def _failure(self, error: Exception) -> PromptError:
        return PromptError(
            f"The chat template of {self._model!r} cannot write the prompt: {_first_line(error)}. Set prompt.chat to false, "
            "give the variables that it needs in prompt.template_options, or use another model."
        )

    def _check_bounded(self, turns: Sequence[Turn]) -> None:
        names = {**self._tokenizer.special_tokens_map, **self._options}
        asked = {"template": self._text, "messages": [{"role": r, "content": t} for r, t in turns]}
        if not _ends(json.dumps({**asked, "names": names}, sort_keys=True, default=str)):
            raise PromptError(
                f"The chat template of {self._model!r} does not write a short conversation within {SECONDS} s and "
                f"{_MEMORY_BYTES // 2**30} GiB. Set prompt.chat to false, or use another model."
            )

    def _check_kept(self, turns: Sequence[Turn], written: str) -> None:
        lost = [role for role, text in turns if text not in written]
        if lost:
            what = "prompt.instruction" if lost[0] == "system" else "the demonstrations of a context"
            raise PromptError(
                f"The chat template of {self._model!r} leaves out the {lost[0]} turn of a conversation, so {what} would be "
                "lost. Set prompt.chat to false, or use another model."
            )

    def _check_thought(self, written: str) -> None:
        marks = list(_THOUGHT.finditer(written.rpartition(_QUERY)[2]))
        if not marks or _CLOSES.search(marks[-1]["name"] or ""):
            return
        opened = marks[-1]
        switch = "prompt.template_options: {enable_thinking: false}, or "
        raise PromptError(
            f"The chat template of {self._model!r} ends every prompt in an open thought ({opened[0]}), so label words would "
            f"be scored as the first words of a thought. Set {switch if 'enable_thinking' in self._text else ''}"
            f'prompt.answer_prefix to what ends a thought (e.g. "\\n</think>\\n\\n"), or prompt.chat to false.'
        )


def _template_text(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if not template:
        raise PromptError(
            "prompt.chat is true, but the model's tokenizer has no chat template. Set it to false or "
            "use an instruction-tuned model."
        )
    return str(template)


@lru_cache(maxsize=64)
def _ends(asked: str) -> bool:
    """Whether a template, tried in a process of its own, is done within its bounds. Its errors are not judged here."""
    code = _TRIAL.format(seconds=SECONDS, memory=_MEMORY_BYTES)
    try:
        tried = subprocess.run(
            [sys.executable, "-c", code], input=asked, capture_output=True, text=True, timeout=2 * SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    if tried.returncode != 0:
        return False
    return int(tried.stdout.split()[-1]) <= _LONGEST_TEXT


def _first_line(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__
