"""A teacher's scores depend on the prompt alone: not on batches, padding, order, or how the prefix is kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import SENTIMENT, all_scores, context, review, reviews
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from stillshot.config import Prompt
from stillshot.config import Teacher as TeacherSection
from stillshot.errors import ModelError, WorkError
from stillshot.models.random_weights import random_tokenizer
from stillshot.prompt.writer import Kind, PromptWriter, ScoredPrompt, ScoredSequence
from stillshot.teacher import attention
from stillshot.teacher.kernels import PrefixLayer
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Context, Example

MODELS = ["llama", "opt", "qwen2", "gpt2", "gpt_neox"]
ASKED: list[tuple[Kind, str]] = [("direct", "yes-no"), ("direct", "several"), ("channel", "yes-no")]
Lively = Callable[[str], str]
Array = NDArray[np.float64]


def teacher_of(folder: str, **settings: Any) -> LocalTeacher:
    return LocalTeacher(TeacherSection(model=folder, dtype="float32", **settings))


def scores_of(
    teacher: LocalTeacher, kind: Kind, pattern: str, shown: Context, queries: list[Example]
) -> Array:
    """Log-scores whose rows sum to zero: they are defined up to a constant a row."""
    writer = PromptWriter(SENTIMENT, Prompt(pattern=pattern), teacher.encoder)
    single = kind == "direct" and writer.verbalizer.single_token
    tokens = [ids[0] for ids in writer.verbalizer.token_ids] if single else None
    return centred(all_scores(teacher, writer.prompts(kind, shown, queries), tokens))


def centred(scores: Array) -> Array:
    return scores - scores.mean(-1, keepdims=True)


def assert_same(one: Array, other: Array) -> None:
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-4)


def plain_scores(folder: str, rows: list[list[tuple[str, str]]], bos: bool) -> Array:
    """log P(scored text | text before), by transformers alone, one unpadded sequence at a time.

    ``rows`` has, for each query and label, the text before and the scored text.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result = []
    for row in rows:
        values = []
        for before, scored in row:
            start = tokenizer(before, add_special_tokens=False).input_ids
            end = tokenizer(scored, add_special_tokens=False).input_ids
            ids = torch.tensor([[1] * bos + start + end])
            with torch.no_grad():
                log_probabilities = model(ids).logits[0].double().log_softmax(-1)
            first = ids.shape[1] - len(end)
            values.append(
                sum(log_probabilities[at - 1, ids[0, at]].item() for at in range(first, ids.shape[1]))
            )
        result.append(values)
    return centred(np.array(result))


def demonstrated(shown: Context, words: dict[str, str], end: str) -> str:
    """The demonstrations of a direct prompt, written out by hand."""
    return "".join(
        f"Review: {d.fields['text']}\n{end} {words[str(d.label)]}\n\n" for d in shown.demonstrations
    )


def plain_direct(folder: str, pattern: str, shown: Context, queries: list[Example], bos: bool) -> Array:
    end = {"yes-no": "Good?", "several": "It is"}[pattern]
    words = SENTIMENT.patterns[pattern].label_words
    before = demonstrated(shown, words, end)
    return plain_scores(
        folder,
        [
            [(f"{before}Review: {q.fields['text']}\n{end}", f" {words[label]}") for label in SENTIMENT.labels]
            for q in queries
        ],
        bos,
    )


def plain_channel(folder: str, shown: Context, queries: list[Example], bos: bool) -> Array:
    words = {"negative": "bad", "positive": "good"}
    before = "".join(f"It is {words[str(d.label)]}: {d.fields['text']}\n\n" for d in shown.demonstrations)
    return plain_scores(
        folder,
        [
            [(f"{before}It is {words[label]}:", f" {q.fields['text']}") for label in SENTIMENT.labels]
            for q in queries
        ],
        bos,
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("kind", "pattern"), ASKED)
@pytest.mark.parametrize("shots", [0, 3])
def test_scores_are_those_of_plain_transformers(
    lively: Lively, model: str, kind: Kind, pattern: str, shots: int
) -> None:
    folder, shown, queries = lively(model), context(shots), reviews(5, seed=7)
    scores = scores_of(teacher_of(folder), kind, pattern, shown, queries)
    bos = model == "opt"  # whose tokenizer begins every text with it
    if kind == "direct":
        expected = plain_direct(folder, pattern, shown, queries, bos)
    else:
        expected = plain_channel(folder, shown, queries, bos)
    assert_same(scores, expected)
    assert np.abs(scores).max() > 0.1  # the comparison is of something


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_prefix_modes_and_batch_sizes_agree(lively: Lively, model: str, seed: int) -> None:
    rng = random.Random(f"modes:{seed}")
    shown = context([0, 1, 5, 17][seed], seed=seed)
    queries = reviews(rng.randint(2, 14), seed=seed + 10, longest=rng.choice([3, 30, 120]))
    teachers = [
        teacher_of(lively(model), prefix=mode, batch_tokens=rng.choice([1, 64, 300, 5000]))
        for mode in ("none", "repeat", "shared")
    ]
    for kind, pattern in ASKED:
        read_in_full, *others = [scores_of(t, kind, pattern, shown, queries) for t in teachers]
        for scores in others:
            assert_same(scores, read_in_full)


