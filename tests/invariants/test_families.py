"""One answer along the whole way: label, train, predict, export to each kind, plain transformers, for each family."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import SENTIMENT, all_scores, context, reviews
from families import DECODERS, ENCODERS, Family, save_family
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from stillshot import distill
from stillshot.config import Budget, Data, ExportKind, Lora, Prompt, Recipe, Training
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.deploy.exporting import export_student
from stillshot.methods.check import check
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.prompt.writer import PromptWriter
from stillshot.student.saved import Student
from stillshot.teacher.local import LocalTeacher

FAMILIES = {**DECODERS, **ENCODERS}
MAX_TOKENS = 96
# Those whose ONNX export, which takes seconds, stands for the others'.
TO_ONNX = ("llama-bos-eos", "llama-no-padding-token", "gpt2", "roberta", "bert-nothing-around", "deberta-v2")
SPELLED_OUT = "a <eos> in a text, and <bos> <pad> too"
Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("families")

    def build(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else save_family(FAMILIES[name], folder / name)

    return build


def queries_of(family: Family) -> list[str]:
    """Texts of many lengths, also longer than the student reads, and with special tokens spelled out."""
    texts = [example.fields["text"] for example in reviews(9, seed=5)] + ["word " * 60, "7"]
    return texts if family.template else [*texts, SPELLED_OUT]  # a chat's special tokens are refused in data


def section(folder: Path, **settings: Any) -> StudentSection:
    training = Training(epochs=2, learning_rate=3e-3)
    return StudentSection(
        model=str(folder), max_tokens=MAX_TOKENS, dtype="float32", distill=training, **settings
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_one_answer_from_label_to_plain_transformers(name: str, saved: Saved, tmp_path: Path) -> None:
    family, folder = FAMILIES[name], saved(name)
    teacher = "random:tiny-llama" if family.encoder else str(folder)
    # The random teacher that stands beside an encoder has no chat template.
    prompt = Prompt(**family.prompt)
    student = distill(
        reviews(4),
        [example.fields["text"] for example in reviews(12, seed=3)],
        task=SENTIMENT,
        teacher=TeacherSection(model=teacher, dtype="float32"),
        student=section(folder),
        prompt=prompt,
        num_contexts=1,
        num_shots=2,
        output_dir=tmp_path / "distilled",
    )
    texts = queries_of(family)
    expected = student.predict_proba(texts)
    assert np.ptp(expected[:, 0]) > 1e-3  # a student that answers everything alike would agree with anything
    one_by_one = np.concatenate(
        [Student.load(tmp_path / "distilled" / "student").predict_proba([t]) for t in texts]
    )
    np.testing.assert_allclose(one_by_one, expected, atol=2e-4)

    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(f'{{"text": "{t}"}}\n' for t in texts if "\\" not in t), encoding="utf-8")
    kinds: list[ExportKind] = ["merged", "gguf", *(["onnx", "onnx-int8"] if name in TO_ONNX else [])]
    left_out: dict[str, str] = {}
    exports = export_student(
        tmp_path / "distilled" / "student",
        kinds,
        tmp_path / "out",
        queries=queries,
        leave_out=left_out.__setitem__,
    )
    for export in exports:
        assert export.accepted
        tolerance = {"gguf": 0.02, "onnx-int8": 0.1}.get(export.kind, 5e-4)
        assert export.agreement.largest_difference < tolerance, export.kind
    assert set(left_out) <= {"gguf"}
    if family.model_type in ("llama", "qwen2", "qwen3", "mistral") and not family.metaspace:
        assert not left_out
    np.testing.assert_allclose(by_the_card(exports[0].folder, texts), expected, atol=5e-4)
    if not family.encoder:
        np.testing.assert_allclose(by_plain_pipeline(exports[0].folder, texts, student), expected, atol=5e-4)


def by_the_card(folder: Path, texts: list[str]) -> np.ndarray:
    """Probabilities by the model card's own Python code, text by text, shape ``(texts, labels)``."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    code = re.sub(r'model="[^"]*"', f"model={str(folder)!r}", code)
    rows = []
    for text in texts:
        printed: list[Any] = []
        exec(code.replace('"the text"', repr(text)), {"print": printed.append})
        (found,) = printed
        scores = {row["label"]: row["score"] for row in (found[0] if isinstance(found[0], list) else found)}
        rows.append([scores[label] for label in SENTIMENT.labels])
    return np.array(rows)


