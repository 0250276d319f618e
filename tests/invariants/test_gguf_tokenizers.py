"""Tokenizers read from GGUF files cut texts as llama.cpp does, for every way to split that is read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from gguf_doubles import ACCENTS, llama_cpp, texts, write_gguf

from stillshot.errors import ModelError
from stillshot.models import gguf_tokenizer as reading
from stillshot.models.gguf_tokenizer import gguf_tokenizer

# llama.cpp splits an accent from its letter; the model's own tokenizers, and transformers, do not.
_KEEP_ACCENTS = {"gpt-4o", "kanana2", "llama4", "minimax-m2", "talkie", "tekken"}
_KNOWN = sorted(reading._SPLIT_BY_TRANSFORMERS | reading._DIGITS_ALONE | reading._ALSO_CALLED.keys())


@pytest.mark.parametrize("split", _KNOWN)
def test_texts_are_split_as_llama_cpp_splits_them(split: str, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", split)
    tokenizer = gguf_tokenizer(file)
    probes = texts(120, 1)
    if split not in _KEEP_ACCENTS:
        probes += texts(30, 2, ("a", " ", "1", *ACCENTS))
    with llama_cpp(file) as tokens:
        for text in probes:
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == tokens(text), text


@pytest.mark.parametrize("split", sorted(_KEEP_ACCENTS))
def test_accents_stay_with_their_letters(split: str, tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer(write_gguf(tmp_path / "tiny.gguf", split))
    assert len(tokenizer("e\u0301", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("split", ["deepseek-v3", "of-the-future", None])
def test_a_split_that_is_not_known_is_refused(split: str | None, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", split)
    with pytest.raises(
        ModelError, match=r"other tokens than the model was trained with\. Use the model's own"
    ):
        gguf_tokenizer(file)


def test_the_list_has_all_that_transformers_splits_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A newer transformers that knows more names makes this fail, so that they are compared as well."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    caplog.set_level(logging.ERROR)
    assert set(GGUF_PRE_TOKENIZER_SPLITS) <= reading._SPLIT_BY_TRANSFORMERS
