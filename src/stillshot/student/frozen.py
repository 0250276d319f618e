"""States of a student's frozen lower layers, computed once for all epochs.

Where adapters sit in the last layers alone, what goes into the first of these never changes. It is computed
once, and stands in for the lower layers' work in every epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from stillshot.models.structure import layers_of
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
        forward: Logits of the rows at some positions, from a pass through the model in evaluation mode.
    """

    def __init__(
        self, layers: Sequence[nn.Module], lengths: Sequence[int], forward: Callable[[list[int]], Tensor]
    ) -> None:
        *self._skipped, self._last = layers
        self._lengths, self._forward = lengths, forward
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self._groups = [order[at : at + _GROUP] for at in range(0, len(order), _GROUP)]
        self._group_of = {row: group for group, rows in enumerate(self._groups) for row in rows}
        self._states: dict[int, Tensor] = {}

    @classmethod
    def of(
        cls, model: nn.Module, lengths: Sequence[int], forward: Callable[[list[int]], Tensor]
    ) -> Self | None:
        """For a model and its training set.

        ``None`` where no layers are frozen, their states are too large, or the model's layers are not a plain
        chain (they pass on more than one tensor): a first group is tried, and must give the same logits.
        """
        layers = frozen_layers(model)
        if not layers or not lengths:
            return None
        states = cls(layers, lengths, forward)
        rows = states._groups[0]
        width = max(lengths[row] for row in rows)
        with torch.no_grad():
            expected = forward(rows)
            try:
                with states.replayed(rows, width):
                    found = forward(rows)
            except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
                logger.info("The states of frozen layers cannot be kept: %s", error)
                return None
        some = states._states[rows[0]]
        size = sum(lengths) * some.nbytes // some.shape[1]
        if size > _LIMIT_BYTES or not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
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
        def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
            if not isinstance(output, Tensor) or output.dim() != 3:
                raise TypeError("a layer gives more than its states")
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

        layers = [*self._skipped, self._last]
        before = [vars(layer).get("forward") for layer in layers]
        try:
            for layer in self._skipped:
                layer.forward = passed_on
            self._last.forward = known
            yield
        finally:
            for layer, forward in zip(layers, before, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward


class _Known(Exception):  # noqa: N818 (it ends a pass early and is no error)
    pass


def frozen_layers(model: nn.Module) -> list[nn.Module]:
    """The lowest layers that nothing trainable comes before or lies in; none if that cannot be told."""
    transformer = transformer_of(model)
    layers = None if transformer is None else layers_of(transformer)
    if transformer is None or layers is None:
        return []
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    inside = {id(parameter) for parameter in layers.parameters()}
    below = {id(parameter) for parameter in transformer.base_model.parameters()} - inside
    # What trains beside the layers may come before them, except in the transformer's own head.
    if trained & below or not trained <= {id(parameter) for parameter in transformer.parameters()}:
        return []
    trains = [any(id(p) in trained for p in layer.parameters()) for layer in layers]
    return list(layers)[: trains.index(True)] if any(trains) else list(layers)


def training_layers(model: nn.Module) -> list[nn.Module]:
    """The layers above the frozen ones; none if these cannot be told."""
    transformer = transformer_of(model)
    layers = None if transformer is None else layers_of(transformer)
    return [] if layers is None else list(layers)[len(frozen_layers(model)) :]


@contextmanager
def frozen_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Within it, frozen layers and what lies below them have no dropout, whether their states are kept or not."""
    frozen, transformer = frozen_layers(model), transformer_of(model)
    if not frozen or transformer is None:
        yield
        return
    base = transformer.base_model
    above = training_layers(model)

    def settle(*_: object) -> None:
        if base.training:
            base.eval()
            for layer in above:
                layer.train()

    hook = base.register_forward_pre_hook(settle)
    try:
        yield
    finally:
        hook.remove()
