"""GGUF files: how they are named and found, and what becomes of their weights."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_doubles import write_gguf
from transformers import AutoModelForCausalLM, GgufConfig
from typer.testing import CliRunner

from stillshot.cli.main import app
from stillshot.errors import ModelError
from stillshot.models import converted, gguf_files, gguf_weights, load
from stillshot.models.resolve import hub_name, is_here, resolve_model, weights_fingerprint
from stillshot.report import names
from stillshot.working import telling


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("STILLSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(gguf_files.FOLDER, raising=False)
    return tmp_path / "cache"


def by_transformers(file: Path) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [2**30, 100_000])
def test_weights_are_those_that_transformers_reads(
    tied: bool, shard_bytes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A tensor at a time, tables in parts and files in shards, they are bit for bit the same."""
    monkeypatch.setattr(gguf_weights, "_SHARD_BYTES", shard_bytes)
    monkeypatch.setattr(gguf_weights, "_ROWS", 1000)
    file = write_gguf(tmp_path / "tiny.gguf", tied=tied)
    resolved = resolve_model(str(file))
    ours = load.load_causal_lm(resolved, torch.bfloat16)
    theirs = by_transformers(file).state_dict()
    assert ours.config.tie_word_embeddings is tied
    files = len(list(Path(resolved.location).glob("*.safetensors")))
    assert files == 1 if shard_bytes == 2**30 else files > 2
    found = ours.state_dict()
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[name], theirs[name]) for name in theirs)


def test_a_file_is_read_once_and_named_by_its_content(tmp_path: Path) -> None:
    told = []
    file = write_gguf(tmp_path / "tiny.gguf")
    with telling(lambda *report: told.append(report)):
        first = resolve_model(str(file))
    assert ("tiny.gguf", "reading its weights", 20, 20) in told
    file.rename(tmp_path / "other.gguf")
    with telling(lambda *_: pytest.fail("read again")):
        again = resolve_model(str(tmp_path / "other.gguf"))
    assert again.location == first.location
    assert weights_fingerprint(again) == weights_fingerprint(first)
    changed = resolve_model(str(write_gguf(tmp_path / "changed.gguf", tied=False)))
    assert weights_fingerprint(changed) != weights_fingerprint(first)


def _resolve(file: str) -> str:
    return resolve_model(file).location


