"""How many demonstrations a drafted recipe shows, and where it cuts texts, so that its prompts fit the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stillshot.errors import StillshotError
from stillshot.prompt.long_texts import CHARACTERS_A_TOKEN

if TYPE_CHECKING:
    from stillshot.cli.drafting import Sizes
    from stillshot.config import TaskDefinition
    from stillshot.prompt.encoder import PromptEncoder
    from stillshot.prompt.writer import Kind
    from stillshot.types import Example

# Prompts are kept within this window if that cuts few texts: longer ones take long to read.
WINDOW = 2048
# And within this one also where a teacher's is larger.
LARGEST_WINDOW = 8192
# Demonstrations are given up before more than this share of texts is cut.
CUT_SHARE = 0.05
# Fewer bytes than this fit any window: a token has one byte at least.
SHORT = 900
# Characters of a text that are tokenized: what is longer is cut in any case.
_LONGEST = CHARACTERS_A_TOKEN * LARGEST_WINDOW


@dataclass(frozen=True)
class Fit:
    """Sizes whose prompts fit.

    Attributes:
        cut: How many of the examples have a text that is cut.
        estimated: Whether tokens were estimated, since the teacher's tokenizer is not at hand.
    """

    sizes: Sizes
    cut: int = 0
    estimated: bool = False


def fit_to_window(sizes: Sizes, task: TaskDefinition, teacher: str, examples: Sequence[Example]) -> Fit:
    """Sizes whose longest prompt fits the teacher's window.

    Fewer demonstrations come first; texts are cut where few of them are longer than all others, or where even a
    single demonstration leaves too little room.

    Args:
        sizes: What is wished for.
        task: Whose pattern makes the prompts.
        teacher: The teacher's id.
        examples: All that will be shown or asked.
    """
    longest = max(len(text.encode("utf-8", "surrogatepass")) for e in examples for text in e.fields.values())
    pattern = sum(len(str(p.model_dump())) for p in (*task.patterns.values(), *task.channels.values()))
    if (sizes.num_shots + 1) * (longest * len(task.fields) + pattern) <= SHORT:
        return Fit(sizes)
    measure = _measured(task, teacher) or _Estimated(task)
    lengths = sorted(measure.lengths(examples))
    shots = _choose_shots(sizes.num_shots, len(task.labels), lengths, measure)
    allowed = max(1, measure.allowed(shots, measure.window))
    cut = sum(length > allowed for length in lengths)
    fitted = replace(sizes, num_shots=shots, max_tokens=allowed if cut else None)
    return Fit(fitted, cut, estimated=isinstance(measure, _Estimated))


def _choose_shots(wished: int, labels: int, lengths: Sequence[int], measure: _Measured | _Estimated) -> int:
    """The most demonstrations beside which few texts are cut: as many of each label, else fewer than labels."""
    balanced = list(range(wished, labels - 1, -labels))
    fewer = list(range(min(wished, labels - 1), 0, -1))
    tries = [(shots, limit) for limit in (WINDOW, measure.window) for shots in balanced]
    tries += [(shots, measure.window) for shots in fewer]
    for shots, limit in tries:
        allowed = measure.allowed(shots, min(limit, measure.window))
        if sum(length > allowed for length in lengths) <= CUT_SHARE * len(lengths):
            return shots
    return tries[-1][0]


def _measured(task: TaskDefinition, teacher: str) -> _Measured | None:
    """Counts by the teacher's tokenizer, unless that would have to be downloaded."""
    from stillshot.models.load import load_config, load_tokenizer, window
    from stillshot.models.resolve import is_here, resolve_model
    from stillshot.prompt.encoder import PromptEncoder

    try:
        if not is_here(teacher):
            return None
        resolved = resolve_model(teacher)
        return _Measured(task, PromptEncoder(load_tokenizer(resolved)), window(load_config(resolved)))
    except StillshotError:  # `check` says what is wrong with it
        return None


class _Measured:
    """Counts with the teacher's tokenizer."""

    def __init__(self, task: TaskDefinition, encoder: PromptEncoder, window: int) -> None:
        from stillshot.config import Prompt
        from stillshot.prompt.writer import PromptWriter

        self._task, self._encoder = task, encoder
        self.window = min(window, LARGEST_WINDOW)
        self._writer = PromptWriter(task, Prompt(), encoder)

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """The tokens of each example's longest text."""
        texts = [example.fields[name][:_LONGEST] for example in examples for name in self._task.fields]
        counts = [len(spans) for spans in self._encoder.token_spans(texts)]
        fields = len(self._task.fields)
        return [max(counts[i : i + fields]) for i in range(0, len(counts), fields)]

    def allowed(self, shots: int, window: int) -> int:
        """The tokens that every text may have beside so many demonstrations."""
        from stillshot.cli.drafting import scoring_of
        from stillshot.teacher.answers import kinds_of
        from stillshot.types import Context, Example

        fields = dict.fromkeys(self._task.fields, "x")
        words = self._task.patterns[next(iter(self._task.patterns))].label_words
        wordiest = max(self._task.labels, key=lambda label: len(words[label].encode()))
        context = Context((Example(fields, wordiest),) * shots)
        kinds: set[Kind] = {"direct", *kinds_of(scoring_of(self._task))}
        empty = max(
            len(sequence.ids)
            for kind in kinds
            for prompt in self._writer.prompts(kind, context, [Example(fields)])
            for sequence in prompt.sequences
        )
        texts = (shots + 1) * len(fields)
        # Of each text one token is in the count; one more is for how its ends join the pattern.
        return (window - empty) // texts


class _Estimated:
    """Estimates from above: few tokenizers need more tokens than this."""

    window = WINDOW

    def __init__(self, task: TaskDefinition) -> None:
        self._task = task
        self._pattern = sum(len(p.pattern) + len(p.target_prefix) for p in task.patterns.values()) + 8

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """The tokens of each example's longest text."""
        return [max(map(_estimate, example.fields.values())) for example in examples]

    def allowed(self, shots: int, window: int) -> int:
        """The tokens that every text may have beside so many demonstrations."""
        return (window // (shots + 1) - self._pattern) // len(self._task.fields)


def _estimate(text: str) -> int:
    """A token every third Latin letter, and two for every other character."""
    plain = sum(character.isascii() for character in text)
    return plain // 3 + 2 * (len(text) - plain) + 1
