"""From a decoder student to a GGUF file, as llama.cpp reads it.

llama.cpp has classifiers for a few architectures only (a Llama's would be read at its first token), so a label
head is folded into the output matrix: the rows of the label words' tokens are those of the score layer, all others
are zero. The next-token logits at these tokens are then the student's logits, for every architecture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillshot.errors import ModelError, NoSuchExportError
from stillshot.prompt.writer import PromptWriter
from stillshot.student.features import ChannelFeaturizer, DecoderFeaturizer
from stillshot.student.heads import LanguageModelStudent
from stillshot.student.saved import Student
from stillshot.student.sidecar import Exported

MODEL_FILE = "model.gguf"
# Model types of transformers, by the name of their architecture in GGUF.
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How llama.cpp calls the ways in which byte-level tokenizers cut a text before merging.
_SPLITS = {_CONTRACTIONS + r"\p{N}" + _REST: "qwen2", _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def check_gguf(student: Student) -> None:
    """See that a student can be written as GGUF.

    Raises:
        ModelError: It is an encoder, or its architecture, positions or tokenizer are not among those that are
            written; or the package gguf is not installed.
    """
    config = student.model.config
    known = ", ".join(_ARCHITECTURES)
    if not isinstance(student.featurizer, DecoderFeaturizer | ChannelFeaturizer):
        raise NoSuchExportError(
            f"GGUF is for decoders; {student.section.model} ({config.model_type}) is an encoder.",
            "Use --to onnx.",
        )
    if config.model_type not in _ARCHITECTURES:
        raise NoSuchExportError(
            f"GGUF is written for {known} models, not for {config.model_type}.",
            "Use --to onnx, or --to merged and llama.cpp's own converter.",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise NoSuchExportError(
            f"{student.section.model} scales its positions ({rope['rope_type']}), which is not written to GGUF.",
            "Use --to merged and llama.cpp's own converter.",
        )
    _split_name(student.tokenizer)
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ModelError("GGUF needs the package gguf. Run: pip install 'stillshot[export]'") from None


def write_gguf(student: Student, folder: Path) -> Exported:
    """Write ``model.gguf``: matrices in float16, vectors in float32, and the tokenizer.

    Returns:
        What the sidecar says of the file: with a label or language-model head, the token of each label.
    """
    import gguf

    config = student.model.config
    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(folder / MODEL_FILE, architecture)
    tokens = None if student.head == "channel" else _label_tokens(student)
    _add_sizes(writer, config, student)
    _add_tokenizer(writer, student, config.vocab_size)
    writer.add_array("stillshot.labels", student.task.labels)
    if tokens is not None:
        writer.add_array("stillshot.label_tokens", tokens)
        writer.add_string("stillshot.template", student.sidecar().template)
    names = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture),
        config.num_hidden_layers,
    )
    for name, weight in _weights(student, tokens):
        if architecture == "llama" and (heads := _rotated_heads(name, config)):
            weight = _interleaved(weight, heads)
        kind = np.float16 if weight.dim() > 1 else np.float32
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ModelError(f"{student.section.model} has weights that GGUF has no name for: {name}.")
        writer.add_tensor(known, weight.float().numpy().astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Exported(kind="gguf", file=MODEL_FILE, label_tokens=tokens)


# Weights -----------------------------------------------------------------------------------------


def _weights(student: Student, tokens: Sequence[int] | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights of a causal language model that answers as the student does."""
    model = student.model
    if isinstance(model, LanguageModelStudent):
        plain = model.plain()
        tied = plain.config.tie_word_embeddings
        yield from ((n, w) for n, w in plain.state_dict().items() if not (tied and n == "lm_head.weight"))
        return
    assert tokens is not None
    yield from ((n, w) for n, w in model.state_dict().items() if n != "score.weight")
    output = torch.zeros(model.config.vocab_size, model.config.hidden_size)
    output[list(tokens)] = model.score.weight.detach().float()
    yield "lm_head.weight", output


def _rotated_heads(name: str, config: Any) -> int:
    """Heads of a projection whose channels carry positions; 0 for other weights."""
    if ".q_proj." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".k_proj." in name else 0


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The halves of a head's channels that rotate together, put side by side: llama.cpp's order for Llama."""
    rows = weight.shape[0] // heads
    return weight.reshape(heads, 2, rows // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _label_tokens(student: Student) -> list[int]:
    """The token that stands for each label: its label word, or a letter where label words are several tokens."""
    verbalizer = _prompt_writer(student).verbalizer
    if verbalizer.single_token:
        return [ids[0] for ids in verbalizer.token_ids]
    vocabulary = student.tokenizer.get_vocab()
    letters = [vocabulary[letter] for letter in _LETTERS if letter in vocabulary]
    if len(letters) < len(student.task.labels):
        raise ModelError(
            f"The task has {len(student.task.labels)} labels of several tokens, and {student.section.model} has no "
            f"token of one letter for more than {len(letters)}. Use --to onnx, or label words of one token."
        )
    return letters[: len(student.task.labels)]


def _prompt_writer(student: Student) -> PromptWriter:
    assert isinstance(student.featurizer, DecoderFeaturizer | ChannelFeaturizer)
    return student.featurizer.writer


# Metadata ----------------------------------------------------------------------------------------


def _add_sizes(writer: Any, config: Any, student: Student) -> None:
    import gguf

    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(student.task.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, student: Student, vocabulary_size: int) -> None:
    import gguf

    tokenizer = student.tokenizer
    tokens = [f"[PAD{index}]" for index in range(vocabulary_size)]
    types = [gguf.TokenType.UNUSED] * vocabulary_size
    for token, index in tokenizer.get_vocab().items():
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
    for index, added in tokenizer.added_tokens_decoder.items():
        tokens[index] = added.content
        types[index] = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
    merges = _backend(tokenizer)["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    for kind in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{kind}_token_id")
        if index is not None:
            getattr(writer, f"add_{kind}_token_id")(index)
    encoder = _prompt_writer(student).encoder
    writer.add_add_bos_token(bool(encoder.start) and not student.prompt.chat)
    writer.add_add_eos_token(False)


def _split_name(tokenizer: Any) -> str:
    """What llama.cpp calls the way in which the tokenizer cuts a text before merging.

    Raises:
        ModelError: It is none of those that are known here.
    """
    backend = _backend(tokenizer)
    before = backend["pre_tokenizer"] or {}
    steps = before.get("pretokenizers", [before])
    kinds = [step.get("type") for step in steps]
    name = None
    if (
        backend["model"]["type"] == "BPE"
        and kinds[-1:] == ["ByteLevel"]
        and not steps[-1]["add_prefix_space"]
    ):
        regex = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and regex:
            name = "gpt-2"
        elif kinds == ["Digits", "ByteLevel"] and regex and steps[0]["individual_digits"]:
            name = "smollm"
        elif kinds == ["Split", "ByteLevel"] and not regex:
            name = _SPLITS.get(steps[0]["pattern"].get("Regex", ""))
    if name is None:
        raise NoSuchExportError(
            f"The tokenizer of {tokenizer.name_or_path!r} is none that is written to GGUF here (byte-level tokenizers "
            "of GPT-2, SmolLM, Llama 3 and Qwen 2).",
            "Use --to merged and llama.cpp's own converter.",
        )
    return name


def _backend(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())
