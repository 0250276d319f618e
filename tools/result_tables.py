"""Fill the tables of README.md and EXPERIMENTS.md from the records in results/.

A table stands between ``<!-- table: results/NAME -->`` and ``<!-- end -->``; a test holds pages and records
together.

    python tools/result_tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

from stillshot.report.folder import read_peers, read_results
from stillshot.report.tables import markdown_table

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "EXPERIMENTS.md")
_BLOCK = re.compile(r"(<!-- table: ([\w/.-]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def filled(page: str) -> str:
    """The page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        run = ROOT / match[2]
        return f"{match[1]}{markdown_table(read_results(run), read_peers(run))}{match[3]}"

    return _BLOCK.sub(table, page)


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
