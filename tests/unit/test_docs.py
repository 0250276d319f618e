"""Documentation that is made from code is as the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from stillshot.config_files import load_recipe

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


def test_the_recipe_shown_in_the_readme_is_valid_and_part_of_the_laptop_recipe(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    shown = tmp_path / "shown.yaml"
    shown.write_text(block, encoding="utf-8")
    assert load_recipe(shown).name == "sst2-laptop"
    recipe = (ROOT / "recipes" / "sst2-laptop.yaml").read_text(encoding="utf-8")
    kept = {line.split("#")[0].strip() for line in recipe.splitlines()}
    assert {line.split("#")[0].strip() for line in block.splitlines()} <= kept


@pytest.mark.parametrize("name", ["README.md", "EXPERIMENTS.md"])
def test_result_tables_are_those_of_the_records(name: str) -> None:
    filled = runpy.run_path(str(ROOT / "tools" / "result_tables.py"))["filled"]
    page = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- table: results/" in page
    assert filled(page) == page
