"""The words and sentence shapes of Stillshot's own HANS-style pairs.

The 30 subcases and what each of them tests follow McCoy, Pavlick & Linzen (2019), "Right for the Wrong
Reasons: Diagnosing Syntactic Heuristics in Natural Language Inference"; the vocabulary and the shapes are
Stillshot's own.

A shape is two format strings, the premise's and the hypothesis's. The name of a slot is a kind and an
optional number: ``{n1}`` and ``{n2}`` are two noun phrases, ``{v1}`` a transitive verb, ``{place}`` a phrase
of place. ``KINDS`` says which words may fill each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# --------------------------------------------------------------------------------------------------- words


@dataclass(frozen=True)
class Word:
    """A word or fixed phrase; ``str`` of it is how it reads inside a sentence."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Noun(Word):
    """A definite noun phrase.

    Attributes:
        bare: The noun without its article.
        was: The form of "be" that agrees with it.
    """

    bare: str
    was: str


@dataclass(frozen=True)
class DroppingVerb(Word):
    """A verb that may drop its object, with an object it takes."""

    object: str


@dataclass(frozen=True)
class Kind:
    """What may fill a slot.

    Attributes:
        pool: The name of the pool of families. Two slots that share a pool never get the same family.
        forms: Which members of a family are allowed; a noun's family is (singular, plural).
    """

    pool: str
    forms: tuple[int, ...] = (0,)


Family = tuple[Word, ...]


def _nouns(lemmas: str) -> tuple[Family, ...]:
    return tuple(
        (Noun(f"the {lemma}", lemma, "was"), Noun(f"the {lemma}s", f"{lemma}s", "were"))
        for lemma in lemmas.split()
    )


def _words(texts: str) -> tuple[Family, ...]:
    return tuple((Word(text),) for text in texts.split(", "))


def _dropping(**objects: str) -> tuple[Family, ...]:
    return tuple(
        (DroppingVerb(verb, f"the {noun}"),) for verb, nouns in objects.items() for noun in nouns.split()
    )


POOLS: Mapping[str, tuple[Family, ...]] = {
    "noun": _nouns(
        "baker pilot gardener nurse farmer teacher carpenter singer engineer painter soldier plumber "
        "librarian surgeon mayor chef dancer detective sailor butcher waiter poet clerk cyclist miner "
        "tailor driver dentist barber shepherd"
    ),
    # Regular, so that a passive has the same words as its active; of events, so that "bakers greeted ..."
    # is not read as generic; distributive, so that a conjunct alone is entailed; never symmetric, so that a
    # swap is not entailed; and without a "that" clause, so that "that" can only open a relative clause.
    "transitive": _words(
        "greeted, praised, followed, visited, ignored, blamed, photographed, teased, "
        "congratulated, consoled, criticized, insulted, questioned, welcomed, chased, "
        "interrupted, mocked, applauded, scolded, flattered, comforted, imitated"
    ),
    "intransitive": _words(
        "smiled, sneezed, yawned, laughed, whistled, coughed, stumbled, fainted, hesitated, "
        "frowned, blushed, knelt, trembled, sighed, nodded"
    ),
    # "Ahead of" and "with" are left out: after a verb they suggest that its action has two objects or agents.
    "preposition": _words(
        "beside, opposite, close to, across from, to the left of, to the right of, not far from"
    ),
    "place": _words(
        "in the garden, in the valley, in the forest, in the village, on the island, "
        "on the beach, at the harbor, at the farm, along the river, near the castle"
    ),
    "relativizer": _words("who, that"),
    # No privative adjective ("former", "fake"): the bare noun must be entailed.
    "adjective": _words(
        "tired, cheerful, tall, quiet, young, famous, polite, hungry, clever, nervous, friendly, "
        "elderly, brave, stubborn"
    ),
    # No verb whose bare form has a narrower sense ("drank") or whose subject would become its patient.
    "dropping": _dropping(
        ate="soup bread apples",
        read="letter novel reports",
        wrote="poem letters speech",
        cooked="meal stew vegetables",
        painted="fence portrait walls",
        sang="anthem ballad songs",
        drove="truck bus tractor",
        swept="floor stairs porch",
        knitted="scarf sweater mittens",
        typed="memo contract invoices",
        studied="map manuscript diagrams",
        smoked="cigar pipe cigarettes",
        sewed="curtain costume shirts",
        cleaned="kitchen windows stable",
    ),
    # Only verbs for which "V that X did it" does not bring "V X" with it, so no "remembered" or "mentioned".
    "clausal_or_nominal": _words(
        "believed, understood, knew, heard, forgot, feared, accepted, discovered, acknowledged"
    ),
    "optionally_transitive": _words(
        "answered, attacked, bathed, dressed, hid, hunted, paid, painted, phoned, shaved, "
        "sketched, taught, trained, washed, watched"
    ),
    # Participle and past tense look the same, and being the patient does not make one the agent ("trained"
    # and "washed" are left out for that).
    "participle": _words(
        "paid, taught, painted, sketched, served, watched, phoned, hunted, attacked, filmed, "
        "lectured, tutored, coached"
    ),
    "factive": _words("knew, realized, remembered, noticed, discovered, forgot, regretted"),
    "nonfactive": _words(
        "believed, hoped, claimed, said, thought, feared, suspected, assumed, argued, insisted, imagined"
    ),
    "sure": _words(
        "certainly, undoubtedly, indeed, fortunately, surprisingly, luckily, admittedly, obviously"
    ),
    "unsure": _words(
        "probably, hopefully, possibly, supposedly, allegedly, presumably, reportedly, "
        "conceivably, in all likelihood"
    ),
    # "Before" is left out: what comes after it need not have happened.
    "veridical": _words("since, because, although, even though, after, while"),
    "subordinator": _words("since, because, although, after, before, while, as, when"),
    "condition": _words("if, unless, provided that, assuming that, supposing that"),
    # These three leave the clause under them open but assert the main clause.
    "open_condition": _words("in case, even if, whether or not"),
    "additive": _words("and, but"),
}

