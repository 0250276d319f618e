"""Checksums of files: kept beside what is stored, and compared before it is used again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock

from stillshot.errors import StillshotError
from stillshot.storage import cache_folder, write_whole

SUMS = "SHA256SUMS"  # as sha256sum writes and checks it
State = Literal["whole", "damaged", "gone", "unknown"]

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_REMEMBERED_BYTES = 1 << 20  # smaller files are read again: as fast as looking their checksum up
_SETTLED_SECONDS = 2.0  # a file that changed later might change again within one tick of the clock


def checksum(path: Path) -> str:
    """The SHA-256 of a file's content.

    That of a large file is remembered in the cache folder as long as its size and times stay the same.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    if status.st_size < _REMEMBERED_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    known = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    memory = _memory(path)
    if memory is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(memory.read_text(encoding="utf-8"))
            if found["status"] == known and _LINE.fullmatch(f"{found['sha256']}  x"):
                return found["sha256"]
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    settled = time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_SECONDS
    if memory is not None and settled:
        with contextlib.suppress(OSError, StillshotError):
            write_whole(memory, json.dumps({"status": known, "sha256": digest}).encode())
    return digest


def _memory(path: Path) -> Path | None:
    """Where the checksum of a large file is remembered; null where nothing can be."""
    try:
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:40]
        return cache_folder() / "checksums" / f"{name}.json"
    except StillshotError:
        return None


def folder_checksums(folder: Path) -> dict[str, str]:
    """The checksum of every file in a folder and below it, by its path there; hidden files are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = ((path.relative_to(folder).as_posix(), path) for path in files)
    return {name: checksum(path) for name, path in names if not name.startswith(".") and name != SUMS}


def state_of(path: Path, known: str | None) -> State:
    """The state of a file whose checksum was ``known``; an unreadable one is damaged."""
    if not path.is_file():
        return "gone" if known is not None else "unknown"
    if known is None:
        return "unknown"
    try:
        return "whole" if checksum(path) == known else "damaged"
    except OSError:
        return "damaged"


class Checksums:
    """The file ``SHA256SUMS`` in a folder: one line a file, as ``sha256sum --check`` reads it.

    Files that it does not list are taken as they are, so that folders without it can still be used. Lines that
    cannot be read are passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / SUMS

    def read(self) -> dict[str, str]:
        """Checksums by path within the folder."""
        try:
            lines = self.path.read_bytes().decode("utf-8", "replace").split("\n")
        except OSError:
            return {}
        found = (_LINE.fullmatch(line) for line in lines)
        return {line[2]: line[1] for line in found if line}

    def update(self, changes: Mapping[str, str | None]) -> None:
        """Set the checksums of some files; null forgets one.

        Raises:
            WorkError: The file cannot be written.
        """
        if not changes:
            return
        with self._lock():
            known = self.read()
            merged: dict[str, str | None] = {**known, **changes}
            kept = {name: digest for name, digest in merged.items() if digest is not None}
            if kept != known:
                text = "".join(f"{digest}  {name}\n" for name, digest in sorted(kept.items()))
                write_whole(self.path, text.encode("utf-8", "surrogateescape"))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time reads and writes the list: ``report`` may run beside ``run``."""
        try:
            lock = FileLock(self.path.with_name(f".{SUMS}.lock"))
            lock.acquire()
        except (OSError, NotImplementedError):  # a folder without locks, or one that cannot be written
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def state(self, path: Path, known: Mapping[str, str] | None = None) -> State:
        """The state of a file in the folder."""
        listed = self.read() if known is None else known
        return state_of(path, listed.get(self.name_of(path)))

    def name_of(self, path: Path) -> str:
        """A file's path as the list has it."""
        return path.relative_to(self.folder).as_posix()


def write_checksums(folder: Path) -> None:
    """List all files of a folder that is complete.

    Raises:
        WorkError: The list cannot be written.
    """
    text = "".join(f"{digest}  {name}\n" for name, digest in folder_checksums(folder).items())
    write_whole(folder / SUMS, text.encode("utf-8", "surrogateescape"))


def is_intact(folder: Path) -> bool:
    """Whether a folder has a list of its files, and all of them are as they were when it was written."""
    known = Checksums(folder).read()
    return bool(known) and all(state_of(folder / name, digest) == "whole" for name, digest in known.items())


def damaged_in(folder: Path, known: Mapping[str, str]) -> Iterable[Path]:
    """The files of a folder that are not as their checksums say, or are gone."""
    return (folder / name for name, digest in known.items() if state_of(folder / name, digest) != "whole")
