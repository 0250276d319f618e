"""States of a student's frozen lower layers, computed once for all epochs.

Where adapters sit in the last layers alone, what goes into the first of these never changes. It is computed
once, in evaluation mode, and stands in for the lower layers' work in every epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from stillshot.student.lean import transformer_of

logger = logging.getLogger(__name__)
# More than this is not kept; the frozen layers then run in every epoch.
_LIMIT_BYTES = 2 * 2**30
_GROUP = 8


class FrozenStates:
    """What the last frozen layer gives for each row of a training set.

    Rows of similar length are computed together, always the same ones: the states do not depend on the
    order in which they are asked for, so a training that is resumed has those of one that was not.

    Args:
        layers: The frozen layers, lowest first.
        lengths: Tokens of each row without padding (of its longest sequence, if it has several).
        forward: A pass through the model with the rows at some positions, in evaluation mode.
    """

    def __init__(
        self, layers: Sequence[nn.Module], lengths: Sequence[int], forward: Callable[[list[int]], object]
    ) -> None:
        *self._skipped, self._last = layers
        self._lengths, self._forward = lengths, forward
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self._groups = [order[at : at + _GROUP] for at in range(0, len(order), _GROUP)]
        self._group_of = {row: group for group, rows in enumerate(self._groups) for row in rows}
        self._states: dict[int, Tensor] = {}

    @classmethod
    def of(
        cls, model: nn.Module, lengths: Sequence[int], forward: Callable[[list[int]], object]
    ) -> Self | None:
        """For a model and its training set; ``None`` where no layers are frozen, or their states too large."""
        layers = frozen_layers(model)
        if not layers or not lengths:
            return None
        states = cls(layers, lengths, forward)
        states._record(states._groups[0])
        some = states._states[states._groups[0][0]]
        size = sum(lengths) * some.nbytes // some.shape[1]
        if size > _LIMIT_BYTES:
            logger.info(
                "The states of %d frozen layers would take %.1f GB, so they are not kept.",
                len(layers),
                size / 1e9,
            )
            return None
        return states

    @property
    def first_group_tokens(self) -> int:
        """Tokens without padding of the rows that are computed first."""
        return sum(self._lengths[row] for row in self._groups[0])

    def assume(self) -> None:
        """Take states of the right size for all rows, whatever is in them: to plan with."""
        some = next(iter(self._states.values()))
        for row, length in enumerate(self._lengths):
            if row not in self._states:
                self._states[row] = some.new_empty(some.shape[0], length, some.shape[-1])

    @torch.no_grad()
    def _record(self, rows: list[int]) -> None:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            for row, states in zip(rows, output.unflatten(0, (len(rows), -1)), strict=True):
                self._states[row] = states[:, : self._lengths[row]].cpu().clone()
            raise _Known

        hook = self._last.register_forward_hook(keep)
        try:
            self._forward(rows)
        except _Known:
            pass
        finally:
            hook.remove()

    @contextmanager
    def replayed(self, rows: Sequence[int], width: int) -> Iterator[None]:
        """Within it, the frozen layers give the states of ``rows``, padded to ``width`` on the right."""
        for group in {self._group_of[row] for row in rows if row not in self._states}:
            self._record(self._groups[group])
        kept = [self._states[row] for row in rows]
        states = kept[0].new_zeros(len(rows), kept[0].shape[0], width, kept[0].shape[-1])
        for index, own in enumerate(kept):
            states[index, :, : own.shape[1]] = own

        def passed_on(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
            return hidden

        def known(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
            return states.flatten(0, 1).to(hidden.device)

        try:
            for layer in self._skipped:
                layer.forward = passed_on
            self._last.forward = known
            yield
        finally:
            for layer in (*self._skipped, self._last):
                del layer.forward


class _Known(Exception):  # noqa: N818 (it ends a pass early and is no error)
    pass


def frozen_layers(model: nn.Module) -> list[nn.Module]:
    """The lowest layers that nothing trainable comes before or lies in; none if that cannot be told."""
    transformer = transformer_of(model)
    if transformer is None:
        return []
    count = transformer.config.get_text_config().num_hidden_layers
    stacks = [m for m in transformer.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(stacks) != 1:
        return []
    (layers,) = stacks
    inside = {id(parameter) for parameter in layers.parameters()}
    if any(p.requires_grad and id(p) not in inside for p in transformer.base_model.parameters()):
        return []
    trains = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    return list(layers)[: trains.index(True)] if any(trains) else list(layers)
