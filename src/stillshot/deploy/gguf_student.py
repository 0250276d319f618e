"""A student exported to GGUF, run by llama.cpp where that can, else by transformers, which reads the same file."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from stillshot.deploy.exported_student import ExportedStudent, find_file, load_featurizer, unreadable
from stillshot.errors import ModelError, StillshotError, WorkError
from stillshot.student.heads import with_language_model_head
from stillshot.student.saved import Logits
from stillshot.student.sidecar import Sidecar

_BIAS = 100.0  # more than logits differ by, and small enough to leave them their digits
_SMALLEST = 1e-30


class GgufStudent(ExportedStudent):
    """An exported student whose logits llama.cpp computes, of the tokens that the student's featurizer makes.

    Without the package xllamacpp, and for a channel head, whose scores of a prompt's own tokens llama.cpp's
    server does not tell, transformers reads the file into PyTorch, which takes more memory.
    """

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """An export in a folder.

        Raises:
            ModelError: The folder holds no such export, its file is missing or damaged, or what reads it is not
                installed.
        """
        folder = Path(folder)
        sidecar = Sidecar.read(folder)
        exported = sidecar.exported
        if exported is None or exported.kind != "gguf":
            raise ModelError(f"{folder} holds no GGUF export. Make one: stillshot export {folder} --to gguf")
        featurizer = load_featurizer(folder, sidecar)
        file, tokens = find_file(folder, exported), exported.label_tokens
        by_llama_cpp = tokens is not None and importlib.util.find_spec("xllamacpp") is not None
        try:
            if tokens is not None and by_llama_cpp:
                logits = _by_llama_cpp(file, tokens, featurizer.max_tokens)
            else:
                logits = _by_transformers(file, tokens, sidecar.task.labels)
        except ImportError as error:
            raise ModelError(
                f"{file} is read with packages that are not installed ({str(error).strip()}). Run: pip install "
                "'stillshot[export,llama-cpp]'"
            ) from error
        except (StillshotError, MemoryError):
            raise
        except Exception as error:  # a reader stumbles over whatever damage makes it find
            raise unreadable(file, exported, error) from error
        student = cls(logits, sidecar.task, featurizer)
        student.side_by_side = not by_llama_cpp  # it has threads of its own, which read one prompt at a time
        return student


def completion_request(prompt: str | list[int], label_tokens: Sequence[int]) -> dict[str, Any]:
    """What llama.cpp's server is asked, at ``/v1/completions``, to choose among the labels and nothing else.

    The bias lifts the labels' tokens alike above all others, so the probabilities that are told are the
    student's.
    """
    return {
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 1.0,
        "samplers": ["temperature"],
        "logit_bias": [[token, _BIAS] for token in label_tokens],
        "n_probs": len(label_tokens),
        "post_sampling_probs": True,
        "cache_prompt": False,  # what was asked before changes the last digits
    }


def _by_llama_cpp(file: Path, label_tokens: Sequence[int], window: int) -> Logits:
    xllamacpp: Any = importlib.import_module("xllamacpp")  # a compiled module without types
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = window + 1, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    parameters.warmup, parameters.verbosity = False, -1
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:  # whose message is about the parameters
        raise OSError("llama.cpp does not load it") from error

    def log_probabilities(ids: list[int]) -> list[float]:
        answer: Any = server.handle_completions(completion_request(ids, label_tokens))
        if "choices" not in answer:
            raise WorkError(f"llama.cpp could not read a query with {file}: {answer}")
        (token,) = answer["choices"][0]["logprobs"]["content"]
        found = {row["id"]: row["prob"] for row in token["top_probs"]}
        return [math.log(max(found.get(token, 0.0), _SMALLEST)) for token in label_tokens]

    # A server that is freed before its thread has begun its loop waits for it without end; an answer shows it has.
    log_probabilities([label_tokens[0]])

    def logits(inputs: dict[str, Tensor]) -> Tensor:
        lengths = inputs["attention_mask"].sum(-1).tolist()
        rows = zip(inputs["input_ids"].tolist(), lengths, strict=True)
        return torch.tensor([log_probabilities(ids[:length]) for ids, length in rows])

    return logits


def _by_transformers(file: Path, label_tokens: Sequence[int] | None, labels: Sequence[str]) -> Logits:
    from transformers import AutoModelForCausalLM, GgufConfig

    language_model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        trust_remote_code=False,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    head = "channel" if label_tokens is None else "language_model"
    model = with_language_model_head(head, language_model.eval(), labels)

    def logits(inputs: dict[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            found = model(**inputs).logits
        return found if label_tokens is None else found[:, list(label_tokens)]

    return logits
