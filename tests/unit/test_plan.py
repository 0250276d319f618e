"""What a recipe will take: counted without weights, and told on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import doubles
import numpy as np
import pytest
import torch
from cli_calls import call, refused, reviews, write_jsonl
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from stillshot.config import Budget, Lora, Prompt, Student, Teacher, Training
from stillshot.evaluate.resources import _resident_bytes
from stillshot.evaluate.speed import Speed
from stillshot.methods.plan import PlannedCell
from stillshot.models.footprint import Work, process_bytes, symbolic, tokenizer_bytes
from stillshot.models.random_weights import random_tokenizer
from stillshot.prompt.writer import PromptWriter
from stillshot.student.footprint import StudentFootprint, student_footprint
from stillshot.student.training import TrainingSet
from stillshot.teacher.footprint import PlannedTeacher

MIB = 2**20


def footprint(
    model: str = "random:tiny-opt", *, rows: int = 16, longest: int = 40, **settings: Any
) -> StudentFootprint:
    training = Training(epochs=1, **settings.pop("training", {}))
    queries = doubles.reviews(rows, longest=longest)
    data = TrainingSet(queries, np.full((rows, 2), 0.5))
    student = Student(model=model, **{"dtype": "float32", **settings})
    return student_footprint(student, doubles.SENTIMENT, Prompt(), training, data, queries, batch_size=8)


# The ledger --------------------------------------------------------------------------------------


def test_what_is_alive_is_counted_for_as_long_as_it_lives() -> None:
    with symbolic() as ledger:
        kept = torch.empty(1000)
        before = ledger.live
        torch.empty(10_000) + 1
        assert (before, ledger.live, ledger.peak) == (4000, 4000, 84_000)
        del kept
    assert ledger.live == 0


def test_whole_numbers_are_real_and_others_have_no_memory() -> None:
    with symbolic() as ledger:
        ids = torch.arange(4)
        before = _resident_bytes()
        huge = torch.empty(2**34, dtype=torch.bfloat16)
        assert ids.sum().item() == 6
        assert bool(torch.isfinite(huge).all())  # what cannot be known is taken for right
        assert _resident_bytes() - before < 50 * MIB
    assert ledger.peak >= 2**35


def test_views_share_their_storage_and_tied_weights_stay_tied_when_moved() -> None:
    with symbolic() as ledger:
        first, second = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
        second.weight = first.weight
        both = torch.nn.ModuleList([first, second]).to(torch.bfloat16)
        assert both[0].weight is both[1].weight
        assert both[0].weight.dtype == torch.bfloat16
        before = ledger.live
        first.weight.view(64).t()
        assert ledger.live == before


def test_work_of_products_is_counted_by_dtype_and_other_work_by_what_it_moves() -> None:
    with symbolic() as ledger:
        left, right = torch.empty(10, 20), torch.empty(20, 30)
        before = ledger.work
        (left @ right).relu()
    work = ledger.work - before
    assert work.product_flops == {torch.float32: 2 * 10 * 20 * 30}
    assert work.moved_bytes == 2 * 10 * 30 * 4
    assert work.calls == 2
    speed = Speed(moved_bytes=1e9, call_seconds=0.0, product_flops={torch.float32: 1e9})
    assert speed.seconds(work * 2) == pytest.approx(2 * speed.seconds(work))
    assert speed.seconds(Work()) == 0.0


# Students ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["random:tiny-opt", "random:tiny-llama", "random:tiny-bert"])
def test_live_bytes_of_training_all_weights_are_weights_optimizer_gradients_and_activations(
    model: str,
) -> None:
    one_row = {"rows": 2, "longest": 1, "training": {"batch_size": 1, "pass_tokens": 4096}}
    counted = footprint(model, **one_row)
    known = 4 * counted.parameters * 4  # float32 weights, two states, gradients
    assert counted.model_bytes == counted.saved_bytes == 4 * counted.parameters
    assert counted.parameters == counted.trainable_parameters
    # Weights and states are always there; gradients come as activations go.
    assert 0.75 * known < counted.train_live_bytes < 1.6 * known


def test_live_bytes_equal_an_independent_count() -> None:
    with symbolic() as ledger:
        model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(8)))
        weights = sum(p.numel() * 4 for p in model.parameters())
        assert ledger.live == weights
        model(torch.empty(1, 64)).sum().backward()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        optimizer.step()
        assert ledger.live == pytest.approx(4 * weights, rel=0.01)


def test_adapters_take_less_than_all_weights_and_last_layers_less_still() -> None:
    full, lora = footprint(tuning="full"), footprint(tuning="lora")
    last = footprint(tuning="lora", lora=Lora(layers=1))
    assert full.train_live_bytes > lora.train_live_bytes > last.train_live_bytes
    assert full.trainable_parameters > lora.trainable_parameters > last.trainable_parameters
    assert lora.saved_bytes == 4 * lora.trainable_parameters


def test_memory_grows_with_the_tokens_of_a_pass_and_not_with_the_batch() -> None:
    def peak(batch_size: int, pass_tokens: int) -> int:
        training = {"batch_size": batch_size, "pass_tokens": pass_tokens}
        return footprint(rows=32, training=training).train_live_bytes

    assert peak(16, 4096) > 2 * peak(16, 128)
    assert peak(32, 128) == pytest.approx(peak(16, 128), rel=0.1)


def test_frozen_weights_in_16_bits_take_half() -> None:
    half, whole = footprint(tuning="lora", dtype="bfloat16"), footprint(tuning="lora")
    assert half.model_bytes < 0.75 * whole.model_bytes
    assert half.parameters == whole.parameters


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "channel"},
        {"head": "channel", "tuning": "lora", "dtype": "bfloat16"},
        {"training": {"gradient_checkpointing": True}},
        {"tuning": "bitfit"},
    ],
)
def test_every_head_and_tuning_can_be_planned(settings: dict[str, Any]) -> None:
    found = footprint(**settings)
    assert found.train_live_bytes > found.model_bytes
    assert found.train_steps == 1
    assert found.train_tokens > 0
    assert sum(found.train_work.product_flops.values()) > sum(found.ask_work.product_flops.values()) > 0


@pytest.mark.parametrize("work", ["training", "asking"])
def test_a_process_takes_more_than_is_alive_and_keeps_a_bounded_number_of_kernels(
    work: Literal["training", "asking"],
) -> None:
    live = 100 * MIB
    assert live == process_bytes(live, 0, 0, work) < process_bytes(live, 50 * MIB, 0, work)
    most = process_bytes(live, 0, 10**6, work)
    assert most == process_bytes(live, 0, 1024, work) > process_bytes(live, 0, 10, work)


# Teachers ----------------------------------------------------------------------------------------


def asked_of(model: str, **settings: Any) -> tuple[PlannedTeacher, Any, list[int] | None]:
    teacher = PlannedTeacher(Teacher(model=model, **settings))
    writer = PromptWriter(doubles.SENTIMENT, Prompt(), teacher.encoder)
    prompts = writer.prompts("direct", doubles.context(4), doubles.reviews(24))
    return teacher, prompts, [ids[0] for ids in writer.verbalizer.token_ids]


def test_a_teacher_of_a_billion_weights_is_planned_in_little_memory() -> None:
    before = _resident_bytes()
    teacher, prompts, tokens = asked_of("random:facebook/opt-1.3b", dtype="bfloat16")
    found = teacher.footprint(prompts, tokens)
    assert _resident_bytes() - before < 300 * MIB
    assert found.parameters == pytest.approx(1.316e9, rel=0.01)
    assert found.model_bytes == 2 * found.parameters
    assert found.model_bytes < found.live_bytes < 1.3 * found.model_bytes


@pytest.mark.parametrize("prefix", ["shared", "repeat", "none"])
def test_a_teacher_can_be_planned_however_it_reads_its_context(prefix: str) -> None:
    teacher, prompts, tokens = asked_of("random:tiny-llama", prefix=prefix, dtype="bfloat16")
    found = teacher.footprint(prompts, tokens)
    assert found.peak_bytes > found.live_bytes > found.model_bytes
    whole = sum(len(prompt.sequences[0].ids) for prompt in prompts)
    assert (found.prompt_tokens >= whole) == (prefix == "none")


def test_smaller_batches_take_less() -> None:
    large, small = (
        teacher.footprint(prompts, tokens).live_bytes
        for teacher, prompts, tokens in (
            asked_of("random:tiny-llama", batch_tokens=tokens) for tokens in (4096, 64)
        )
    )
    assert large > small


# The command -------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of tiny models on files."""
    write_jsonl(tmp_path / "train.jsonl", reviews(40))
    write_jsonl(tmp_path / "test.jsonl", reviews(20, start=100))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "planned",
                "task": {
                    **doubles.SENTIMENT.model_dump(exclude_defaults=True),
                    "labels": ["very-bad", "very_good"],
                    "patterns": {
                        "p": {"pattern": "{text}", "label_words": {"very-bad": "No", "very_good": "Yes"}}
                    },
                    "channels": {},
                },
                "data": {
                    "labelled": str(tmp_path / "train.jsonl"),
                    "unlabelled": str(tmp_path / "train.jsonl"),
                    "num_unlabelled": 16,
                    "in_domain": {"test": str(tmp_path / "test.jsonl")},
                },
                "budgets": [Budget(labelled=4, num_contexts=2).model_dump()],
                "teacher": {"model": "random:tiny-llama"},
                "students": [{"model": "random:tiny-bert"}, {"model": "random:tiny-opt", "tuning": "lora"}],
                "seeds": [0, 1],
            }
        )
    )
    return path


