"""Teachers in int8: close to those in 16 bits, the same however a prompt is read, and chosen where they answer alike."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import SENTIMENT, all_scores, context, reviews, save_lively
from pydantic import ValidationError
from scipy.special import softmax

from stillshot.config import Prompt, Student, Teacher
from stillshot.errors import ModelError
from stillshot.models import int8, load
from stillshot.models.resolve import resolve_model
from stillshot.prompt.writer import PromptWriter
from stillshot.teacher import int8_choice
from stillshot.teacher.footprint import PlannedTeacher
from stillshot.teacher.local import LocalTeacher

pytestmark = pytest.mark.skipif(not int8.is_able(), reason="needs a processor with products of int8")


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than all of these tests."""
    monkeypatch.setattr("stillshot.teacher.local._COMPILED_TOKENS", 10**9)


def layer_and_inputs(outliers: bool) -> tuple[torch.nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(200, 96)
    if outliers:
        inputs[:, :3] *= 60
    return torch.nn.Linear(96, 64), inputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("outliers", [False, True])
def test_a_layer_is_close_to_its_original(dtype: torch.dtype, outliers: bool) -> None:
    layer, inputs = layer_and_inputs(outliers)
    exact = layer(inputs)
    found = int8.Int8Linear(layer.to(dtype))(inputs.to(dtype).view(2, 100, 96))
    assert found.shape == (2, 100, 64)
    assert found.dtype == dtype
    error = (found.float().view(200, 64) - exact).norm() / exact.norm()
    assert error < 0.02


def test_rotation_spreads_what_is_large_in_few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, inputs = layer_and_inputs(outliers=True)
    exact = layer(inputs)

    def error() -> float:
        rows = (int8.Int8Linear(layer)(inputs) - exact).norm(dim=1) / exact.norm(dim=1)
        return float(rows.detach().mean())

    rotated = error()
    monkeypatch.setattr(int8, "_BLOCK", 1)
    assert rotated < 0.6 * error()


def test_packed_weights_go_with_their_layer() -> None:
    before = len(int8._packed)
    made = int8.Int8Linear(layer_and_inputs(outliers=False)[0])
    assert len(int8._packed) == before + 1
    del made
    gc.collect()
    assert len(int8._packed) == before


def scores(folder: str, dtype: str, prefix: str = "auto", kind: str = "direct") -> np.ndarray:
    teacher = LocalTeacher(Teacher.model_validate({"model": folder, "dtype": dtype, "prefix": prefix}))
    writer = PromptWriter(SENTIMENT, Prompt(), teacher.encoder)
    prompts = writer.prompts(kind, context(4), reviews(24, 5))
    tokens = [ids[0] for ids in writer.verbalizer.token_ids]
    return all_scores(teacher, prompts, tokens if kind == "direct" else None)


@pytest.mark.parametrize("name", ["llama", "opt", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["direct", "channel"])
def test_a_prompt_is_scored_alike_however_it_is_read(name: str, kind: str, tmp_path: Path) -> None:
    """With the context read once, copied or read again, in int8 as in bfloat16."""
    folder = tmp_path / name
    save_lively(folder, f"random:tiny-{name}")
    exact = softmax(scores(str(folder), "float32", kind=kind), axis=-1)
    found = {
        prefix: softmax(scores(str(folder), "int8", prefix, kind), axis=-1) for prefix in ("shared", "none")
    }
    for probabilities in found.values():
        assert np.abs(probabilities - exact).mean() < 0.05
    assert np.abs(found["shared"] - found["none"]).mean() < 0.05


def test_only_the_body_is_turned(lively) -> None:  # type: ignore[no-untyped-def]
    teacher = LocalTeacher(Teacher(model=lively("llama"), dtype="int8"))
    kinds = {type(module) for module in teacher.model.base_model.modules()}
    assert int8.Int8Linear in kinds
    assert torch.nn.Linear not in kinds
    assert type(teacher.model.get_output_embeddings()) is torch.nn.Linear
    assert teacher.fingerprint.endswith(" int8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler imports what torch deprecates
def test_compiled_layers_answer_alike(lively, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    if not int8.can_compile():
        pytest.skip("needs a C++ compiler")
    eager = softmax(scores(lively("llama"), "int8"), axis=-1)
    monkeypatch.setattr("stillshot.teacher.local._COMPILED_TOKENS", 1)
    teacher = LocalTeacher(Teacher(model=lively("llama"), dtype="int8"))
    writer = PromptWriter(SENTIMENT, Prompt(), teacher.encoder)
    tokens = [ids[0] for ids in writer.verbalizer.token_ids]
    found = all_scores(teacher, writer.prompts("direct", context(4), reviews(24, 5)), tokens)
    assert all(layer._compiled_call_impl is not None for layer in teacher.model.base_model.layers)
    assert np.abs(softmax(found, axis=-1) - eager).mean() < 0.02


def test_models_without_linear_layers_are_refused(lively) -> None:  # type: ignore[no-untyped-def]
    teacher = LocalTeacher(Teacher(model=lively("gpt2"), dtype="int8"))
    with pytest.raises(ModelError, match=r"no plain linear layers.*Set teacher\.dtype to auto"):
        _ = teacher.model


def test_processors_without_products_of_int8_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "is_able", lambda: False)
    with pytest.raises(ModelError, match="VNNI or AMX"):
        LocalTeacher(Teacher(model="random:tiny-llama", dtype="int8"))


def test_students_are_not_trained_in_int8() -> None:
    with pytest.raises(ValidationError):
        Student.model_validate({"dtype": "int8"})


# The choice ----------------------------------------------------------------------------------------


@pytest.fixture
def small_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Models of every size are tried, and what is found is kept in a folder of the test's own."""
    monkeypatch.setenv("STILLSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(int8_choice, "LEAST_PARAMETERS", 1)
    monkeypatch.setattr(int8_choice, "_QUERIES", 8)
    return tmp_path / "cache" / "int8"


@pytest.mark.parametrize(
    ("agreement", "difference", "gain", "chosen"),
    [(0.0, 1.0, 0.0, True), (1.1, 1.0, 0.0, False), (0.0, 0.0, 0.0, False), (0.0, 1.0, 1e9, False)],
)
def test_auto_takes_int8_where_answers_are_alike_and_sooner(
    small_enough: Path,
    lively,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    agreement: float,
    difference: float,
    gain: float,
    chosen: bool,
) -> None:
    monkeypatch.setattr(int8_choice, "AGREEMENT", agreement)
    monkeypatch.setattr(int8_choice, "DIFFERENCE", difference)
    monkeypatch.setattr(int8_choice, "GAIN", gain)
    teacher = LocalTeacher(Teacher(model=lively("llama")))
    assert teacher.is_int8 is chosen
    assert f"is asked in {'int8' if chosen else 'bfloat16'}" in caplog.text
    (kept,) = small_enough.iterdir()
    assert json.loads(kept.read_text())["int8"] is chosen
    monkeypatch.setattr(int8_choice, "_asked", lambda _: pytest.fail("tried again"))
    assert LocalTeacher(Teacher(model=lively("llama"))).is_int8 is chosen


def test_small_teachers_are_not_tried(lively, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(int8_choice, "choose", lambda *_: pytest.fail("tried"))
    assert not LocalTeacher(Teacher(model=lively("llama"))).is_int8
    assert not LocalTeacher(Teacher(model=lively("llama"), dtype="bfloat16")).is_int8


def test_released_pages_are_read_again(lively) -> None:  # type: ignore[no-untyped-def]
    model = load.load_causal_lm(resolve_model(lively("llama")), torch.float32)
    weight = model.get_input_embeddings().weight
    before = weight.detach().clone()
    int8.release_mapped(weight)
    assert torch.equal(weight, before)
    own = torch.arange(100_000.0)
    int8.release_mapped(own)
    assert torch.equal(own, torch.arange(100_000.0))


def test_a_plan_counts_what_int8_saves(lively) -> None:  # type: ignore[no-untyped-def]
    """Layers of the body at a byte a weight; what is measured of a teacher counts its packed weights as well."""
    planned = {}
    for dtype in ("bfloat16", "int8"):
        teacher = PlannedTeacher(Teacher.model_validate({"model": lively("llama"), "dtype": dtype}))
        writer = PromptWriter(SENTIMENT, Prompt(), teacher.encoder)
        tokens = [ids[0] for ids in writer.verbalizer.token_ids]
        planned[dtype] = teacher.footprint(writer.prompts("direct", context(4), reviews(8, 5)), tokens)
    made = LocalTeacher(Teacher(model=lively("llama"), dtype="int8")).model
    packed = int8.packed_bytes(made)
    assert planned["bfloat16"].model_bytes - planned["int8"].model_bytes == packed
    assert planned["bfloat16"].peak_bytes - planned["int8"].peak_bytes == packed
    assert planned["int8"].parameters == sum(p.numel() for p in made.parameters()) + packed
