"""All that can fail, before any model runs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from stillshot.config import Recipe
from stillshot.data.splits import FEW_ITEMS
from stillshot.errors import RecipeError
from stillshot.methods.cells import Setting, asked_settings, cells, settings
from stillshot.methods.data_doubts import cut_by_student, data_doubts
from stillshot.methods.materials import Materials
from stillshot.methods.selection import check_selection, named, variants
from stillshot.models import load
from stillshot.models.resolve import resolve_model
from stillshot.prompt.budget import fitted_contexts, fitted_prompts
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.writer import Kind, PromptWriter
from stillshot.student.heads import check_label_head, next_tokens, resolve_head
from stillshot.student.saved import build_featurizer
from stillshot.student.tuning import check_tuning
from stillshot.teacher import answers
from stillshot.teacher.local import LocalTeacher
from stillshot.types import Context, Example


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at and is right, or (``warning``) allowed but unwise."""

    what: str
    detail: str
    warning: bool = False


def check(recipe: Recipe, materials: Materials | None = None) -> list[Finding]:
    """Read all data, make all draws and prompts, and resolve all models; no weights are loaded.

    Args:
        recipe: What is to be run.
        materials: Its examples, where they have been read already.

    Raises:
        StillshotError: The first thing that would fail in a run.
    """
    materials = materials or Materials(recipe)
    if not recipe.data.in_domain and not recipe.data.out_of_domain:
        raise RecipeError(
            "The recipe evaluates on nothing. Name at least one set, e.g. data.in_domain: {test: test}."
        )
    findings = [Finding("task", f"{materials.task.name}: {', '.join(materials.task.labels)}")]
    findings += [
        Finding(
            "evaluation", f"{s.name}: {len(s.examples):,} items, {'in' if s.in_domain else 'out-of'}-domain"
        )
        for s in materials.evaluation_sets
    ]
    findings += [
        Finding(
            "few items",
            f"{s.name} has only {len(s.examples)}, so one item is {100 / len(s.examples):.0f} points of accuracy. "
            f"Evaluate on {FEW_ITEMS} at least.",
            warning=True,
        )
        for s in materials.evaluation_sets
        if len(s.examples) < FEW_ITEMS
    ]
    findings += [Finding(*doubt, warning=True) for doubt in data_doubts(recipe, materials)]
    findings += _check_budgets(recipe, materials)
    checked = _check_teacher(recipe, materials)
    findings += _amounts(recipe, materials)
    findings += checked
    findings += _check_students(recipe, materials)
    return findings


def _amounts(recipe: Recipe, materials: Materials) -> list[Finding]:
    """How much of the data is used, how often, and what is asked of the teacher."""
    data = recipe.data
    budgets = " or ".join(dict.fromkeys(f"{budget.labelled:,}" for budget in recipe.budgets))
    labelled = len({example.identity for example in materials.labelled})
    unlabelled = len({example.identity for example in materials.unlabelled})
    return [
        Finding("labelled", f"{budgets} of {labelled:,} different texts in {data.labelled}"),
        Finding(
            "unlabelled", f"{data.num_unlabelled:,} of {unlabelled:,} different texts in {data.unlabelled}"
        ),
        Finding(
            "runs",
            f"{_count(len(recipe.budgets), 'budget')} x {_count(len(recipe.seeds), 'seed')}, "
            f"{_count(len(cells(recipe)), 'cell')} in all",
        ),
        Finding("teacher prompts", _teacher_prompts(recipe, materials)),
    ]


