"""Access to the Hugging Face Hub: whether it can be reached is found out once, in seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# The Hub's own client tries six times over half a minute and prints a line each time.
SECONDS = 3.0


@contextmanager
def hub_access() -> Iterator[bool]:
    """Within it, libraries use what was downloaded before where the Hub cannot be reached, instead of retrying.

    Yields:
        Whether the Hub can be used: not where ``HF_HUB_OFFLINE`` is set, or no connection came about.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _is_reachable(constants.ENDPOINT):
        yield not constants.HF_HUB_OFFLINE
        return
    modules: list[Any] = [constants]
    if "datasets" in sys.modules:
        modules.append(sys.modules["datasets"].config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield False
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


@cache
def _is_reachable(endpoint: str) -> bool:
    """Whether the endpoint answers at all; a thread waits, as looking up a name has no time limit of its own."""
    from huggingface_hub.utils import get_session

    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=SECONDS)
        except Exception:  # of whatever kind: no name, no route, no certificate, no answer
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return answered.is_set()
