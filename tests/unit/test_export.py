"""Exports answer as their student does, are verified on the spot, and never take another's place."""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cli_calls import call, refused
from doubles import PAIRS, SENTIMENT, reviews
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError
from onnxruntime.quantization import quantize_dynamic
from saved_students import CELL, save_student, write_queries, write_run
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, pipeline

from stillshot.config import ExportKind, Prompt, TaskDefinition
from stillshot.deploy import onnx_export
from stillshot.deploy.card import Provenance
from stillshot.deploy.exporting import Export, export_student
from stillshot.deploy.gguf_student import completion_request
from stillshot.deploy.onnx_student import OnnxStudent
from stillshot.deploy.predictor import load_predictor
from stillshot.errors import ModelError, WorkError
from stillshot.models.load import load_config
from stillshot.models.resolve import resolve_model
from stillshot.student.saved import Student, as_examples, probabilities
from stillshot.student.sidecar import SIDECAR, Sidecar
from stillshot.types import Example

Lively = Callable[[str], str]
QUERIES = reviews(24, seed=9, longest=90)


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def exported(folder: Path, *kinds: ExportKind, **settings: Any) -> list[Export]:
    return export_student(
        folder, kinds, Path("out"), queries=write_queries(Path("queries.jsonl")), **settings
    )


def assert_same(export: Export, student: Path, tolerance: float = 1e-4) -> None:
    """The export answers as the student, alone and in batches, and its record says so."""
    expected = Student.load(student).predict_proba(QUERIES)
    assert expected[:, 0].std() > 0.02
    predictor = load_predictor(export.folder)
    for batch_size in (1, 7, 32):
        np.testing.assert_allclose(predictor.predict_proba(QUERIES, batch_size), expected, atol=tolerance)
    assert predictor.predict_proba([]).shape == (0, 2)
    features = predictor.featurizer.features(as_examples(QUERIES, predictor.task))
    with ThreadPoolExecutor(4) as threads:  # as servers ask
        logits = list(threads.map(lambda row: predictor.logits(predictor.featurizer.pad([row])), features))
    np.testing.assert_allclose(probabilities(torch.cat(logits)), expected, atol=tolerance)
    assert export.agreement.share == 1.0
    assert export.agreement.largest_difference < tolerance
    assert export.size_bytes == sum(f.stat().st_size for f in export.folder.rglob("*") if f.is_file())


