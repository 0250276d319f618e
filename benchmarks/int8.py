"""Labelling with a teacher in int8, beside bfloat16 and beside llama.cpp on the same file.

    python benchmarks/int8.py --json                      # 25 minutes or so
    python benchmarks/int8.py --model bundled:smollm2-135m --json
    python benchmarks/int8.py --keep                      # both teachers, into benchmarks/records/

The teacher is Qwen2.5-Coder-1.5B-Instruct in 4-bit GGUF: the Hub's file, or a copy in the folder that STILLSHOT_MODELS
names. Rates are of rounds that are interleaved, each with its context read once; memory is the peak of a process of its
own that loads and labels; agreement is on queries that are asked once in each dtype, calibrated on themselves. llama.cpp's
server (xllamacpp) keeps the context in its prefix cache, and gives the labels' next-token probabilities.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from measure import finish, interleaved
from numpy.typing import NDArray
from scipy.special import softmax
from workload import Workload

from stillshot.cli.progress import progress
from stillshot.config import Teacher as TeacherSection
from stillshot.deploy.gguf_student import completion_request
from stillshot.evaluate.resources import measured
from stillshot.evaluate.runner import quiet_libraries
from stillshot.models.gguf_files import find_gguf, is_gguf
from stillshot.models.load import on_load
from stillshot.prompt.writer import ScoredPrompt
from stillshot.teacher import answers
from stillshot.teacher.local import LocalTeacher

QWEN = "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF:qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
SMOLLM2 = "bundled:smollm2-135m"
SHOTS = (16, 32)
# Queries that agreement is taken on, that are timed in a round, and that llama.cpp is timed with.
AGREED, TIMED, SERVED = 1000, 200, 48
Array = NDArray[np.float64]


def teacher_of(model: str, dtype: str) -> LocalTeacher:
    """A teacher with its products in a dtype."""
    return LocalTeacher(TeacherSection.model_validate({"model": model, "dtype": dtype}))


def ask(teacher: LocalTeacher, prompts: Sequence[ScoredPrompt], tokens: Sequence[int]) -> Array:
    """Log-scores, shape ``(prompts, labels)``."""
    found = np.zeros((len(prompts), len(tokens)))
    for positions, values in teacher.score(prompts, tokens):
        found[positions] = values
    return found


def peak_bytes(model: str, dtype: str, shots: int, queries: int) -> int:
    """The peak of a process that loads a teacher and labels queries."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    threads = torch.get_num_threads()
    process = context.Process(target=_label_alone, args=(model, dtype, shots, queries, threads, sender))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def _label_alone(model: str, dtype: str, shots: int, queries: int, threads: int, sender: Any) -> None:
    torch.set_num_threads(threads)
    quiet_libraries()
    load = Workload.read(model=model)
    prompts = load.prompts(shots, queries)
    with measured() as usage, on_load(usage.lap):
        ask(teacher_of(model, dtype), prompts, load.label_tokens)
    sender.send(usage.peak_memory_bytes)


def llama_cpp(model: str, slots: int, prompts: Sequence[ScoredPrompt]) -> Any:
    """llama.cpp's server with room for some prompts at a time."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # a compiled module without types
    longest = max(len(prompt.sequences[0].ids) for prompt in prompts)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(find_gguf(model))
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = slots * (longest + 64), slots, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.warmup, settings.verbosity = False, -1
    return xllamacpp.Server(settings)


def served(server: Any, prompts: Sequence[ScoredPrompt], tokens: Sequence[int], slots: int) -> None:
    """Ask llama.cpp for the labels' probabilities of all prompts, some at a time, with its prefix cache."""

    def one(prompt: ScoredPrompt) -> None:
        request = completion_request(list(prompt.sequences[0].ids), tokens) | {"cache_prompt": True}
        answer = server.handle_completions(request)
        if "choices" not in answer:
            raise SystemExit(f"llama.cpp could not read a prompt: {answer}")

    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(one, prompts))


def rate_of_llama_cpp(model: str, prompts: Sequence[ScoredPrompt], tokens: Sequence[int]) -> float:
    """Queries a second of llama.cpp once it has read the context, with one or four at a time, whichever is more."""
    rates = []
    for slots in (1, 4):
        server = llama_cpp(model, slots, prompts)
        served(server, prompts[:slots], tokens, slots)
        started = time.perf_counter()
        served(server, prompts[slots:], tokens, slots)
        rates.append((len(prompts) - slots) / (time.perf_counter() - started))
        del server
    return max(rates)


