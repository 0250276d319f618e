"""The model card of an export: a README.md as the Hugging Face Hub reads it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stillshot.config import ExportKind
from stillshot.deploy.agreement import Agreement
from stillshot.deploy.gguf_student import completion_request
from stillshot.deploy.held_out import HeldOut
from stillshot.escaping import code_literal, markdown_code, markdown_text, visible
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.records import Cell
from stillshot.methods.cells import find_setting
from stillshot.models.resolve import hub_name
from stillshot.report import names
from stillshot.report.folder import read_results
from stillshot.student.saved import Student
from stillshot.student.sidecar import Exported
from stillshot.student.tuning import count_parameters

CARD = "README.md"
_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
_KINDS: dict[ExportKind, str] = {
    "merged": "Plain weights for transformers, in float32",
    "onnx": "An ONNX file in float32",
    "onnx-int8": "An ONNX file whose weights, word embeddings included, have 8 bits",
    "gguf": "A GGUF file for llama.cpp, its matrices in float16",
    "hub": "Plain weights for transformers, in float32",
}


@dataclass(frozen=True)
class Provenance:
    """What a run says of a student.

    Attributes:
        cell: Its record.
        contexts: Digests of the teacher's contexts; none in runs of the first versions.
    """

    cell: Cell
    contexts: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> Provenance | None:
        """What the run that a student's folder lies in says of it; ``None`` where there is no record."""
        run, name = RunFolder.around(folder), folder.resolve().name
        if run is None or not run.results.is_file():
            return None
        cell = next((cell for cell in read_results(run.path).cells if cell.id == name), None)
        if cell is None:
            return None
        recipe = run.open_recipe() if cell.teacher and run.recipe.is_file() else None
        setting = recipe and find_setting(recipe, cell.id, cell.control)
        labels = setting and run.labels(setting.name)
        known = run.read_json(labels) if labels and labels.is_file() else {}
        return cls(cell, tuple(known.get("contexts", ())))


@dataclass(frozen=True)
class Describer:
    """Writes the cards of a student's exports; they hold none of the texts that it or its teacher has seen.

    Names in them are the user's: in Markdown they are escaped, in code they are literals.

    Attributes:
        name: What the student is called.
        repo: The Hub repository that a folder for the Hub goes to, if it goes to one.
    """

    name: str
    student: Student
    provenance: Provenance | None
    held_out: HeldOut
    repo: str | None = None

    def write(
        self,
        folder: Path,
        kind: ExportKind,
        agreement: Agreement,
        exported: Exported | None,
        beside: Sequence[tuple[ExportKind, Agreement]],
    ) -> None:
        """Write the card of an export into its folder; ``beside`` are other exports in folders below it."""
        named = (self.repo.split("/")[-1], self.repo) if self.repo and kind == "hub" else None
        name, place = named or (self.name, f"path/to/{self.name}")
        sidecar, cell = self.student.sidecar(exported), self.provenance and self.provenance.cell
        card = ModelCard.from_template(
            _metadata(name, kind, self.student, cell or None),
            template_path=str(_TEMPLATE),
            title=markdown_text(name),
            folder=code_literal(place),
            onnx_file=code_literal(f"{place}/model.onnx"),
            stillshot_command=visible(
                f"stillshot predict {shlex.quote(f'path/to/{name}')} queries.jsonl -o answers.jsonl", keep=""
            ),
            llama_command=markdown_code(f"llama-server -m {shlex.quote(f'{place}/model.gguf')}"),
            kind=kind,
            kind_in_words=_KINDS[kind],
            file=exported and markdown_code(exported.file),
            files_beside=names.listed(map(markdown_code, exported.files_beside)) if exported else "",
            agreement=agreement,
            beside=[(f"`{other}/`", _KINDS[other], names.percent(found.share)) for other, found in beside],
            origin=markdown_text(self.held_out.origin),
            template=sidecar.template and code_literal(sidecar.template, indent=1),
            **_traits(self.student),
            **_completion(self.student, exported, sidecar.template),
            **_inputs(self.student, sidecar.template),
            **(_facts(self.provenance) if self.provenance else {}),
        )
        card.save(folder / CARD)


def _metadata(name: str, kind: ExportKind, student: Student, cell: Cell | None) -> ModelCardData:
    return ModelCardData(
        library_name="transformers" if kind in ("merged", "hub") else kind.removesuffix("-int8"),
        pipeline_tag="text-classification",
        tags=["stillshot", *(["context-distillation"] if cell and cell.teacher else [])],
        model_name=visible(name, keep=""),
        eval_results=_eval_results(cell) if cell else None,
        base_model=hub_name(student.section.model),
    )


