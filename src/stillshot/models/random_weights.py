"""Real architectures with random weights: for memory, size and speed, and for fast tests.

Never for accuracy. ``random:facebook/opt-1.3b`` has the published shape; ``random:tiny-llama`` and its
kin have two layers. All share a byte-level tokenizer that is built in memory.
"""

from __future__ import annotations

from typing import Any

from stillshot.errors import ModelError, did_you_mean

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320}
_TINY_WINDOW = {"max_position_embeddings": 2048}


def _opt(hidden: int, layers: int, heads: int, vocab: int = 50272) -> tuple[str, dict[str, Any]]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return "opt", {**sizes, "ffn_dim": 4 * hidden, "vocab_size": vocab, "word_embed_proj_dim": hidden}


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "facebook/opt-125m": _opt(768, 12, 12),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
    "tiny-opt": _opt(32, 2, 4, vocab=320),
    "tiny-llama": ("llama", {**_TINY, **_TINY_WINDOW, "num_key_value_heads": 2, "intermediate_size": 64}),
    "tiny-qwen2": ("qwen2", {**_TINY, **_TINY_WINDOW, "num_key_value_heads": 2, "intermediate_size": 64}),
    "tiny-gpt_neox": ("gpt_neox", {**_TINY, **_TINY_WINDOW, "intermediate_size": 64}),
    "tiny-gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048, "vocab_size": 320}),
    "tiny-bert": ("bert", {**_TINY, **_TINY_WINDOW, "intermediate_size": 64}),
}
_ENCODERS = {"bert"}
_SPECIAL_TOKENS = {"pad": 0, "bos": 1, "eos": 2, "unk": 3}


def random_config(shape: str) -> Any:
    """The transformers configuration of a shape.

    Raises:
        ModelError: There is no such shape.
    """
    from transformers import AutoConfig

    if shape not in SHAPES:
        raise ModelError(f"There is no random:{shape}. {did_you_mean(shape, SHAPES)}")
    model_type, sizes = SHAPES[shape]
    tokens = {f"{name}_token_id": number for name, number in _SPECIAL_TOKENS.items() if name != "unk"}
    return AutoConfig.for_model(model_type, **sizes, **tokens)


def random_tokenizer(shape: str) -> Any:
    """A byte-level tokenizer whose common words (`` Yes``, `` No``, ...) are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [f"<{name}>" for name in _SPECIAL_TOKENS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*special, *alphabet])}
    merges = []
    for word in ("ĠYes", "ĠNo", "ĠTrue", "ĠFalse", "Ġpositive", "Ġnegative"):
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append(pair)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    config = random_config(shape)
    if config.model_type == "opt":  # OPT's own tokenizer puts a begin-of-sequence token first
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", _SPECIAL_TOKENS["bos"])]
        )
    if config.model_type in _ENCODERS:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>",
            pair="<bos> $A <eos> $B:1 <eos>:1",
            special_tokens=[("<bos>", _SPECIAL_TOKENS["bos"]), ("<eos>", _SPECIAL_TOKENS["eos"])],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=f"random:{shape}",
        model_max_length=int(getattr(config, "max_position_embeddings", 2048)),
        **{f"{name}_token": f"<{name}>" for name in _SPECIAL_TOKENS},
    )