def _teacher_prompts(recipe: Recipe, materials: Materials) -> str:
    """How many prompts the teacher reads at most: one a query, context and way of scoring."""
    teacher, limit = recipe.teacher, recipe.evaluation.teacher_items
    items = sum(len(s.part(limit)) for s in materials.evaluation_sets)
    ways = len(answers.kinds_of(teacher.scoring))
    labelling = sum(
        ways * len(_contexts(materials, setting)) * recipe.data.num_unlabelled
        for setting in asked_settings(recipe)
    )
    evaluating = 0
    for cell in cells(recipe):
        if cell.variant == "teacher":
            evaluating += ways * cell.setting.budget.num_contexts * items
        elif cell.student is None and cell.model == teacher.model:  # zero-shot, or one raw context
            evaluating += items
    more = "; some more to select how it is asked" if teacher.select else ""
    return f"up to {labelling:,} to label queries, up to {evaluating:,} to be evaluated{more}"


def _contexts(materials: Materials, setting: Setting) -> Sequence[Context]:
    return materials.draw(setting.budget, setting.seed, setting.control).contexts


def _check_budgets(recipe: Recipe, materials: Materials) -> list[Finding]:
    """What a small budget leaves out."""
    labels, findings = materials.task.labels, []
    for budget in recipe.budgets:
        if recipe.teacher.select:
            for seed in recipe.seeds:
                check_selection(materials.draw(budget, seed).labelled, labels)
        if budget.labelled < len(labels):
            detail = f"labelled {budget.labelled} leaves {len(labels) - budget.labelled} of {len(labels)} labels without one"
            findings.append(
                Finding("few labelled examples", f"{detail}; which, the seed decides.", warning=True)
            )
        if budget.shots == 1 and "shuffled_labels" in recipe.controls:
            detail = f"a context of one demonstration (labelled {budget.labelled}) has no labels to shuffle, so that"
            findings.append(Finding("controls", f"{detail} control is left out there.", warning=True))
    return findings


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _check_teacher(recipe: Recipe, materials: Materials) -> list[Finding]:
    teacher = LocalTeacher(recipe.teacher)
    load.check_causal(recipe.teacher.model, teacher.config, scored=True)
    task, prompt = materials.task, recipe.prompt
    writer = PromptWriter(task, prompt, teacher.encoder)
    kinds: list[Kind] = [*answers.kinds_of(recipe.teacher.scoring)]
    if {"zero_shot", "in_context"} & set(recipe.methods) and "direct" not in kinds:
        kinds.append("direct")
    ways: list[tuple[Kind, PromptWriter]] = [(kind, writer) for kind in kinds]
    if recipe.teacher.select:
        for kind, name in variants(task, prompt):
            ways.append((kind, PromptWriter(task, named(prompt, kind, name), teacher.encoder)))
    longest = 0
    for setting in settings(recipe):
        contexts, asked = _contexts(materials, setting), _asked(materials, setting)
        for kind, way in ways:
            longest = max(longest, _longest_prompt(way, kind, contexts, asked, teacher.window))
    words = ", ".join(
        f"{word!r} ({len(ids)} token{'s' if len(ids) > 1 else ''})"
        for word, ids in zip(writer.verbalizer.words, writer.verbalizer.token_ids, strict=True)
    )
    return [
        Finding("label words", words),
        Finding("prompts", f"longest {longest:,} tokens of a window of {teacher.window:,}"),
        Finding("teacher", f"{recipe.teacher.model}, prefix {teacher.prefix_mode}"),
        *_check_label_words(writer),
        *_check_chat(writer, recipe.teacher.model),
    ]


def _check_label_words(writer: PromptWriter) -> list[Finding]:
    """Label words of which one begins another: what ends them is scored too."""
    words = writer.verbalizer
    pairs = [
        f"those of {longer!r} begin with those of {shorter!r}" for shorter, longer in words.beginnings[:3]
    ]
    if not pairs:
        return []
    ending = writer.encoder.tokenizer.decode(list(words.ending))
    detail = (
        f"{'; '.join(pairs)}. So that either can win, {ending!r} is scored behind the words of every label; words that do "
        "not begin each other are better."
    )
    return [Finding("label words", detail, warning=True)]


