"""A student starts as the zero-shot teacher, learns only what it should, and is the same after saving and resuming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import LABELS, PAIRS, SENTIMENT, all_scores, reviews, stir
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from scipy.special import log_softmax, softmax
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    GraniteConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    pipeline,
)

from stillshot.config import Lora, Prompt, Training, Tuning
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.errors import DataError, ModelError, PromptError, WorkError
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.prompt.writer import PromptWriter
from stillshot.student import frozen, trainer
from stillshot.student.features import EncoderFeaturizer
from stillshot.student.lean import lean, passes
from stillshot.student.saved import Student
from stillshot.student.trainer import (
    BucketSampler,
    ContextDistillationConfig,
    ContextDistillationTrainer,
    collate,
)
from stillshot.student.training import TrainingSet, train_student
from stillshot.student.tuning import check_tuning, count_parameters
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Context, Example

DECODERS = ["llama", "opt", "qwen2", "gpt2", "gpt_neox"]
Lively = Callable[[str], str]


def section_of(folder: str, **settings: Any) -> StudentSection:
    return StudentSection(model=folder, dtype="float32", **settings)


def student_of(folder: str, **settings: Any) -> Student:
    torch.manual_seed(0)  # an encoder's score layer and LoRA's A are drawn
    return Student.create(section_of(folder, **settings), SENTIMENT, Prompt())


def soft_for(queries: list[Example], seed: int = 0) -> NDArray[np.float64]:
    return softmax(np.random.default_rng(seed).normal(size=(len(queries), 2)), axis=-1)


def training_set(queries: int = 20, labelled: int = 4) -> TrainingSet:
    asked = [Example(q.fields) for q in reviews(queries, seed=5)]
    return TrainingSet(asked, soft_for(asked), reviews(labelled, seed=6))


# Before training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["label", "channel", "language_model"])
@pytest.mark.parametrize("model", DECODERS)
def test_a_fresh_student_is_the_zero_shot_teacher(lively: Lively, model: str, head: str) -> None:
    queries = reviews(13)
    teacher = LocalTeacher(TeacherSection(model=lively(model), dtype="float32"))
    writer = PromptWriter(SENTIMENT, Prompt(), teacher.encoder)
    tokens = [ids[0] for ids in writer.verbalizer.token_ids] if head != "channel" else None
    prompts = writer.prompts("channel" if head == "channel" else "direct", Context(), queries)
    expected = log_softmax(all_scores(teacher, prompts, tokens), axis=-1)
    found = np.log(student_of(lively(model), head=head).predict_proba(queries))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert expected.std() > 0.1


def test_label_words_of_several_tokens_start_from_their_mean(lively: Lively) -> None:
    student = Student.create(section_of(lively("llama")), SENTIMENT, Prompt(pattern="several"))
    embedding = student_of(lively("llama"), head="channel").model.language_model.get_output_embeddings()
    writer = PromptWriter(SENTIMENT, Prompt(pattern="several"), student.featurizer.writer.encoder)  # type: ignore[attr-defined]
    for row, ids in zip(student.model.score.weight, writer.verbalizer.token_ids, strict=True):
        assert len(ids) > 1
        torch.testing.assert_close(row, embedding.weight[list(ids)].mean(0))


@pytest.mark.parametrize(
    ("model", "head"),
    [
        *((m, "label") for m in [*DECODERS, "bert"]),
        ("llama", "channel"),
        ("opt", "channel"),
        ("llama", "language_model"),
        ("opt", "language_model"),
    ],
)
def test_predictions_do_not_depend_on_padding_batches_or_order(lively: Lively, model: str, head: str) -> None:
    student, queries = student_of(lively(model), head=head), reviews(12, longest=90)
    stir(student.model)
    together = student.predict_proba(queries, batch_size=32)
    for batch_size in (1, 5):
        np.testing.assert_allclose(student.predict_proba(queries, batch_size), together, atol=1e-5)
    np.testing.assert_allclose(student.predict_proba(queries[::-1])[::-1], together, atol=1e-5)
    assert together[:, 0].std() > 1e-3
    np.testing.assert_allclose(together.sum(-1), 1.0)


def test_logits_are_read_at_the_last_token_that_is_not_padding(lively: Lively) -> None:
    """Against plain transformers on one unpadded sequence."""
    student, queries = student_of(lively("opt")), reviews(7)
    padded = student.predict_proba(queries, batch_size=7)
    for query, row in zip(queries, padded, strict=True):
        ids = student.tokenizer(f"Review: {query.fields['text']}\nGood?").input_ids
        with torch.no_grad():
            states = student.model.model(torch.tensor([ids])).last_hidden_state[0, -1]
            logits = states @ student.model.score.weight.T
        np.testing.assert_allclose(logits.softmax(-1).numpy(), row, atol=1e-5)


def test_a_prompt_that_ends_in_the_padding_token_is_refused(lively: Lively) -> None:
    student = student_of(lively("llama"))
    student.featurizer.pad_token_id = student.tokenizer("?").input_ids[-1]  # type: ignore[attr-defined]
    with pytest.raises(PromptError, match="ends in the padding token"):
        student.predict(["a film"])


def test_texts_over_max_tokens_are_cut_and_the_pattern_is_kept(lively: Lively) -> None:
    student = student_of(lively("llama"), max_tokens=40)
    (feature,) = student.featurizer.features([Example({"text": "long {text} " * 50})])
    text = student.tokenizer.decode(feature["input_ids"])
    assert feature["length"] <= 40
    assert text.startswith("Review: long {text} ")
    assert text.endswith("\nGood?")
    with pytest.raises(PromptError, match="Raise the student's max_tokens"):
        student_of(lively("llama"), max_tokens=8).predict(["a film"])


def test_of_a_pair_the_longest_text_is_cut_until_both_fit(lively: Lively) -> None:
    student = Student.create(section_of(lively("llama"), max_tokens=60), PAIRS, Prompt())
    whole = Example({"premise": "a man sleeps " * 40, "hypothesis": "he rests " * 60})
    (feature,) = student.featurizer.features([whole])
    assert feature["length"] <= 60
    text = student.tokenizer.decode(feature["input_ids"])
    assert text.count("sleeps") > 1
    assert text.count("rests") > 1


def test_special_tokens_in_data_stay_text_for_encoders(lively: Lively) -> None:
    student = Student.create(section_of(lively("bert")), PAIRS, Prompt())
    assert isinstance(student.featurizer, EncoderFeaturizer)
    (feature,) = student.featurizer.features([Example({"premise": "a <eos> b", "hypothesis": "<pad>"})])
    special = [token for token in feature["input_ids"] if token < 4]
    assert special == [1, 2, 2]  # <bos> premise <eos> hypothesis <eos>: the tokenizer's own


def test_queries_are_texts_mappings_or_examples(lively: Lively) -> None:
    student = student_of(lively("llama"))
    one, two, three = student.predict(["a film", {"text": "a film"}, Example({"text": "a film"})])
    assert one.label in LABELS
    assert one.label == two.label == three.label
    assert one.probabilities == pytest.approx(two.probabilities)
    assert sum(one.probabilities.values()) == pytest.approx(1)
    with pytest.raises(DataError, match="lacks the field 'text'"):
        student.predict([{"texts": "a film"}])
    pairs = Student.create(section_of(lively("bert")), PAIRS, Prompt())
    with pytest.raises(DataError, match="premise, hypothesis"):
        pairs.predict(["a film"])
    assert student.predict([]) == []


# What trains ---------------------------------------------------------------------------------------


def train_steps(student: Student, rows: list[dict[str, Any]], folder: Path, **settings: Any) -> Any:
    """A few steps of the trainer, by plain gradient descent so that what changes is what has a gradient."""
    arguments = ContextDistillationConfig(
        output_dir=str(folder), num_train_epochs=2, report_to="none", disable_tqdm=True, use_cpu=True,
        save_strategy="no", logging_strategy="no", **settings,
    )  # fmt: skip
    trained = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    trainer = ContextDistillationTrainer(
        model=student.model,
        args=arguments,
        pad=student.featurizer.pad,
        label_tokens=student.label_tokens,
        train_dataset=rows,
        optimizers=(optimizer, schedule),
    )
    return trainer.train()


def without_dropout(student: Student) -> Student:
    for module in student.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return student


# Which parameters change, by tuning: all others must not.
TRAINS: dict[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "lora": lambda name: "lora_" in name or "modules_to_save" in name,
    "bitfit": lambda name: name.endswith("bias") or name.startswith(("score", "classifier")),
}


@pytest.mark.parametrize("tuning", ["full", "lora", "bitfit"])
@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("opt", "label"),
        ("opt", "channel"),
        ("opt", "language_model"),
        ("gpt_neox", "label"),
        ("bert", "label"),
    ],
)
def test_only_what_the_tuning_names_is_trained(
    lively: Lively, tmp_path: Path, model: str, head: str, tuning: str
) -> None:
    """Embeddings and the tied output layer stay as they are under LoRA and BitFit, bit for bit."""
    student = student_of(lively(model), head=head, tuning=tuning)
    stir(student.model, 0.05, trainable_only=True)  # LoRA's B is zero at first, so A would have no gradient
    before = {name: parameter.detach().clone() for name, parameter in student.model.named_parameters()}
    train_steps(student, training_set().rows(student, 0.3), tmp_path, per_device_train_batch_size=8)
    changed = {n for n, p in student.model.named_parameters() if not torch.equal(p, before[n])}
    expected = {name for name in before if TRAINS[tuning](name)}
    assert changed <= expected
    # Without a gradient by construction: key biases under softmax, padding positions, unused poolers.
    idle = {n for n in expected - changed if n.endswith((".k_proj.bias", "key.bias"))}
    assert expected - changed == idle
    total, trainable = count_parameters(student.model)
    assert trainable == sum(before[name].numel() for name in expected)
    assert total == sum(values.numel() for values in before.values())
    embeddings = [
        name for name in before if "embed" in name and name.endswith("weight") and "orm" not in name
    ]
    assert embeddings
    assert all((name in changed) == (tuning == "full") for name in embeddings)


@pytest.mark.parametrize("tuning", ["full", "lora", "bitfit"])
def test_teacher_and_student_share_no_weights(lively: Lively, tmp_path: Path, tuning: str) -> None:
    teacher = LocalTeacher(TeacherSection(model=lively("opt"), dtype="float32"))
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    student = student_of(lively("opt"), tuning=tuning)
    train_steps(student, training_set().rows(student, 0.3), tmp_path)
    after = teacher.model.state_dict()
    assert before.keys() == after.keys()  # no adapter was injected
    assert all(torch.equal(before[name], after[name]) for name in before)
    held = {parameter.data_ptr() for parameter in teacher.model.parameters()}
    assert not held & {parameter.data_ptr() for parameter in student.model.parameters()}


def test_bitfit_on_a_model_without_biases_names_alternatives(lively: Lively) -> None:
    with pytest.raises(ModelError, match=r"llama models have none.*lora or full"):
        student_of(lively("llama"), tuning="bitfit")
    config = load.load_config(resolve_model("random:tiny-llama"))
    with pytest.raises(ModelError, match=r"llama models have none"):  # known before weights are loaded
        check_tuning(config, "bitfit", Lora(), classifies=True)
    with pytest.raises(ModelError, match=r"the model has 2 layers"):
        check_tuning(config, "lora", Lora(layers=3), classifies=True)


def test_lora_on_modules_that_do_not_exist_names_those_that_do(lively: Lively) -> None:
    with pytest.raises(ModelError, match=r"q_projection.*q_proj"):
        student_of(lively("llama"), tuning="lora", lora=Lora(target_modules=["q_projection"]))


@pytest.mark.parametrize("head", ["channel", "language_model"])
def test_a_head_that_an_encoder_has_not_is_refused(lively: Lively, head: str) -> None:
    with pytest.raises(ModelError, match=rf"bert.*head: {head} is not possible.*head: label, or a decoder"):
        student_of(lively("bert"), head=head)


def test_next_token_answers_need_label_words_of_one_token(lively: Lively) -> None:
    section = section_of(lively("llama"), head="language_model")
    with pytest.raises(PromptError, match=r"' quite bad' of 'negative' is \d+ tokens.*or use head: label"):
        Student.create(section, SENTIMENT, Prompt(pattern="several"))


# How it trains -------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [20, 15])  # with 4 labelled rows: three whole batches, and a remainder
@pytest.mark.parametrize(
    ("model", "head"),
    [("llama", "label"), ("opt", "channel"), ("bert", "label"), ("opt", "language_model")],
)
def test_accumulated_batches_are_one_batch(
    lively: Lively, tmp_path: Path, model: str, head: str, queries: int
) -> None:
    weights = []
    for size, accumulated in [(8, 1), (1, 8), (4, 2)] if queries == 20 else [(8, 1), (1, 8)]:
        student = without_dropout(student_of(lively(model), head=head))
        outcome = train_steps(
            student,
            training_set(queries).rows(student, 0.3),
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
        )
        assert outcome.global_step == 6
        weights.append(torch.cat([p.detach().flatten() for p in student.model.parameters()]))
    untrained = student_of(lively(model), head=head)
    start = torch.cat([p.detach().flatten() for p in untrained.model.parameters()])
    assert (weights[0] - start).abs().max() > 1e-3
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pass_tokens", [1, 40, 200])
@pytest.mark.parametrize(
    ("model", "head"),
    [("llama", "label"), ("opt", "channel"), ("bert", "label"), ("opt", "language_model")],
)
def test_a_batch_in_passes_is_the_whole_batch(
    lively: Lively, tmp_path: Path, model: str, head: str, pass_tokens: int
) -> None:
    weights = []
    for tokens in (None, pass_tokens):
        student = without_dropout(student_of(lively(model), head=head))
        rows = training_set(20).rows(student, 0.3)
        train_steps(student, rows, tmp_path, per_device_train_batch_size=8, pass_tokens=tokens)
        weights.append(torch.cat([p.detach().flatten() for p in student.model.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=1e-5)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    sequences=st.integers(0, 3),
    tokens=st.integers(1, 100),
)
def test_passes_hold_every_row_once_and_few_tokens(lengths: list[int], sequences: int, tokens: int) -> None:
    shape = (len(lengths), *([sequences] if sequences else []), max(lengths))
    mask = torch.arange(max(lengths)).expand(shape) < torch.tensor(lengths).view(-1, *[1] * (len(shape) - 1))
    weight = torch.rand(len(lengths))
    soft = torch.rand(len(lengths), max(lengths))  # as many labels as tokens
    numbers = torch.arange(len(lengths))
    batch = {"attention_mask": mask.long(), "row_weight": weight, "row": numbers, "soft_labels": soft}
    parts = passes(batch, tokens, {"row_weight", "row", "soft_labels"})
    assert sorted(row for part in parts for row in part["row"].tolist()) == list(range(len(lengths)))
    for part in parts:
        assert part["attention_mask"].numel() <= tokens or len(part["row"]) == 1
        assert torch.equal(part["soft_labels"], soft[part["row"]])
        assert part["attention_mask"].shape[-1] == max(lengths[row] for row in part["row"].tolist())
    total = sum(part["row_weight"].mean() for part in parts)
    torch.testing.assert_close(torch.as_tensor(total), weight.mean())


FROZEN = [
    ("llama", {"head": "label"}),
    ("opt", {"head": "channel"}),
    ("bert", {"head": "label"}),
    ("gpt2", {"head": "label"}),
    ("gpt_neox", {"head": "channel"}),
    ("llama", {"head": "language_model"}),
]


@pytest.mark.parametrize(("checkpointing", "half"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(("model", "settings"), FROZEN)
def test_frozen_layers_run_once_a_row_and_change_nothing(
    lively: Lively,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    settings: dict[str, Any],
    checkpointing: bool,
    half: bool,
) -> None:
    weights, runs = [], []
    for limit in (0, 2**30):
        monkeypatch.setattr(frozen, "_LIMIT_BYTES", limit)
        student = without_dropout(student_of(lively(model), tuning="lora", lora=Lora(layers=1), **settings))
        (lowest, *_) = frozen.frozen_layers(student.model)
        rows_seen = []
        inside = next(module for module in lowest.modules() if not list(module.children()))
        inside.register_forward_hook(lambda _, inputs, __, seen=rows_seen: seen.append(len(inputs[0])))
        rows = training_set(20).rows(student, 0.3)
        sequences = len(LABELS) if settings["head"] == "channel" else 1
        train_steps(
            student,
            rows,
            tmp_path,
            per_device_train_batch_size=8,
            activation_checkpointing=checkpointing,
            bf16=half,
            pass_tokens=100,
        )
        runs.append(sum(rows_seen) / sequences / len(rows))
        trained = [p.detach().flatten() for p in student.model.parameters() if p.requires_grad]
        weights.append(torch.cat(trained))
    assert runs[1] == 1 + 8 / len(rows)  # a first group of eight is tried
    assert runs[0] > 2
    near = {"atol": 1e-2, "rtol": 0.1} if half else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(weights[1], weights[0], **near)
    assert weights[0].abs().max() > 0


def test_frozen_layers_have_no_dropout_whether_kept_or_not(
    lively: Lively, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for limit in (0, 2**30):
        monkeypatch.setattr(frozen, "_LIMIT_BYTES", limit)
        student = student_of(lively("bert"), tuning="lora", lora=Lora(layers=1))
        *_, last = student.model.get_base_model().bert.encoder.layer
        for module in last.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        student.model.get_base_model().dropout.p = 0.0
        train_steps(student, training_set(20).rows(student, 0.3), tmp_path, per_device_train_batch_size=8)
        weights.append(torch.cat([p.detach().flatten() for p in student.model.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=1e-4)


def test_layers_that_pass_on_more_than_their_states_run_each_time() -> None:
    torch.manual_seed(0)
    config = MPNetConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = AutoModelForSequenceClassification.from_config(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "layer.1" in name or "classifier" in name
    assert len(frozen.frozen_layers(model)) == 1
    ids = torch.arange(3, 45).view(6, 7)

    def forward(rows: list[int]) -> torch.Tensor:
        return model.eval()(input_ids=ids[rows]).logits

    assert frozen.FrozenStates.of(model, [7] * 6, forward) is None
    assert "forward" not in vars(model.mpnet.encoder.layer[0])
    assert torch.isfinite(forward([0, 1])).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="layers are compiled by a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler imports what torch deprecates
def test_compiled_layers_learn_the_same(lively: Lively, tmp_path: Path) -> None:
    weights = []
    for compiled in (False, True):
        student = student_of(lively("llama"), tuning="lora", lora=Lora(layers=1))
        rows = training_set(20).rows(student, 0.3)
        train_steps(student, rows, tmp_path, compile_layers=compiled, pass_tokens=100)
        weights.append(
            torch.cat([p.detach().flatten() for p in student.model.parameters() if p.requires_grad])
        )
        assert not any(module._compiled_call_impl for module in student.model.modules())
    torch.testing.assert_close(weights[1], weights[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("fails", [False, True])
def test_lean_training_is_undone_at_its_end(lively: Lively, fails: bool) -> None:
    model = student_of(lively("llama"), tuning="lora").model
    adapters = [m for m in model.modules() if hasattr(m, "cast_input_dtype_enabled")]
    config = model.get_base_model().config
    assert adapters
    with suppress(KeyboardInterrupt), lean(model, longest=128, autocast=True, on_cpu=True):
        assert config._attn_implementation == "eager"
        assert not any(adapter.cast_input_dtype_enabled for adapter in adapters)
        if fails:
            raise KeyboardInterrupt
    assert config._attn_implementation == "sdpa"
    assert all(adapter.cast_input_dtype_enabled for adapter in adapters)
    with lean(model, longest=129, autocast=False, on_cpu=True):
        assert config._attn_implementation == "sdpa"
        assert all(adapter.cast_input_dtype_enabled for adapter in adapters)


def test_in_bfloat16_adapters_learn_the_same_without_copies(
    lively: Lively, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for leanly in (True, False):
        if not leanly:
            monkeypatch.setattr(trainer, "lean", lambda *_, **__: nullcontext())
        torch.manual_seed(0)
        section = StudentSection(model=lively("llama"), tuning="lora", dtype="bfloat16")
        student = Student.create(section, SENTIMENT, Prompt())
        train_steps(student, training_set(20).rows(student, 0.3), tmp_path, bf16=True)
        weights.append(
            torch.cat([p.detach().flatten() for p in student.model.parameters() if p.requires_grad])
        )
    torch.testing.assert_close(weights[1], weights[0], atol=2e-2, rtol=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "full"},
        {"tuning": "lora"},
        {"tuning": "bitfit"},
        {"tuning": "lora", "lora": Lora(layers=2)},
    ],
)
def test_layers_that_train_are_not_taken_for_frozen(lively: Lively, settings: dict[str, Any]) -> None:
    assert frozen.frozen_layers(student_of(lively("opt"), **settings).model) == []


@pytest.mark.parametrize("head", ["label", "language_model"])
def test_training_moves_the_student_to_its_soft_labels(lively: Lively, tmp_path: Path, head: str) -> None:
    data = training_set(12, labelled=0)
    training = Training(epochs=60, learning_rate=1e-2, hard_label_weight=0.0, warmup_ratio=0.0)
    section = section_of(lively("llama"), head=head)
    train_student(section, SENTIMENT, Prompt(), training, data, tmp_path / "student", seed=0)
    student = Student.load(tmp_path / "student")
    found, started = (s.predict_proba(data.queries) for s in (student, student_of(section.model, head=head)))
    assert data.soft_labels is not None
    assert np.abs(found - data.soft_labels).mean() < 0.3 * np.abs(started - data.soft_labels).mean()
    if head == "language_model":  # it also learned to answer with a label word at all
        assert label_mass(student, data.queries) > 0.9
        assert label_mass(student_of(section.model, head=head), data.queries) < 0.5


def label_mass(student: Student, queries: Sequence[Example]) -> float:
    """The smallest probability that a next token is a label word."""
    inputs = student.featurizer.pad(student.featurizer.features(queries))
    with torch.no_grad():
        logits = student.model.eval()(**inputs).logits
    assert logits.shape[-1] > len(LABELS)
    return float(logits.softmax(-1)[:, student.label_tokens].sum(-1).min())


def test_the_vocabulary_loss_is_cross_entropy_of_next_tokens(lively: Lively, tmp_path: Path) -> None:
    """Against plain transformers, one unpadded prompt at a time."""
    student, data = student_of(lively("opt"), head="language_model"), training_set(5, labelled=3)
    rows = data.rows(student, 0.3)
    trainer = ContextDistillationTrainer(
        model=student.model.eval(),
        args=ContextDistillationConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True),
        pad=student.featurizer.pad,
        label_tokens=student.label_tokens,
        train_dataset=rows,
    )
    found = trainer.compute_loss(student.model, collate(rows, student.featurizer.pad))
    losses = []
    for row in rows:
        with torch.no_grad():
            logits = student.model.language_model(torch.tensor([row["input_ids"]])).logits[0, -1]
        surprise = -logits.log_softmax(-1)[student.label_tokens].double().numpy()
        soft = np.array(row["soft_labels"])
        entropy = -np.sum(soft * np.log(np.maximum(soft, 1e-30)))
        losses.append(row["row_weight"] * (surprise @ soft - entropy))
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_each_epoch_has_an_order_of_its_own(lively: Lively, tmp_path: Path) -> None:
    student = student_of(lively("llama"))
    rows = training_set(24, labelled=0).rows(student, 0.0)
    seen: list[tuple[int, ...]] = []
    pad = student.featurizer.pad

    def watched(features: Any) -> Any:
        seen.extend(tuple(feature["input_ids"]) for feature in features)
        return pad(features)

    student.featurizer.pad = watched  # type: ignore[method-assign]
    train_steps(student, rows, tmp_path, per_device_train_batch_size=4)
    first, second = seen[:24], seen[24:48]
    assert sorted(first) == sorted(second) == sorted(tuple(row["input_ids"]) for row in rows)
    assert first != second


RESUMED = [
    ("opt", {"tuning": "full"}),
    ("bert", {"tuning": "lora", "lora": Lora(dropout=0.2)}),
    ("llama", {"tuning": "lora", "head": "channel", "lora": Lora(dropout=0.2)}),
    ("opt", {"tuning": "lora", "head": "language_model", "lora": Lora(dropout=0.2)}),
    ("gpt2", {"tuning": "bitfit"}),
    ("llama", {"tuning": "lora", "lora": Lora(dropout=0.2, layers=1)}),
]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def steps_of(section: StudentSection, folder: Path, *, epochs: int, stop_at: int | None = None) -> list[int]:
    """The steps of a training that saves at every one, interrupted behind ``stop_at``."""
    steps: list[int] = []

    def progress(step: int, _: int) -> None:
        steps.append(step)
        if step == stop_at:
            raise KeyboardInterrupt

    train_student(
        section, SENTIMENT, Prompt(), Training(epochs=epochs, batch_size=8), training_set(), folder,
        seed=3, progress=progress, checkpoint_seconds=0.0,
    )  # fmt: skip
    return steps


@pytest.mark.parametrize(("model", "settings"), RESUMED)
def test_interrupted_training_is_uninterrupted_training(
    lively: Lively, tmp_path: Path, model: str, settings: dict[str, Any]
) -> None:
    """Bit-identical weights, with dropout, over two interruptions: within an epoch and at its end."""

    def train(name: str, stop_at: int | None = None) -> list[int]:
        return steps_of(section_of(lively(model), **settings), tmp_path / name, epochs=3, stop_at=stop_at)

    assert train("whole") == list(range(1, 10))
    for stop_at in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            train("resumed", stop_at)
        assert not (tmp_path / "resumed").exists()
    assert train("resumed") == [5, 6, 7, 8, 9]  # from the checkpoint of step 4 on
    whole, resumed = weights_in(tmp_path / "whole"), weights_in(tmp_path / "resumed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "resumed"}  # no checkpoint is left behind


def test_the_time_before_an_interruption_counts(lively: Lively, tmp_path: Path) -> None:
    def train(progress: Callable[[int, int], None] | None) -> float:
        section, training = section_of(lively("opt")), Training(epochs=1, batch_size=8)
        return train_student(
            section, SENTIMENT, Prompt(), training, training_set(), tmp_path / "s",
            seed=0, progress=progress, checkpoint_seconds=0.0,
        ).seconds  # fmt: skip

    def stop(step: int, _: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    def stop_again(step: int, _: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stop)
    (known,) = (tmp_path / ".s.checkpoints").glob("checkpoint-*/stillshot.seconds")
    assert float(known.read_text()) > 0
    known.write_text("5000")
    with pytest.raises(KeyboardInterrupt):
        train(stop_again)
    (known,) = (tmp_path / ".s.checkpoints").glob("checkpoint-*/stillshot.seconds")
    assert float(known.read_text()) > 5000
    known.write_text("")  # as if killed while it was written
    assert 0 < train(None) < 5000


@pytest.mark.parametrize("missing", ["all but the weights", "the end of the state"])
def test_a_checkpoint_that_was_not_finished_is_passed_over(
    lively: Lively, tmp_path: Path, missing: str
) -> None:
    """What a kill while a checkpoint is written leaves behind."""

    def train(name: str, stop_at: int | None = None) -> int:
        return steps_of(section_of(lively("opt")), tmp_path / name, epochs=2, stop_at=stop_at)[0]

    train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("resumed", stop_at=4)
    (last,) = (tmp_path / ".resumed.checkpoints").glob("checkpoint-*")
    assert last.name == "checkpoint-3"
    torn = last.with_name("checkpoint-4")
    torn.mkdir()
    (torn / "trained.safetensors").write_bytes((last / "trained.safetensors").read_bytes())
    if missing == "the end of the state":
        state = (last / "trainer_state.json").read_text()
        (torn / "trainer_state.json").write_text(state[: len(state) // 2])
    assert train("resumed") == 4
    whole, resumed = weights_in(tmp_path / "whole"), weights_in(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_no_training_goes_on_from_the_checkpoint_of_another(lively: Lively, tmp_path: Path) -> None:
    section = section_of(lively("opt"))
    with pytest.raises(KeyboardInterrupt):
        steps_of(section, tmp_path / "student", epochs=3, stop_at=4)
    assert steps_of(section, tmp_path / "student", epochs=2) == [1, 2, 3, 4, 5, 6]
    steps_of(section, tmp_path / "undisturbed", epochs=2)
    one, other = weights_in(tmp_path / "student"), weights_in(tmp_path / "undisturbed")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loss_that_is_not_finite_is_an_error(lively: Lively, tmp_path: Path) -> None:
    training = Training(epochs=4, learning_rate=1e30, weight_decay=0.0, warmup_ratio=0.0)
    with pytest.raises(WorkError, match=r"not finite.*Lower the learning rate"):
        train_student(
            section_of(lively("llama")), SENTIMENT, Prompt(), training, training_set(), tmp_path / "s", seed=0
        )
    assert not (tmp_path / "s").exists()


def test_a_full_disk_leaves_no_half_student(
    lively: Lively, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    section, training = section_of(lively("llama")), Training(epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr(Student, "save", full)
        with pytest.raises(WorkError, match=r"No space left.*run the same command again"):
            train_student(section, SENTIMENT, Prompt(), training, training_set(), tmp_path / "s", seed=0)
    assert not (tmp_path / "s").exists()
    train_student(section, SENTIMENT, Prompt(), training, training_set(), tmp_path / "s", seed=0)
    assert Student.load(tmp_path / "s").predict(["a film"])


# Saved ---------------------------------------------------------------------------------------------


def stirred(folder: str, **settings: Any) -> Student:
    """A student whose trainable weights are as far from their start as training could bring them."""
    student = student_of(folder, **settings)
    stir(student.model, trainable_only=True)
    return student


def answers_of(model: Any, folder: Path, texts: list[str]) -> NDArray[np.float64]:
    """Probabilities by plain transformers, with the folder's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits.double().softmax(-1).numpy()


