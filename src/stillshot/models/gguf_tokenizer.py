"""The tokenizer that a GGUF file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillshot.errors import ModelError

# How a text is split before merges, by the name in ``tokenizer.ggml.pre``. transformers (5.23) reads vocabulary and
# merges, but takes GPT-2's split for every name that it does not know. The names here were compared with llama.cpp on
# texts of all scripts whose merges cross every border (tests/invariants/test_gguf_tokenizers.py).
#
# Split by transformers as by llama.cpp, or as the model's own tokenizer does where llama.cpp's is an approximation
# (accents that are characters of their own: tekken, gpt-4o and kin).
_SPLIT_BY_TRANSFORMERS = frozenset({
    "a.x-4.0", "dbrx", "deepseek-r1-qwen", "exaone4", "f2llmv2", "falcon-h1", "falcon3", "gigachat", "gpt-2", "gpt-4o",
    "granite-docling", "jais", "jina-v5-nano", "kanana2", "kormo", "lfm2", "llama-bpe", "llama-v3", "llama3", "llama4",
    "megrez", "mellum", "midm-2.0", "minimax-m2", "mpt", "olmo", "phi-2", "pixtral", "qwen2", "qwen35", "smaug-bpe",
    "talkie", "tekken", "trillion",
})  # fmt: skip
# Digits one by one, then GPT-2's split.
_DIGITS_ALONE = frozenset({"codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"})
# The same split under another name.
_ALSO_CALLED = {
    "bailingmoe": "qwen2",
    "chatglm-bpe": "llama-bpe",
    "glm4": "llama-bpe",
    "grok-2": "qwen2",
    "hunyuan": "qwen2",
    "solar-open": "qwen2",
    "stablelm2": "qwen2",
}
_BYTE_LEVEL = "gpt2"  # of ``tokenizer.ggml.model``; other kinds split by their vocabulary alone


def write_tokenizer(file: Path, folder: Path) -> None:
    """Write the tokenizer of a GGUF file into a folder that transformers loads.

    Raises:
        ModelError: It would split texts otherwise than the model was trained with.
    """
    gguf_tokenizer(file).save_pretrained(folder)


def gguf_tokenizer(file: Path) -> Any:
    """The tokenizer in a GGUF file, splitting texts as the file says and llama.cpp does.

    Raises:
        ModelError: It cannot be read, or names a split that is not known here.
    """
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        facts, _ = read_gguf_metadata(str(file))
        kind, split = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre")
        if kind == _BYTE_LEVEL:
            _check_known(file, split)
        tokenizer: Any = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False
        )
    except ModelError:
        raise
    except Exception as error:  # damaged, or of a kind that transformers does not read
        said = str(error).strip().split("\n")[0]
        raise ModelError(
            f"The tokenizer of {file} cannot be read: {said.rstrip('.')}. Use the model's own folder or Hub id instead."
        ) from error
    if kind == _BYTE_LEVEL and split is not None:
        _split_as_named(tokenizer, split)
    return tokenizer


def _check_known(file: Path, split: str | None) -> None:
    if split in _SPLIT_BY_TRANSFORMERS or split in _DIGITS_ALONE or split in _ALSO_CALLED:
        return
    named = (
        f"names the split {split!r}, which is not known here" if split else "does not say how texts are split"
    )
    raise ModelError(
        f"The tokenizer of {file} {named}, so texts would be cut into other tokens than the model was trained with. Use the "
        "model's own folder or Hub id instead."
    )


def _split_as_named(tokenizer: Any, split: str) -> None:
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if split in _DIGITS_ALONE:
        first, use_regex = pre_tokenizers.Digits(individual_digits=True), True
    elif split in _ALSO_CALLED:
        pattern = Regex(GGUF_PRE_TOKENIZER_SPLITS[_ALSO_CALLED[split]])
        first, use_regex = pre_tokenizers.Split(pattern, behavior="isolated"), False
    else:
        return
    then = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, then])
