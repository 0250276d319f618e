"""Which student a path means: the one it leads to, or the best one of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stillshot.cli.console import echo
from stillshot.errors import ModelError, RunFolderError

MOST_LISTED = 12
DISTILLED = "context_distillation-"  # how the folders of distilled students begin


def find_student(path: Path) -> Path:
    """The folder of the student that a path means.

    A run folder, or its ``students/``, stands for its distilled student, of several for the best by the run's results;
    which one that is, is told on stderr.

    Raises:
        ModelError: The path leads to no student; those near it are listed.
    """
    if _is_student(path):
        return path
    own = _students_in(path, "*" if path.name == "students" else "students/*")
    distilled = [folder for folder in own if folder.name.startswith(DISTILLED)]
    found = "holds no student itself" if path.exists() else "does not exist"
    if distilled:
        try:
            chosen, why = _best(path.parent if path.name == "students" else path, distilled)
        except RunFolderError as error:
            found = f"holds {len(distilled)} distilled students, and which is best is not known. {error}"
        else:
            echo(f"Using {chosen}, {why}.", err=True)
            return chosen
    near = own or _near(path)
    advice = "Give a folder under a run's students/; `stillshot run` makes them."
    if near:
        advice = "Give the folder of a student, e.g. one of these:"
    if not distilled and (gone := _gone(path)):
        found = f"{found}: {gone} is gone. `stillshot run RECIPE -o {gone.parent.parent}` makes it again"
        advice = f"Or {advice[0].lower()}{advice[1:]}" if near else ""
    listed = [f"  {folder}" for folder in near[:MOST_LISTED]]
    if len(near) > MOST_LISTED:
        listed.append(f"  and {len(near) - MOST_LISTED} more")
    raise ModelError("\n".join([f"{path} {found.rstrip('.')}. {advice}".rstrip(), *listed]))


def _gone(path: Path) -> Path | None:
    """The folder of a student that a run has trained, of which only the record is left."""
    if not path.exists() and path.with_name(f"{path.name}.json").is_file() and path.parent.name == "students":
        return path
    students = path if path.name == "students" else path / "students"
    records = sorted(students.glob(f"{DISTILLED}*.json"))
    return next((r.with_suffix("") for r in records if not _is_student(r.with_suffix(""))), None)


def _best(run: Path, distilled: Sequence[Path]) -> tuple[Path, str]:
    """The best of a run's distilled students, and why it is chosen.

    Raises:
        RunFolderError: There are several, and the run has no results, or not of all of them.
    """
    if len(distilled) == 1:
        return distilled[0], "the only distilled student there"
    from stillshot.cli.outcome import best_student
    from stillshot.report.folder import read_results

    results = read_results(run)
    finished = {cell.id for cell in results.cells if cell.failed is None}
    missing = next((folder.name for folder in distilled if folder.name not in finished), None)
    best = None if missing else best_student(results, run)
    if best is None:
        raise RunFolderError(f"{run / 'results.json'} has nothing of {missing or distilled[0].name}.")
    return best, f"the best of {len(distilled)} distilled students there"


def _is_student(folder: Path) -> bool:
    from stillshot.student.sidecar import SIDECAR

    return (folder / SIDECAR).is_file()


def _students_in(folder: Path, *patterns: str) -> list[Path]:
    """The students that glob patterns find below a folder, distilled ones first."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if _is_student(path)}
    return sorted(found, key=lambda path: (not path.name.startswith(DISTILLED), path))


def _near(path: Path) -> list[Path]:
    """Students below the nearest folder on the way to a path that is there."""
    folder = next(ancestor for ancestor in (path, *path.parents) if ancestor.is_dir())
    if folder == folder.parent and folder.is_absolute():  # the root of all files is near nothing
        return []
    return _students_in(folder, "*", "students/*", "*/students/*", "runs/*/students/*")