@pytest.fixture(scope="module")
def bert_onnx(lively: Lively, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An encoder student, and its export to ONNX; both are only read."""
    folder = tmp_path_factory.mktemp("bert")
    student = save_student(folder / "student", lively("bert"))
    queries = write_queries(folder / "queries.jsonl")
    (made,) = export_student(student, ["onnx"], folder / "out", queries=queries)
    return student, made.folder


# Merged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["bert", "llama", "opt"])
def test_a_merged_student_is_a_plain_classifier_with_its_labels(lively: Lively, model: str) -> None:
    folder = save_student(Path("student"), lively(model), tuning="lora")
    (made,) = exported(folder, "merged")
    assert_same(made, folder)
    plain = AutoModelForSequenceClassification.from_pretrained(made.folder)
    assert plain.config.id2label == {0: "negative", 1: "positive"}
    assert not list(made.folder.glob("adapter*"))
    assert not [
        file for file in made.folder.glob("*.json") if lively(model) in file.read_text(encoding="utf-8")
    ]
    template = json.loads((made.folder / "stillshot.json").read_text())["template"]
    assert template == (None if model == "bert" else "Review: {text}\nGood?")
    texts = [query.fields["text"] for query in QUERIES[:5]]
    read = [template.replace("{text}", text) if template else text for text in texts]
    classify: Any = pipeline("text-classification", model=str(made.folder), top_k=None)
    found = [{score["label"]: score["score"] for score in answer} for answer in classify(read)]
    expected = Student.load(folder).predict(texts)
    for answer, prediction in zip(found, expected, strict=True):
        assert answer == pytest.approx(prediction.probabilities, abs=1e-4)


@pytest.mark.parametrize("head", ["channel", "language_model"])
def test_a_merged_student_with_another_head_is_a_causal_model(lively: Lively, head: str) -> None:
    folder = save_student(Path("student"), lively("qwen2"), tuning="lora", head=head)
    (made,) = exported(folder, "merged")
    assert_same(made, folder)
    AutoModelForCausalLM.from_pretrained(made.folder)


def test_channel_templates_stand_in_the_folder(lively: Lively) -> None:
    folder = save_student(Path("student"), lively("llama"), head="channel")
    template = json.loads((folder / "stillshot.json").read_text())["template"]
    assert template == {"negative": ["It is bad:", " {text}"], "positive": ["It is good:", " {text}"]}


# ONNX --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("llama", {"tuning": "lora"}),
        ("opt", {"tuning": "bitfit"}),
        ("qwen2", {"head": "language_model"}),
    ],
    ids=["llama-lora", "opt-bitfit", "qwen2-language-model"],
)
def test_an_onnx_export_answers_as_its_student(lively: Lively, model: str, settings: dict[str, Any]) -> None:
    folder = save_student(Path("student"), lively(model), **settings)
    (made,) = exported(folder, "onnx")
    assert_same(made, folder)
    assert sorted(file.name for file in made.folder.glob("*.onnx*")) == ["model.onnx"]


def test_an_onnx_export_of_pairs_reads_the_same_tokens(lively: Lively) -> None:
    folder = save_student(Path("student"), lively("bert"), task=PAIRS, max_tokens=24)
    pairs = [{"premise": "a man sleeps <eos> " * n, "hypothesis": "a man is awake" * n} for n in (1, 2, 3)]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (made,) = export_student(folder, ["onnx"], Path("out"), queries=Path("pairs.jsonl"))
    student, predictor = Student.load(folder), load_predictor(made.folder)
    np.testing.assert_allclose(predictor.predict_proba(pairs), student.predict_proba(pairs), atol=1e-4)
    examples = [Example(pair) for pair in pairs]
    assert predictor.featurizer.features(examples) == student.featurizer.features(examples)


def test_int8_holds_word_embeddings_and_products_in_8_bits(lively: Lively) -> None:
    folder = save_student(Path("student"), lively("bert"))
    full, small = exported(folder, "onnx-int8", "onnx", floor=0.9)
    assert [made.kind for made in (full, small)] == ["onnx", "onnx-int8"]
    assert small.agreement.share >= 0.9
    assert 0 < small.agreement.largest_difference < 0.2
    graph = onnx.load(small.folder / "model.onnx").graph
    weights = graph.initializer
    assert not [
        w.name for w in weights if w.data_type == onnx.TensorProto.FLOAT and np.prod(w.dims) >= 32 * 32
    ]
    eight = {tuple(w.dims) for w in weights if w.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)}
    assert {(320, 32), (2048, 32), (32, 32), (32, 64)} <= eight
    # The second product of each layer's feed-forward part, by blocks of 32 inputs.
    assert [node.op_type for node in graph.node].count("MatMulNBits") == 2
    assert (32, 2, 32) in eight
    sizes = [(made.folder / "model.onnx").stat().st_size for made in (full, small)]
    assert sizes[1] < sizes[0]


def test_a_decoder_in_8_bits_has_a_scale_a_block(lively: Lively) -> None:
    (made,) = exported(save_student(Path("student"), lively("llama")), "onnx-int8", floor=0.9)
    assert made.agreement.share >= 0.9
    assert 0 < made.agreement.largest_difference < 0.2
    kinds = [node.op_type for node in onnx.load(made.folder / "model.onnx").graph.node]
    assert kinds.count("MatMulNBits") == 2 * 7 + 1  # all projections of both layers, and the score layer
    assert "MatMulInteger" not in kinds


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_weights_too_large_for_one_file_lie_beside_it(
    lively: Lively, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    between: list[list[str]] = []

    def quantize(source: Path, target: Path, **settings: Any) -> None:
        quantize_dynamic(source, target, **settings)
        between.append([file.name for file in onnx_export.files_beside(target)])

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", quantize)
    monkeypatch.setattr(onnx_export, "LARGEST_FILE_BYTES", 1000)
    folder = save_student(Path("student"), lively(model))
    for made in exported(folder, "onnx", "onnx-int8", floor=0.9):
        assert made.accepted
        whole = onnx.load(made.folder / "model.onnx", load_external_data=False)
        referred = {
            entry.value
            for weight in whole.graph.initializer
            for entry in weight.external_data
            if entry.key == "location"
        }
        sidecar = Sidecar.read(made.folder).exported
        assert sidecar is not None
        assert referred == set(sidecar.files_beside) == {"model.onnx.data"}
        assert (made.folder / "model.onnx.data").stat().st_size > 20_000
        card = " ".join((made.folder / "README.md").read_text(encoding="utf-8").split())
        assert "Its weights are in `model.onnx.data`, which must stay beside `model.onnx`." in card
        moved = load_predictor(made.folder.rename(f"moved-{made.kind}"))
        assert moved.predict_proba(QUERIES).shape == (24, 2)
    # Between the two steps of a decoder, the products are still in 32 bits.
    assert between == [["model.onnx.data"]]


def test_weights_that_fit_are_in_the_file(bert_onnx: tuple[Path, Path]) -> None:
    exported = Sidecar.read(bert_onnx[1]).exported
    assert exported is not None
    assert exported.files_beside == []
    assert "must stay beside" not in (bert_onnx[1] / "README.md").read_text(encoding="utf-8")


def test_threads_of_an_onnx_student_can_be_chosen(bert_onnx: tuple[Path, Path]) -> None:
    student = OnnxStudent.load(bert_onnx[1], threads=2)
    assert student.session.get_session_options().intra_op_num_threads == 2


def test_an_onnx_student_that_nobody_holds_leaves_the_memory_at_once(bert_onnx: tuple[Path, Path]) -> None:
    student = OnnxStudent.load(bert_onnx[1])
    assert student.predict_proba(["a stirring film"]).shape == (1, 2)
    remembered = weakref.ref(student)
    gc.disable()  # what refers to itself would wait for it
    try:
        del student
        assert remembered() is None
    finally:
        gc.enable()


def test_pytorch_says_how_an_export_is_loaded(bert_onnx: tuple[Path, Path]) -> None:
    student, folder = bert_onnx
    with pytest.raises(
        ModelError, match=r"exported to onnx, which PyTorch does not load. Use .*load_predictor"
    ):
        Student.load(folder)
    with pytest.raises(ModelError, match="exported to onnx"):
        exported(folder, "merged")
    with pytest.raises(ModelError, match="holds no ONNX export"):
        OnnxStudent.load(student)


# What cannot be exported ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings", "kind", "message"),
    [
        (
            "llama",
            {"head": "channel"},
            "onnx",
            "A channel head .* has no ONNX export. Use --to merged or --to gguf",
        ),
        ("bert", {}, "gguf", "GGUF is for decoders; .* is an encoder. Use --to onnx"),
        ("opt", {}, "gguf", "GGUF is written for llama, mistral, qwen2, qwen3 models, not for opt"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_written(
    lively: Lively, model: str, settings: dict[str, Any], kind: ExportKind, message: str
) -> None:
    folder = save_student(Path("student"), lively(model), **settings)
    with pytest.raises(ModelError, match=message):
        exported(folder, "merged", kind)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("model", "settings", "kinds", "reasons"),
    [
        ("bert", {}, ["merged", "onnx", "onnx-int8"], {"gguf": "GGUF is for decoders"}),
        (
            "llama",
            {"head": "channel"},
            ["merged", "gguf"],
            {"onnx": "A channel head", "onnx-int8": "A channel head"},
        ),
    ],
)
def test_all_is_every_kind_that_a_student_can_have(
    lively: Lively, model: str, settings: dict[str, Any], kinds: list[str], reasons: dict[str, str]
) -> None:
    save_student(Path("student"), lively(model), **settings)
    queries = write_queries(Path("queries.jsonl"))
    options = ("--to", "all", "-o", "out", "--queries", str(queries), "--min-agreement", "0")
    told = json.loads(call("export", "student", *options, "--json").stdout)
    assert [made["kind"] for made in told["exports"]] == kinds
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(kinds)
    assert told["left_out"].keys() == reasons.keys()
    assert all(told["left_out"][kind].startswith(why) for kind, why in reasons.items())
    by_name = next(iter(reasons))  # what is asked for by name as well is not left out in silence
    message = refused("export", "student", "--to", by_name, *options)
    assert f"leave out --to {by_name}. {reasons[by_name]}" in message
    assert not any("Use --to" in why for why in (*told["left_out"].values(), message))  # those are made


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(lively: Lively) -> None:
    folder = save_student(Path("student"), lively("llama"))
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["pre_tokenizer"]["add_prefix_space"] = True
    file.write_text(json.dumps(content), encoding="utf-8")
    forget_checksums(folder)
    with pytest.raises(ModelError, match="is none that is written to GGUF here"):
        exported(folder, "gguf")


# Verification ------------------------------------------------------------------------------------


class Contrary:
    """A predictor that answers the opposite of a student's to some of the queries."""

    def __init__(self, folder: str | Path, wrong: int) -> None:
        self.student, self.wrong = Student.load(folder), wrong

    def predict_proba(self, queries: Sequence[Any], batch_size: int = 32) -> Any:
        found = self.student.predict_proba(queries, batch_size)
        found[: self.wrong] = found[: self.wrong, ::-1]
        return found


def test_an_export_that_agrees_too_little_is_kept_and_told(
    lively: Lively, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_student(Path("student"), lively("bert"))
    write_queries(Path("queries.jsonl"))
    monkeypatch.setattr("stillshot.deploy.exporting.load_predictor", lambda folder: Contrary(folder, 3))
    arguments = ("export", "student", "--to", "merged", "-o", "out", "--queries", "queries.jsonl")
    result = call(*arguments, "--json")
    assert result.exit_code == 1
    (made,) = json.loads(result.stdout)["exports"]
    assert (made["queries"], made["agreement"], made["accepted"]) == (24, 0.875, False)
    assert made["largest_difference"] > 0.01
    turned = f"the student's likeliest label led by at most {100 * made['largest_turned']:.1f} points. It is kept in"
    assert (
        f"87.5 % of the held-out queries, and 99 % were asked for. Where they differ, {turned}"
        in result.stderr
    )
    answers = Student.load(Path("student")).predict_proba(
        [json.loads(line) for line in Path("queries.jsonl").read_text().splitlines()]
    )
    leads = [abs(row[0] - row[1]) for row in answers[:3]]  # the first three are turned
    assert made["largest_turned"] == pytest.approx(max(leads), abs=1e-4)
    assert (Path(made["folder"]) / "model.safetensors").is_file()
    assert "the same answer to 87.5 %" in (Path(made["folder"]) / "README.md").read_text().replace("\n", " ")
    advised = result.stderr.split("--min-agreement ")[1].split()[0].rstrip(".")
    accepted = call(*arguments, "--min-agreement", advised)
    assert accepted.exit_code == 0
    assert "the student's answer to 87.5 % of 24 held-out queries" in accepted.stdout


def test_an_export_is_verified_on_what_its_run_was_evaluated_on(lively: Lively) -> None:
    write_run(Path("run"), lively("bert"))
    result = call("export", "run", "--to", "merged", "--json")
    assert result.exit_code == 0, result.stderr
    (made,) = json.loads(result.stdout)["exports"]
    assert made["folder"] == str(Path("exports") / CELL / "merged")
    assert (made["queries"], made["agreement"], made["largest_difference"]) == (30, 1.0, 0.0)


def test_a_student_alone_needs_queries(lively: Lively) -> None:
    save_student(Path("student"), lively("bert"))
    message = refused("export", "student", "--to", "merged")
    assert "student lies in no run" in message
    assert "--queries FILE" in message
    assert "does not exist" in refused("export", "student", "--to", "merged", "--queries", "nowhere.csv")


@pytest.mark.parametrize("command", ["export", "predict"])
def test_no_label_and_no_group_of_a_row_keeps_a_query_out(lively: Lively, command: str) -> None:
    task = SENTIMENT.model_copy(update={"drop_labels": ["mixed"], "groups": ["source"]})
    save_student(Path("student"), lively("bert"), task=task)
    rows = [{"text": "a stirring film", "label": label} for label in ("mixed", "positive", "unheard of")]
    Path("queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if command == "predict":
        assert len(call("predict", "student", "queries.jsonl").stdout.splitlines()) == 3
        return
    done = call("export", "student", "--to", "merged", "-o", "out", "--queries", "queries.jsonl", "--json")
    assert json.loads(done.stdout)["exports"][0]["queries"] == 3


def test_weights_that_are_not_finite_are_no_export(lively: Lively, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Contrary):
        def predict_proba(self, queries: Sequence[Any], batch_size: int = 32) -> Any:
            return super().predict_proba(queries, batch_size) * np.nan

    folder = save_student(Path("student"), lively("bert"))
    monkeypatch.setattr("stillshot.deploy.exporting.load_predictor", lambda folder: Broken(folder, 0))
    with pytest.raises(WorkError, match="not finite"):
        exported(folder, "merged")
    assert list(Path("out").iterdir()) == []


# The command -------------------------------------------------------------------------------------


def test_what_is_there_already_is_replaced_only_if_it_is_an_export(lively: Lively) -> None:
    save_student(Path("student"), lively("bert"))
    write_queries(Path("queries.jsonl"))
    arguments = ("export", "student", "--to", "merged", "-o", "out", "--queries", "queries.jsonl")
    Path("out/merged").mkdir(parents=True)
    Path("out/merged/thesis.txt").write_text("mine")
    assert f"{Path('out/merged')} is there and holds no export; nothing was changed." in refused(*arguments)
    assert [path.name for path in Path("out").rglob("*.*")] == ["thesis.txt"]
    Path("out/merged/thesis.txt").unlink()
    for _ in range(2):
        assert call(*arguments).exit_code == 0
        assert [path.name for path in Path("out").iterdir()] == ["merged"]
    itself = refused("export", "out/merged", "--to", "merged", "-o", "out", "--queries", "queries.jsonl")
    assert "out/merged is what is exported; nothing was changed." in itself.replace("\\", "/")


def test_wrong_options() -> None:
    message = refused("export", "student", "--to", "onx")
    assert "--to onx: there is no such kind of export. Did you mean 'onnx'?" in message
    assert "Add --to hub" in refused("export", "student", "--to", "onnx", "--repo", "me/mine")
    assert "does not exist" in refused("export", "student", "--to", "onnx")


def test_predict_reads_exports(bert_onnx: tuple[Path, Path]) -> None:
    write_queries(Path("queries.jsonl"))
    rows = []
    for folder in map(str, bert_onnx):
        rows.append(
            [json.loads(line) for line in call("predict", folder, "queries.jsonl").stdout.splitlines()]
        )
    for ours, theirs in zip(*rows, strict=True):
        assert ours["text"] == theirs["text"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-4)
    assert str(bert_onnx[1]) in refused("predict", str(bert_onnx[1].parent), stdin='"x"\n')


# Damage ------------------------------------------------------------------------------------------


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def another(content: bytes) -> bytes:
    return b"<html>503 Service Unavailable</html>"


@pytest.mark.parametrize("kind", [None, "onnx"])
def test_a_folder_without_its_vocabulary_is_refused(lively: Lively, kind: ExportKind | None) -> None:
    folder = save_student(Path("student"), lively("bert"))
    if kind is not None:
        folder = exported(folder, kind)[0].folder
    # Of some kinds, transformers then makes a tokenizer that knows no words.
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "BertTokenizer"}))
    (folder / "tokenizer.json").unlink()
    Path("q.jsonl").write_text('"a film"\n')
    message = refused("predict", str(folder), "q.jsonl")
    assert "the folder lacks its tokenizer's vocabulary (" in message
    assert "tokenizer.json). Copy the whole folder again." in message


