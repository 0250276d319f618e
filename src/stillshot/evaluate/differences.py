"""Whether two recipes give the same results, and where they differ."""

from __future__ import annotations

from typing import Any

from stillshot.config import Recipe


def without_texts(recipe: Recipe) -> dict[str, Any]:
    """A recipe without the texts that change no result: its name and description, and its task's description."""
    content = recipe.model_dump(exclude={"name", "description"})
    if isinstance(content["task"], dict):
        del content["task"]["description"]
    return content


def first_difference(old: Any, new: Any, key: str = "") -> str:
    """Where two dumped recipes first differ, in words; empty where they do not.

    >>> first_difference({"seeds": [0]}, {"seeds": [0, 1]})
    'seeds has 1 entry there and 2 here'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        pairs = [(f"{key}.{name}".lstrip("."), old.get(name), new.get(name)) for name in names]
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{key} has {len(old)} entr{'y' if len(old) == 1 else 'ies'} there and {len(new)} here"
        pairs = [(f"{key}.{index}", a, b) for index, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new else f"{key} is {old!r} there and {new!r} here"
    return next((found for name, a, b in pairs if (found := first_difference(a, b, name))), "")
