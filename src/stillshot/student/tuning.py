"""Which weights of a student are trained: all, low-rank adapters, or bias terms."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from stillshot.config import Lora, Tuning
from stillshot.errors import ModelError


def apply_tuning(model: Any, tuning: Tuning, lora: Lora, *, classifies: bool) -> Any:
    """Make a model trainable; what is not trained has ``requires_grad`` false.

    With ``lora`` the adapters are injected into ``model``, which must not be used for anything else.
    Trained weights are float32, frozen ones keep their dtype.

    Args:
        model: A sequence classifier, or a causal language model.
        classifies: Whether it is a classifier, whose score layer is always trained.

    Returns:
        The model, wrapped in a PEFT model for ``lora``.

    Raises:
        ModelError: BitFit on a model without bias terms, or LoRA on modules that do not exist.
    """
    if tuning == "lora":
        model = _with_lora(model, lora, classifies)
    elif tuning == "bitfit":
        _freeze_all_but_biases(model)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return model


def check_tuning(config: Any, tuning: Tuning, lora: Lora) -> None:
    """See that a model of this configuration can be tuned so; no weights are loaded.

    Raises:
        ModelError: See :func:`apply_tuning`.
    """
    if tuning == "full" or (tuning == "lora" and lora.layers is None and lora.target_modules == "all-linear"):
        return
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
        apply_tuning(model, tuning, lora, classifies=True)


def _with_lora(model: Any, lora: Lora, classifies: bool) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS if classifies else TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules
        if lora.layers is None
        else _linear_names(model, lora.target_modules),
        layers_to_transform=None if lora.layers is None else _last_layers(model, lora.layers),
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        names = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if hasattr(m, "weight")})
        raise ModelError(
            f"LoRA cannot be put on target_modules {lora.target_modules!r}: {str(error).splitlines()[0]} "
            f"Modules of this model: {', '.join(names)}."
        ) from error


def _linear_names(model: Any, target_modules: str | list[str]) -> list[str]:
    """``all-linear`` spelled out, since PEFT takes a choice of layers only with names of modules."""
    if target_modules != "all-linear":
        return [target_modules] if isinstance(target_modules, str) else target_modules
    linear = (torch.nn.Linear, Conv1D)
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.base_model.named_modules()
            if isinstance(module, linear)
        }
    )


def _last_layers(model: Any, count: int) -> list[int]:
    total = model.config.get_text_config().num_hidden_layers
    if count > total:
        raise ModelError(
            f"lora.layers is {count}, but the model has {total} layers. Lower it, or leave it out."
        )
    return list(range(total - count, total))


def _freeze_all_but_biases(model: Any) -> None:
    """BitFit (Ben Zaken et al. 2022): bias terms and the score layer train."""
    head = {id(parameter) for name in ("score", "classifier") for parameter in _parameters_of(model, name)}
    biases = [
        name
        for name, parameter in model.named_parameters()
        if name.endswith("bias") and id(parameter) not in head
    ]
    if not biases:
        raise ModelError(
            f"BitFit trains bias terms, and {model.config.model_type} models have none. Use tuning: lora or "
            "full, or a model with biases (OPT, GPT-2, GPT-NeoX, Qwen2, BERT-like encoders)."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in biases or id(parameter) in head


def _parameters_of(model: Any, name: str) -> list[torch.nn.Parameter]:
    module = getattr(model, name, None)
    return list(module.parameters()) if isinstance(module, torch.nn.Module) else []


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """All parameters, and the trainable ones."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
