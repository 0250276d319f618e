"""Other tools on the same budget of labels: runs them for a finished run, and adds them to its report.

    make peers-accuracy
    python experiments/peers.py runs/sentiment
    python experiments/peers.py runs/sentiment --peers setfit linear_probe

Each peer is given exactly the labelled examples, unlabelled queries and evaluation items of the run's own
cells, as a file, and works in a process and an environment of its own. What it answered and took is written
to ``peers/`` in the run folder as soon as it is there, so an interrupted comparison goes on where it was;
``peers.json`` and the report are made of all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillshot.config import Budget, Recipe
from stillshot.errors import StillshotError, WorkError
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.peers import assemble_peers
from stillshot.evaluate.records import PeerCell, Peers
from stillshot.methods.cells import settings
from stillshot.methods.evaluating import on_all_sets
from stillshot.methods.materials import Materials
from stillshot.models.resolve import resolve_model
from stillshot.report import markdown_table, write_report
from stillshot.report.folder import read_peers, read_results

FOLDER = Path(__file__).parent
PYTHON = (
    Path(os.environ.get("STILLSHOT_PEERS_ACCURACY", FOLDER.parent / ".venv-peers-accuracy")) / "bin/python"
)

# Each peer: whether it uses a pretrained encoder, and whether it uses unlabelled queries.
PEERS = {
    "setfit": (True, False),
    "linear_probe": (True, False),
    "linear_probe_self_training": (True, True),
    "tfidf": (False, False),
    "tfidf_self_training": (False, True),
}

Job = dict[str, Any]
Answer = dict[str, Any]
Work = Callable[[Job], Answer]


@dataclass(frozen=True)
class PeerSpec:
    """A peer's cell before it is measured: it depends on the labelled examples and the seed alone."""

    peer: str
    budget: Budget
    seed: int
    encoder: str | None

    @property
    def id(self) -> str:
        """Unique in a run folder; ends as the ids of the run's cells do."""
        encoder = re.sub(r"[^\w.-]+", "-", re.split("[/:]", (self.encoder or "").rstrip("/"))[-1])
        named = "-".join(filter(None, (self.peer, encoder)))
        return f"{named}-n{self.budget.labelled}-s{self.seed}"


def peer_specs(recipe: Recipe, peers: Sequence[str], encoder: str) -> list[PeerSpec]:
    """Every peer on every number of labels and seed of a recipe; budgets that differ in contexts alone are one."""
    draws = {(s.budget.labelled, s.seed): s for s in reversed(settings(recipe))}
    return [
        PeerSpec(peer, setting.budget, setting.seed, encoder if PEERS[peer][0] else None)
        for setting in reversed(draws.values())
        for peer in peers
    ]


def compare_with_peers(
    path: Path,
    work: Work,
    peers: Sequence[str] = tuple(PEERS),
    encoder: str = "bundled:minilm-l6",
    tell: Callable[[str], None] = lambda _: None,
) -> Peers:
    """Run the peers that a run folder does not have yet, and write ``peers.json`` and the report.

    A peer that fails is recorded with its reason, and the others go on; it is tried again the next time.

    Args:
        path: A finished run.
        work: Does a job (see ``peers_worker.py``).
        peers: Which, of :data:`PEERS`.
        encoder: The model of those that use one.
        tell: Hears what is done.

    Raises:
        StillshotError: The folder holds no finished run, its data changed, or another process is at work in it.
    """
    folder = RunFolder(path)
    results, recipe = read_results(path), folder.open_recipe()
    materials = Materials(recipe)
    failed = {cell.id: cell for cell in _earlier(folder) if cell.failed is not None}
    with folder.lock():
        _check_same_data(folder, materials)
        for spec in peer_specs(recipe, peers, encoder):
            if folder.peer(spec.id).is_file():
                tell(f"{spec.id}: is there")
                continue
            tell(f"{spec.id}: at work")
            try:
                cell = _run(folder, materials, spec, work)
                failed.pop(spec.id, None)
                tell(f"{spec.id}: {', '.join(f'{s} {r.accuracy:.3f}' for s, r in cell.splits.items())}")
            except WorkError as error:
                failed[spec.id] = _cell(recipe, spec, failed=str(error))
                tell(f"{spec.id}: failed: {error}")
        records = [
            json.loads(file.read_text(encoding="utf-8")) for file in folder.peer("*").parent.glob("*.json")
        ]
        finished = [PeerCell.model_validate(record["cell"]) for record in records]
        unfinished = [cell for cell in failed.values() if cell.id not in {peer.id for peer in finished}]
        found = assemble_peers(
            folder,
            results.cells,
            sorted([*finished, *unfinished], key=_place),
            versions={name: version for record in records for name, version in record["versions"].items()},
            samples=recipe.evaluation.bootstrap_samples,
        )
        folder.write(folder.peers, found.model_dump_json(by_alias=True, indent=2) + "\n")
        write_report(path)
    return found


def _earlier(folder: RunFolder) -> list[PeerCell]:
    known = read_peers(folder.path)
    return known.cells if known else []


def _place(cell: PeerCell) -> tuple[int, int, str, int]:
    return cell.labelled, list(PEERS).index(cell.peer), cell.encoder or "", cell.seed