def _check_chat(writer: PromptWriter, model: str) -> list[Finding]:
    if writer.chat_template is None or not writer.chat_template.changes_by_day:
        return []
    detail = (
        f"the chat template of {model} may write today's date into prompts, so that another day's are scored anew. Where it "
        "reads date_string, fix it: prompt.template_options: {date_string: ...}."
    )
    return [Finding("chat template", detail, warning=True)]


def _asked(materials: Materials, setting: Setting) -> list[Example]:
    """A few of the longest texts make the longest prompts, and stand for all that is asked."""
    return _longest(materials.all_asked(materials.draw(setting.budget, setting.seed)))


def _longest_prompt(
    writer: PromptWriter, kind: Kind, contexts: Sequence[Context], asked: Sequence[Example], window: int
) -> int:
    """Tokens of the longest prompt; an error where one is too long for the window."""
    fitted = fitted_contexts(writer, [kind], contexts, asked, window)
    prompts = [p for context in fitted for p in fitted_prompts(writer, kind, context, asked, window)]
    return max((len(s.ids) for p in prompts for s in p.sequences), default=0)


def _longest(examples: Sequence[Example]) -> list[Example]:
    """Those of most characters, and of most bytes: scripts and emoji take more tokens a character."""

    def characters(example: Example) -> int:
        return sum(map(len, example.fields.values()))

    def size(example: Example) -> int:
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in example.fields.values())

    most = [example for key in (characters, size) for example in heapq.nlargest(8, examples, key=key)]
    return list({example.key: example for example in most}.values())


def _check_students(recipe: Recipe, materials: Materials) -> list[Finding]:
    findings = []
    evaluated = _longest([e for s in materials.evaluation_sets for e in s.examples])
    for student in recipe.students:
        resolved = resolve_model(student.model, student.revision)
        config = load.load_config(resolved)
        head = resolve_head(student, config)
        if head == "label":
            check_label_head(student.model, config)
        else:
            load.check_causal(student.model, config, scored=True)
        tokenizer = load.load_tokenizer(resolved)
        featurizer = build_featurizer(materials.task, recipe.prompt, student, head, tokenizer, config)
        featurizer.features(evaluated)
        if not load.is_encoder(config):
            writer = PromptWriter(materials.task, recipe.prompt, PromptEncoder(tokenizer))
            if head == "channel":
                writer.require_channel()
            if head == "language_model":
                findings += _check_next_tokens(recipe, writer, student.model)
            if "zero_shot" in recipe.methods:
                fitted_prompts(writer, "direct", Context(), evaluated, load.window(config))
            if "in_context" in recipe.methods and "students" in recipe.in_context_models:
                for setting in (s for s in settings(recipe) if s.control is None):
                    contexts, asked = _contexts(materials, setting)[:1], _asked(materials, setting)
                    _longest_prompt(writer, "direct", contexts, asked, load.window(config))
        check_tuning(config, student.tuning, student.lora, classifies=head == "label")
        findings.append(Finding("student", f"{student.model}, {head} head, {student.tuning}"))
        window = min(load.window(config), tokenizer.model_max_length)
        if cut := cut_by_student(recipe, materials, student, featurizer, window):
            findings.append(Finding("long texts", cut, warning=True))
    return findings


def _check_next_tokens(recipe: Recipe, writer: PromptWriter, model: str) -> list[Finding]:
    """Label words of one token, also in other patterns where selection may choose them."""
    next_tokens(writer.verbalizer, model)
    if not recipe.teacher.select:
        return []
    several = [
        name
        for name in writer.task.patterns
        if not PromptWriter(
            writer.task, named(recipe.prompt, "direct", name), writer.encoder
        ).verbalizer.single_token
    ]
    detail = (
        f"teacher.select may choose a pattern whose label words are several tokens for {model} "
        f"({', '.join(several)}); its cells with head: language_model would then fail."
    )
    return [Finding("label words", detail, warning=True)] if several else []
