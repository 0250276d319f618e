"""What a model folder may hold: data alone. Nothing in it is run, and nothing in it points outside.

Model folders come from strangers. ``trust_remote_code=False`` stops the loading library from running Python files
that a folder brings, and from asking about it on standard input; the checks here cover the other ways in which a
folder can bring code, read other files, or keep a reader busy without end. `SECURITY.md` is the summary for users.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from stillshot.errors import ModelError

# Of a JSON file beside the weights; a tokenizer's own file is read by its library, which bounds its depth.
LARGEST_SIDE_FILE_BYTES = 64 * 1024 * 1024
# More than any model has; a configuration that names more would be built without end.
MOST_LAYERS = 10_000
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
# Attention that transformers has itself; other names load a package of kernels, from the Hub too.
_OWN_ATTENTION = ("eager", "sdpa", "flex_attention")


def check_folder(folder: Path) -> None:
    """See that a folder's JSON files can be read safely, and that its weights are its own.

    Raises:
        ModelError: A file is too large or too deeply nested, is not what its name says, or points outside the folder.
    """
    for file in sorted(folder.glob("*.json")):
        if file.name in _TOKENIZER_FILES:
            continue
        content = read_json(file)
        if file.name.endswith(".index.json"):
            _check_index(file, content)
        elif file.name == "adapter_config.json":
            _check_adapter(file, content)


def read_json(file: Path) -> Any:
    """The content of a JSON file that a stranger may have written.

    Raises:
        ModelError: It is too large, too deeply nested, or is no JSON.
    """
    try:
        if file.stat().st_size > LARGEST_SIDE_FILE_BYTES:
            raise ModelError(
                f"{file} has more than {LARGEST_SIDE_FILE_BYTES // 2**20} MiB, which no such file needs; it is not read. "
                "Copy the folder again."
            )
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelError(
            f"{file} is nested too deeply to be read. Copy the folder again from its source."
        ) from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ModelError(f"{file} is not JSON ({error}). Copy the folder again from its source.") from None


def inside(name: object) -> bool:
    """Whether a file's name stays inside the folder that it is relative to, on any system.

    >>> [inside(name) for name in ("model.gguf", "parts/1.bin", "../model.gguf", "/etc/hosts", "C:\\\\x")]
    [True, True, False, False, False]
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    return all(
        not path.is_absolute() and not path.drive and ".." not in path.parts
        for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def _check_index(file: Path, content: Any) -> None:
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise ModelError(f"{file} has no weight_map, so it is no index of weights. Copy the folder again.")
    outside = next((name for name in weight_map.values() if not inside(name)), None)
    if outside is not None:
        raise ModelError(
            f"{file} points to weights outside its folder ({outside!r}); nothing was loaded. Use a folder that holds its "
            "own weights."
        )


def _check_adapter(file: Path, content: Any) -> None:
    settings = content if isinstance(content, dict) else {}
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{file} describes adapters of kind {kind!r}; only LORA is read.")
    named = [name for name in ("megatron_config", "auto_mapping") if _names_code(name, settings.get(name))]
    if not isinstance(settings.get("init_lora_weights", True), bool):
        named.append("init_lora_weights")
    if named:
        raise ModelError(
            f"{file} sets {named[0]}, which makes the loading library import or compute more than adapters need; it is not "
            "loaded. Set it to null."
        )


def _names_code(name: str, value: Any) -> bool:
    """Whether a key of an adapter's configuration makes code run: PEFT notes transformers' classes by itself."""
    if name == "auto_mapping" and isinstance(value, dict):
        return not str(value.get("parent_library", "transformers")).startswith("transformers")
    return value is not None


def check_config(model: str, config: Any) -> None:
    """See that a configuration names no code beyond transformers, and no size that never ends.

    Args:
        model: Its id, for messages.
        config: As transformers has read it.

    Raises:
        ModelError: It names a package of kernels, or more layers than any model has.
    """
    for part in _parts(config):
        for key in ("_attn_implementation", "_experts_implementation"):
            name = getattr(part, key, None)
            if key == "_attn_implementation" and name is not None and name not in _OWN_ATTENTION:
                raise ModelError(
                    f"The configuration of {model!r} names the attention {name!r}, for which a package of kernels would be "
                    f"loaded; that is not done. Remove attn_implementation from its config.json, or set it to one of "
                    f"{', '.join(_OWN_ATTENTION)}."
                )
            if isinstance(name, str) and "/" in name:
                raise ModelError(
                    f"The configuration of {model!r} names the kernels {name!r}, which are not loaded. Remove "
                    f"{key.strip('_')} from its config.json."
                )
        layers = getattr(part, "num_hidden_layers", None)
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise ModelError(
                f"The configuration of {model!r} has {layers:,} layers, more than any model; its config.json is damaged."
            )


def _parts(config: Any) -> Iterator[Any]:
    """The configuration and those inside it (of a model with text and images)."""
    yield config
    for name in getattr(config, "sub_configs", None) or ():
        part = getattr(config, name, None)
        if part is not None:
            yield from _parts(part)


def is_refused_code(error: BaseException) -> bool:
    """Whether transformers has refused to run code that a model brings."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def code_refusal(model: str) -> ModelError:
    """The error for a model that needs code of its own."""
    return ModelError(
        f"The model {model!r} brings Python code of its own (auto_map in its configuration), which is never run here. Use a "
        "model whose architecture transformers has."
    )
