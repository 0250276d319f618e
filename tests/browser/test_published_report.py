"""The demo's published report in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillshot.config_files import load_recipe
from stillshot.report import write_report
from stillshot.report.folder import read_results
from stillshot.report.lines import ordered_lines
from stillshot.report.names import METHODS

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "results/demo"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the report that is made of the published records."""
    folder = tmp_path_factory.mktemp("published") / "demo"
    shutil.copytree(DEMO, folder)
    return write_report(folder).as_uri()


def test_the_report_shows_what_every_method_reached(
    report: str, open_page: Callable[..., Any], take_picture: Callable[[Any, str], None]
) -> None:
    page = open_page(report, viewport={"width": 1200, "height": 1780})
    results = read_results(DEMO)
    rows = [row.inner_text() for row in page.locator("table").first.locator("tbody tr").all()]
    assert len(rows) == len(results.summary)
    for row, line in zip(rows, ordered_lines(results), strict=True):
        assert row.strip().startswith(METHODS[line.method])
        for accuracy in (*line.in_domain.values(), *line.out_of_domain.values()):
            assert f"{100 * accuracy.mean:.1f}" in row
    take_picture(page, "demo-report")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_a_phone(report: str, open_page: Callable[..., Any], scheme: str) -> None:
    page = open_page(report, color_scheme=scheme, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)")
        for name in ("backgroundColor", "color")
    )
    assert (sum(paper) > sum(ink)) == (scheme == "light")


def test_the_published_demo_is_that_of_the_recipe() -> None:
    published, shipped = (load_recipe(path) for path in (DEMO / "recipe.yaml", ROOT / "recipes/demo.yaml"))
    assert published == shipped
