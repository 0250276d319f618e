"""``stillshot export``: a student in the form that another program runs, verified on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from stillshot.cli.arguments import AsJson, echo_json
from stillshot.cli.console import echo
from stillshot.cli.progress import progress
from stillshot.cli.students import find_student
from stillshot.errors import ModelError, WorkError, did_you_mean

if TYPE_CHECKING:
    from stillshot.config import ExportKind
    from stillshot.deploy.exporting import Export

ALL = "all"  # the kinds that a student can have


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="A student: a folder under a run's students/, or a run, which stands for its best distilled one.",
        ),
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            metavar="KIND",
            help="merged, onnx, onnx-int8, gguf or hub; may be repeated. all: every kind but hub that the student can have.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where each kind gets a folder. Without it, exports/ and the student's name.",
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", metavar="FILE", help="Verify on these queries instead of the run's evaluation sets."
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Accept an export that answers this share of queries as the student does. Without it, 0.99, and 0.97 for onnx-int8.",
        ),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo", metavar="NAME", help="With --to hub: upload to this repository of the Hugging Face Hub."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export a student, verified on the spot.

    Every export answers held-out queries beside the student. One that answers too few of them as the student does is kept, and the command ends with exit code 1.

    \b
    Example:
      stillshot export runs/first --to merged
    """
    kinds = _kinds(to)
    left_out: dict[str, str] = {}
    if repo is not None and "hub" not in kinds:
        raise ModelError("--repo says where --to hub uploads to. Add --to hub, or leave out --repo.")

    def leave_out(kind: ExportKind, why: str) -> None:
        if kind in to:  # asked for by name as well
            raise ModelError(f"There can be no {kind}; leave out --to {kind}. {why}")
        left_out[kind] = why

    student = find_student(model)
    with progress(after_seconds=2.0) as report:
        report("export", "loading the student", 0, 0)
        from stillshot.deploy.exporting import export_student
        from stillshot.evaluate.runner import quiet_libraries

        quiet_libraries()
        done = export_student(
            student,
            kinds,
            output or Path("exports") / student.resolve().name,
            queries=queries,
            floor=min_agreement,
            repo=repo,
            leave_out=leave_out if ALL in to else None,
            report=lambda what, count, total: report("export", what, count, total),
        )
        refused = [made for made in done if not made.accepted]
        pushed = None
        if repo is not None and not refused:
            from stillshot.deploy.hub import push

            report("export", f"uploading to {repo}", 0, 0)
            pushed = push(next(made.folder for made in done if made.kind == "hub"), repo)
    for kind, why in left_out.items():
        echo(f"No {kind}: {why}", err=True)
    _show(student, done, left_out, pushed, as_json=as_json)
    if refused:
        kept = [f"Nothing was uploaded to {repo}."] if repo is not None else []
        raise WorkError("\n".join([*map(_refusal, refused), *kept]))


def _kinds(names: Sequence[str]) -> list[ExportKind]:
    from stillshot.config import ExportKind

    known: dict[str, list[ExportKind]] = {name: [name] for name in get_args(ExportKind)}
    known[ALL] = [kind for kind in get_args(ExportKind) if kind != "hub"]
    for name in names:
        if name not in known:
            raise ModelError(f"--to {name}: there is no such kind of export. {did_you_mean(name, known)}")
    return [kind for name in names for kind in known[name]]


def _show(
    student: Path, done: Sequence[Export], left_out: Mapping[str, str], pushed: str | None, *, as_json: bool
) -> None:
    if as_json:
        echo_json(
            {
                "student": str(student),
                "exports": [
                    {
                        "kind": made.kind,
                        "folder": str(made.folder),
                        "size_bytes": made.size_bytes,
                        "queries": made.agreement.queries,
                        "agreement": made.agreement.share,
                        "largest_difference": made.agreement.largest_difference,
                        "largest_turned": made.agreement.largest_turned,
                        "accepted": made.accepted,
                    }
                    for made in done
                ],
                "left_out": dict(left_out),
                "repository": pushed,
            }
        )
        return
    from stillshot.report import names

    for made in done:
        found = made.agreement
        echo(
            f"{made.folder}  {names.size(made.size_bytes)}, the student's answer to "
            f"{names.percent(found.share)} % of {names.plural(found.queries, 'held-out query')}, "
            f"probabilities within {found.largest_difference:.4f}"
        )
    if pushed:
        echo(pushed)


def _refusal(made: Export) -> str:
    share = made.agreement.share
    return (
        f"The export to {made.kind} gives the student's answer to {100 * share:.1f} % of the held-out queries, and "
        f"{100 * made.floor:g} % were asked for. Where they differ, the student's likeliest label led by at most "
        f"{100 * made.agreement.largest_turned:.1f} points. It is kept in {made.folder}; to accept such an export, give "
        f"--min-agreement {int(share * 1000) / 1000}."
    )