def _traits(student: Student) -> dict[str, Any]:
    return {
        "task_name": markdown_code(student.task.name),
        "task_description": markdown_text(student.task.description).rstrip("."),
        "student_model": markdown_text(names.model_name(student.section.model)),
        "student_head": student.head,
        "head": names.HEADS[student.head],
        "labels": names.listed(map(markdown_code, student.task.labels)),
        "fields": names.listed(map(markdown_code, student.task.fields)),
        "max_tokens": student.featurizer.max_tokens,
        "parameters": names.parameters(count_parameters(student.model)[0]),
    }


def _inputs(student: Student, template: Any) -> dict[str, str]:
    """A query as code: what a pipeline is called with, and a tokenizer, and how both cut long texts.

    A decoder answers at its template's end, so what it reads is written by a function ``prompt``, which the card
    holds too and which cuts as the student does.
    """
    shown = [f"the {field}" for field in student.task.fields]
    if template is not None:
        query = code_literal(dict(zip(student.task.fields, shown, strict=True)))
        named = "|".join(map(re.escape, student.task.fields))
        return {
            "pipeline_input": f"prompt({query})",
            "text_arguments": f"prompt({query})",
            "cut": "",
            "placeholder": visible(repr(f"{{({named})}}")),
        }
    cut = f", truncation=True, max_length={student.featurizer.max_tokens}"
    first, *rest = (code_literal(text) for text in (shown[0], *([" ".join(shown[1:])] if shown[1:] else [])))
    if not rest:
        return {"pipeline_input": first, "text_arguments": first, "cut": cut}
    return {
        "pipeline_input": f'{{"text": {first}, "text_pair": {rest[0]}}}',
        "text_arguments": f"{first}, {rest[0]}",
        "cut": cut,
    }


def _completion(student: Student, exported: Exported | None, template: Any) -> dict[str, str]:
    """How llama.cpp is asked, where it can be."""
    if exported is None or exported.label_tokens is None:
        return {}
    tokens = zip(student.task.labels, exported.label_tokens, strict=True)
    return {
        "tokens": names.listed(f"{markdown_code(label)} (token {token})" for label, token in tokens),
        "request": code_literal(completion_request(template, exported.label_tokens)),
    }


def _facts(provenance: Provenance) -> dict[str, Any]:
    cell = provenance.cell
    digest = f"; SHA-256 of each: {', '.join(f'`{key}`' for key in provenance.contexts)}"
    contexts = (
        f"{names.plural(cell.num_contexts, 'context')} of {names.plural(cell.num_shots, 'demonstration')}"
        if cell.num_contexts
        else "none"
    )
    asked = [
        names.SCORINGS.get(cell.scoring or "", ""),
        names.CALIBRATIONS.get(cell.calibration or "", ""),
        f"pattern {markdown_code(cell.pattern)}" if cell.pattern else "",
        f"channel {markdown_code(cell.channel)}" if cell.channel else "",
    ]
    queries = f" and {cell.unlabelled:,} queries that the teacher labelled" if cell.unlabelled else ""
    return {
        "cell": cell,
        "teacher_model": markdown_text(names.model_name(cell.teacher)) if cell.teacher else "",
        "method": markdown_text(names.row_name(cell)),
        "asked": ", ".join(filter(None, asked)),
        "contexts": provenance.contexts,
        "context": contexts + (digest if provenance.contexts else ""),
        "data": f"{cell.labelled:,} labelled examples{queries}",
        "with_teacher": bool(cell.teacher_agreement),
        "results": [_row(cell, split) for split in cell.splits],
    }


def _row(cell: Cell, split: str) -> list[str]:
    found = cell.splits[split]
    row = [
        markdown_text(split),
        "in" if split in cell.in_domain else "out of",
        f"{found.n:,}",
        f"{names.percent(found.accuracy)} [{names.interval(found.ci95)}]",
        names.percent(found.macro_f1),
        names.decimal(found.ece),
    ]
    if cell.teacher_agreement:
        same = cell.teacher_agreement.get(split)
        row.append(names.NOT_APPLICABLE if same is None else names.percent(same))
    return row


def _eval_results(cell: Cell) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=(shown := visible(split, keep="")),
            dataset_name=f"{shown} ({'in' if split in cell.in_domain else 'out of'} domain)",
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for split, found in cell.splits.items()
        for metric, name, value in (
            ("accuracy", "Accuracy", found.accuracy),
            ("f1", "Macro-F1", found.macro_f1),
        )
    ]