def by_plain_pipeline(folder: Path, texts: list[str], student: Student) -> np.ndarray:
    """Probabilities of short texts by plain transformers in batches, which pads them; long ones as the student's."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), top_k=None)
    prompts = [student.featurizer.writer.query_text(e) for e in map(_example, texts)]  # type: ignore[attr-defined]
    short = [len(classify.tokenizer(prompt).input_ids) <= MAX_TOKENS for prompt in prompts]
    found = iter(
        classify([prompt for prompt, fits in zip(prompts, short, strict=True) if fits], batch_size=4)
    )
    expected = student.predict_proba(texts)
    rows = []
    for index, fits in enumerate(short):
        scores = {row["label"]: row["score"] for row in next(found)} if fits else None
        rows.append([scores[label] for label in SENTIMENT.labels] if scores else expected[index])
    assert sum(short) > 5
    return np.array(rows)


def _example(text: str) -> Any:
    from stillshot import Example

    return Example({"text": text})


@pytest.mark.parametrize("pattern", ["yes-no", "several"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_teacher_scores_as_plain_transformers_reads_the_prompt(
    name: str, pattern: str, saved: Saved
) -> None:
    """Whole prompts, one by one, without a shared prefix: the same scores of label words."""
    family, folder = DECODERS[name], saved(name)
    teacher = LocalTeacher(TeacherSection(model=str(folder), dtype="float32"))
    writer = PromptWriter(SENTIMENT, Prompt(pattern=pattern, **family.prompt), teacher.encoder)
    prompts = writer.prompts("direct", context(3), reviews(5, seed=2))
    words = writer.verbalizer
    tokens = [ids[0] for ids in words.token_ids] if words.single_token else None
    scores = all_scores(teacher, prompts, tokens)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for row, prompt in zip(scores, prompts, strict=True):
        expected = []
        for sequence, ids in zip(prompt.sequences * (2 if tokens else 1), words.token_ids, strict=True):
            whole = [*sequence.ids[: sequence.scored_from], *ids]
            with torch.no_grad():
                logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            at = range(sequence.scored_from, len(whole))
            expected.append(sum(float(logits[i - 1, whole[i]]) for i in at))
        np.testing.assert_allclose(np.ptp(row), abs(expected[0] - expected[1]), atol=2e-3)
        assert np.argmax(row) == np.argmax(expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_check_accepts_what_can_be_trained(name: str, saved: Saved, tmp_path: Path) -> None:
    family, folder = FAMILIES[name], saved(name)
    rows = "".join(f'{{"text": "{e.fields["text"]}", "label": "{e.label}"}}\n' for e in reviews(40))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    other = "".join(
        f'{{"text": "new {e.fields["text"]}", "label": "{e.label}"}}\n' for e in reviews(40, seed=8)
    )
    (tmp_path / "test.jsonl").write_text(other, encoding="utf-8")
    recipe = Recipe(
        name="family",
        task=SENTIMENT,
        data=Data(
            labelled=str(tmp_path / "rows.jsonl"),
            unlabelled=str(tmp_path / "rows.jsonl"),
            num_unlabelled=20,
            in_domain={"test": str(tmp_path / "test.jsonl")},
        ),
        teacher=TeacherSection(model="random:tiny-llama" if family.encoder else str(folder)),
        prompt=Prompt(**family.prompt),
        budgets=[Budget(labelled=4, num_contexts=1, num_shots=2)],
        methods=["context_distillation"],
        students=[section(folder), section(folder, tuning="lora", lora=Lora(rank=2))],
    )
    found = check(recipe)
    assert sum(finding.what == "student" for finding in found) == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_reads_as_many_tokens_as_its_window_says(name: str, saved: Saved) -> None:
    folder = saved(name)
    resolved = resolve_model(str(folder))
    config = load.load_config(resolved)
    window = load.window(config)
    if window > 10_000:
        pytest.skip("has no limit")
    assert 250 <= window <= 256
    kind = AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, dtype=torch.float32, pad_token_id=0).eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.full((1, window), 9)).logits).all()
