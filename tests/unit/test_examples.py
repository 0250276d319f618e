"""The examples give the student's answers, in programs that do not know Stillshot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_calls import call
from doubles import PAIRS
from saved_students import save_student, write_queries

from stillshot.config import ExportKind
from stillshot.deploy.exporting import export_student

EXAMPLES = Path(__file__).parents[2] / "examples"
# The last ones are longer than what a student reads, and than the windows of the tiny models.
TEXTS = [
    "a stirring film",
    "no movement, no yuks {at all}",
    "it ends <eos> and begins <bos> again",
    *("".join(f"{word} {number}é, " for number in range(400)) for word in ("dull", "a joy")),
]
Lively = Callable[[str], str]


def assert_gives_the_answers(
    name: str, folder: Path, student: Path, unknown: str = "stillshot", pairs: bool = False
) -> None:
    """Run an example in a process in which some modules cannot be imported."""
    queries = [{"premise": text, "hypothesis": other} for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    arguments = [json.dumps(list(query.values())) for query in queries] if pairs else TEXTS
    run = f"import runpy, sys; sys.modules.update(dict.fromkeys({unknown.split()!r})); sys.argv = sys.argv[1:]; "
    run += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", run, str(EXAMPLES / name), str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    asked = "".join(json.dumps(query) + "\n" for query in (queries if pairs else TEXTS))
    lines = call("predict", str(student), stdin=asked).stdout
    expected = [json.loads(line) for line in lines.splitlines()]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert max(ours, key=ours.__getitem__) == theirs["prediction"]
        assert ours == pytest.approx(theirs["probabilities"], abs=2e-3)


def export(student: Path, kind: ExportKind, output: Path) -> Path:
    (made,) = export_student(student, [kind], output, queries=write_queries(output.parent / "queries.jsonl"))
    return made.folder


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_onnx_runtime_alone(lively: Lively, tmp_path: Path, model: str) -> None:
    student = save_student(tmp_path / "student", lively(model))
    folder = export(student, "onnx", tmp_path / "exports")
    assert_gives_the_answers("onnx_runtime.py", folder, student, unknown="stillshot torch transformers")


def test_transformers_alone(lively: Lively, tmp_path: Path) -> None:
    student = save_student(tmp_path / "student", lively("opt"), tuning="lora")
    assert_gives_the_answers(
        "transformers_pipeline.py", export(student, "merged", tmp_path / "exports"), student
    )


@pytest.mark.parametrize("kind", ["onnx", "merged"])
def test_an_encoder_of_pairs(lively: Lively, tmp_path: Path, kind: ExportKind) -> None:
    student = save_student(tmp_path / "student", lively("bert"), task=PAIRS)
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps({"premise": TEXTS[0], "hypothesis": TEXTS[1]}) + "\n", encoding="utf-8")
    (made,) = export_student(student, [kind], tmp_path / "exports", queries=queries)
    name = "onnx_runtime.py" if kind == "onnx" else "transformers_pipeline.py"
    assert_gives_the_answers(name, made.folder, student, pairs=True)


def test_peft_alone(lively: Lively, tmp_path: Path) -> None:
    student = save_student(tmp_path / "student", lively("llama"), tuning="lora")
    assert_gives_the_answers("peft_adapter.py", student, student)
    whole = save_student(tmp_path / "whole", lively("llama"))
    drawn = save_student(tmp_path / "drawn", "random:tiny-llama", tuning="lora")
    for folder, said in (
        (whole, f"{whole} has no adapters; examples/transformers_pipeline.py asks it."),
        (drawn, f"{drawn} has adapters on random weights, which PEFT finds nowhere. Put both together with "
            f"`stillshot export {drawn} --to merged`; examples/transformers_pipeline.py asks that."),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(EXAMPLES / "peft_adapter.py"), str(folder), TEXTS[0]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.strip()) == (1, said)


@pytest.mark.parametrize("head", ["label", "language_model"])
def test_llama_cpp_alone(lively: Lively, tmp_path: Path, head: str) -> None:
    pytest.importorskip("xllamacpp")
    student = save_student(tmp_path / "student", lively("llama"), head=head)
    folder = export(student, "gguf", tmp_path / "exports")
    assert_gives_the_answers("llama_cpp_gguf.py", folder, student, unknown="stillshot torch transformers")


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_examples_say_what_they_need(name: str, tmp_path: Path) -> None:
    if name == "llama_cpp_gguf.py":
        pytest.importorskip("xllamacpp")
    pair = {"head": "label", "labels": ["no", "yes"], "template": "{premise} {hypothesis}"}
    pair["task"] = {"fields": ["premise", "hypothesis"]}
    (tmp_path / "stillshot.json").write_text(json.dumps(pair), encoding="utf-8")
    if name == "peft_adapter.py":
        (tmp_path / "adapter_config.json").touch()
    for arguments, said in (
        ((), f"python examples/{name} "),
        (
            (str(tmp_path), "a film"),
            f"{tmp_path} answers to premise, hypothesis together; ",
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(EXAMPLES / name), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