def test_two_processes_read_one_file_into_one_folder(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(_resolve, [str(file)] * 2)
    assert first == second
    assert [path for path in (cache / "models").iterdir() if path.suffix != ".lock"] == [Path(first)]
    load.load_causal_lm(resolve_model(str(file)), torch.bfloat16)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"without": "blk.1.ffn_up.weight"}, r"it lacks model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"extra": {"blk.0.odd.weight": np.ones(4, np.float32)}}, r"no place for its blk\.0\.odd\.weight"),
        ({"scaling": "yarn"}, r"positions are scaled \(yarn\)"),
        ({"extra": {"rope_freqs.weight": np.full(8, 3.0, np.float32)}}, "not those of Llama 3"),
        ({"architecture": "of-the-future"}, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(settings: dict, said: str, tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", **settings)
    with pytest.raises(ModelError, match=said):
        resolve_model(str(file))
    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model" * 100])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        resolve_model(str(file))


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be read"):
        resolve_model(str(file))


def test_the_scaled_positions_of_llama_3_are_taken_up(tmp_path: Path) -> None:
    """The file has factors for frequencies, transformers the rule that they come from."""
    settings = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 10000.0,
    }
    plain = load.load_config(resolve_model(str(write_gguf(tmp_path / "plain.gguf"))))
    factors = gguf_weights._factors(plain, settings).numpy().astype(np.float32)
    assert factors.max() == pytest.approx(32)
    file = write_gguf(tmp_path / "scaled.gguf", extra={"rope_freqs.weight": factors})
    config = load.load_config(resolve_model(str(file)))
    assert {name: config.rope_parameters[name] for name in settings} == settings
    even = write_gguf(tmp_path / "even.gguf", extra={"rope_freqs.weight": np.ones(8, np.float32)})
    assert load.load_config(resolve_model(str(even))).rope_parameters["rope_type"] == "default"


def test_init_measures_texts_with_a_teachers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "teacher.gguf")
    rows = "".join(
        f"the word {n} {'good' if n % 2 else 'bad'},{'yes' if n % 2 else 'no'}\n" for n in range(60)
    )
    (tmp_path / "tickets.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    done = CliRunner().invoke(app, ["init", "tickets.csv", "--teacher", "teacher.gguf"])
    assert done.exit_code == 0, done.output
    assert "model: teacher.gguf" in (tmp_path / "recipe.yaml").read_text()
    done = CliRunner().invoke(app, ["check", "recipe.yaml"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["init", "tickets.csv", "-o", "again.yaml", "--teacher", "gone.gguf"])
    assert done.exit_code == 2
    assert "There is no GGUF file gone.gguf" in done.output


# Names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shown", "repository"),
    [
        ("models/Tiny-Q8_0.gguf", "Tiny-Q8_0", None),
        ("owner/Tiny-Instruct-GGUF:q4_k_m", "Tiny-Instruct-q4_k_m", "owner/Tiny-Instruct-GGUF"),
        ("owner/Tiny-GGUF:parts/tiny.gguf", "tiny", "owner/Tiny-GGUF"),
        ("owner/Tiny-GGUF:UD-IQ2_XXS", "Tiny-UD-IQ2_XXS", "owner/Tiny-GGUF"),
    ],
)
def test_names(model: str, shown: str, repository: str | None) -> None:
    assert gguf_files.is_gguf(model)
    assert names.model_name(model) == shown
    assert hub_name(model) == repository


@pytest.mark.parametrize(
    "model", ["owner/name", "bundled:minilm-l6", "random:tiny-opt", "owner/name:main", "./folder"]
)
def test_other_names_are_no_gguf_files(model: str) -> None:
    assert not gguf_files.is_gguf(model)


def test_files_are_found_in_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the name that the Hub's file has, or by the repository's with the type of the weights."""
    folder = tmp_path / "models"
    folder.mkdir()
    file = write_gguf(folder / "tiny-instruct-q8_0.gguf")
    write_gguf(folder / "larger-q8_0.gguf", tied=False)
    monkeypatch.setenv(gguf_files.FOLDER, str(folder))
    asked = [
        "owner/Tiny-Instruct-GGUF:Q8_0",
        "owner/any:tiny-instruct-q8_0.gguf",
        "owner/any:sub/tiny-instruct-q8_0.gguf",
        "tiny-instruct-q8_0.gguf",
    ]
    for model in asked:
        assert gguf_files.find_gguf(model) == file
        assert is_here(model)
    assert not is_here("owner/Tiny-GGUF:Q8_0")
    assert not is_here("owner/Tiny-Instruct-GGUF:Q4_0")


def test_files_that_are_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(gguf_files.FOLDER, str(tmp_path))
    with pytest.raises(ModelError, match=r"no GGUF file gone\.gguf, nor in the folder"):
        resolve_model("gone.gguf")
    for model in ("owner/gone:Q4_0", "owner/gone:gone.gguf"):
        with pytest.raises(ModelError, match="the Hugging Face Hub cannot be reached"):
            resolve_model(model)
        with pytest.raises(ModelError, match="the Hugging Face Hub cannot be reached"):
            gguf_files.check_at_hand(model)


def downloaded(home: Path, repository: str, *files: str) -> None:
    """Lay files out as the Hub's own client keeps what it has downloaded."""
    folder = home / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("c" * 40)
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        write_gguf(snapshot / file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c" * 40)


def test_files_that_were_downloaded_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    downloaded(tmp_path, "owner/Tiny-GGUF", "Tiny-Q8_0.gguf", "Tiny-Q4_0.gguf", "Tiny-IQ4_XS.gguf")
    for model in ("owner/Tiny-GGUF:q8_0", "owner/Tiny-GGUF:Tiny-Q8_0.gguf"):
        assert is_here(model)
        assert gguf_files.find_gguf(model).name == "Tiny-Q8_0.gguf"
    with pytest.raises(ModelError, match=r"no GGUF file of type 'Q4_K_M'.*(IQ4_XS|Q4_0)"):
        gguf_files.find_gguf("owner/Tiny-GGUF:Q4_K_M")


def test_a_model_in_parts_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    downloaded(tmp_path, "owner/Tiny-GGUF", *(f"Tiny-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)))
    with pytest.raises(ModelError, match="llama-gguf-split --merge"):
        gguf_files.find_gguf("owner/Tiny-GGUF:Q8_0")


def test_reading_needs_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'stillshot\[demo\]'"):
        resolve_model(str(file))


def test_a_damaged_folder_is_made_again(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    folder = Path(resolve_model(str(file)).location)
    assert folder.name.endswith(f"-{converted.CONVERSION}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text("{}")
    assert json.loads((Path(resolve_model(str(file)).location) / "config.json").read_text()) == config
