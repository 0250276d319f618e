"""The tokenizer that a GGUF file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# How llama.cpp splits a text before merging, by the name in ``tokenizer.ggml.pre``, where transformers reads another
# split (5.23 knows no "smollm" and takes GPT-2's: white space before a digit is then cut in two).
_DIGITS_ALONE = ("smollm",)


def gguf_tokenizer(folder: Path, file: str) -> Any:
    """The tokenizer in a GGUF file, splitting texts as the file says and llama.cpp does.

    transformers reads the vocabulary and the merges. Its split is replaced where the file names one that it does
    not know.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
    if _split_name(folder / file) in _DIGITS_ALONE:
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _split_name(file: Path) -> str | None:
    import gguf

    found = gguf.GGUFReader(file).get_field("tokenizer.ggml.pre")
    return None if found is None else str(found.contents())
