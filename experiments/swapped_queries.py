"""Plain pairs whose words overlap and whose order matters, beside plain pairs as they are (for paper-ratio-hans).

    python experiments/swapped_queries.py    # writes runs/swapped-queries.jsonl

After the syntactic augmentation of Min et al. 2020 (arXiv 2004.11999), but with no label: the teacher gives those. A
sentence of SNLI's or MNLI's training split of the form "a man is walking a dog in the park" becomes two pairs. In one the
hypothesis has subject and object exchanged ("a dog is walking a man in the park"), in the other it says a part of the
same ("a man is walking a dog"). No template or word list of HANS is read.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from stillshot.data.sources import read_reference
from stillshot.errors import StillshotError
from stillshot.tasks import load_task
from stillshot.types import Example

PATH = Path("runs/swapped-queries.jsonl")
PLAIN = 3_000  # pairs of SNLI and of MNLI, each, as they are
MADE = 1_500  # sentences that are made into two pairs

_PREPOSITIONS = "at|on|to|near|behind|past|with|towards|by|for|around|over|into|through|from"
_PHRASE = (
    "(?:an?|the|two|three|some|several|many|one|his|her|their|another)"  # a determiner and up to three words
    "(?: (?!and|with|in|on|at|of|to)[a-z-]+){1,3}?"
)
_VERB = rf"(?:(?:is|are|was|were) [a-z]+ing|(?!is\b|was\b|has\b)[a-z]+(?:ed|s))(?: (?:{_PREPOSITIONS}))?"
_REST = r" (?:in|on|at|with|while|near|from|during|outside|inside|as|across|behind|under|next)\b.*"
_SENTENCE = re.compile(
    rf"(?P<subject>{_PHRASE}) (?P<verb>{_VERB}) (?P<object>{_PHRASE})(?P<rest>(?:{_REST})?)\.?", re.IGNORECASE
)


def pairs_of(sentence: str) -> list[dict[str, str]]:
    """The two pairs of a sentence, or none where it has not the form.

    >>> for pair in pairs_of("A man is walking a dog in the park."):
    ...     print(pair["hypothesis"])
    A dog is walking a man in the park.
    A man is walking a dog.
    """
    found = _SENTENCE.fullmatch(sentence.strip())
    if found is None or found["subject"].casefold() == found["object"].casefold():
        return []
    subject, verb, thing, rest = found["subject"], found["verb"], found["object"], found["rest"]
    swapped = _sentence(thing, verb, _lowered(subject), rest)
    shorter = _sentence(subject, verb, thing if rest else _without_adjectives(thing), "")
    return [
        {"premise": _sentence(subject, verb, thing, rest), "hypothesis": hypothesis}
        for hypothesis in (swapped, shorter)
    ]


def _sentence(*parts: str) -> str:
    text = " ".join(part.strip() for part in parts if part)
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _lowered(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]


def _without_adjectives(phrase: str) -> str:
    words = phrase.split()
    return f"{words[0]} {words[-1]}"


def sentences(examples: Iterable[Example]) -> Iterator[str]:
    """All texts of pairs."""
    return (text for example in examples for text in example.fields.values())


def main() -> None:
    """Write the pairs, and say how many."""
    draw = random.Random("swapped queries")
    try:
        plain = {name: read_reference("train", load_task(name))[1] for name in ("snli", "mnli")}
    except StillshotError as error:
        sys.exit(f"error: {error}")
    texts = list(dict.fromkeys(text for examples in plain.values() for text in sentences(examples)))
    made = [pairs for text in texts if (pairs := pairs_of(text))]
    rows = [pair for pairs in draw.sample(made, min(MADE, len(made))) for pair in pairs]
    for examples in plain.values():
        rows += [dict(example.fields) for example in draw.sample(examples, min(PLAIN, len(examples)))]
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    print(f"{PATH}: {len(rows):,} pairs")


if __name__ == "__main__":
    main()
