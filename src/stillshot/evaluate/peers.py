"""From what peers answered to ``peers.json``: means over seeds, and comparisons with the cells of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stillshot.evaluate.assemble import (
    Answers,
    CellAnswers,
    answers,
    compare,
    corrected,
    line_key,
    mean_over_seeds,
    setting_of,
)
from stillshot.evaluate.folder import RunFolder
from stillshot.evaluate.records import Cell, Comparison, Interval, PeerCell, PeerLine, Peers
from stillshot.evaluate.resources import hardware
from stillshot.evaluate.statistics import samples_for


def assemble_peers(
    folder: RunFolder,
    cells: Sequence[Cell],
    peers: Sequence[PeerCell],
    *,
    versions: Mapping[str, str],
    samples: int,
) -> Peers:
    """The records of all finished and failed peers.

    Args:
        folder: Holds the predictions. Cells without are not compared: copies of a run may leave them out.
        cells: Those of the run.
        peers: Records; failed ones have ``failed`` set and no results.
        versions: Of the libraries that the peers use.
        samples: Of the bootstrap.
    """
    finished = [peer for peer in peers if peer.failed is None]
    found = {peer.id: answers(folder.read_lines(folder.peer_predictions(peer.id))) for peer in finished}
    lines: dict[str, list[PeerCell]] = {}
    for peer in finished:
        lines.setdefault(line_key(peer.id), []).append(peer)
    return Peers(
        versions=dict(versions),
        hardware=hardware(),
        cells=list(peers),
        summary=[_line(key, members, found, samples) for key, members in lines.items()],
        comparisons=_comparisons(folder, cells, lines, found, samples),
    )


def budget_of(cell_id: str) -> int | None:
    """The labelled examples that a cell's setting gives; ``None`` for a cell that has no setting.

    It may be more than the cell uses: a single context holds only a part of them.

    >>> budget_of("in_context-smollm2-135m-raw-n16x4x8-s2"), budget_of("zero_shot-smollm2-135m")
    (16, None)
    """
    found = re.match(r"n(\d+)x", setting_of(cell_id))
    return int(found[1]) if found else None


def _line(key: str, members: Sequence[PeerCell], found: Answers, samples: int) -> PeerLine:
    first = members[0]

    def median(name: str) -> float:
        return float(np.median([getattr(member, name) for member in members]))

    def intervals(splits: Iterable[str]) -> dict[str, Interval]:
        return {s: mean_over_seeds([found[m.id][s].right for m in members], samples) for s in splits}

    return PeerLine(
        key=key,
        peer=first.peer,
        encoder=first.encoder,
        labelled=first.labelled,
        unlabelled=first.unlabelled,
        seeds=[member.seed for member in members],
        in_domain=intervals(first.in_domain),
        out_of_domain=intervals(first.out_of_domain),
        parameters=int(median("parameters")),
        trainable_parameters=int(median("trainable_parameters")),
        model_bytes=int(median("model_bytes")),
        peak_memory_bytes=int(median("peak_memory_bytes")),
        train_seconds=median("train_seconds"),
        latency_ms={
            quantile: float(np.median([member.latency_ms[quantile] for member in members]))
            for quantile in sorted(first.latency_ms)
        },
    )


def _comparisons(
    folder: RunFolder,
    cells: Sequence[Cell],
    lines: Mapping[str, list[PeerCell]],
    found: Answers,
    samples: int,
) -> list[Comparison]:
    """Each line of the run against the peers of its labelled examples: one family for Holm's correction."""
    ours: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.failed is None and budget_of(cell.id) is not None and folder.predictions(cell.id).is_file():
            ours.setdefault(line_key(cell.id), []).append(cell)
    asked: list[tuple[str, str, str, list[tuple[CellAnswers, CellAnswers]]]] = []
    for key, members in ours.items():
        known = {cell.seed: answers(folder.read_lines(folder.predictions(cell.id))) for cell in members}
        for peer_key, others in lines.items():
            if others[0].labelled != budget_of(members[0].id):
                continue
            pairs = [(known[other.seed], found[other.id]) for other in others if other.seed in known]
            asked += [(key, peer_key, split, pairs) for split in members[0].splits if pairs]
    resamples = samples_for(len(asked), samples)
    return corrected([compare(*one, resamples) for one in asked])