def probabilities(scores: Array) -> Array:
    """Calibrated on the queries themselves."""
    return softmax(answers.calibrate(scores, answers.batch_bias(scores)), axis=-1)


def compared(model: str, rounds: int, report: Callable[[str, str, int, int], None]) -> dict[str, Any]:
    """All figures of one teacher; ``report`` is told what is measured."""
    steps = iter(range(2 + 3 * len(SHOTS)))

    def begin(what: str) -> None:
        report(model, what, next(steps), 2 + 3 * len(SHOTS))

    load = Workload.read(model=model)
    tokens = load.label_tokens
    teachers = {dtype: teacher_of(model, dtype) for dtype in ("bfloat16", "int8")}
    found: dict[str, Any] = {"task": load.task.name, "model": model, "queries_per_s": {}, "seconds": {}}
    agreed = load.prompts(SHOTS[0], AGREED)
    scores = {}
    for dtype, teacher in teachers.items():
        begin(f"asking {AGREED:,} queries in {dtype}")
        scores[dtype] = ask(teacher, agreed, tokens)
    given = {dtype: probabilities(values) for dtype, values in scores.items()}
    found["agreement"] = float((given["int8"].argmax(-1) == given["bfloat16"].argmax(-1)).mean())
    found["agreement_raw"] = float((scores["int8"].argmax(-1) == scores["bfloat16"].argmax(-1)).mean())
    found["difference"] = float(np.abs(given["int8"] - given["bfloat16"]).mean())
    for shots in SHOTS:
        begin(f"timing both dtypes with {shots} shots")
        prompts = load.prompts(shots, TIMED)
        runs: dict[str, Callable[[], object]] = {
            dtype: lambda teacher=teacher, prompts=prompts: ask(teacher, prompts, tokens)
            for dtype, teacher in teachers.items()
        }
        seconds = interleaved(runs, rounds)
        found["seconds"][shots] = seconds
        found["queries_per_s"][shots] = {dtype: TIMED / taken for dtype, taken in seconds.items()}
    del teachers
    for shots in SHOTS:
        begin(f"timing llama.cpp with {shots} shots")
        if is_gguf(model) and importlib.util.find_spec("xllamacpp"):
            rate = rate_of_llama_cpp(model, load.prompts(shots, SERVED), tokens)
            found["queries_per_s"][shots]["llama.cpp"] = rate
    found["peak_bytes"] = {}
    for shots in SHOTS:
        begin(f"measuring memory with {shots} shots")
        found["peak_bytes"][shots] = {
            dtype: peak_bytes(model, dtype, shots, 64) for dtype in ("bfloat16", "int8")
        }
    return found


def figures_of(found: dict[str, Any]) -> dict[str, float]:
    """The ratios: the lower one of both numbers of shots for rates, the higher one for memory."""
    rates, peaks = found["queries_per_s"].values(), found["peak_bytes"].values()
    figures = {
        "int8_rate_over_bf16": min(rate["int8"] / rate["bfloat16"] for rate in rates),
        "int8_memory_over_bf16": max(peak["int8"] / peak["bfloat16"] for peak in peaks),
        "int8_agreement": found["agreement"],
        "int8_probability_difference": found["difference"],
    }
    if all("llama.cpp" in rate for rate in rates):
        figures["int8_rate_over_llamacpp"] = min(rate["int8"] / rate["llama.cpp"] for rate in rates)
    return figures


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=QWEN, help="the teacher")
    parser.add_argument("--rounds", type=int, default=3, help="of which rates are medians")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--keep", action="store_true", help="measure SmolLM2 as well, and write benchmarks/records/int8.json"
    )
    parser.add_argument("--threads", type=int, help="threads of the matrix products")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    quiet_libraries()
    with progress() as report:
        found = compared(arguments.model, arguments.rounds, report)
        figures, details = figures_of(found), {arguments.model: found}
        if arguments.keep:
            small = compared(SMOLLM2, arguments.rounds, report)
            figures |= {f"smollm2_{name}": value for name, value in figures_of(small).items()}
            details[SMOLLM2] = small
    finish("int8", figures, {"teachers": details}, as_json=arguments.json, keep=arguments.keep)


if __name__ == "__main__":
    main()
