"""GGUF files as folders that transformers loads: made once, kept in the cache folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from stillshot.checksums import checksum, is_intact, write_checksums
from stillshot.errors import ModelError
from stillshot.models.gguf_tokenizer import write_tokenizer
from stillshot.storage import cache_folder, cannot_write, notices, remove_scratch, scratch_beside
from stillshot.working import tell

# Of the way in which a GGUF becomes a folder: raised when that changes, so that older folders are made anew.
CONVERSION = 2


def converted(file: Path, name: str) -> Path:
    """A GGUF file's weights, in bfloat16, and tokenizer in the cache folder; written once, whole or not at all.

    Weights that do not match their checksums any more are converted again. Of several processes, one converts, and the
    others wait.

    Args:
        file: The GGUF file.
        name: Of the folder, another one for every content.

    Raises:
        ModelError: The package gguf is missing, or the file is no model that transformers reads.
        WorkError: The folder cannot be written.
    """
    target = cache_folder() / "models" / f"{name}-{CONVERSION}"
    if is_intact(target):
        return target
    try:
        import gguf  # noqa: F401  (what reads the file)
    except ImportError:
        raise ModelError(
            f"Reading {file.name} needs the package gguf. Run: pip install 'stillshot[demo]'"
        ) from None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(file.name, "another process reads it; waiting", 0, 0)
            lock.acquire()
        try:
            if not is_intact(target):  # another process may have been faster
                if target.exists():
                    notices.warning("%s is damaged and is converted again.", target)
                _convert(file, target)
        finally:
            lock.release()
    except OSError as error:
        elsewhere = f"To keep the weights of {file.name} elsewhere, point STILLSHOT_CACHE to another folder"
        raise cannot_write(target, error, elsewhere) from error
    return target


def digest_of(file: Path) -> str:
    """The SHA-256 of a GGUF file.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return checksum(file)
    except OSError as error:
        raise ModelError(f"The GGUF file {file} cannot be read: {error.strerror or error}.") from error


def _convert(file: Path, target: Path) -> None:
    from stillshot.models.gguf_weights import write_weights

    remove_scratch(target.parent)
    scratch, damaged = scratch_beside(target), scratch_beside(target)
    try:
        scratch.mkdir(parents=True)
        tell(file.name, "reading its tokenizer", 0, 0)
        write_tokenizer(file, scratch)
        write_weights(file, scratch, lambda done, total: tell(file.name, "reading its weights", done, total))
        write_checksums(scratch)
        if target.exists():
            target.rename(damaged)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(damaged, ignore_errors=True)