@given(data=st.data())
@pytest.mark.parametrize("model", MODELS)
def test_any_prefix_length_and_batch_gives_the_scores_of_reading_in_full(
    lively: Lively, model: str, data: st.DataObject
) -> None:
    """Prompts of random tokens; the prefix takes any length from none to what the window leaves."""
    folder = lively(model)
    in_full, shared = (kept_teacher(folder, mode) for mode in ("none", "shared"))
    rng = random.Random(data.draw(st.integers(0, 2**32), label="tokens"))
    own = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=9), label="own lengths")
    prefix_length = data.draw(st.integers(0, in_full.window - max(own)), label="prefix length")
    rows_each = data.draw(st.integers(1, 3), label="sequences a prompt")
    shared._settings = shared._settings.model_copy(
        update={"batch_tokens": data.draw(st.integers(1, 400), label="batch tokens")}
    )
    drawn = partial(rng.choices, range(10, 300))
    start = drawn(k=prefix_length)
    prompts = []
    for length in own:
        sequences = [tuple(start + drawn(k=length)) for _ in range(rows_each)]
        if rows_each == 1:  # scored at label tokens, behind the last
            scored = [ScoredSequence(sequences[0], len(sequences[0]))]
        else:
            scored = [
                ScoredSequence(ids, max(1, rng.randint(prefix_length, len(ids) - 1))) for ids in sequences
            ]
        prompts.append(ScoredPrompt(tuple(scored), length))
    tokens = [20, 30, 40] if rows_each == 1 else None
    if tokens is None and prefix_length == 0 and min(own) == 1:
        return  # nothing comes before the only token
    found, expected = (all_scores(teacher, prompts, tokens) for teacher in (shared, in_full))
    assert_same(centred(found), centred(expected))


@cache
def kept_teacher(folder: str, mode: Any) -> LocalTeacher:
    return teacher_of(folder, prefix=mode)


@pytest.mark.parametrize("model", MODELS)
def test_without_a_tree_the_scores_are_the_same(
    lively: Lively, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """One row a sequence, as on accelerators, whose kernels take no masks."""
    teacher, shown, queries = teacher_of(lively(model)), context(4), reviews(7, seed=3)
    asked = [(kind, pattern) for kind, pattern in ASKED if (kind, pattern) != ("direct", "yes-no")]
    as_tree = [scores_of(teacher, kind, pattern, shown, queries) for kind, pattern in asked]
    monkeypatch.setattr(LocalTeacher, "_shares_queries", False)
    for (kind, pattern), expected in zip(asked, as_tree, strict=True):
        assert_same(scores_of(teacher, kind, pattern, shown, queries), expected)


@pytest.mark.parametrize("mode", ["none", "repeat", "shared"])
@pytest.mark.parametrize(("kind", "pattern"), ASKED)
def test_company_and_order_of_queries_do_not_matter(
    lively: Lively, mode: str, kind: Kind, pattern: str
) -> None:
    teacher, shown, queries = teacher_of(lively("qwen2"), prefix=mode), context(4), reviews(9, seed=3)
    queries.append(review("much longer than the others " * 6))  # makes all of them padded
    together = scores_of(teacher, kind, pattern, shown, queries)
    alone = np.concatenate([scores_of(teacher, kind, pattern, shown, [q]) for q in queries])
    assert_same(together, alone)
    assert_same(together, scores_of(teacher, kind, pattern, shown, queries[::-1])[::-1])


@pytest.mark.parametrize("mode", ["none", "repeat", "shared"])
@pytest.mark.parametrize(("kind", "pattern"), ASKED)
def test_the_teacher_sees_the_demonstrations(lively: Lively, mode: str, kind: Kind, pattern: str) -> None:
    """Their text, their labels and their order each change every answer."""
    teacher, shown, queries = teacher_of(lively("llama"), prefix=mode), context(4), reviews(6, seed=3)
    first, *rest = shown.demonstrations
    flipped = Example(first.fields, "positive" if first.label == "negative" else "negative")
    others = [
        Context(),
        Context((review("another text", first.label), *rest)),
        Context((flipped, *rest)),
        Context(shown.demonstrations[::-1]),
    ]
    scores = scores_of(teacher, kind, pattern, shown, queries)
    for other in others:
        change = np.abs(scores - scores_of(teacher, kind, pattern, other, queries)).max(-1)
        assert change.min() > 1e-3


def test_an_empty_context_is_the_query_alone(lively: Lively) -> None:
    teacher = teacher_of(lively("opt"))
    writer = PromptWriter(SENTIMENT, Prompt(), teacher.encoder)
    query = review("a film")
    assert writer.direct_text(Context(), query) == writer.query_text(query) == "Review: a film\nGood?"
    (prompt,) = writer.prompts("direct", Context(), [query])
    assert list(prompt.sequences[0].ids) == teacher.encoder.encode("Review: a film\nGood?")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("kind", "pattern"), ASKED)
