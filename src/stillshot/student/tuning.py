"""Which weights of a student are trained: all, low-rank adapters, or bias terms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from stillshot.config import Lora, Tuning
from stillshot.errors import ModelError


def apply_tuning(
    model: Any, tuning: Tuning, lora: Lora, *, classifies: bool, fresh: Collection[str] = ()
) -> Any:
    """Make a model trainable; what is not trained has ``requires_grad`` false.

    With ``lora`` the adapters are injected into ``model``, which must not be used for anything else.
    Trained weights are float32, frozen ones keep their dtype.

    Args:
        model: A sequence classifier, or a causal language model.
        classifies: Whether it is a classifier, whose layers above the base model are always trained.
        fresh: Names of layers of a classifier that its weights had nothing for: they are trained, and saved, too.

    Returns:
        The model, wrapped in a PEFT model for ``lora``.

    Raises:
        ModelError: BitFit on a model without bias terms, or LoRA on modules that do not exist.
    """
    heads = _head_layers(model) if classifies else []
    new = [
        *heads,
        *(name for name in sorted(fresh) if not any(f"{name}.".startswith(f"{head}.") for head in heads)),
    ]
    if tuning == "lora":
        model = _with_lora(model, lora, classifies, new)
    elif tuning == "bitfit":
        _freeze_all_but_biases(model, new)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return model


def check_tuning(config: Any, tuning: Tuning, lora: Lora, *, classifies: bool) -> None:
    """See that a model of this configuration can be tuned so; no weights are loaded.

    Raises:
        ModelError: See :func:`apply_tuning`; or its architecture has no sequence-classification class.
    """
    if tuning == "full":
        return
    kind = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    with torch.device("meta"):
        try:
            model = kind.from_config(config, trust_remote_code=False)
        except ValueError as error:
            raise ModelError(f"A {config.model_type} model cannot be a classifier: {error}") from error
        apply_tuning(model, tuning, lora, classifies=classifies)


def _with_lora(model: Any, lora: Lora, classifies: bool, new: Sequence[str]) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    beside = [name for name in new if name not in ("score", "classifier")]  # these two PEFT knows itself
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS if classifies else TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules
        if lora.layers is None
        else _linear_names(model, lora.target_modules),
        layers_to_transform=None if lora.layers is None else _last_layers(model, lora.layers),
        modules_to_save=beside or None,
    )
    try:
        return get_peft_model(model, settings)
    except (TypeError, ValueError) as error:
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


def _head_layers(model: Any) -> list[str]:
    """Layers of a classifier above its base model."""
    return [
        name
        for name, layer in model.named_children()
        if layer is not model.base_model and any(True for _ in layer.parameters())
    ]


def _freeze_all_but_biases(model: Any, new: Sequence[str]) -> None:
    """BitFit (Ben Zaken et al. 2022): bias terms and the score layer train, and what is new like it."""
    head = {id(parameter) for name in new for parameter in model.get_submodule(name).parameters()}
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


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """All parameters, and the trainable ones."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
