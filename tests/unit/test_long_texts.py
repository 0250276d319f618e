"""Long texts: what is tokenized of them, which part is kept, and that the cut is reported."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_calls import call, refused, write_jsonl
from doubles import PAIRS, SENTIMENT
from serving_doubles import save_tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from stillshot.config import Prompt, TaskDefinition
from stillshot.config import Student as StudentSection
from stillshot.deploy.predictor import load_predictor
from stillshot.errors import PromptError
from stillshot.models.random_weights import random_tokenizer
from stillshot.prompt.budget import fitted_prompts
from stillshot.prompt.encoder import PromptEncoder
from stillshot.prompt.long_texts import readable_part
from stillshot.prompt.writer import PromptWriter
from stillshot.student.features import EncoderFeaturizer
from stillshot.student.saved import Student
from stillshot.types import Context, Example, Keep

WINDOW = 32
WORDS = [
    "film",
    "warm",
    "uncharacteristically",
    "naïve",
    "日本語の映画",
    "1234567",
    "!?",
    "e\u0301",
    "<b>",
    "🎬",
    "of",
]
SPACES = [" ", " ", "  ", "\n", ", ", ". ", "\t", ""]
KINDS = [
    ("random:tiny-bert", SENTIMENT, {}),
    ("random:tiny-bert", PAIRS, {}),
    ("random:tiny-llama", SENTIMENT, {}),
    ("random:tiny-llama", PAIRS, {}),
    ("random:tiny-llama", SENTIMENT, {"head": "channel"}),
    ("random:tiny-llama", SENTIMENT, {"head": "language_model"}),
]


class Counting:
    """A tokenizer that notes how many characters it was given."""

    is_fast = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.characters = tokenizer, 0

    def __call__(self, text: str, **settings: Any) -> Any:
        self.characters += len(text)
        return self.tokenizer(text, **settings)


@pytest.fixture(scope="module")
def word_pieces() -> Any:
    """A tokenizer as BERT has it, which makes one unknown token of a word of more than 100 characters."""
    letters = sorted({*"".join(WORDS), *"abcdefghijklmnopqrstuvwxyz0123456789!?,.<>"} - {"\u0301"})
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film", "warm", "un", "##char", "##ly", "12", "##34"]
    entries += [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def long_text(words: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(words))


def student_of(model: str, task: TaskDefinition, **settings: Any) -> Student:
    section = StudentSection(model=model, max_tokens=WINDOW, **settings)
    return Student.create(section, task, Prompt())


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    "text", [long_text(2000, seed) for seed in range(5)] + ["é" * 9000, "12" * 9000, "\n" * 9000 + "a"]
)
def test_the_tokens_kept_are_those_of_the_whole_text(word_pieces: Any, text: str) -> None:
    for tokenizer in (word_pieces, random_tokenizer("tiny-llama")):
        whole = ids_of(tokenizer, text)
        for tokens in (1, 7, WINDOW):
            start = ids_of(tokenizer, readable_part(tokenizer, text, tokens))
            assert start[:tokens] == whole[:tokens]
            end = ids_of(tokenizer, readable_part(tokenizer, text, tokens, "end"))
            assert end[-tokens:] == whole[-tokens:]


@pytest.mark.parametrize("text", ["a warm film " * 100_000, "a" * 1_000_000, " " * 1_000_000, "🎬" * 300_000])
def test_what_is_tokenized_is_bounded_by_the_window(word_pieces: Any, text: str) -> None:
    counting = Counting(word_pieces)
    part = readable_part(counting, text, 256, most=256 * 400)
    assert len(part) <= 256 * 400 < len(text)
    assert counting.characters < 2 * 256 * 400
    if "film" in text:
        assert counting.characters < 5_000


def test_a_short_text_is_not_tokenized_for_that(word_pieces: Any) -> None:
    counting, text = Counting(word_pieces), "a warm film " * 20
    assert readable_part(counting, text, WINDOW) is text
    assert counting.characters == 0


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("task", [SENTIMENT, PAIRS])
def test_an_encoder_reads_what_its_tokenizer_would_keep(
    word_pieces: Any, task: TaskDefinition, keep: Keep
) -> None:
    featurizer = EncoderFeaturizer(task, word_pieces, WINDOW)
    for lengths in [(3, 2000), (2000, 3), (40, 300), (10, 60)]:
        example = Example({name: long_text(n, n) for name, n in zip(task.fields, lengths, strict=False)})
        (feature,) = featurizer.features([example], keep)
        word_pieces.truncation_side = "right" if keep == "start" else "left"
        texts = list(example.fields.values())
        expected = word_pieces(
            *texts, truncation=True, max_length=WINDOW, split_special_tokens=True
        ).input_ids
        word_pieces.truncation_side = "right"
        assert feature["input_ids"] == expected
        assert feature.get("cut", False) == (len(word_pieces(*texts).input_ids) > WINDOW)


@pytest.mark.parametrize(("model", "task", "settings"), KINDS)
def test_every_student_keeps_the_part_that_is_asked_for(
    model: str, task: TaskDefinition, settings: dict[str, Any]
) -> None:
    student = student_of(model, task, **settings)
    first, *rest = task.fields
    example = Example({first: "BEGIN " + "a warm film " * 500 + " FINIS", **dict.fromkeys(rest, "so it is")})
    read = {}
    for keep in ("start", "end"):
        (feature,) = student.featurizer.features([example], keep)
        assert feature["length"] <= WINDOW
        assert feature["cut"]
        ids = feature["input_ids"]
        read[keep] = student.tokenizer.decode(ids[0] if settings.get("head") == "channel" else ids)
    assert ("BEGIN" in read["start"], "FINIS" in read["start"]) == (True, False)
    assert ("BEGIN" in read["end"], "FINIS" in read["end"]) == (False, True)
    if "llama" in model and settings.get("head") != "channel":
        pattern = [
            part for part in task.patterns[next(iter(task.patterns))].pattern.split("{")[0].split() if part
        ]
        for text in read.values():
            assert all(part in text for part in pattern)  # only the user's text is cut
    (short,) = student.featurizer.features([Example(dict.fromkeys(task.fields, "so"))])
    assert not short.get("cut", False)


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_character_of_several_tokens_is_cut_as_a_whole(keep: Keep) -> None:
    """It once was kept as long as one of its tokens was, so that a text never became shorter."""
    student = student_of("random:tiny-llama", SENTIMENT)
    for count in range(8, 40):
        text = "a " * count + "本" if keep == "start" else "本" + " a" * count
        (feature,) = student.featurizer.features([Example({"text": text + "語" * (count % 3)})], keep)
        assert feature["length"] <= WINDOW
    encoder = PromptEncoder(student.tokenizer)
    assert encoder.shortened("ab本", 4, "start") == "ab"
    assert encoder.shortened("本ab", 4, "end") == "ab"


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("head", ["label", "language_model"])
def test_of_a_pair_the_text_of_most_tokens_is_cut(head: str, keep: Keep) -> None:
    """It once was that of most characters: of these, one token that was cut to nothing, and so refused the query."""
    student = student_of("random:tiny-llama", PAIRS, head=head)
    first, second = PAIRS.fields
    for one, other in [(first, second), (second, first)]:
        example = Example({first: "", second: "", one: " negative", other: "🎬" * 8})
        (feature,) = student.featurizer.features([example], keep)
        read = student.tokenizer.decode(feature["input_ids"])
        assert feature["cut"]
        assert " negative" in read
        assert "🎬" in read


@pytest.mark.parametrize("keep", ["start", "end"])
def test_how_a_pair_is_cut_does_not_depend_on_what_is_never_read_of_it(keep: Keep) -> None:
    student = student_of("random:tiny-llama", PAIRS)
    read = []
    for sizes in [(1000, 60), (1000, 10_000), (90, 1000), (10_000, 1000)]:
        texts = ["bad and dull " * (size // 13 + 1) for size in sizes]
        parts = [
            text[:size] if keep == "start" else text[-size:] for text, size in zip(texts, sizes, strict=True)
        ]
        (feature,) = student.featurizer.features([Example(dict(zip(PAIRS.fields, parts, strict=True)))], keep)
        read.append(feature["input_ids"])
    assert all(ids == read[0] for ids in read)


def test_white_space_alone_is_not_called_a_pattern_that_is_too_long() -> None:
    student = student_of("random:tiny-llama", SENTIMENT)
    with pytest.raises(PromptError, match="begins with more white space than the student reads"):
        student.predict([" " * 5000 + "a film"])


def test_a_prompt_too_long_is_refused_without_tokenizing_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PromptEncoder(random_tokenizer("tiny-llama"))
    writer = PromptWriter(SENTIMENT, Prompt(), encoder)
    tokenize, characters = encoder._tokenize, []

    def counted(texts: list[str], *arguments: Any, **settings: Any) -> Any:
        characters.append(sum(map(len, texts)))
        return tokenize(texts, *arguments, **settings)

    monkeypatch.setattr(encoder, "_tokenize", counted)
    with pytest.raises(PromptError, match=r"has at least [0-9,]+ tokens"):
        fitted_prompts(writer, "direct", Context(), [Example({"text": "a film " * 100_000})], 64)
    assert sum(characters) < 20_000


# The command -------------------------------------------------------------------------------------

Predicted = Callable[..., tuple[list[dict[str, Any]], str]]
SHORT, LONG = "a warm film", "a warm film, " * 200


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("students") / "tiny", max_tokens=WINDOW)


def test_predict_says_which_texts_were_cut(tiny: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [{"text": text} for text in (SHORT, LONG, SHORT, LONG)])
    result = call("predict", str(tiny), str(file))
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer.get("truncated") for answer in answers] == [None, True, None, True]
    assert (
        f"note: 2 of 4 queries were cut to their first part, since the student reads {WINDOW} tokens: "
        f"{file}:2, {file}:4." in result.stderr
    )
    assert "cut" not in call("predict", str(tiny), stdin=json.dumps({"text": SHORT})).stderr


def test_predict_leaves_a_column_of_that_name_as_it_is(tiny: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [{"text": LONG, "truncated": "mine"}])
    (answer,) = [json.loads(line) for line in call("predict", str(tiny), str(file)).stdout.splitlines()]
    assert answer["truncated"] == "mine"
    table = tmp_path / "answers.csv"
    assert "1 of 1 queries were cut" in call("predict", str(tiny), str(file), "-o", str(table)).stderr
    assert table.read_text(encoding="utf-8").startswith("text,truncated,prediction,")


def test_blank_texts_are_refused(tiny: Path) -> None:
    assert "has no text in 'text'" in refused("predict", str(tiny), stdin='{"text": " \\n"}')


def test_exports_keep_the_end_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    student = save_tiny(tmp_path / "s", max_tokens=WINDOW)
    queries = write_jsonl(tmp_path / "held.jsonl", [{"text": f"film {i}"} for i in range(4)])
    done = call(
        "export", str(student), "--to", "onnx", "-o", str(tmp_path / "onnx"), "--queries", str(queries)
    )
    assert done.exit_code == 0, done.output
    for folder in (student, tmp_path / "onnx" / "onnx"):
        predictor = load_predictor(folder)
        (feature,) = predictor.featurizer.features([Example({"text": LONG + "FINIS"})], "end")
        (alone,) = predictor.featurizer.features([Example({"text": "FINIS"})])
        assert feature["input_ids"][-3:] == alone["input_ids"][-3:]


def test_an_encoder_whose_tokenizer_has_no_offsets_knows_what_it_cut() -> None:
    """Tokenizers in Python, as of characters, say neither where tokens stand nor what they left out."""
    tokenizer = CanineTokenizer()
    featurizer = EncoderFeaturizer(SENTIMENT, tokenizer, 32)
    short, full, long = (Example({"text": "a" * length}) for length in (5, 30, 31))
    rows = featurizer.features([short, full, long, Example({"text": "film " * 100_000})])
    assert [bool(row.get("cut")) for row in rows] == [False, False, True, True]
    assert [row["length"] for row in rows] == [7, 32, 32, 32]
