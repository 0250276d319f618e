"""How methods, models, numbers and lines of a summary are called in front of a reader."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from stillshot.evaluate.records import Cell, PeerLine, SummaryLine
from stillshot.models.gguf_files import gguf_name, is_gguf

METHODS = {
    "zero_shot": "Zero-shot",
    "in_context": "In-context learning",
    "pattern_finetune": "Pattern-based fine-tuning",
    "context_distillation": "Context distillation",
}
# Each peer: its name, and what it trains.
PEERS = {
    "setfit": ("SetFit", "logistic regression, all weights"),
    "linear_probe": ("Linear probe", "logistic regression"),
    "linear_probe_self_training": ("Self-training", "logistic regression"),
    "tfidf": ("Bag of words", "logistic regression"),
    "tfidf_self_training": ("Self-training", "logistic regression"),
}
TUNINGS = {"full": "all weights", "lora": "LoRA", "bitfit": "BitFit"}
HEADS = {"label": "label head", "channel": "channel head", "language_model": "language-model head"}
SCORINGS = {"direct": "direct", "channel": "channel", "both": "direct and channel"}
CALIBRATIONS = {"none": "raw", "contextual": "contextual calibration", "batch": "batch calibration"}
CONTROLS = {
    "zero_shot_teacher": "control: teacher without context",
    "shuffled_labels": "control: shuffled labels",
}
# What a control is, for a reader who meets one in a table.
CONTROLS_EXPLAINED = {
    "zero_shot_teacher": "taught by the same teacher without any demonstration",
    "shuffled_labels": "taught by the same teacher with the labels of its demonstrations shuffled",
}
NOT_APPLICABLE = "–"

_WELL_KNOWN_MODELS = {"bundled:smollm2-135m": "SmolLM2-135M", "bundled:minilm-l6": "MiniLM-L6"}


def method_name(method: str) -> str:
    """The method in words.

    >>> method_name("pattern_finetune")
    'Pattern-based fine-tuning'
    """
    return METHODS.get(method, method)


def model_name(model: str | None) -> str:
    """A model id without the organisation or folder it comes from.

    >>> model_name("bundled:minilm-l6"), model_name("random:facebook/opt-1.3b")
    ('MiniLM-L6', 'opt-1.3b (random weights)')
    """
    if model is None:
        return NOT_APPLICABLE
    if model in _WELL_KNOWN_MODELS:
        return _WELL_KNOWN_MODELS[model]
    if is_gguf(model):
        return gguf_name(model)
    kind, colon, rest = model.partition(":")
    name = (rest if colon and rest else model).rstrip("/").rsplit("/", 1)[-1]
    return f"{name} (random weights)" if kind == "random" and colon else name


# Numbers -----------------------------------------------------------------------------------------


def count(number: int) -> str:
    """A whole number with separators: ``6,692``."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """A number with its noun.

    >>> plural(1, "context"), plural(1500, "query")
    ('1 context', '1,500 queries')
    """
    nouns = noun if number == 1 else noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count(number)} {nouns}"


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage without its sign: ``78.0``."""
    return f"{100 * share:.{digits}f}" if math.isfinite(share) else NOT_APPLICABLE


def interval(bounds: tuple[float, float]) -> str:
    """An interval of shares in percent: ``74.1 to 81.7``."""
    return f"{signed_minus(percent(bounds[0]))} to {signed_minus(percent(bounds[1]))}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, always with its sign: ``+5.2``, ``−1.0``."""
    return signed_minus(f"{100 * difference:+.1f}") if math.isfinite(difference) else NOT_APPLICABLE


def signed_minus(number: str) -> str:
    """The number with a true minus sign, and no sign at a zero."""
    if number.lstrip("+-").strip("0.") == "":
        return number.lstrip("+-")
    return number.replace("-", "−")


def decimal(number: float, digits: int = 3) -> str:
    """A plain number, or a dash where it is not finite."""
    return f"{number:.{digits}f}" if math.isfinite(number) else NOT_APPLICABLE


def p_value(p: float | None) -> str:
    """A p-value, or a dash where there is none.

    >>> p_value(0.0004), p_value(0.2), p_value(None)
    ('< 0.001', '0.200', '–')
    """
    if p is None:
        return NOT_APPLICABLE
    return "< 0.001" if p < 0.001 else decimal(p)


def parameters(number: int) -> str:
    """A count of parameters in three figures.

    >>> parameters(22_713_216), parameters(1_315_758_080), parameters(0)
    ('22.7 M', '1.32 B', '–')
    """
    return _scaled(number, ("", "k", "M", "B", "T")) if number > 0 else NOT_APPLICABLE


def size(number_of_bytes: int) -> str:
    """Bytes in decimal units.

    >>> size(45_431_234), size(0)
    ('45.4 MB', '–')
    """
    return _scaled(number_of_bytes, ("B", "kB", "MB", "GB", "TB")) if number_of_bytes > 0 else NOT_APPLICABLE


def _scaled(number: float, units: Sequence[str]) -> str:
    step = 0
    while number >= 999.5 and step < len(units) - 1:
        number /= 1000
        step += 1
    digits = 0 if number >= 99.95 or step == 0 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {units[step]}".rstrip()


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(1.234), duration(200), duration(3900), duration(0)
    ('1.2 s', '3 min 20 s', '1 h 05 min', '–')
    """
    if not math.isfinite(seconds) or seconds <= 0:
        return NOT_APPLICABLE
    if seconds < 0.0995:
        return milliseconds(1000 * seconds)
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(number: float | None) -> str:
    """A latency: ``0.42 ms``, ``3.4 ms``, ``1,230 ms``."""
    if number is None or not math.isfinite(number) or number <= 0:
        return NOT_APPLICABLE
    digits = 0 if number >= 99.95 else 1 if number >= 0.995 else 2
    return f"{number:,.{digits}f} ms"


# Text that comes from data -----------------------------------------------------------------------


def shorten(text: str, length: int = 300) -> str:
    """The text's beginning, fit to be shown: no control characters, lone surrogates or endless texts."""
    clean = "".join(" " if _is_control(character) else character for character in text[: length + 1])
    clean = clean.encode("utf-8", "replace").decode("utf-8")
    return clean if len(text) <= length else clean[:length].rstrip() + "…"