def forget_checksums(folder: Path) -> None:
    """Make an export what earlier versions have written: damage shows to what reads the file."""
    content = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    content.pop("weights", None)
    (folder / SIDECAR).write_text(json.dumps(content), encoding="utf-8")


def assert_told_as_damaged(folder: Path, file: Path) -> None:
    """``predict`` and ``serve`` give one message: what, where, and what to do."""
    for arguments in (
        ("predict", str(folder)),
        (),
        ("predict", str(folder)),
        ("serve", str(folder), "--port", "0"),
    ):
        if not arguments:
            forget_checksums(folder)
            continue
        result = call(*arguments, stdin='"a stirring film"\n')
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        message = result.stderr[result.stderr.index("error: ") :]
        assert message.startswith(f"error: {file} cannot be read; it may be damaged or cut short (")
        assert "make it anew: stillshot export STUDENT --to " in message
        assert len(message.splitlines()) == 1


@pytest.mark.parametrize("damage", [cut_short, emptied, another])
def test_a_damaged_onnx_file_is_told(bert_onnx: tuple[Path, Path], damage: Callable[[bytes], bytes]) -> None:
    folder = Path(shutil.copytree(bert_onnx[1], "copy"))
    file = folder / "model.onnx"
    file.write_bytes(damage(file.read_bytes()))
    assert_told_as_damaged(folder, file)


