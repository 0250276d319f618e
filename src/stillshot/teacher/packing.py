"""Rows for a teacher: the sequences of one prompt share what they begin with.

The sequences of a prompt differ by label: in the label words at their end (words of several tokens), or
from the label words on (channel scoring). They form a tree; a row holds each of its nodes once, and a
mask lets a token attend to its ancestors alone. So a query is read once, not once a label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stillshot.prompt.writer import ScoredPrompt

# What a batch costs besides its tokens, in tokens.
_BATCH_COST = 32


@dataclass(frozen=True)
class Row:
    """The tree of some sequences behind their prefix, its nodes in an order in which parents come first.

    Attributes:
        tokens: One a node.
        parents: The node before; -1 behind the prefix.
        scored: For each scored token: the sequence, the node whose state predicts it, and the token. Where
            only the next token is scored: each sequence's last node, with token -1.
    """

    tokens: list[int]
    parents: list[int]
    scored: list[tuple[int, int, int]]

    @property
    def is_chain(self) -> bool:
        """Whether every node follows the one before it."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))


def pack(sequences: Sequence[tuple[Sequence[int], int]]) -> Row:
    """The tree of sequences.

    Args:
        sequences: Token ids behind the prefix, and from which on they are scored (their length where the
            next token is). A last token that is only scored itself has no node.
    """
    tokens: list[int] = []
    parents: list[int] = []
    scored: list[tuple[int, int, int]] = []
    known: dict[tuple[int, int], int] = {}
    for index, (ids, scored_from) in enumerate(sequences):
        node = -1
        for position, token in enumerate(ids):
            if position >= scored_from:
                scored.append((index, node, token))
                if position == len(ids) - 1:
                    break
            step = (node, token)
            if step not in known:
                known[step] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = known[step]
        if scored_from == len(ids):
            scored.append((index, node, -1))
    return Row(tokens, parents, scored)


def rows_of(prompts: Sequence[ScoredPrompt], start: int, *, share: bool) -> list[list[Row]]:
    """Each prompt's rows behind a prefix of ``start`` tokens: one, or one a sequence unless ``share``."""
    found = []
    for prompt in prompts:
        own = [(sequence.ids[start:], sequence.scored_from - start) for sequence in prompt.sequences]
        found.append([pack(own)] if share else [pack([sequence]) for sequence in own])
    return found


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, padded on the right.

    Attributes:
        tokens: Shape ``(rows, length)``; ``positions`` alike.
        mask: Which tokens of its row a token attends to, ``(rows, 1, length, length)``; ``None`` where
            that is those before it and itself.
        states: For each scored token, where the state that predicts it is among all ``rows x length``.
        targets: The scored tokens; -1 where label tokens are scored.
        owners: The sequence each belongs to, counted over all rows.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor | None
    states: Tensor
    targets: Tensor
    owners: Tensor
    num_sequences: int


def batch_of(rows: Sequence[Row], start: int) -> Batch:
    """Tensors of rows that follow a prefix of ``start`` tokens."""
    length = max(len(row.tokens) for row in rows)
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    positions = np.tile(np.arange(start, start + length), (len(rows), 1))
    branches = not all(row.is_chain for row in rows)
    mask = np.zeros((len(rows), length, length), dtype=bool) if branches else None
    states, targets, owners = [], [], []
    sequences = 0
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = row.tokens
        if mask is not None:
            np.fill_diagonal(mask[index], val=True)
            for node, parent in enumerate(row.parents):
                positions[index, node] = start if parent < 0 else positions[index, parent] + 1
                if parent >= 0:
                    mask[index, node] |= mask[index, parent]
            positions[index, len(row.tokens) :] = start
        for sequence, node, token in row.scored:
            states.append(index * length + node)
            targets.append(token)
            owners.append(sequences + sequence)
        sequences += max(sequence for sequence, _, _ in row.scored) + 1
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        None if mask is None else torch.from_numpy(mask).unsqueeze(1),
        torch.tensor(states),
        torch.tensor(targets),
        torch.tensor(owners),
        sequences,
    )


def batches(rows: Sequence[Sequence[Row]], batch_tokens: int) -> list[list[int]]:
    """Positions of prompts of similar length, the longest first; see :func:`cut`."""
    longest = [max(len(row.tokens) for row in group) for group in rows]
    return cut(longest, [len(group) for group in rows], batch_tokens, _BATCH_COST)


def cut(lengths: Sequence[int], rows: Sequence[int], batch_tokens: int, batch_cost: int) -> list[list[int]]:
    """Positions of items of similar length, the longest first.

    A batch holds at most ``batch_tokens`` tokens with padding, or one item. Of all ways to cut the sorted items, it is
    the one with the least padding, where every batch counts as ``batch_cost`` tokens of padding too.

    Args:
        lengths: Tokens of each item's longest row.
        rows: How many rows each item has.

    >>> cut([3, 50, 4, 200], [1, 1, 1, 1], batch_tokens=1000, batch_cost=20)
    [[3], [1], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    costs, starts = [0.0] + [math.inf] * len(order), [0] * (len(order) + 1)
    for start, first in enumerate(order):
        tokens = 0
        for end in range(start + 1, len(order) + 1):
            tokens += rows[order[end - 1]] * lengths[first]
            if tokens > batch_tokens and end > start + 1:
                break
            if costs[start] + tokens + batch_cost < costs[end]:
                costs[end], starts[end] = costs[start] + tokens + batch_cost, start
    found, end = [], len(order)
    while end:
        found.append(order[starts[end] : end])
        end = starts[end]
    return found[::-1]
