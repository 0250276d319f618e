"""Which names may be given to what files are named after."""

from __future__ import annotations

from collections.abc import Sequence

# Bytes of a name, with room for what is put before and behind it.
LONGEST_NAME = 150


def check_file_names(names: Sequence[str]) -> None:
    """See that each name of an evaluation set can name a file of its own.

    Raises:
        ValueError: One cannot, or two differ in case alone, which some file systems do not tell apart.
    """
    for name in names:
        if not name or name.startswith(".") or set(name) & set("/\\\0"):
            raise ValueError(f"an evaluation set's name names a file and cannot be {name!r}")
        if not name.isprintable() or len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
            raise ValueError(
                f"an evaluation set's name names a file: {name[:80]!r} must be printable, and of at most {LONGEST_NAME} bytes"
            )
    folded = [name.casefold() for name in names]
    if alike := [name for name in names if folded.count(name.casefold()) > 1]:
        raise ValueError(f"evaluation sets' names name files and must differ in more than case: {alike}")
