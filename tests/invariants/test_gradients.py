"""A step learns the same however its rows are cut: in one batch, accumulated, or over processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from training_worker import Case, trained_weights

# Every head, with all weights and with adapters.
STUDENTS = [
    ("llama", "label", "full"),
    ("opt", "channel", "full"),
    ("opt", "language_model", "full"),
    ("bert", "label", "full"),
    ("llama", "label", "lora"),
    ("opt", "channel", "lora"),
    ("opt", "language_model", "lora"),
    ("bert", "label", "lora"),
]
Lively = Callable[[str], str]


@cache
def in_one_batch(case: Case, folder: Path) -> torch.Tensor:
    return trained_weights(replace(case, size=8, accumulated=1), folder)


@pytest.mark.parametrize(("size", "accumulated"), [(4, 2), (2, 4), (1, 8)])
@pytest.mark.parametrize(("model", "head", "tuning"), STUDENTS)
def test_accumulated_gradients_are_those_of_one_batch(
    lively: Lively, tmp_path: Path, model: str, head: str, tuning: str, size: int, accumulated: int
) -> None:
    case = Case(lively(model), head, tuning, size, accumulated)
    expected = in_one_batch(replace(case, size=8, accumulated=1), tmp_path.parent)
    torch.testing.assert_close(trained_weights(case, tmp_path), expected, atol=1e-5, rtol=1e-5)


def test_two_processes_learn_what_one_does(lively: Lively, tmp_path: Path) -> None:
    """Four rows in each, or two twice accumulated; gradients meet over the loopback interface."""
    cases = [
        Case(lively(model), head, tuning, 8 // 2 // accumulated, accumulated)
        for (model, head, tuning), accumulated in zip(STUDENTS, (1, 1, 1, 1, 2, 2, 2, 2), strict=True)
    ]
    (tmp_path / "cases.json").write_text(json.dumps([asdict(case) for case in cases]), encoding="utf-8")
    script = Path(__file__).with_name("training_worker.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        places = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
            "MASTER_PORT": port,
        }
        environment = {
            **os.environ,
            **{name: str(value) for name, value in places.items()},
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": os.pathsep.join([str(script.parents[1]), *sys.path]),
        }
        command = [sys.executable, str(script), str(tmp_path / "cases.json"), str(tmp_path / "weights.pt")]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    found = torch.load(tmp_path / "weights.pt")
    for case, weights in zip(cases, found, strict=True):
        expected = in_one_batch(replace(case, size=8, accumulated=1), tmp_path.parent)
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-5)
