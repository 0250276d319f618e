"""The output layer of a causal language model, without ever building all logits of a batch at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Rows of the vocabulary projection that exist at the same time; 256 x 50k in float32 are 51 MB.
_CHUNK = 256
# Parameters of one layer of random weights, made in a second or two, by which an architecture is looked at.
_LARGEST_LAYER = 100_000_000


def output_logits(model: Any, states: Tensor, rows: Tensor | None = None) -> Tensor:
    """Logits of hidden states, shape ``(states, vocabulary or rows)``, float32.

    Args:
        model: A causal language model.
        states: Last hidden states, shape ``(states, hidden)``.
        rows: Token ids whose logits are wanted; all of them if ``None``.
    """
    head = model.get_output_embeddings()
    weight, bias = head.weight, getattr(head, "bias", None)
    if rows is not None:
        weight, bias = weight[rows].to(states.dtype), None if bias is None else bias[rows].to(states.dtype)
        logits = torch.nn.functional.linear(
            states.float(), weight.float(), None if bias is None else bias.float()
        )
    else:
        logits = head(states).float()
    config = model.config.get_text_config()
    if getattr(config, "logit_scale", None) and config.model_type.startswith("cohere"):
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) and config.model_type.startswith("granite"):
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def gives_own_logits(model: Any) -> bool:
    """Whether :func:`output_logits` of a model's last hidden states are what the model itself gives.

    A few tokens are read, and only a few rows of the output layer, which may be large and not in memory yet.
    """
    head, rows = model.get_output_embeddings(), min(8, model.get_input_embeddings().weight.shape[0])
    if not isinstance(head, torch.nn.Linear):
        return False
    few = torch.nn.Linear(head.in_features, rows, bias=head.bias is not None, device="meta")
    few.weight = torch.nn.Parameter(head.weight[:rows])
    if head.bias is not None:
        few.bias = torch.nn.Parameter(head.bias[:rows])
    ids = torch.arange(rows, device=head.weight.device).unsqueeze(0)
    model.set_output_embeddings(few)
    try:
        expected = model(input_ids=ids, use_cache=False).logits[0].float()
        found = output_logits(model, model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    finally:
        model.set_output_embeddings(head)
    return expected.shape == found.shape and torch.allclose(expected, found, rtol=0.05, atol=0.05)


def label_logits(model: Any, states: Tensor, label_tokens: Sequence[int]) -> Tensor:
    """Logits at the label tokens, shape ``(states, labels)``: log-probabilities up to a constant a row."""
    return output_logits(model, states, torch.tensor(label_tokens, device=states.device))


def span_log_probabilities(
    model: Any, hidden: Tensor, spans: Sequence[tuple[int, int]], targets: Sequence[Sequence[int]]
) -> Tensor:
    """For each row, the summed log-probability of its targets, shape ``(rows,)``, float32.

    Args:
        model: A causal language model.
        hidden: Last hidden states, shape ``(rows, length, hidden)``.
        spans: Half-open ranges of the positions whose next tokens are scored.
        targets: Those next tokens, as many a row as its span has positions.
    """
    states = torch.cat([hidden[row, start:end] for row, (start, end) in enumerate(spans)])
    wanted = torch.tensor([token for row in targets for token in row], device=hidden.device)
    owner = torch.repeat_interleave(
        torch.arange(len(spans), device=hidden.device),
        torch.tensor([end - start for start, end in spans], device=hidden.device),
    )
    total = torch.zeros(len(spans), dtype=torch.float32, device=hidden.device)
    return total.index_add(0, owner, token_log_probabilities(model, states, wanted))


def token_log_probabilities(model: Any, states: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of each target after its state, shape ``(states,)``, float32.

    The vocabulary projection is done in chunks, and in training recomputed in the backward pass, so
    memory does not grow with the number of scored tokens.

    Args:
        model: A causal language model.
        states: Last hidden states, shape ``(states, hidden)``.
        targets: The next tokens, shape ``(states,)``.
    """

    def of_chunk(part: Tensor, tokens: Tensor) -> Tensor:
        logits = output_logits(model, part)
        return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

    pieces: list[Any] = []
    for part, tokens in zip(states.split(_CHUNK), targets.split(_CHUNK), strict=True):
        if torch.is_grad_enabled() and part.requires_grad:
            pieces.append(checkpoint(of_chunk, part, tokens, use_reentrant=False))
        else:
            pieces.append(of_chunk(part, tokens))
    return torch.cat(pieces)


def architecture_gives_own_logits(config: Any) -> bool:
    """Whether models of a configuration would pass :func:`gives_own_logits`, from one small layer of random weights.

    Logits are made large, so that a bound on them shows. An architecture that cannot be made so small passes here, and
    is looked at when its weights are loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        small = copy.deepcopy(config)
        text = small.get_text_config()
        text.num_hidden_layers, text.vocab_size = 1, 64
        if isinstance(getattr(text, "intermediate_size", None), int):
            text.intermediate_size = 64
        text.pad_token_id = text.bos_token_id = text.eos_token_id = None
        if isinstance(vars(text).get("layer_types"), list):
            text.layer_types = text.layer_types[:1]
        with torch.device("meta"):
            planned = AutoModelForCausalLM.from_config(small, trust_remote_code=False)
        if sum(weight.numel() for weight in planned.parameters()) > _LARGEST_LAYER:
            return True
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                small, dtype=torch.float32, trust_remote_code=False
            ).eval()
            with torch.no_grad():
                model.get_output_embeddings().weight.mul_(1000)
            return gives_own_logits(model)
    except Exception:  # sizes that belong together, kernels that are not here: nothing is known
        return True