KINDS: Mapping[str, Kind] = {
    "n": Kind("noun", (0, 1)),
    "plural": Kind("noun", (1,)),
    "v": Kind("transitive"),
    "i": Kind("intransitive"),
    "prep": Kind("preposition"),
    "rel": Kind("relativizer"),
    **{
        name: Kind(name)
        for name in POOLS
        if name not in ("noun", "transitive", "intransitive", "preposition", "relativizer")
    },
}

# -------------------------------------------------------------------------------------------------- shapes


@dataclass(frozen=True)
class Shape:
    """A premise and a hypothesis with slots; every slot of the hypothesis is one of the premise."""

    premise: str
    hypothesis: str


def _shapes(premise: str, *hypotheses: str) -> tuple[Shape, ...]:
    return tuple(Shape(premise, hypothesis) for hypothesis in hypotheses)


# A clause of each kind; those of _SECOND share no slot with those of _FIRST.
_FIRST = ("{n1} {v1} {n2}", "{n1} {i1}")
_SECOND = ("{n3} {v2} {n4}", "{n3} {i2}")


def _one_clause(before: str) -> tuple[Shape, ...]:
    return tuple(Shape(f"{before} {clause}", clause) for clause in _SECOND)


def _two_clauses(pattern: str, *, first: bool = False, second: bool = False) -> tuple[Shape, ...]:
    """Both clauses in every combination; the hypothesis is the first, the second, or each in turn."""
    shapes: list[Shape] = []
    for one in _FIRST:
        for two in _SECOND:
            premise = pattern.replace("<1>", one).replace("<2>", two)
            shapes += [Shape(premise, clause) for clause, asked in ((one, first), (two, second)) if asked]
    return tuple(shapes)