def _check_same_data(folder: RunFolder, materials: Materials) -> None:
    """See that what is drawn now is what the run drew; a copy of a run may have kept no data to check by."""
    if (folder.path / "data.json").is_file():
        drawn = {s.draw: (s.budget, s.seed) for s in settings(materials.recipe)}
        folder.claim_data(materials.digests(drawn), older=materials.older_digests)
    for evaluation in materials.evaluation_sets:
        if folder.evaluation(evaluation.name).is_file():
            folder.claim_evaluation(evaluation.name, evaluation.rows)


def _run(folder: RunFolder, materials: Materials, spec: PeerSpec, work: Work) -> PeerCell:
    """One peer's cell, written with its predictions."""
    recipe = materials.recipe
    answer = work(peer_job(materials, spec))
    rows = iter([*_answered(answer, materials)])
    results, predictions = on_all_sets(recipe, materials, lambda *_: next(rows), lambda *_: None)
    measured = (
        *("pseudo_labelled", "parameters", "trainable_parameters", "model_bytes", "peak_memory_bytes"),
        *("train_seconds", "evaluate_seconds", "latency_ms"),
    )
    cell = _cell(
        recipe,
        spec,
        in_domain={s.name: results[s.name] for s in materials.evaluation_sets if s.in_domain},
        out_of_domain={s.name: results[s.name] for s in materials.evaluation_sets if not s.in_domain},
        **{name: answer[name] for name in measured},
    )
    folder.write_lines(folder.peer_predictions(spec.id), predictions)
    folder.write_json(
        folder.peer(spec.id), {"cell": cell.model_dump(mode="json"), "versions": answer["versions"]}
    )
    return cell


def _cell(recipe: Recipe, spec: PeerSpec, **found: Any) -> PeerCell:
    return PeerCell(
        id=spec.id,
        peer=spec.peer,
        encoder=spec.encoder,
        seed=spec.seed,
        labelled=spec.budget.labelled,
        unlabelled=recipe.data.num_unlabelled if PEERS[spec.peer][1] else 0,
        **found,
    )


def peer_job(materials: Materials, spec: PeerSpec) -> Job:
    """All that a peer is told; texts are lists of the task's fields, labels numbers in the task's order."""
    task, draw = materials.task, materials.draw(spec.budget, spec.seed)

    def text(example: Any) -> list[str]:
        return [example.fields[name] for name in task.fields]

    return {
        "peer": spec.peer,
        "seed": spec.seed,
        "num_labels": len(task.labels),
        "labelled": [{"text": text(e), "label": task.labels.index(str(e.label))} for e in draw.labelled],
        "unlabelled": [text(e) for e in draw.queries] if PEERS[spec.peer][1] else [],
        "encoder": str(resolve_model(spec.encoder).location) if spec.encoder else None,
        "evaluation": {s.name: [text(e) for e in s.examples] for s in materials.evaluation_sets},
        "latency_queries": materials.recipe.evaluation.latency_queries,
    }


def _answered(answer: Answer, materials: Materials) -> Iterator[np.ndarray]:
    """The probabilities on each evaluation set."""
    for evaluation in materials.evaluation_sets:
        rows = np.array(answer["probabilities"][evaluation.name], dtype=float)
        shape = (len(evaluation.examples), len(materials.task.labels))
        if rows.shape != shape or not np.isfinite(rows).all():
            raise WorkError(
                f"Its answers to {evaluation.name!r} are not {shape[0]} rows of {shape[1]} finite numbers."
            )
        yield rows


def in_own_environment(python: Path, threads: int) -> Work:
    """Work in a process of another Python.

    Raises:
        WorkError: There is no such Python; later, when it works: the process failed.
    """
    if not python.is_file():
        raise WorkError(f"There is no {python}. Run `make peers-accuracy`, which installs the peers.")

    def work(job: Job) -> Answer:
        with tempfile.TemporaryDirectory() as name:
            source, target = Path(name) / "job.json", Path(name) / "answer.json"
            source.write_text(json.dumps(job), encoding="utf-8")
            done = subprocess.run(
                [str(python), "-W", "ignore", str(FOLDER / "peers_worker.py"), str(source), str(target)],
                capture_output=True,
                text=True,
                errors="replace",
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1", "PYTHONPATH": ""},
            )
            if done.returncode != 0 or not target.is_file():
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                reason = lines[-1].strip() if lines else "it said nothing; killed, or out of memory"
                raise WorkError(f"Its process ended with exit code {done.returncode}: {reason}")
            return json.loads(target.read_text(encoding="utf-8"))

    return work


def threads_of(path: Path) -> int:
    """How many threads the run had, so that times can be set beside each other."""
    return int(read_results(path).hardware.get("threads") or 1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="a finished run")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--encoder", default="bundled:minilm-l6", help="the model of peers that use one")
    parser.add_argument("--python", type=Path, default=PYTHON, help="of the environment with the peers")
    asked = parser.parse_args()
    try:
        work = in_own_environment(asked.python, threads_of(asked.run))
        found = compare_with_peers(
            asked.run, work, asked.peers, asked.encoder, lambda line: print(line, file=sys.stderr, flush=True)
        )
    except StillshotError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    print(markdown_table(read_results(asked.run), found))
    print(RunFolder(asked.run).peers)
    raise SystemExit(all(cell.failed is not None for cell in found.cells))


if __name__ == "__main__":
    main()
