"""Tiny random models of many families, with the tokenizers that real ones have, saved as folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from doubles import stir
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 256,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<start>", "<end>"]
VOCABULARY = 400
_WORDS = (" Yes", " No", " good", " bad", "Review", " Good")
CHATML = (
    "{% for m in messages %}<start>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
THOUGHTFUL = (
    CHATML.removesuffix("{% endif %}")
    + "{% if not (enable_thinking is defined and not enable_thinking) %}<think>\n{% endif %}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """One kind of model folder.

    Attributes:
        model_type: As transformers names it.
        sizes: Of its configuration.
        encoder: Whether it reads in both directions.
        adds: Special tokens that the tokenizer puts around a text: of ``<bos>``, ``<eos>``.
        has: Special tokens that the tokenizer names, of ``pad``, ``bos``, ``eos``.
        metaspace: Whether words are marked as SentencePiece does, instead of by bytes.
        pads_left: Whether the tokenizer pads on the left.
        template: The chat template.
        prompt: Keys of a recipe's prompt section.
    """

    model_type: str
    sizes: dict[str, Any] = field(default_factory=lambda: dict(_GROUPED))
    encoder: bool = False
    adds: tuple[str, ...] = ()
    has: tuple[str, ...] = ("pad", "bos", "eos")
    metaspace: bool = False
    pads_left: bool = False
    template: str | None = None
    prompt: dict[str, Any] = field(default_factory=dict)


_BEFORE, _AROUND = ("<bos>",), ("<bos>", "<eos>")
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_HEAD = {**_GROUPED, "head_dim": 8}

DECODERS: dict[str, Family] = {
    # Tokenizers, each with a Llama.
    "llama-bos": Family("llama", adds=_BEFORE),
    "llama-bos-eos": Family("llama", adds=_AROUND),
    "llama-eos-behind": Family("llama", adds=("<eos>",)),
    "llama-end-token-alone": Family("llama", has=("eos",)),
    "llama-no-padding-token": Family("llama", adds=_BEFORE, has=("bos", "eos"), pads_left=True),
    "llama-padding-token-alone": Family("llama", has=("pad",)),
    "llama-pads-left": Family("llama", pads_left=True),
    "llama-metaspace": Family("llama", adds=_BEFORE, has=("bos", "eos"), metaspace=True),
    # Chat templates.
    "llama-chatml": Family("llama", template=CHATML, prompt={"chat": True, "instruction": "Judge."}),
    "llama-chat-bos": Family("llama", adds=_BEFORE, template=WITH_BOS, prompt={"chat": True}),
    "llama-chat-no-system": Family("llama", adds=_BEFORE, template=NO_SYSTEM, prompt={"chat": True}),
    "llama-chat-thinking-off": Family(
        "llama", template=THOUGHTFUL, prompt={"chat": True, "template_options": {"enable_thinking": False}}
    ),
    "llama-chat-thought-closed": Family(
        "llama", template=THOUGHTFUL, prompt={"chat": True, "answer_prefix": "</think>\n\n"}
    ),
    # Architectures.
    "qwen2": Family("qwen2", has=("pad", "eos")),
    "qwen3": Family("qwen3", _HEAD, has=("pad", "eos")),
    "mistral": Family("mistral", _HEAD, adds=_BEFORE, has=("bos", "eos"), metaspace=True),
    "smollm3": Family("smollm3", has=("pad", "eos")),
    "gemma": Family("gemma", _HEAD, adds=_BEFORE, metaspace=True),
    "phi": Family("phi", has=("bos", "eos")),
    "phi3": Family("phi3", adds=_BEFORE),
    "olmo2": Family("olmo2", has=("pad", "eos")),
    "stablelm": Family("stablelm", has=("eos",)),
    "starcoder2": Family("starcoder2", has=("eos",)),
    "opt": Family(
        "opt",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32,
         "max_position_embeddings": 256},
        adds=_BEFORE,
    ),
    "gpt2": Family("gpt2", _GPT2, has=("eos",)),
    "gpt2-pads-left": Family("gpt2", _GPT2, pads_left=True),
    "gpt_neox": Family("gpt_neox", _SIZES, has=("eos",)),
    "gptj": Family("gptj", {**_GPT2, "rotary_dim": 8}, has=("eos",)),
    "bloom": Family("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "biogpt": Family("biogpt", _SIZES),
}  # fmt: skip

ENCODERS: dict[str, Family] = {
    "bert": Family("bert", _SIZES, encoder=True, adds=_AROUND),
    "bert-pads-left": Family("bert", _SIZES, encoder=True, adds=_AROUND, pads_left=True),
    "bert-nothing-around": Family("bert", _SIZES, encoder=True),
    "roberta": Family("roberta", {**_SIZES, "type_vocab_size": 1}, encoder=True, adds=_AROUND),
    "xlm-roberta": Family("xlm-roberta", {**_SIZES, "type_vocab_size": 1}, encoder=True, adds=_AROUND, metaspace=True),
    "camembert": Family("camembert", {**_SIZES, "type_vocab_size": 1}, encoder=True, adds=_AROUND),
    "mpnet": Family("mpnet", _SIZES, encoder=True, adds=_AROUND),
    "distilbert": Family(
        "distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 256},
        encoder=True, adds=_AROUND,
    ),
    "deberta-v2": Family(
        "deberta-v2",
        {**_SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "position_buckets": 64},
        encoder=True, adds=_AROUND,
    ),
    "electra": Family("electra", {**_SIZES, "embedding_size": 32}, encoder=True, adds=_AROUND),
    "albert": Family("albert", {**_SIZES, "embedding_size": 16}, encoder=True, adds=_AROUND, metaspace=True),
    "modernbert": Family("modernbert", _SIZES, encoder=True, adds=_AROUND),
}  # fmt: skip


def save_family(family: Family, folder: Path) -> Path:
    """Write a folder with a model of the family, its weights far from their initial values."""
    tokenizer = _tokenizer(family)
    ids = {
        f"{name}_token_id": _SPECIAL.index(f"<{name}>") if name in family.has else None
        for name in ("pad", "bos", "eos")
    }
    config = AutoConfig.for_model(family.model_type, **{"vocab_size": VOCABULARY, **family.sizes, **ids})
    torch.manual_seed(0)
    model = (AutoModel if family.encoder else AutoModelForCausalLM).from_config(config)
    stir(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(family: Family) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = "▁" if family.metaspace else "Ġ"
    first = [f"<0x{byte:02X}>" for byte in range(256)] if family.metaspace else alphabet
    letters = [chr(code) for code in range(33, 127)] if family.metaspace else []
    tokens = [*_SPECIAL, *first, *([space, *letters] if family.metaspace else [])]
    merges: list[tuple[str, str]] = []
    for word in (w.replace(" ", space) for w in _WORDS):
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=family.metaspace)
    )
    if family.metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=space, prepend_scheme="first")
        backend.decoder = decoders.Sequence(
            [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    if family.adds:
        before = "<bos> " if "<bos>" in family.adds else ""
        behind = " <eos>" if "<eos>" in family.adds else ""
        backend.post_processor = processors.TemplateProcessing(
            single=f"{before}$A{behind}",
            pair=f"{before}$A{behind} $B{behind}",
            special_tokens=[(name, _SPECIAL.index(name)) for name in family.adds],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        padding_side="left" if family.pads_left else "right",
        **{f"{name}_token": f"<{name}>" for name in family.has},
    )
    if family.template:
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [AddedToken("<start>", special=True), AddedToken("<end>", special=True)]}
        )
        tokenizer.chat_template = family.template
    return tokenizer