_LEXICAL_OVERLAP: Mapping[str, tuple[Shape, ...]] = {
    "le_around_prepositional_phrase": (
        Shape("{n1} {prep} {n2} {v1} {n3}", "{n1} {v1} {n3}"),
        Shape("{n1} {prep} {n2} {i1}", "{n1} {i1}"),
        Shape("{n1} {place} {v1} {n2}", "{n1} {v1} {n2}"),
    ),
    "le_around_relative_clause": (
        Shape("{n1} {rel} {v1} {n2} {v2} {n3}", "{n1} {v2} {n3}"),
        Shape("{n1} {rel} {n2} {v1} {v2} {n3}", "{n1} {v2} {n3}"),
        Shape("{n1} {rel} {i1} {v1} {n2}", "{n1} {v1} {n2}"),
        Shape("{n1} {rel} {v1} {n2} {i1}", "{n1} {i1}"),
        Shape("{n1} {rel} {n2} {v1} {i1}", "{n1} {i1}"),
    ),
    "le_conjunction": (
        Shape("{n1} and {n2} {v1} {n3}", "{n1} {v1} {n3}"),
        Shape("{n1} {v1} {n2} and {n3}", "{n1} {v1} {n3}"),
        Shape("{n1} and {n2} {i1}", "{n1} {i1}"),
    ),
    "le_passive": (Shape("{n1} {n1.was} {v1} by {n2}", "{n2} {v1} {n1}"),),
    "le_relative_clause": (
        Shape("{n1} {rel} {v1} {n2} {v2} {n3}", "{n1} {v1} {n2}"),
        Shape("{n1} {rel} {n2} {v1} {v2} {n3}", "{n2} {v1} {n1}"),
        Shape("{n1} {rel} {i1} {v1} {n2}", "{n1} {i1}"),
        Shape("{n1} {v1} {n2} {rel} {v2} {n3}", "{n2} {v2} {n3}"),
        Shape("{n1} {v1} {n2} {rel} {n3} {v2}", "{n3} {v2} {n2}"),
        Shape("{n1} {v1} {n2} {rel} {i1}", "{n2} {i1}"),
    ),
    "ln_conjunction": (
        *_shapes(
            "{n1} and {n2} {v1} {n3}", "{n1} {v1} {n2}", "{n2} {v1} {n1}", "{n3} {v1} {n1}", "{n3} {v1} {n2}"
        ),
        *_shapes(
            "{n1} {v1} {n2} and {n3}", "{n2} {v1} {n1}", "{n3} {v1} {n1}", "{n2} {v1} {n3}", "{n3} {v1} {n2}"
        ),
    ),
    "ln_passive": (Shape("{n1} {n1.was} {v1} by {n2}", "{n1} {v1} {n2}"),),
    "ln_preposition": (
        *_shapes(
            "{n1} {v1} {n2} {prep} {n3}",
            "{n2} {v1} {n1}",
            "{n3} {v1} {n1}",
            "{n1} {v1} {n3}",
            "{n3} {v1} {n2}",
        ),
        *_shapes("{n1} {prep} {n2} {v1} {n3}", "{n3} {v1} {n1}", "{n3} {v1} {n2}", "{n2} {v1} {n1}"),
    ),
    "ln_relative_clause": (
        *_shapes("{n1} {rel} {v1} {n2} {v2} {n3}", "{n2} {v1} {n1}", "{n3} {v2} {n1}", "{n2} {v2} {n1}"),
        *_shapes("{n1} {rel} {n2} {v1} {v2} {n3}", "{n1} {v1} {n2}", "{n3} {v2} {n1}", "{n2} {v2} {n3}"),
        *_shapes("{n1} {v1} {n2} {rel} {v2} {n3}", "{n3} {v2} {n2}", "{n1} {v2} {n3}", "{n2} {v1} {n1}"),
        *_shapes("{n1} {v1} {n2} {rel} {n3} {v2}", "{n2} {v2} {n3}", "{n3} {v2} {n1}", "{n3} {v1} {n2}"),
    ),
    "ln_subject/object_swap": (Shape("{n1} {v1} {n2}", "{n2} {v1} {n1}"),),
}