def test_a_plan_has_a_line_for_each_kind_of_work(recipe: Path) -> None:
    lines = call("plan", str(recipe)).stdout.splitlines()
    text = "\n".join(lines)
    assert "Label queries" in text
    assert "In-context, 2x4" in text
    assert "tiny-bert" in text
    assert "x2" in text  # two seeds
    assert lines[-1].startswith("The run: up to ")
    assert all(len(line) <= 120 for line in lines)


def test_controls_are_planned_with_the_contexts_and_labels_that_they_have(recipe: Path) -> None:
    content = json.loads(recipe.read_text()) | {"controls": ["zero_shot_teacher", "shuffled_labels"]}
    recipe.write_text(json.dumps(content | {"students": content["students"][:1]}))
    cells = json.loads(call("plan", str(recipe), "--json").stdout)["cells"]
    labelled = {cell["control"]: cell for cell in cells if cell["stage"] == "label"}
    shown = {control: (cell["num_contexts"], cell["num_shots"]) for control, cell in labelled.items()}
    assert shown == {None: (2, 4), "zero_shot_teacher": (0, 0), "shuffled_labels": (2, 4)}
    assert all(len(cell["names"]) == 2 for cell in cells if cell["stage"] == "label")
    distilled = {cell["control"]: cell for cell in cells if cell["method"] == "context_distillation"}
    assert {control: cell["labelled"] for control, cell in distilled.items()} == {
        None: 4,
        "zero_shot_teacher": 0,
        "shuffled_labels": 4,
    }
    assert distilled["shuffled_labels"]["train_seconds"] < distilled[None]["train_seconds"]
    assert "shuffled" in call("plan", str(recipe)).stdout


