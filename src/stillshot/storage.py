"""Files that a kill or a full disk leaves whole or absent, and what is said where one cannot be written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from stillshot.errors import WorkError

# Shown in the processes of a run's cells as well, where other warnings are not: damage is said wherever it is found.
notices = logging.getLogger("stillshot.notices")
notices.setLevel(logging.WARNING)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_SUFFIX = ".tmp"
# The names of :func:`scratch_beside`, and nobody else's: machine, process and a random part.
_OWN_SCRATCH = re.compile(r"\..+\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.tmp", re.DOTALL)
_OLD_SECONDS = 86_400  # scratch files of other machines are removed when they are as old


def cache_folder() -> Path:
    """Where converted weights are kept: ``$STILLSHOT_CACHE``, else the user's cache folder.

    Raises:
        WorkError: There is neither, as this user has no home folder.
    """
    try:
        if chosen := os.environ.get("STILLSHOT_CACHE"):
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base).expanduser() if base else Path.home() / ".cache") / "stillshot"
    except RuntimeError as error:
        raise WorkError(
            "There is no home folder to keep converted weights in. Set HOME, or STILLSHOT_CACHE to a folder."
        ) from error


def cannot_write(path: Path, error: Exception, kept: str = "What was finished before is kept") -> WorkError:
    """The error for a file or folder that could not be written; its advice depends on why."""
    code = getattr(error, "errno", None)
    text = str(error)
    if code in _FULL or (code is None and ("os error 28" in text or "No space left" in text)):
        advice = "free some space and run the same command again"
    elif code in _CLOSED:
        advice = "make it writable for this user, or choose another folder, and run the same command again"
    else:
        advice = "mend that and run the same command again"
    return WorkError(f"{path} could not be written: {error}. {kept}; {advice}.")


def dump_json(content: Any, *, indent: int | None = None) -> str:
    """JSON as every program reads it.

    Raises:
        WorkError: A number is not finite; JSON has no such numbers.
    """
    try:
        return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise WorkError(f"A number to be written is not finite, which JSON cannot hold: {error}.") from error


def load_json(text: str | bytes) -> Any:
    """What JSON holds.

    Raises:
        ValueError: It is not JSON, or holds a number that is not finite.
    """

    def refused(name: str) -> Any:
        raise ValueError(f"{name} is no number")

    return json.loads(text, parse_constant=refused)


# Scratch -----------------------------------------------------------------------------------------


def scratch_beside(path: Path) -> Path:
    """A hidden place beside ``path`` to write in before renaming; its name says which process writes there."""
    return path.parent / f".{path.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, then rename it.

    Raises:
        WorkError: It cannot be written.
    """
    scratch = scratch_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def remove_scratch(folder: Path) -> None:
    """Remove from a folder what killed processes left half-written; what a living one writes is left alone."""
    with contextlib.suppress(OSError):
        for left in folder.glob(f".*{_SUFFIX}"):
            if _OWN_SCRATCH.fullmatch(left.name) and _is_orphan(left):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def _is_orphan(scratch: Path) -> bool:
    machine, _, rest = scratch.name.removesuffix(_SUFFIX).rpartition(".")[2].partition("-")
    process = rest.partition("-")[0]
    if machine == _machine() and process.isdigit() and os.name == "posix":  # elsewhere, signal 0 is one
        return not _is_alive(int(process))
    return time.time() - scratch.stat().st_mtime > _OLD_SECONDS


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@cache
def _machine() -> str:
    """Within what process numbers mean something: a machine, or a container on it."""
    space = ""
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]