def prompts_of(student: Student, queries: list[Example]) -> list[str]:
    texts = [query.fields["text"] for query in queries]
    return texts if "bert" in student.section.model else [f"Review: {text}\nGood?" for text in texts]


@pytest.mark.parametrize(
    ("model", "head"),
    [
        ("opt", "label"),
        ("opt", "channel"),
        ("opt", "language_model"),
        ("gpt2", "label"),
        ("gpt2", "channel"),
        ("gpt2", "language_model"),
        ("bert", "label"),
    ],
)
@pytest.mark.parametrize("tuning", ["full", "lora", "bitfit"])
def test_a_loaded_student_is_the_saved_one(
    lively: Lively, tmp_path: Path, model: str, tuning: str, head: str
) -> None:
    student, queries = stirred(lively(model), tuning=tuning, head=head), reviews(9)
    student.save(tmp_path / "s")
    assert not (tmp_path / "s/README.md").exists()
    assert len({path.stat().st_mode for path in (tmp_path / "s").iterdir()}) == 1
    expected = student.predict_proba(queries)
    loaded = Student.load(tmp_path / "s")
    assert (loaded.predict_proba(queries) == expected).all()
    assert (loaded.task.labels, loaded.head, loaded.section) == (LABELS, head, student.section)
    assert (
        np.abs(expected - student_of(lively(model), tuning=tuning, head=head).predict_proba(queries)).max()
        > 0.01
    )