def test_the_prefix_is_read_and_held_once(
    lively: Lively, monkeypatch: pytest.MonkeyPatch, model: str, kind: Kind, pattern: str
) -> None:
    teacher, shown, queries = teacher_of(lively(model), batch_tokens=90), context(12), reviews(10, seed=3)
    assert teacher.prefix_mode == "shared"
    read: list[tuple[int, ...]] = []
    held: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    teacher.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple((args[0] if args else kwargs["input_ids"]).shape)),
        with_kwargs=True,
    )
    exact = attention.merge_with_prefix

    def watched(query: Any, own: Any, own_lse: Any, prefix: PrefixLayer, scale: float) -> Any:
        held.add((id(prefix), tuple(prefix.key.shape), tuple(prefix.value.shape)))
        return exact(query, own, own_lse, prefix, scale)

    monkeypatch.setattr(attention, "merge_with_prefix", watched)
    scores_of(teacher, kind, pattern, shown, queries)
    (rows, prefix), *batches = read
    longest_own = 20 + max(len(q.fields["text"]) for q in queries)
    assert rows == 1
    assert prefix > 5 * longest_own
    assert len(batches) >= 3
    branches = 1 if kind == "direct" else 2
    assert all(width <= branches * (longest_own + 10) for _, width in batches)
    assert sum(rows for rows, _ in batches) == len(queries)
    config = teacher.model.config
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = config.hidden_size // config.num_attention_heads
    assert {(key, value) for _, key, value in held} == {((groups, head, prefix), (groups, prefix, head))}
    assert len(held) == config.num_hidden_layers


def test_a_sliding_window_is_served_without_the_shared_prefix(tmp_path: Path) -> None:
    folder = str(tmp_path / "sliding")
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, initializer_range=0.3, max_position_embeddings=2048,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    random_tokenizer("tiny-llama").save_pretrained(folder)
    with pytest.raises(ModelError, match="auto or repeat"):
        teacher_of(folder, prefix="shared")
    teacher, shown, queries = teacher_of(folder), context(6), reviews(5, seed=3)
    assert teacher.prefix_mode == "repeat"
    expected = plain_direct(folder, "yes-no", shown, queries, bos=False)
    assert_same(scores_of(teacher, "direct", "yes-no", shown, queries), expected)
    in_full = teacher_of(folder, prefix="none")
    assert_same(scores_of(in_full, "direct", "yes-no", shown, queries), expected)


def test_a_recurrent_model_is_read_in_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = str(tmp_path / "mamba")
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=320, hidden_size=16, state_size=4, num_hidden_layers=2)
    MambaForCausalLM(config).save_pretrained(folder)
    random_tokenizer("tiny-llama").save_pretrained(folder)
    for mode in ("shared", "repeat"):
        with pytest.raises(ModelError, match=f"prefix {mode} does not serve.*auto or none"):
            teacher_of(folder, prefix=mode)
    teacher, shown, queries = teacher_of(folder), context(2), reviews(3, seed=3)
    assert teacher.prefix_mode == "none"
    teacher_of(folder)
    assert caplog.text.count("read again for every query") == 1  # said once
    expected = plain_direct(folder, "yes-no", shown, queries, bos=False)
    assert_same(scores_of(teacher, "direct", "yes-no", shown, queries), expected)


def test_known_positions_do_not_change_what_is_computed(lively: Lively) -> None:
    """Bit-identical: batches are formed as if nothing were known, and whole known ones are left out."""
    teacher, queries = teacher_of(lively("llama"), batch_tokens=60), reviews(12, seed=3)
    writer = PromptWriter(SENTIMENT, Prompt(), teacher.encoder)
    prompts = writer.prompts("direct", context(3), queries)
    tokens = [ids[0] for ids in writer.verbalizer.token_ids]
    whole = all_scores(teacher, prompts, tokens)
    part = all_scores(teacher, prompts, tokens, skip={0, 1, 2, 3, 4, 6, 7, 9})
    computed = ~np.isnan(part[:, 0])
    assert 4 <= computed.sum() < 12
    assert computed[[5, 8, 10, 11]].all()
    assert (part[computed] == whole[computed]).all()
    assert list(teacher.score(prompts, tokens, skip=range(12))) == []


def test_scores_that_are_not_finite_are_an_error(lively: Lively) -> None:
    teacher = teacher_of(lively("llama"))
    with torch.no_grad():
        teacher.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(WorkError, match=r"not finite.*teacher\.dtype to float32") as raised:
        scores_of(teacher, "direct", "yes-no", Context(), reviews(2))
    assert raised.value.exit_code == 1
