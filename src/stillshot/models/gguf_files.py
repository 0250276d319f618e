"""GGUF files: how a recipe names one, and where it lies."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from stillshot.errors import ModelError, did_you_mean
from stillshot.hub import hub_access

SUFFIX = ".gguf"
FOLDER = "STILLSHOT_MODELS"  # the environment variable
_HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<asked>[^:\\]+)")
# How llama.cpp names the types of weights, at the end of a file's name: Q4_K_M, IQ3_XXS, UD-Q5_K_XL, BF16.
_TYPE = re.compile(r"(?:UD-)?(?:IQ|TQ|Q|F|BF|FP|MXFP|NVFP)\d\w*", re.IGNORECASE)
_TYPE_AT_END = re.compile(rf"[-.]({_TYPE.pattern})$", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def is_gguf(model: str) -> bool:
    """Whether a model is named as a GGUF file is: a path, ``owner/repo:file.gguf`` or ``owner/repo:Q4_K_M``.

    >>> [is_gguf(m) for m in ("teacher.gguf", "a/b:c-Q8_0.gguf", "a/b:Q4_K_M", "a/b", "random:facebook/opt-125m")]
    [True, True, True, False, False]
    """
    if model.lower().endswith(SUFFIX):
        return True
    hub = _hub_parts(model)
    return hub is not None and _TYPE.fullmatch(hub[1]) is not None


def hub_repository(model: str) -> str | None:
    """The Hub's repository that a GGUF file is named from; ``None`` for a path.

    >>> hub_repository("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"), hub_repository("models/teacher.gguf")
    ('Qwen/Qwen2.5-0.5B-Instruct-GGUF', None)
    """
    hub = _hub_parts(model)
    return None if hub is None else hub[0]


def gguf_name(model: str) -> str:
    """A GGUF file's name for readers: that of the file, or of the repository with the type of its weights.

    >>> gguf_name("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"), gguf_name("models/teacher-q8_0.gguf")
    ('Qwen2.5-0.5B-Instruct-Q4_K_M', 'teacher-q8_0')
    """
    hub = _hub_parts(model)
    if hub and not hub[1].lower().endswith(SUFFIX):
        return f"{_stem(hub[0])}-{hub[1]}"
    name = (hub[1] if hub else model).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return name[: -len(SUFFIX)]


def find_gguf(model: str, revision: str | None = None) -> Path:
    """The file that a model's name stands for, downloaded from the Hub where it is not here.

    A path is taken as it is. Otherwise the folder that ``STILLSHOT_MODELS`` names is looked into first, by the file's
    name, then the Hub.

    Raises:
        ModelError: There is no such file, several could be meant, or the Hub cannot be reached.
    """
    hub = _hub_parts(model)
    if hub is None or Path(model).is_file():
        return _local(model)
    repository, asked = hub
    if asked.lower().endswith(SUFFIX):
        own = _in_folder(PurePosixPath(asked).name)
        return own or _from_hub(model, repository, asked, revision)
    own = _chosen(model, asked, _stem(repository), [file.name for file in _folder_files()])
    if own is not None:
        return _folder_path() / own
    names = _hub_files(model, repository, revision)
    found = _chosen(model, asked, "", names)
    if found is None:
        types = sorted({kind for name in names if (kind := _type_of(name))})
        raise ModelError(
            f"{repository} has no GGUF file of type {asked!r}. {did_you_mean(asked, types)}"
            if types
            else f"{repository} has no GGUF files. Use the id of a repository that has some; their names often end in -GGUF."
        )
    return _from_hub(model, repository, found, revision)


def is_here(model: str, revision: str | None = None) -> bool:
    """Whether a GGUF file can be read without a download."""
    hub = _hub_parts(model)
    if hub is None or Path(model).is_file():
        return True  # or there is no such file, which is said where it is read
    from huggingface_hub import try_to_load_from_cache

    repository, asked = hub
    if asked.lower().endswith(SUFFIX):
        known = try_to_load_from_cache(repository, asked, revision=revision)
        return _in_folder(PurePosixPath(asked).name) is not None or isinstance(known, str)
    own = [file.name for file in _folder_files()]
    return any(
        _matches(name, asked, stem)
        for stem, names in ((_stem(repository), own), ("", _cached_files(repository, revision)))
        for name in names
    )


def check_at_hand(model: str, revision: str | None = None) -> None:
    """See that a GGUF file is here or can be downloaded; nothing heavy is imported for it.

    Raises:
        ModelError: It is not here, and not to be had.
    """
    if _hub_parts(model) is None or Path(model).is_file():
        _local(model)
    elif not is_here(model, revision):
        with hub_access() as reachable:
            if not reachable:
                _refuse_offline(model)


def _hub_parts(model: str) -> tuple[str, str] | None:
    found = _HUB_FILE.fullmatch(model)
    return (found["repo"], found["asked"]) if found and found["repo"][0] not in "./~" else None


def _local(model: str) -> Path:
    file = Path(model)
    if file.is_file():
        return file
    own = _in_folder(file.name)
    if own is None:
        looked = f", nor in the folder {_folder_path()} ({FOLDER})" if os.environ.get(FOLDER) else ""
        raise ModelError(
            f"There is no GGUF file {model}{looked}. Give the path of one, or name one of the Hub: owner/repo:file.gguf "
            "or owner/repo:Q4_K_M."
        )
    return own


def _folder_path() -> Path:
    return Path(os.environ.get(FOLDER, "")).expanduser()


def _folder_files() -> list[Path]:
    if not os.environ.get(FOLDER):
        return []
    return sorted(file for file in _folder_path().glob("*") if file.suffix.lower() == SUFFIX)


def _in_folder(name: str) -> Path | None:
    return next((file for file in _folder_files() if file.name == name), None)


def _stem(repository: str) -> str:
    """What the files of a repository are named after, as most of them are."""
    return re.sub(r"-gguf$", "", repository.rpartition("/")[2], flags=re.IGNORECASE)


def _type_of(name: str) -> str | None:
    found = _TYPE_AT_END.search(_PART.sub("", name[: -len(SUFFIX)]))
    return None if found is None else found[1]


def _matches(name: str, asked: str, stem: str) -> bool:
    own = PurePosixPath(name).name
    kind = _type_of(own)
    if kind is None or kind.lower() != asked.lower():
        return False
    return not stem or own[: -len(SUFFIX) - len(kind) - 1].lower() == stem.lower()


def _chosen(model: str, asked: str, stem: str, names: Sequence[str]) -> str | None:
    """The one name of these that is of the type asked for.

    Raises:
        ModelError: Several are.
    """
    found = [name for name in names if _matches(name, asked, stem)]
    if len(found) > 1:
        shown = ", ".join(sorted(found)[:4])
        raise ModelError(
            f"{model} stands for {len(found)} files ({shown}). Name one of them, as owner/repo:file.gguf; of a model that is "
            "split into parts, merge them first (llama-gguf-split --merge) and name the result."
        )
    return found[0] if found else None


def _hub_files(model: str, repository: str, revision: str | None) -> list[str]:
    from huggingface_hub import HfApi

    with hub_access() as reachable:
        if not reachable:
            return _cached_files(repository, revision) or _refuse_offline(model)
        try:
            names = HfApi().list_repo_files(repository, revision=revision)
        except Exception as error:  # no such repository, no rights to it, no answer
            raise _not_had(model, error) from error
    return [name for name in names if name.lower().endswith(SUFFIX)]


def _cached_files(repository: str, revision: str | None) -> list[str]:
    """The GGUF files of a repository that were downloaded before."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=[f"*{SUFFIX}"], local_files_only=True
            )
        )
    except Exception:  # nothing of it is here
        return []
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob(f"*{SUFFIX}"))


def _from_hub(model: str, repository: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_access() as reachable:
        try:
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=not reachable))
        except Exception as error:  # not downloaded before, no such file, no rights to it, no space
            if not reachable:
                _refuse_offline(model)
            raise _not_had(model, error) from error


def _refuse_offline(model: str) -> NoReturn:
    raise ModelError(
        f"The model {model!r} cannot be loaded: the Hugging Face Hub cannot be reached, and it was not downloaded before. "
        f"Check the name and the network, give the path of a file, or set {FOLDER} to a folder that has it."
    )


def _not_had(model: str, error: Exception) -> ModelError:
    said = str(error).strip().splitlines()
    return ModelError(
        f"The model {model!r} cannot be had from the Hub: {said[0].rstrip('.') if said else type(error).__name__}. "
        "Check the name, or give the path of a file."
    )
