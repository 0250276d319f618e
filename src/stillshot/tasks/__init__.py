"""Task definitions: the built-in ones and those a user writes as YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from stillshot.config import Source, TaskDefinition
from stillshot.config_files import read_section, validated
from stillshot.errors import RecipeError, did_you_mean

__all__ = ["builtin_tasks", "load_task", "new_task"]

# What is filled in; any other brace in a pattern is text.
PLACEHOLDER = re.compile(r"\{(\w+)\}")
LABEL_WORDS = "label_words"
YAML_SUFFIXES = (".yaml", ".yml")


def builtin_tasks() -> tuple[str, ...]:
    """The names of the tasks that come with Stillshot, sorted."""
    folder = resources.files("stillshot.tasks") / "builtin"
    files = [Path(entry.name) for entry in folder.iterdir()]
    return tuple(sorted(file.stem for file in files if file.suffix in YAML_SUFFIXES))


def load_task(task: str | Path | TaskDefinition) -> TaskDefinition:
    """The task with this name, in this YAML file, or the given one; always checked.

    Args:
        task: A built-in name, the path of a ``.yaml`` or ``.yml`` file, or a definition.

    Returns:
        A task whose patterns name only its fields and whose sources are complete.

    >>> load_task("sst2").labels
    ['negative', 'positive']

    Raises:
        RecipeError: There is no such task or file, it is not a valid definition, or a pattern names
            something that is not a field.
    """
    if isinstance(task, TaskDefinition):
        where = f"task {task.name!r}"
        definition = task
    elif isinstance(task, Path) or task.endswith(YAML_SUFFIXES):
        where = str(task)
        definition = read_section(TaskDefinition, Path(task))
    else:
        where = f"built-in task {task!r}"
        definition = _builtin(task, where)
    _check_patterns(definition, where)
    _check_sources(definition, where)
    return definition


def new_task(
    name: str,
    fields: Sequence[str],
    labels: Sequence[str],
    label_words: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> TaskDefinition:
    """A task with plain patterns, for a start.

    One field is shown as it is, several behind their names; ``Label:`` and the label words follow. The
    channel puts the label words first; of several fields, it scores the last.

    Args:
        name: The task's name.
        fields: Text fields; each of letters, digits and underscores, so that patterns can name it.
        labels: At least two.
        label_words: By label; left out, each label's own text with spaces for ``_`` and ``-``.
        columns: How fields are named in files, where their columns have other names.

    >>> new_task("pairs", ["premise", "hypothesis"], ["yes", "not_sure"]).patterns["plain"].label_words
    {'yes': 'yes', 'not_sure': 'not sure'}

    Raises:
        RecipeError: There are too few labels or fields, a label is given twice, or a field cannot be named.
    """
    where = f"task {name!r}"
    for field in fields:
        if not re.fullmatch(r"\w+", field) or field == LABEL_WORDS:
            raise RecipeError(
                f"{where}: {field!r} cannot be a field. Use letters, digits and underscores, and not {LABEL_WORDS!r}."
            )
    words = dict(label_words) if label_words is not None else _own_words(labels)
    named = [f"{field.replace('_', ' ').capitalize()}: {{{field}}}" for field in fields]
    if len(fields) == 1:
        pattern, lead, text = f"{{{fields[0]}}}", "Label: {label_words}\n", f"{{{fields[0]}}}"
    else:
        pattern = "\n".join(named)
        before, _, after = "\n".join([*named[:-1], "Label: {label_words}", *named[-1:]]).rpartition(": ")
        lead, text = before + ":", " " + after
    definition = {
        "name": name,
        "labels": list(labels),
        "fields": list(fields),
        "patterns": {"plain": {"pattern": pattern, "target_prefix": "\nLabel: ", "label_words": words}},
        "channels": {"plain": {"lead": lead, "text": text, "label_words": words}},
    }
    if columns:
        definition["sources"] = {"local": {"splits": {}, "columns": dict(columns)}}
    return load_task(validated(TaskDefinition, definition, where))


def _own_words(labels: Sequence[str]) -> dict[str, str]:
    words = {label: " ".join(re.split(r"[_\-\s]+", label)).strip() or label for label in labels}
    return words if len(set(words.values())) == len(words) else {label: label for label in labels}


def _builtin(name: str, where: str) -> TaskDefinition:
    names = builtin_tasks()
    if name not in names:
        raise RecipeError(
            f"There is no built-in task {name!r}. {did_you_mean(name, names)} "
            "A task of your own is named by the path of its .yaml file."
        )
    with resources.as_file(resources.files("stillshot.tasks") / "builtin" / f"{name}.yaml") as path:
        return read_section(TaskDefinition, path)


def _check_patterns(task: TaskDefinition, where: str) -> None:
    for name, pattern in task.patterns.items():
        _check_placeholders(pattern.pattern, task.fields, f"{where}: patterns.{name}.pattern")
        _check_placeholders(pattern.target_prefix, (), f"{where}: patterns.{name}.target_prefix")
        _require_field(pattern.pattern, task.fields, f"{where}: patterns.{name}.pattern")
    for name, channel in task.channels.items():
        lead = f"{where}: channels.{name}.lead"
        _check_placeholders(channel.lead, [*task.fields, LABEL_WORDS], lead)
        if LABEL_WORDS not in PLACEHOLDER.findall(channel.lead):
            raise RecipeError(f"{lead} must hold {{{LABEL_WORDS}}}, where each label's words are put.")
        _check_placeholders(channel.text, task.fields, f"{where}: channels.{name}.text")
        _require_field(channel.text, task.fields, f"{where}: channels.{name}.text")


def _check_placeholders(text: str, valid: Iterable[str], where: str) -> None:
    allowed = list(valid)
    for placeholder in PLACEHOLDER.findall(text):
        if placeholder in allowed:
            continue
        if not allowed:
            raise RecipeError(f"{where} has the placeholder {{{placeholder}}}, but it holds plain text only.")
        raise RecipeError(
            f"{where} has the placeholder {{{placeholder}}}, which is not a field. "
            f"{did_you_mean(placeholder, allowed)}"
        )


def _require_field(text: str, fields: list[str], where: str) -> None:
    if not PLACEHOLDER.search(text):
        raise RecipeError(f"{where} shows no field. Put at least one in braces, e.g. {{{fields[0]}}}.")


def _check_sources(task: TaskDefinition, where: str) -> None:
    sources = {kind: getattr(task.sources, kind) for kind in type(task.sources).model_fields}
    for kind, source in sources.items():
        if source is not None:
            _check_source(kind, source, task, f"{where}: sources.{kind}")


def _check_source(kind: str, source: Source, task: TaskDefinition, where: str) -> None:
    expected, meaning = (int, "a number of pairs") if kind == "generated" else (str, "a name")
    for split, value in source.splits.items():
        if not isinstance(value, expected):
            raise RecipeError(f"{where}.splits.{split} must be {meaning}, not {value!r}.")
    if kind == "hub" and not source.path:
        raise RecipeError(f"{where}.path is required: the id of the data set on the Hub.")
    for column in source.columns:
        if column not in [*task.fields, *task.groups]:
            raise RecipeError(
                f"{where}.columns has the key {column!r}, which is not a field or group. "
                f"{did_you_mean(column, [*task.fields, *task.groups])}"
            )
