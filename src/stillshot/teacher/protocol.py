"""What the rest of Stillshot needs of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import ScoredPrompt


class Teacher(Protocol):
    """A model that scores label words behind a prompt, or a prompt behind label words.

    ``fingerprint`` names the weights and dtype exactly: two teachers with the same fingerprint give
    the same scores, and stored scores are found again by it.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def encoder(self) -> PromptEncoder: ...

    @property
    def window(self) -> int: ...

    def score(
        self,
        prompts: Sequence[ScoredPrompt],
        label_tokens: Sequence[int] | None,
        skip: Collection[int] = (),
        wants: Callable[[Sequence[int]], bool] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Score prompts that share a context, batch by batch.

        Args:
            prompts: Prompts of one context; each has one sequence (scored at ``label_tokens``) or one
                sequence a label.
            label_tokens: The next tokens to score where prompts have one sequence.
            skip: Positions whose scores are known. Batches are formed as if there were none, and one is
                left out if all of it is known: what is computed does not depend on what was before.
            wants: Is given the positions of a batch when its turn comes, and says whether it is to be computed.

        Yields:
            Positions of a batch's prompts in ``prompts``, and their log-scores, shape
            ``(batch, labels)``, defined up to a constant a row.
        """
        ...


ModelLike = Any  # a transformers model; its classes have no useful common static type
