"""Documentation that is made from code is as the code says."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from stillshot.config import TaskDefinition
from stillshot.config_files import load_recipe
from stillshot.softlabels import SoftLabelStore
from stillshot.tasks import load_task
from stillshot.types import Example

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["recipe", "task"])
def test_references_made_from_code_are_up_to_date(name: str) -> None:
    made = runpy.run_path(str(ROOT / "tools" / f"{name}_reference.py"))["reference"]()
    page = ROOT / "docs/reference" / {"recipe": "recipe.md", "task": "tasks.md"}[name]
    assert page.read_text(encoding="utf-8") == made


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe: Path) -> None:
    assert load_recipe(recipe).name == recipe.stem


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_recipe_shown_in_the_readme_is_valid_and_part_of_recipes_sentiment(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    shown = tmp_path / "shown.yaml"
    shown.write_text(block, encoding="utf-8")
    assert load_recipe(shown).name == "sentiment"
    recipe = (ROOT / "recipes" / "sentiment.yaml").read_text(encoding="utf-8")
    kept = {line.split("#")[0].strip() for line in recipe.splitlines()}
    assert {line.split("#")[0].strip() for line in block.splitlines()} <= kept


def test_benchmark_tables_are_those_of_the_records() -> None:
    tools = runpy.run_path(str(ROOT / "tools" / "benchmark_tables.py"))
    pages = [page.read_text(encoding="utf-8") for page in tools["PAGES"]]
    named = [name for page in pages for name in re.findall(r"<!-- benchmark: (\w+) -->", page)]
    assert sorted(named) == sorted(tools["TABLES"])
    for page in pages:
        assert tools["filled"](page) == page


@pytest.mark.parametrize("name", ["README.md", "EXPERIMENTS.md"])
def test_result_tables_are_those_of_the_records(name: str) -> None:
    filled = runpy.run_path(str(ROOT / "tools" / "result_tables.py"))["filled"]
    page = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- table: results/" in page
    assert filled(page) == page


def code_in(page: str, heading: str) -> str:
    """The first indented block below a heading."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"{heading}\n", 1)[1]
    block = re.search(r"(?:^ {4}.*\n|^\n)+", section[section.index("\n    ") + 1 :], flags=re.MULTILINE)
    assert block is not None
    return textwrap.dedent(block[0])


def test_the_trainer_alone_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code_in("docs/how-to/python.md", "## The trainer alone"), names)
    assert names["trainer"].state.global_step == 3
    assert re.search(r"Prediction\(label='(positive|negative)'", capsys.readouterr().out)
    assert (tmp_path / "out/student/model.safetensors").is_file()


def test_stored_soft_labels_are_joined_to_texts_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shared = {
        "kind": "direct",
        "teacher": "t",
        "labels": ["no", "yes"],
        "shots": 2,
        "query_tokens": 3,
        "seconds": 0.1,
    }
    rows = [
        {"key": str(i), "query": Example({"text": text}).key, "scores": [-1.0, float(i)], **shared}
        for i, text in enumerate(["one text", "of the evaluation", "another"])
    ]
    SoftLabelStore(Path("runs/tickets/softlabels")).add(rows)
    names: dict[str, Any] = {"queries": ["another", "one text"]}
    exec(code_in("docs/how-to/python.md", "## The soft labels"), names)
    assert names["scored"] == [
        ("one text", {"no": -1.0, "yes": 0.0}),
        ("another", {"no": -1.0, "yes": 2.0}),
    ]


def test_the_task_shown_is_valid() -> None:
    shown = yaml.safe_load(code_in("docs/how-to/your-own-task.md", "# Your own task and data"))
    assert load_task(TaskDefinition.model_validate(shown)).labels == ["billing", "technical", "other"]