def test_an_expert_of_a_students_own_is_planned(recipe: Path) -> None:
    content = json.loads(recipe.read_text())
    bert = content["students"][0]
    recipe.write_text(json.dumps(content | {"students": [bert, bert | {"own_expert": True}], "seeds": [0]}))
    cells = json.loads(call("plan", str(recipe), "--json").stdout)["cells"]
    alone, (plain, mixed) = (
        [cell["train_seconds"] for cell in cells if cell["method"] == method and cell["stage"] == "train"]
        for method in ("pattern_finetune", "context_distillation")
    )
    assert mixed - plain > 2.9 * alone[0]  # two folds, and all labelled examples


def test_a_plan_for_machines_names_cells_and_has_all_figures(recipe: Path) -> None:
    told = json.loads(call("plan", str(recipe), "--json").stdout)
    assert told["recipe"] == "planned"
    label, *others = told["cells"]
    assert label["stage"] == "label"
    assert label["label_seconds"] > 0
    assert label["names"] == ["n4x2x4-s0", "n4x2x4-s1"]
    assert set(label) == {*PlannedCell.__dataclass_fields__}
    trained = [cell for cell in others if cell["stage"] == "train"]
    assert [(cell["method"], cell["tuning"]) for cell in trained] == [
        (method, tuning)
        for method in ("pattern_finetune", "context_distillation")
        for tuning in ("full", "lora")
    ]
    assert all(cell["train_seconds"] > 0 and cell["evaluate_seconds"] > 0 for cell in trained)
    assert all(cell["peak_memory_bytes"] > cell["model_bytes"] > 0 for cell in told["cells"])


def test_a_wrong_recipe_is_refused(recipe: Path, tmp_path: Path) -> None:
    assert "no random:tiny-lama" in refused("plan", str(recipe), "--set", "teacher.model=random:tiny-lama")
    assert "none.yaml" in refused("plan", str(tmp_path / "none.yaml"))
    assert "bias terms" in refused(
        "plan",
        str(recipe),
        "--set",
        "students.0.model=random:tiny-llama",
        "--set",
        "students.0.tuning=bitfit",
    )


def test_a_tokenizer_is_planned_by_its_vocabulary() -> None:
    merged = random_tokenizer("tiny-opt")
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordPiece({"[UNK]": 0, "a": 1})))
    each = tokenizer_bytes(words) / 2
    assert 0 < each < tokenizer_bytes(merged) / len(merged)
    words.add_tokens(["b", "c"])
    assert tokenizer_bytes(words) == 4 * each


def test_teachers_and_students_are_planned_with_their_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    def peaks() -> list[int]:
        teacher, prompts, tokens = asked_of("random:tiny-llama", dtype="bfloat16")
        return [teacher.footprint(prompts, tokens).peak_bytes, footprint().train_peak_bytes]

    monkeypatch.setattr("stillshot.teacher.footprint.tokenizer_bytes", lambda _: 0)
    monkeypatch.setattr("stillshot.student.footprint.tokenizer_bytes", lambda _: 0)
    without = peaks()
    monkeypatch.setattr("stillshot.teacher.footprint.tokenizer_bytes", lambda _: 10**9)
    monkeypatch.setattr("stillshot.student.footprint.tokenizer_bytes", lambda _: 10**9)
    assert peaks() == [peak + 10**9 for peak in without]