def isolate(text: str) -> str:
    """The text set apart from the direction of the sentence around it, where it runs right to left."""
    shown = shorten(text, 80)
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in shown):
        return f"\u2068{shown}\u2069"
    return shown


def _is_control(character: str) -> bool:
    return (
        unicodedata.category(character) == "Cc" and character not in "\n\t"
    ) or character in "\ufffe\uffff"


# Lines of the summary ----------------------------------------------------------------------------


def labels(line: SummaryLine) -> str:
    """The budget of a line: ``16 labels``."""
    return plural(line.labelled, "label") if line.labelled else "no labels"


def contexts(line: SummaryLine) -> str:
    """The contexts of a line: ``4 contexts of 16 shots``; empty for a line without."""
    if not line.num_shots or not line.num_contexts:
        return ""
    return f"{plural(line.num_contexts, 'context')} of {plural(line.num_shots, 'shot')}"


def peer_name(peer: str) -> str:
    """A peer in words: ``SetFit``."""
    return PEERS[peer][0] if peer in PEERS else peer


def peer_model(encoder: str | None) -> str:
    """What a peer reads texts with: a pretrained encoder, or counts of words."""
    return model_name(encoder) if encoder else "TF-IDF"


def peer_names(lines: Sequence[PeerLine]) -> dict[str, str]:
    """A name for each line of a peer by its key: the peer, its model, and its labels where budgets differ."""
    several = len({line.labelled for line in lines}) > 1
    named = {}
    for line in lines:
        told = ", ".join(
            filter(None, (peer_model(line.encoder), plural(line.labelled, "label") if several else ""))
        )
        named[line.key] = f"{peer_name(line.peer)} (peer, {told})"
    return _made_unique(named)


def _looked_up(attribute: str, names: dict[str, str]) -> Callable[[SummaryLine], str]:
    def look_up(line: SummaryLine) -> str:
        value: str = getattr(line, attribute) or ""
        return names.get(value, value)

    return look_up


def row_name(line: SummaryLine | Cell) -> str:
    """The method of a line or cell, and which control it is if it is one."""
    control = CONTROLS.get(line.control or "", line.control or "")
    return f"{method_name(line.method)} ({control})" if control else method_name(line.method)


def explained_controls(lines: Iterable[SummaryLine]) -> str:
    """A sentence on each sort of control among the lines; empty where there is none."""
    found = dict.fromkeys(line.control for line in lines if line.control)
    told = [f"{CONTROLS.get(name, name)}: {CONTROLS_EXPLAINED.get(name, name)}" for name in found]
    if not told:
        return ""
    return (
        f"Controls show how much the demonstrations gave ({'; '.join(told)}). A control is trained on its soft "
        "labels alone, without the gold labels of the labelled examples."
    )


def budget(line: SummaryLine) -> int:
    """The number of labels of a line; for a control that has none, of the lines that it stands beside."""
    found = re.search(r"-n(\d+)x\d+x\d+$", line.key) if line.control and not line.labelled else None
    return int(found[1]) if found else line.labelled


def _labels_or_beside(line: SummaryLine) -> str:
    return labels(line) if budget(line) == line.labelled else f"beside {plural(budget(line), 'label')}"


# What tells two lines of one method apart, in the order in which it is said.
_TRAITS: tuple[Callable[[SummaryLine], str], ...] = (
    _looked_up("control", CONTROLS),
    lambda line: model_name(line.student) if line.student else "",
    lambda line: model_name(line.teacher) if line.teacher else "",
    _looked_up("head", HEADS),
    _looked_up("tuning", TUNINGS),
    _labels_or_beside,
    contexts,
    _looked_up("scoring", SCORINGS),
    _looked_up("calibration", CALIBRATIONS),
    lambda line: plural(line.unlabelled, "query") if line.unlabelled else "",
)


def line_names(lines: Sequence[SummaryLine]) -> dict[str, str]:
    """A name for each line by its key: its method, and what tells it from the method's other lines."""
    named = {}
    for line in lines:
        siblings = [other for other in lines if other.method == line.method]
        told = ", ".join(filter(None, (trait(line) for trait in _telling_traits(siblings))))
        named[line.key] = f"{method_name(line.method)} ({told})" if told else method_name(line.method)
    return _made_unique(named)


def _telling_traits(siblings: Sequence[SummaryLine]) -> list[Callable[[SummaryLine], str]]:
    """The traits that tell the lines apart, without those that add nothing to the ones before."""
    telling: list[Callable[[SummaryLine], str]] = []
    told_apart = 1
    for trait in _TRAITS:
        kinds = len({tuple(one(line) for one in (*telling, trait)) for line in siblings})
        if kinds > told_apart:
            telling.append(trait)
            told_apart = kinds
    return telling


def _made_unique(named: dict[str, str]) -> dict[str, str]:
    times = Counter(named.values())
    return {key: name if times[name] == 1 else f"{name} [{key}]" for key, name in named.items()}


def listed(items: Iterable[str]) -> str:
    """Items as one would say them.

    >>> listed(["snli"]), listed(["snli", "mnli", "hans"])
    ('snli', 'snli, mnli and hans')
    """
    *first, last = list(items) or [""]
    return f"{', '.join(first)} and {last}" if first else last
