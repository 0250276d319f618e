"""The demo's published report in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillshot.report.folder import read_results

DEMO = Path(__file__).parents[2] / "results/demo"
REPORT = (DEMO / "report.html").as_uri()
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def test_the_report_shows_every_method(
    open_page: Callable[..., Any], take_picture: Callable[[Any, str], None]
) -> None:
    page = open_page(REPORT, viewport={"width": 960, "height": 1240})
    results = read_results(DEMO)
    shown = page.locator("table").first.inner_text()
    for line in results.summary:
        for accuracy in (*line.in_domain.values(), *line.out_of_domain.values()):
            assert f"{100 * accuracy.mean:.1f}" in shown
    take_picture(page, "demo-report")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_a_phone(open_page: Callable[..., Any], scheme: str) -> None:
    page = open_page(REPORT, color_scheme=scheme, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)")
        for name in ("backgroundColor", "color")
    )
    assert (sum(paper) > sum(ink)) == (scheme == "light")
