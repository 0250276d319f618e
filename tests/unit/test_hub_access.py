"""Without a network, what needs the Hub is told at once, and what was downloaded before is used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillshot import hub
from stillshot.hub import hub_access

PYTHON = """
import sys
from stillshot.errors import StillshotError
from stillshot.cli.main import main
sys.argv = ["stillshot", *sys.argv[1:]]
try:
    main()
finally:
    print("torch" in sys.modules)  # its import alone takes seconds
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """An address on this machine that takes connections and never answers; it counts them in ``connections``."""
    listening = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []
    stopped = threading.Event()

    def accept() -> None:
        while not stopped.is_set():
            try:
                held.append(listening.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    stopped.set()
    listening.close()
    for connection in held:
        connection.close()


def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def without_offline(endpoint: str) -> dict[str, str]:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    return {**{k: v for k, v in os.environ.items() if k not in names}, "HF_ENDPOINT": endpoint}


@pytest.mark.parametrize("verb", ["check", "plan", "run"])
def test_a_hub_that_cannot_be_reached_ends_in_one_message(verb: str, tmp_path: Path) -> None:
    """As the only lines: the Hub's client would try six times over half a minute, and print each time."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\ntask: nli-sample\ndata: {in_domain: {test: test}}\nteacher: {model: someone/some-model}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-c", PYTHON, verb, str(recipe)],
        capture_output=True,
        text=True,
        env=without_offline(closed_address()),
    )
    assert done.returncode == 2
    assert done.stdout == "False\n"
    lines = [line for line in done.stderr.splitlines() if not line.startswith(f"{verb}: ")]  # progress
    assert lines == [
        "error: The model 'someone/some-model' cannot be loaded: the Hugging Face Hub cannot be reached, and it was not "
        "downloaded before. Check the id and the network, or use a local folder, bundled:smollm2-135m or bundled:minilm-l6."
    ]


def test_a_hub_that_never_answers_is_waited_for_once(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    hub._is_reachable.cache_clear()
    for _ in range(2):
        with hub_access() as reachable:
            assert reachable is False
            assert constants.HF_HUB_OFFLINE  # so libraries use what was downloaded before
        assert not constants.HF_HUB_OFFLINE
    assert hub._is_reachable.cache_info().misses == 1
    hub._is_reachable.cache_clear()


def test_offline_by_the_users_will_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_is_reachable", lambda _: pytest.fail("the Hub was asked"))
    with hub_access() as reachable:
        assert reachable is False