def test_an_onnx_file_that_only_fails_when_run_is_told(bert_onnx: tuple[Path, Path]) -> None:
    folder = Path(shutil.copytree(bert_onnx[1], "copy"))
    model = onnx.load(folder / "model.onnx")
    model.graph.output[0].name = "other"
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = "other" if name == "logits" else name
    onnx.save(model, folder / "model.onnx")
    forget_checksums(folder)
    message = refused("predict", str(folder), stdin='"a stirring film"\n')
    assert f"{folder / 'model.onnx'} cannot be read" in message


def test_a_missing_file_of_an_export_is_told(lively: Lively, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST_FILE_BYTES", 1000)
    (made,) = exported(save_student(Path("student"), lively("bert")), "onnx")
    for name in ("model.onnx.data", "model.onnx"):
        (made.folder / name).unlink()
        message = refused("predict", str(made.folder), stdin='"a stirring film"\n')
        assert f"{made.folder / name} is not there" in message
        assert "Copy the whole folder again, or make it anew: stillshot export" in message


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_damaged_weights_of_a_student_are_told(lively: Lively, tuning: str) -> None:
    folder = save_student(Path("student"), lively("llama"), tuning=tuning)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(cut_short(file.read_bytes()))
    message = refused("predict", str(folder), stdin='"a stirring film"\n')
    assert "The weights of student cannot be read; they may be damaged or cut short (" in message
    forget_checksums(folder)
    message = refused("predict", str(folder), stdin='"a stirring film"\n')
    assert "The weights of student cannot be read; they may be damaged or cut short (" in message


# The card ----------------------------------------------------------------------------------------


def test_the_card_tells_what_the_run_knows_and_no_text_of_it(lively: Lively) -> None:
    folder = write_run(Path("run"), lively("llama"))
    (made,) = export_student(folder, ["merged"], Path("out"))
    card = ModelCard.load(made.folder / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "transformers"
    assert card.data.to_dict().get("base_model") is None  # a local folder is nobody else's
    results = card.data.eval_results
    assert results is not None
    assert [(r.dataset_type, r.metric_type, r.metric_value) for r in results] == [
        ("test", "accuracy", 0.8),
        ("test", "f1", 0.79),
        ("far", "accuracy", 0.6),
        ("far", "f1", 0.79),
    ]
    text = " ".join(card.text.split())
    for told in (
        "| Labels | `negative` and `positive` |",
        "| Context | 1 context of 2 demonstrations; SHA-256 of each: `c0ffee",
        "| Data | 4 labelled examples and 12 queries that the teacher labelled |",
        "| test | in | 15 | 80.0 [60.0 to 93.0] | 79.0 | 0.100 | 90.0 |",
        "| far | out of | 15 | 60.0 [60.0 to 93.0] | 79.0 | 0.100 | 70.0 |",
        "on 30 held-out queries (the run's evaluation sets test, far): the same answer to 100.0 %",
        r'"Review: {text}\nGood?"',
    ):
        assert told in text
    assert str(Path(lively("llama")).parent) not in card.content
    items = (
        Path("run/evaluation/test.jsonl").read_text() + Path("run/evaluation/far.jsonl").read_text()
    ).splitlines()
    assert not any(json.loads(item)["fields"]["text"] in card.content for item in items)


def test_a_controls_contexts_are_its_own(lively: Lively) -> None:
    """A control shares its draw, and nothing else, with what it stands beside."""
    folder = write_run(Path("run"), lively("bert"))
    control = folder.rename(folder.with_name(CELL.replace("context_distillation", "shuffled_labels")))
    results = json.loads(Path("run/results.json").read_text(encoding="utf-8"))
    results["cells"][0] |= {"id": control.name, "control": "shuffled_labels"}
    Path("run/results.json").write_text(json.dumps(results), encoding="utf-8")
    found = Provenance.of(control)
    assert found is not None
    assert found.contexts == ()
    Path("run/softlabels/shuffled_labels-n4x1x2-s0.json").write_text('{"contexts": ["decaf"]}')
    found = Provenance.of(control)
    assert found is not None
    assert found.contexts == ("decaf",)
    assert Provenance.of(folder.parent / "stranger") is None


def test_the_card_of_a_student_alone(lively: Lively) -> None:
    (made,) = exported(save_student(Path("student"), lively("bert")), "merged")
    text = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "exported without a run's records" in text
    assert 'pipeline("text-classification", model="path/to/student", top_k=None)' in text
    assert "teacher" not in text.lower()


CARD_CASES: list[tuple[str, TaskDefinition, ExportKind, dict[str, Any]]] = [
    ("llama", SENTIMENT, "merged", {}),
    ("llama", PAIRS, "merged", {}),
    ("llama", SENTIMENT, "onnx", {"head": "language_model"}),
    ("llama", PAIRS, "onnx", {}),
    ("bert", SENTIMENT, "merged", {}),
    ("bert", PAIRS, "onnx", {}),
]


@pytest.mark.parametrize("repeated", [1, 50, 150])
@pytest.mark.parametrize(("model", "task", "kind", "settings"), CARD_CASES)
def test_the_code_of_a_card_answers_long_texts_as_predict_does(
    lively: Lively,
    model: str,
    task: TaskDefinition,
    kind: ExportKind,
    settings: dict[str, Any],
    repeated: int,
) -> None:
    folder = save_student(Path("student"), lively(model), task=task, max_tokens=64, **settings)
    query = dict.fromkeys(task.fields, "a man sleeps " * repeated)
    query[task.fields[-1]] = "".join(f"he {number}é, " for number in range(600))
    Path("queries.jsonl").write_text(json.dumps(query) + "\n")
    (made,) = export_student(folder, [kind], Path("out"), queries=Path("queries.jsonl"), floor=0.0)
    answer = json.loads(call("predict", str(folder), "queries.jsonl").stdout)
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace("path/to/student", str(made.folder))
    for field, text in query.items():
        assert code.count(f'"the {field}"') == 1
        code = code.replace(f'"the {field}"', json.dumps(text))
    printed: list[Any] = []
    exec(code, {"print": printed.append})
    (found,) = printed
    if kind == "onnx":
        odds = np.exp(found[0][0] - found[0].max())
        scores = dict(zip(task.labels, (odds / odds.sum()).tolist(), strict=True))
    else:
        rows = found[0] if isinstance(found[0], list) else found
        scores = {row["label"]: row["score"] for row in rows}
    assert max(scores, key=scores.__getitem__) == answer["prediction"]
    assert scores == pytest.approx(answer["probabilities"], abs=1e-4)


def test_cards_say_how_long_texts_are_cut(lively: Lively) -> None:
    folder = save_student(Path("student"), lively("llama"), max_tokens=100_000)
    for made in exported(folder, "merged", "gguf"):
        told = json.loads((made.folder / "stillshot.json").read_text(encoding="utf-8"))["max_tokens"]
        assert told == load_config(resolve_model(lively("llama"))).max_position_embeddings
        card = " ".join((made.folder / "README.md").read_text(encoding="utf-8").split())
        assert f"where the whole has more than {told} tokens, cut the end of the longest field" in card


# The Hub -----------------------------------------------------------------------------------------


class Hub:
    """Stands in for ``HfApi``, and remembers what it was asked."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> Any:
        self.calls.append(("create", repo, private, exist_ok))

        class Address(str):
            repo_id = f"me/{repo}"

        return Address(f"https://hub/me/{repo}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        files = sorted(
            path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*.*") if path.is_file()
        )
        self.calls.append(("upload", repo_id, files))


def test_a_folder_for_the_hub_is_whole_and_uploaded_as_private(
    lively: Lively, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    write_run(Path("run"), lively("llama"))
    result = call("export", "run", "--to", "hub", "--to", "gguf", "-o", "out", "--repo", "mine")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "https://hub/me/mine"
    created, (_, repo, files) = Hub.calls
    assert created == ("create", "mine", True, True)
    assert repo == "me/mine"
    assert {"README.md", "model.safetensors", "stillshot.json", "tokenizer.json", "gguf/model.gguf"} <= set(
        files
    )
    card = Path("out/hub/README.md").read_text(encoding="utf-8")
    assert 'pipeline("text-classification", model="mine", top_k=None)' in card
    assert "| `gguf/` | A GGUF file for llama.cpp, its matrices in float16 | 100.0 |" in card


def test_without_the_network_the_folder_is_kept(lively: Lively) -> None:
    write_run(Path("run"), lively("bert"))  # conftest sets HF_HUB_OFFLINE
    result = call("export", "run", "--to", "hub", "-o", "out", "--repo", "mine")
    assert result.exit_code == 1
    assert "error: The Hub did not take mine:" in result.stderr
    assert f"The folder {Path('out/hub')} is complete" in result.stderr
    assert (Path("out/hub/README.md")).is_file()


def test_a_connection_that_breaks_is_told(lively: Lively, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise HTTPError("the connection was reset")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", broken)
    write_run(Path("run"), lively("bert"))
    result = call("export", "run", "--to", "hub", "-o", "out", "--repo", "mine")
    assert result.exit_code == 1
    assert "error: The Hub did not take mine: the connection was reset" in result.stderr


def test_nothing_is_uploaded_that_agrees_too_little(lively: Lively, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr("stillshot.deploy.exporting.load_predictor", lambda folder: Contrary(folder, 9))
    write_run(Path("run"), lively("bert"))
    done = call("export", "run", "--to", "hub", "-o", "out", "--repo", "mine")
    assert done.exit_code == 1
    assert Hub.calls == []
    assert "Nothing was uploaded to mine." in done.stderr


# GGUF --------------------------------------------------------------------------------------------


@pytest.fixture(params=["llama.cpp", "transformers"])
def gguf_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What runs a GGUF export."""
    find_spec = importlib.util.find_spec
    if request.param == "transformers":
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "xllamacpp" else find_spec(n))
    elif find_spec("xllamacpp") is None:
        pytest.skip("needs xllamacpp")
    return request.param


@pytest.mark.parametrize("head", ["label", "language_model", "channel"])
@pytest.mark.parametrize("model", ["llama", "qwen2"])
def test_a_gguf_export_answers_as_its_student(
    lively: Lively, gguf_reader: str, model: str, head: str
) -> None:
    folder = save_student(Path("student"), lively(model), head=head)
    (made,) = exported(folder, "gguf")
    # Its matrices are in float16; a channel's score is a sum over all tokens.
    assert_same(made, folder, tolerance=5e-2 if head == "channel" else 2e-2)
    tokens = Sidecar.read(made.folder).exported
    assert tokens is not None
    assert (tokens.label_tokens is None) == (head == "channel")


def test_whether_gguf_exports_are_asked_side_by_side(lively: Lively, gguf_reader: str) -> None:
    (made,) = exported(save_student(Path("student"), lively("llama")), "gguf")
    assert load_predictor(made.folder).side_by_side == (gguf_reader == "transformers")


def test_gguf_exports_are_let_go_of_without_a_question(lively: Lively) -> None:
    pytest.importorskip("xllamacpp")
    (made,) = exported(save_student(Path("student"), lively("llama")), "gguf")
    # One in 25 or so hung, where the thread of llama.cpp's server had not begun when it was freed.
    code = "import sys; from stillshot.deploy.predictor import load_predictor as load\n"
    code += "for _ in range(100): load(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(made.folder)], check=True, timeout=300)


def test_a_damaged_gguf_file_is_told(lively: Lively, gguf_reader: str) -> None:
    (made,) = exported(save_student(Path("student"), lively("llama")), "gguf")
    file = made.folder / "model.gguf"
    whole = file.read_bytes()
    for damage in (cut_short, emptied, another):
        file.write_bytes(damage(whole))
        assert_told_as_damaged(made.folder, file)
    file.unlink()
    assert f"{file} is not there" in refused("predict", str(made.folder), stdin='"a stirring film"\n')


def test_what_reads_gguf_files_may_not_be_installed(lively: Lively, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise ImportError("Please install gguf.\n")

    (made,) = exported(save_student(Path("student"), lively("llama"), head="channel"), "gguf")
    monkeypatch.setattr("stillshot.deploy.gguf_student._by_transformers", missing)
    message = refused("predict", str(made.folder), stdin='"a stirring film"\n')
    assert "(Please install gguf.). Run: pip install 'stillshot[export,llama-cpp]'" in message
    assert "damaged" not in message


def test_label_words_of_several_tokens_get_a_letter_each(lively: Lively, gguf_reader: str) -> None:
    folder = save_student(Path("student"), lively("llama"), prompt=Prompt(pattern="several"), tuning="lora")
    (made,) = exported(folder, "gguf")
    assert_same(made, folder, tolerance=2e-2)
    sidecar = Sidecar.read(made.folder)
    assert sidecar.exported is not None
    vocabulary = Student.load(folder).tokenizer.get_vocab()
    assert sidecar.exported.label_tokens == [vocabulary["A"], vocabulary["B"]]


def test_llama_cpp_cuts_texts_into_the_students_tokens(lively: Lively) -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    folder = save_student(Path("student"), lively("llama"))
    (made,) = exported(folder, "gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.verbosity = str(made.folder / "model.gguf"), -1
    parameters.n_ctx, parameters.n_parallel = 512, 1
    server = xllamacpp.Server(parameters)
    writer: Any = Student.load(folder).featurizer.writer  # type: ignore[attr-defined]
    for query in [*QUERIES[:8], Example({"text": "it's 1234 שלום 🎬\n\n  x"})]:
        text = writer.query_text(query)
        asked = [completion_request(prompt, [262, 264]) for prompt in (text, writer.encoder.encode(text))]
        by_text, by_tokens = (server.handle_completions(request) for request in asked)
        assert by_text["usage"]["prompt_tokens"] == by_tokens["usage"]["prompt_tokens"]
        answers = [a["choices"][0]["logprobs"]["content"][0]["top_probs"] for a in (by_text, by_tokens)]
        found = [{row["id"]: row["prob"] for row in rows} for rows in answers]
        assert found[0] == pytest.approx(found[1], abs=1e-4)
