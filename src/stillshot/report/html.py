"""The page: records, figures and examples put into one file that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stillshot.escaping import visible
from stillshot.evaluate.records import Peers, Results
from stillshot.report import names
from stillshot.report.breakdowns import (
    CALIBRATED,
    calibration_table,
    experts_table,
    group_tables,
    predicted_tables,
)
from stillshot.report.claims import claims_markdown, claims_table, judge
from stillshot.report.drawing import Drawing, Plan, write_drawings
from stillshot.report.examples import choose_examples
from stillshot.report.figures import accuracy_figure, confusion_figure, cost_figure
from stillshot.report.folder import read_peers, read_recipe_text, read_results
from stillshot.report.grid_figures import (
    methods_accuracy_figure,
    methods_cost_figure,
    students_accuracy_figure,
    students_cost_figure,
)
from stillshot.report.narrative import tell
from stillshot.report.paper import Paper, is_language_inference, is_paper_setting, read_paper
from stillshot.report.tables import (
    Table,
    comparison_table,
    differences_table,
    failures_table,
    peer_differences_table,
)
from stillshot.storage import cannot_write

# What turns the direction of the text behind it; isolates (U+2068) set right-to-left names apart, and marks turn nothing.
_TURNS = re.compile("[\u202a-\u202e\u2066\u2067]")
_REFERENCE = re.compile(r"#([\w.-]+)")


def write_report(run_dir: Path, *, paper: bool = False) -> Path:
    """Write ``report.html``, ``figures/*.svg|png`` and ``claims.md`` into a run folder from its records.

    The same records give the same bytes. Only the folder is read; whatever optional part it lacks
    (recipe, predictions, evaluation sets) is left out with a sentence that says so.

    Args:
        run_dir: A folder that ``stillshot run`` wrote.
        paper: Draw the paper's points behind ours, which is otherwise done for its student alone, and
            judge its claims, which is otherwise done for natural language inference alone.

    Returns:
        The path of ``report.html``.

    Raises:
        RunFolderError: ``results.json`` is missing or does not hold run records, or ``peers.json``, where
            it is, does not hold those of peers.
        WorkError: The page or a figure cannot be written.
    """
    results, peers = read_results(run_dir), read_peers(run_dir)
    path = run_dir / "report.html"
    claims = judge(results) if paper or is_language_inference(results) else []
    try:
        theirs = read_paper() if paper or is_paper_setting(results) else None
        drawings = write_drawings(_figures(results, theirs), run_dir / "figures")
        _write(path, _render(run_dir, results, peers, drawings, claims_table(claims) if claims else None))
        if claims:
            _write(run_dir / "claims.md", claims_markdown(claims))
        else:
            (run_dir / "claims.md").unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error, f"The records in {run_dir} are kept") from error
    return path


def _write(path: Path, content: str) -> None:
    """Write a file so that a reader never meets half of it."""
    unfinished = path.with_suffix(f"{path.suffix}.tmp")
    try:
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _figures(results: Results, paper: Paper | None) -> list[Plan]:
    """Every figure that a report may have, in the order of the page."""
    return [
        Plan("accuracy", "Accuracy by method", lambda: accuracy_figure(results)),
        Plan(
            "accuracy_by_support",
            "Accuracy against support examples, by method",
            lambda: methods_accuracy_figure(results, paper),
        ),
        Plan(
            "accuracy_by_tuning",
            "Accuracy against support examples, by student",
            lambda: students_accuracy_figure(results, paper),
        ),
        Plan("cost", "Cost against accuracy", lambda: cost_figure(results)),
        Plan(
            "cost_by_support",
            "Memory, training time and size, by method",
            lambda: methods_cost_figure(results, paper),
        ),
        Plan(
            "cost_by_tuning",
            "Memory, training time and size, by student",
            lambda: students_cost_figure(results, paper),
        ),
        Plan("confusion", "What is answered for what", lambda: confusion_figure(results)),
    ]


def _render(
    run_dir: Path, results: Results, peers: Peers | None, drawings: list[Drawing], claims: Table | None
) -> str:
    environment = Environment(
        loader=PackageLoader("stillshot.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = names.shorten
    page = environment.get_template("report.html.j2").render(
        results=results,
        story=tell(results),
        comparison=comparison_table(results, peers) if results.summary else None,
        controls=names.explained_controls(results.summary),
        failures=failures_table(results, peers),
        figures=[(drawing, inline_svg(drawing)) for drawing in drawings],
        groups=group_tables(results),
        differences=differences_table(results),
        claims=claims,
        paper_source=read_paper().source if claims else "",
        peer_differences=peer_differences_table(results, peers),
        peer_versions=peers.versions if peers and peers.summary else {},
        calibration=(calibration := calibration_table(results, peers)),
        calibrated=bool(calibration) and any(one.detail == CALIBRATED for one in calibration.columns),
        experts=experts_table(results),
        predicted=predicted_tables(results),
        examples=choose_examples(run_dir, results),
        recipe=_shown(read_recipe_text(run_dir)),
        hardware={key: _plain(value) for key, value in results.hardware.items()},
    )
    page = _TURNS.sub(lambda found: visible(found[0]), page)
    return page.encode("utf-8", "replace").decode("utf-8")


def _shown(text: str | None) -> str | None:
    return None if text is None else names.shorten(text, 100_000)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def inline_svg(drawing: Drawing) -> Markup:
    """A figure as an element of the page, named and described for those who cannot see it.

    Identifiers are kept only where something refers to them, and get the figure's name in front, so
    that two figures on one page do not share any. The SVG is our own drawing, parsed and written
    anew, in which every label is escaped text; so it is safe to put it into the page as it is.
    """
    root = ElementTree.fromstring(drawing.svg)
    present = {node.attrib["id"] for node in root.iter() if "id" in node.attrib}
    values = [value for node in root.iter() for value in node.attrib.values()]
    used = present.intersection(name for value in values for name in _REFERENCE.findall(value))
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for node in root.iter():
        node.tag = _local(node.tag)
        attributes = {_local(name): value for name, value in node.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        node.attrib = {name: _renamed(name, value, drawing.name, used) for name, value in attributes.items()}
    _describe(root, drawing)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _renamed(attribute: str, value: str, figure: str, used: set[str]) -> str:
    if attribute == "id":
        return f"{figure}-{value}"
    return _REFERENCE.sub(lambda found: f"#{figure}-{found[1]}" if found[1] in used else found[0], value)


def _describe(root: ElementTree.Element, drawing: Drawing) -> None:
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    width = float(root.attrib["viewBox"].split()[2])
    title = ElementTree.Element("title", {"id": f"{drawing.name}-title"})
    title.text = drawing.title
    description = ElementTree.Element("desc", {"id": f"{drawing.name}-desc"})
    description.text = drawing.description
    root.insert(0, description)
    root.insert(0, title)
    root.attrib.update(
        {
            "role": "img",
            "aria-labelledby": f"{drawing.name}-title {drawing.name}-desc",
            # A point of the drawing is shown as 1.3 CSS pixels where there is room, and never as less
            # than 0.95, below which the page scrolls the figure instead.
            "style": (
                f"width: {1.3 * width:.0f}px; min-width: {0.95 * width:.0f}px; "
                "stroke-linejoin: round; stroke-linecap: butt"
            ),
        }
    )