_SUBSEQUENCE: Mapping[str, tuple[Shape, ...]] = {
    "se_PP_on_obj": (
        Shape("{n1} {v1} {n2} {prep} {n3}", "{n1} {v1} {n2}"),
        Shape("{n1} {v1} {n2} {place}", "{n1} {v1} {n2}"),
    ),
    "se_adjective": (
        Shape("{adjective} {plural1.bare} {v1} {n2}", "{plural1.bare} {v1} {n2}"),
        Shape("{adjective} {plural1.bare} {i1}", "{plural1.bare} {i1}"),
    ),
    "se_conjunction": (
        Shape("{n1} and {n2} {v1} {n3}", "{n2} {v1} {n3}"),
        Shape("{n1} {v1} {n2} and {n3}", "{n1} {v1} {n2}"),
        Shape("{n1} and {n2} {i1}", "{n2} {i1}"),
    ),
    "se_relative_clause_on_obj": (
        Shape("{n1} {v1} {n2} {rel} {v2} {n3}", "{n1} {v1} {n2}"),
        Shape("{n1} {v1} {n2} {rel} {n3} {v2}", "{n1} {v1} {n2}"),
        Shape("{n1} {v1} {n2} {rel} {i1}", "{n1} {v1} {n2}"),
    ),
    "se_understood_object": (
        Shape("{n1} {dropping} {dropping.object}", "{n1} {dropping}"),
        Shape("{n1} {dropping} {dropping.object} {place}", "{n1} {dropping}"),
    ),
    "sn_NP/S": (
        Shape("{n1} {clausal_or_nominal} {n2} {v1} {n3}", "{n1} {clausal_or_nominal} {n2}"),
        Shape("{n1} {clausal_or_nominal} {n2} {i1}", "{n1} {clausal_or_nominal} {n2}"),
    ),
    # Without the comma that spelling asks for: the missing boundary is what this subcase tests.
    "sn_NP/Z": (
        Shape(
            "{subordinator} {n1} {optionally_transitive} {n2} {v1} {n3}", "{n1} {optionally_transitive} {n2}"
        ),
        Shape("{subordinator} {n1} {optionally_transitive} {n2} {i1}", "{n1} {optionally_transitive} {n2}"),
    ),
    "sn_PP_on_subject": (
        Shape("{n1} {prep} {n2} {v1} {n3}", "{n2} {v1} {n3}"),
        Shape("{n1} {prep} {n2} {i1}", "{n2} {i1}"),
    ),
    "sn_past_participle": (
        Shape("{n1} {participle} {place} {v1} {n2}", "{n1} {participle} {place}"),
        Shape("{n1} {participle} {place} {i1}", "{n1} {participle} {place}"),
        Shape("{n1} {v1} {n2} {participle} {place}", "{n2} {participle} {place}"),
    ),
    "sn_relative_clause_on_subject": (
        Shape("{n1} {rel} {v1} {n2} {v2} {n3}", "{n2} {v2} {n3}"),
        Shape("{n1} {rel} {v1} {n2} {i1}", "{n2} {i1}"),
    ),
}

_CONSTITUENT: Mapping[str, tuple[Shape, ...]] = {
    "ce_adverb": _one_clause("{sure},"),
    "ce_after_since_clause": _two_clauses("{veridical} <1>, <2>", second=True),
    "ce_conjunction": _two_clauses("<1>, {additive} <2>", first=True, second=True),
    "ce_embedded_under_since": _two_clauses("{veridical} <1>, <2>", first=True),
    "ce_embedded_under_verb": _one_clause("{n1} {factive} that"),
    "cn_adverb": _one_clause("{unsure},"),
    "cn_after_if_clause": _two_clauses("{condition} <1>, <2>", second=True),
    "cn_disjunction": (
        *_two_clauses("<1>, or <2>", first=True, second=True),
        *_two_clauses("either <1>, or <2>", first=True, second=True),
    ),
    "cn_embedded_under_if": (
        *_two_clauses("{condition} <1>, <2>", first=True),
        *_two_clauses("{open_condition} <1>, <2>", first=True),
    ),
    "cn_embedded_under_verb": _one_clause("{n1} {nonfactive} that"),
}

SHAPES: Mapping[str, Mapping[str, tuple[Shape, ...]]] = {
    "lexical_overlap": _LEXICAL_OVERLAP,
    "subsequence": _SUBSEQUENCE,
    "constituent": _CONSTITUENT,
}
