"""A server in a process of its own, and what clients of it need: used by benchmarks, and by tests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

_ADDRESS = re.compile(r" at (http://(\S+):(\d+)) ")
_STOPPED = re.compile(r"Stopped: ([\d,]+) requests accepted, ([\d,]+) answered")


class ServerProcess:
    """``stillshot serve`` on a free port of this machine, from its start to its end.

    Args:
        arguments: Of the command: student folders and options.
    """

    def __init__(self, *arguments: str | Path, start_seconds: float = 120.0) -> None:
        command = [sys.executable, "-m", "stillshot.cli.main", "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(start_seconds) or self.process.poll() is not None:
            self.process.kill()
            raise RuntimeError(f"The server did not start: {''.join(self.lines)}")
        found = next(match for line in self.lines if (match := _ADDRESS.search(line)))
        self.url, self.host, self.port = found[1], found[2], int(found[3])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if _ADDRESS.search(line):
                self._ready.set()
        self._ready.set()

    @property
    def resident_bytes(self) -> int:
        """Its resident set (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]

    def stop(self, seconds: float = 60.0) -> int:
        """Send SIGTERM where it still runs, and give the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(seconds)
        return code

    @property
    def counted(self) -> tuple[int, int]:
        """Requests accepted and answered, as it told when it ended."""
        found = next(match for line in reversed(self.lines) if (match := _STOPPED.search(line)))
        return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


@dataclass
class Client:
    """One keep-alive connection; a bare client, so that clients take little of the server's processor."""

    host: str
    port: int
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None, repr=False)

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of one request.

        Raises:
            OSError, EOFError: The connection was refused, or closed before a whole response.
        """
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self._streams
        writer.write(head.encode() + content)
        received = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(re.search(r"content-length: (\d+)", received)[1])  # type: ignore[index]
        answer = json.loads(await reader.readexactly(length))
        if "connection: close" in received:
            self.close()
        return int(received.split(" ", 2)[1]), answer

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