_SIZES = {"vocab_size": 600, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 32, "max_position_embeddings": 300}  # fmt: skip


@pytest.mark.parametrize("lora", [Lora(), Lora(layers=1)])
@pytest.mark.parametrize(
    ("config", "layer"),
    [
        (BertConfig(**_SIZES), "bert.pooler.dense"),
        (DebertaV2Config(**_SIZES), "pooler"),
        (RobertaConfig(**_SIZES, pad_token_id=0), "classifier"),
        (ElectraConfig(**_SIZES, embedding_size=16), "classifier"),
        (ModernBertConfig(**_SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2), "head"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_layers_that_the_weights_lack_are_trained_and_saved(
    lively: Lively, tmp_path: Path, config: Any, layer: str, lora: Lora
) -> None:
    """A masked language model has no pooler, through which a classifier reads, and heads may be several layers."""
    base = tmp_path / "base"
    AutoModelForMaskedLM.from_config(config).save_pretrained(base)
    AutoTokenizer.from_pretrained(lively("bert")).save_pretrained(base)
    check_tuning(config, "lora", lora, classifies=True)
    student, queries = stirred(str(base), tuning="lora", lora=lora), reviews(9)
    trained = [name for name, weight in student.model.named_parameters() if weight.requires_grad]
    assert any(f".{layer}.modules_to_save" in name for name in trained)
    student.save(tmp_path / "s")
    expected = student.predict_proba(queries)
    torch.manual_seed(7)  # of what is fresh again when it is loaded
    assert (Student.load(tmp_path / "s").predict_proba(queries) == expected).all()


def test_a_decoder_without_a_classifier_can_keep_its_own_head() -> None:
    config = GraniteConfig(**_SIZES)
    check_tuning(config, "lora", Lora(), classifies=False)
    with pytest.raises(ModelError, match="A granite model cannot be a classifier"):
        check_tuning(config, "lora", Lora(), classifies=True)


@pytest.mark.parametrize("tuning", ["lora", "bitfit"])
def test_all_layers_above_the_base_model_are_trained(tmp_path: Path, lively: Lively, tuning: Tuning) -> None:
    """DistilBERT has two, one of which ends in the other's name."""
    config = DistilBertConfig(vocab_size=600, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(lively("bert")).save_pretrained(tmp_path / "base")
    check_tuning(config, tuning, Lora(), classifies=True)
    student = student_of(str(tmp_path / "base"), tuning=tuning)
    model = student.model
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum("classifier" in name and name.endswith("weight") for name in trained) == 2
    student.save(tmp_path / "s")
    torch.manual_seed(7)
    kept, loaded = (
        {n: w for n, w in m.named_parameters() if n in trained}
        for m in (model, Student.load(tmp_path / "s").model)
    )
    assert all(torch.equal(kept[name], loaded[name]) for name in trained)


def test_a_student_without_its_base_model_says_what_is_missing(
    lively: Lively, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lively("opt"), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    student, queries = stirred("base", tuning="lora"), reviews(3)
    student.save(tmp_path / "s")
    assert (Student.load(tmp_path / "s").predict_proba(queries) == student.predict_proba(queries)).all()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(
        ModelError, match=r"s holds adapters for the model 'base', which cannot be had .*elsewhere"
    ):
        Student.load(tmp_path / "s")


@pytest.mark.parametrize("tuning", ["full", "bitfit"])
@pytest.mark.parametrize("model", ["opt", "gpt_neox", "bert"])
def test_plain_transformers_loads_a_student(lively: Lively, tmp_path: Path, model: str, tuning: str) -> None:
    student, queries = stirred(lively(model), tuning=tuning), reviews(9)
    student.save(tmp_path / "s")
    expected, texts = student.predict_proba(queries), prompts_of(student, queries)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert plain.config.id2label == dict(enumerate(LABELS))
    np.testing.assert_allclose(answers_of(plain, tmp_path / "s", texts), expected, atol=1e-5)
    classify = pipeline("text-classification", model=str(tmp_path / "s"), top_k=None, device="cpu")
    for row, found in zip(expected, classify(texts), strict=True):
        scores = {entry["label"]: entry["score"] for entry in found}
        np.testing.assert_allclose([scores[label] for label in LABELS], row, atol=1e-5)


@pytest.mark.parametrize("model", ["opt", "llama", "bert"])
def test_plain_peft_loads_a_lora_student(lively: Lively, tmp_path: Path, model: str) -> None:
    student, queries, folder = stirred(lively(model), tuning="lora"), reviews(9), tmp_path / "s"
    student.save(folder)
    expected, texts = student.predict_proba(queries), prompts_of(student, queries)
    in_one = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=2, pad_token_id=0)
    np.testing.assert_allclose(answers_of(in_one, folder, texts), expected, atol=1e-5)
    config = AutoConfig.from_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(lively(model), config=config)
    in_two = PeftModel.from_pretrained(base, folder)
    assert in_two.config.id2label == dict(enumerate(LABELS))
    np.testing.assert_allclose(answers_of(in_two, folder, texts), expected, atol=1e-5)
    assert not (folder / "model.safetensors").exists()  # the adapter alone, not the base


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_plain_libraries_load_a_next_token_student(lively: Lively, tmp_path: Path, tuning: str) -> None:
    student, queries = stirred(lively("opt"), tuning=tuning, head="language_model"), reviews(9)
    student.save(tmp_path / "s")
    kind = AutoModelForCausalLM if tuning == "full" else AutoPeftModelForCausalLM
    plain, tokenizer = kind.from_pretrained(tmp_path / "s"), AutoTokenizer.from_pretrained(tmp_path / "s")
    words = [tokenizer(" No", add_special_tokens=False).input_ids, tokenizer(" Yes").input_ids[-1:]]
    for query, row in zip(queries, student.predict_proba(queries), strict=True):
        (text,) = prompts_of(student, [query])
        with torch.no_grad():
            logits = plain.eval()(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        found = logits[[ids[0] for ids in words]].softmax(-1)
        np.testing.assert_allclose(found.numpy(), row, atol=1e-5)


def test_a_folder_without_a_student_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no student: there is no stillshot\.json"):
        Student.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"format": 9}', "has format 9, this version of Stillshot reads 1"),
        ('{"format": 1}', "is not what Stillshot writes"),
    ],
)
def test_a_broken_sidecar_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "stillshot.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        Student.load(tmp_path)


def test_the_sidecar_says_what_the_student_is(lively: Lively, tmp_path: Path) -> None:
    student_of(lively("llama")).save(tmp_path)
    sidecar = json.loads((tmp_path / "stillshot.json").read_text(encoding="utf-8"))
    assert sidecar["labels"] == LABELS
    assert sidecar["head"] == "label"


# Order of training ---------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=90),
    batch_size=st.integers(1, 9),
    bucket_batches=st.integers(1, 5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_a_bucket_order_is_a_permutation_set_by_seed_and_epoch(
    lengths: list[int], batch_size: int, bucket_batches: int, seed: int, epoch: int
) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = BucketSampler(lengths, batch_size, bucket_batches, seed)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(lengths)
        return list(sampler)

    assert sorted(order(seed, epoch)) == list(range(len(lengths)))
    assert order(seed, epoch) == order(seed, epoch)


def test_bucket_orders_differ_between_seeds_and_epochs_and_save_padding() -> None:
    lengths = [(number * 37) % 101 + 1 for number in range(160)]

    def order(seed: int, epoch: int, bucket_batches: int = 8) -> list[int]:
        sampler = BucketSampler(lengths, 8, bucket_batches, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    def padding(items: list[int]) -> int:
        batches = [[lengths[item] for item in items[at : at + 8]] for at in range(0, len(items), 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(items) for items in orders}) == 4
    assert padding(order(0, 0)) < 0.4 * padding(order(0, 0, bucket_batches=1))
