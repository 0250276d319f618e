"""Files are whole or absent, what killed processes left is removed, and checksums notice every change."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stillshot import checksums, storage
from stillshot.checksums import SUMS, Checksums, checksum, is_intact, write_checksums
from stillshot.errors import WorkError
from stillshot.storage import (
    cache_folder,
    cannot_write,
    dump_json,
    load_json,
    remove_scratch,
    scratch_beside,
    write_whole,
)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "make it writable"),
        (errno.EPERM, "make it writable"),
        (errno.EROFS, "make it writable"),
        (errno.EIO, "mend that"),
    ],
)
def test_the_advice_for_what_cannot_be_written_depends_on_why(code: int, advice: str) -> None:
    message = str(cannot_write(Path("runs/x"), OSError(code, os.strerror(code))))
    assert advice in message
    assert os.strerror(code) in message
    assert ("space" in message.removeprefix("runs/x").lower()) == (code == errno.ENOSPC or "free" in advice)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a" / "b.txt", b"before")

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(WorkError, match=r"Permission denied.*make it writable"):
        write_whole(tmp_path / "a" / "b.txt", b"after")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"before"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_has_only_numbers_that_are_finite(number: float) -> None:
    with pytest.raises(WorkError, match="not finite"):
        dump_json({"accuracy": [number]})
    with pytest.raises(ValueError, match="is no number"):
        load_json(f'{{"accuracy": {"NaN" if number != number else "-Infinity"}}}')
    assert load_json(dump_json({"accuracy": 0.5, "name": "ä"})) == {"accuracy": 0.5, "name": "ä"}


# Scratch -------------------------------------------------------------------------------------------


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from stillshot.storage import scratch_beside\n"
        "scratch_beside(Path(sys.argv[1]) / 'file').write_text('half')\n"
        "scratch_beside(Path(sys.argv[1]) / 'folder').mkdir()\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    own = scratch_beside(tmp_path / "mine")
    own.write_text("in flight")
    other = tmp_path / ".file.0123abcd-1-aaaabbbb.tmp"  # of another machine: still being written, or old
    other.write_text("half")
    kept = tmp_path / ".user.txt"
    kept.write_text("not ours")
    foreign = tmp_path / ".letters.tmp"  # hidden and old, but no name that is given here
    foreign.write_text("not ours either")
    os.utime(foreign, (0, 0))
    assert len(list(tmp_path.iterdir())) == 6
    remove_scratch(tmp_path)
    assert set(tmp_path.iterdir()) == {own, other, kept, foreign}
    os.utime(other, (0, 0))
    remove_scratch(tmp_path)
    assert set(tmp_path.iterdir()) == {own, kept, foreign}
    remove_scratch(tmp_path / "nowhere")


# The cache folder ----------------------------------------------------------------------------------


def test_a_tilde_stands_for_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STILLSHOT_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "weights"
    monkeypatch.delenv("STILLSHOT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "stillshot"


def test_no_home_folder_is_told_where_one_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("STILLSHOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(WorkError, match="Set HOME, or STILLSHOT_CACHE"):
        cache_folder()
    large = tmp_path / "large"
    large.write_bytes(b"x" * (2 << 20))
    assert checksum(large) == hashlib.sha256(large.read_bytes()).hexdigest()  # only nothing is remembered


# Checksums -----------------------------------------------------------------------------------------


@pytest.fixture
def remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Large files that were read to take their checksum."""
    read: list[Path] = []
    monkeypatch.setenv("STILLSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checksums, "_SETTLED_SECONDS", -1.0)
    plain = Path.open

    def opened(path: Path, *arguments: object, **settings: object) -> object:
        if arguments == ("rb",) and path.name == "large":
            read.append(path)
        return plain(path, *arguments, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", opened)
    return read


def test_a_checksum_is_remembered_until_the_file_changes(tmp_path: Path, remembers: list[Path]) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"a" * (2 << 20))
    remembers.clear()
    first = checksum(large)
    assert checksum(large) == first == hashlib.sha256(large.read_bytes()).hexdigest()
    times = large.stat()
    with large.open("r+b") as file:
        file.seek(1000)
        file.write(b"b")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    changed = checksum(large)
    assert changed == hashlib.sha256(b"a" * 1000 + b"b" + b"a" * ((2 << 20) - 1001)).hexdigest()
    for entry in (tmp_path / "cache" / "checksums").iterdir():
        entry.write_text("damaged")
    assert checksum(large) == changed


def test_a_checksum_is_remembered_at_all(tmp_path: Path, remembers: list[Path]) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"a" * (2 << 20))
    checksum(large)
    before = len(remembers)
    checksum(large)
    assert len(remembers) == before


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="compares with sha256sum")
def test_the_list_is_what_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ä b.txt").write_text("one")
    (tmp_path / "two.bin").write_bytes(bytes(range(256)))
    write_checksums(tmp_path)
    assert is_intact(tmp_path)
    command = ["sha256sum", "--check", "--quiet", SUMS]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "two.bin").write_bytes(b"other")
    assert not is_intact(tmp_path)
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_a_list_that_is_damaged_itself_loses_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    write_checksums(tmp_path)
    whole = (tmp_path / SUMS).read_bytes()
    known = Checksums(tmp_path)
    for content, names in (
        (whole[:-3], {"a"}),  # its last line has a name no more
        (b"", set()),
        (b"\xff" + whole, {"b"}),
        (whole + b"and no more", {"a", "b"}),
    ):
        (tmp_path / SUMS).write_bytes(content)
        assert known.read().keys() == names
    known.update({"a": None, "c": "0" * 64})
    assert known.read().keys() == {"b", "c"}
    assert known.state(tmp_path / "c") == "gone"
    assert known.state(tmp_path / "a") == "unknown"


def test_an_empty_folder_is_not_intact(tmp_path: Path) -> None:
    assert not is_intact(tmp_path)
    assert not is_intact(tmp_path / "nowhere")


def test_process_numbers_mean_something_on_one_machine_alone() -> None:
    assert storage._machine() == storage._machine()
    assert scratch_beside(Path("x")).name.startswith(f".x.{storage._machine()}-{os.getpid()}-")
