"""The errors Stillshot raises on purpose; each message says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StillshotError(Exception):
    """Base of every error raised on purpose. The command line prints it without a traceback.

    ``exit_code`` is 2 where the input is wrong and 1 where the work itself failed.
    """

    exit_code = 2


class RecipeError(StillshotError):
    """A recipe or task file has an unknown key, a wrong type, or values that contradict each other."""


class DataError(StillshotError):
    """A data file is missing, empty, malformed, or does not fit its task."""


class PromptError(StillshotError):
    """A pattern, label word or context cannot be turned into the prompt that was asked for."""


class ModelError(StillshotError):
    """A model id cannot be resolved, or a model cannot do what the recipe asks of it."""


class NoSuchExportError(ModelError):
    """A student cannot have a kind of export; ``why`` is the message without the advice to use other kinds."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why} {advice}")
        self.why = why


class RunFolderError(StillshotError):
    """An output folder belongs to another recipe, or a stage's input is not there yet."""


class WorkError(StillshotError):
    """The work was started and failed: a full disk, a killed process, numbers that are not finite."""

    exit_code = 1


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A sentence naming the nearest valid name and all of them.

    >>> did_you_mean("sst3", ["sst2", "imdb"])
    "Did you mean 'sst2'? Valid names: imdb, sst2."
    """
    names = sorted(valid)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}Valid names: {', '.join(names) or '(none)'}."
