"""Fill the tables of README.md and EXPERIMENTS.md from the records in results/.

Between a comment and ``<!-- end -->`` stands what it names; a test holds pages and records together:

- ``<!-- table: results/NAME -->``: all lines of a run, and its peers
- ``<!-- calibrated: results/NAME -->``: its lines with answers as they are, and calibrated on each evaluation set
- ``<!-- claims: results/NAME -->``: the paper's claims, judged by a run
- ``<!-- sweep: NAME -->``: the variants of a sweep in results/sweeps/
- ``<!-- plan: results/NAME -->``: what was planned of a run beside what it took
- ``<!-- reproduced: results/reproduced -->``: each run that was made again beside what is published of it

    python tools/result_tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stillshot.report import names
from stillshot.report.folder import read_peers, read_results
from stillshot.report.lines import evaluation_sets
from stillshot.report.tables import markdown_table

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "EXPERIMENTS.md")
_BLOCK = re.compile(r"(<!-- (\w+): ([\w/.-]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def run_table(name: str) -> str:
    """All lines of a run."""
    return markdown_table(read_results(ROOT / name), read_peers(ROOT / name))


def calibrated(name: str) -> str:
    """The run's lines on each evaluation set, with answers as they are and calibrated there."""
    results = read_results(ROOT / name)
    record = json.loads((ROOT / name / "calibrated.json").read_text(encoding="utf-8"))
    fair = {line["key"]: line["splits"] for line in record["lines"]}
    sets, named = evaluation_sets(results), names.line_names(results.summary)
    rows = [
        [
            named[line.key],
            *(
                shown
                for split, inside in sets
                for shown in (
                    _accuracy((line.in_domain if inside else line.out_of_domain)[split].model_dump()),
                    _accuracy(fair[line.key][split]),
                )
            ),
        ]
        for line in results.summary
    ]
    return _table(["Method", *(f"{split}{what}" for split, _ in sets for what in ("", ", calibrated"))], rows)


def claims(name: str) -> str:
    """The run's ``claims.md`` without its heading."""
    text = (ROOT / name / "claims.md").read_text(encoding="utf-8")
    return text[text.index("|") :]


def sweep(name: str) -> str:
    """A row for each variant, a column for its teacher and each kind of student and number of labels."""
    record = json.loads((ROOT / "results/sweeps" / f"{name}.json").read_text(encoding="utf-8"))
    shown = [shown_lines(variant["lines"]) for variant in record["variants"]]
    kinds = list(dict.fromkeys(kind for lines in shown for kind in lines))
    rows = [
        [variant["name"], *(_accuracies(lines.get(kind)) for kind in kinds)]
        for variant, lines in zip(record["variants"], shown, strict=True)
    ]
    return _table([record["question"], *kinds], rows)


def shown_lines(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lines of a sweep's variant by what heads their column; the raw way to ask is every variant's."""
    found = {}
    kept = [
        one for one in lines if not (one["control"] or one["method"] == "zero_shot" or "-raw-" in one["key"])
    ]
    several = len({line["labelled"] for line in kept}) > 1
    for line in kept:
        what = "teacher" if line["method"] == "in_context" else names.method_name(line["method"]).lower()
        if line["student"] and line["method"] == "context_distillation":
            what = f"{names.model_name(line['student'])} distilled"
        found[f"{what}, {line['labelled']} labels" if several else what] = line
    return found


def _accuracies(line: dict[str, Any] | None) -> str:
    """Mean and interval in percent, by evaluation set where there are several."""
    if line is None:
        return "–"
    splits = {**line["in_domain"], **line["out_of_domain"]}
    parts = []
    for split, found in splits.items():
        parts.append(f"{split} {_accuracy(found)}" if len(splits) > 1 else _accuracy(found))
    return "; ".join(parts)


def _accuracy(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{100 * found['mean']:.1f} [{100 * low:.1f} to {100 * high:.1f}]"


def planned(name: str) -> str:
    """Peak memory of each kind of work: planned, measured (the median over seeds), and their ratio."""
    plan = json.loads((ROOT / name / "plan.json").read_text(encoding="utf-8"))
    cells = {cell.id: cell for cell in read_results(ROOT / name).cells if cell.failed is None}
    rows = []
    for line in plan:
        found = [cells[cell] for cell in line["names"] if cell in cells]
        if not found:  # labelling queries has no cell of its own
            continue
        peak = sorted(cell.peak_memory_bytes for cell in found)[len(found) // 2]
        what = [names.method_name(line["method"]), names.model_name(line["model"])]
        if line["tuning"]:
            what.append(names.TUNINGS.get(line["tuning"], line["tuning"]))
        ratio = line["peak_memory_bytes"] / peak
        labels = str(line["labelled"])
        rows.append(
            [", ".join(what), labels, names.size(line["peak_memory_bytes"]), names.size(peak), f"{ratio:.2f}"]
        )
    return _table(["work", "labels", "planned peak", "measured peak", "ratio"], rows)


def reproduced(folder: str) -> str:
    """How far a run made again is from what is published, over its cells and evaluation sets."""
    rows = []
    for path in sorted((ROOT / folder).glob("*.json")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        apart = [100 * (cell["again"] - cell["published"]) for cell in cells]
        size = [abs(points) for points in apart]
        rows.append(
            [
                f"`recipes/{path.stem}.yaml`",
                str(len(cells)),
                str(sum(points == 0 for points in size)),
                f"{sum(apart) / len(apart):+.2f}",
                f"{sum(size) / len(size):.2f}",
                f"{max(size):.1f}",
            ]
        )
    header = ["recipe", "accuracies", "the same", "mean difference", "mean size of difference", "greatest"]
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, marks, *rows))


KINDS: dict[str, Callable[[str], str]] = {
    "table": run_table,
    "calibrated": calibrated,
    "claims": claims,
    "sweep": sweep,
    "plan": planned,
    "reproduced": reproduced,
}


def filled(page: str) -> str:
    """The page with its tables made anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{KINDS[match[2]](match[3])}{match[4]}", page)


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
