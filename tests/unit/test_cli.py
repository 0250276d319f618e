"""The command line: what it prints where, how it ends, and what it leaves on the disk."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_calls import call, refused, reviews, write_csv, write_jsonl

from stillshot.cli.progress import Pieces, duration, progress
from stillshot.config import Prompt
from stillshot.config import Student as StudentSection
from stillshot.tasks import new_task

VERBS = (
    "init", "check", "run", "label", "train", "evaluate", "report", "predict", "plan", "export", "serve",
)  # fmt: skip
HEAVY = {"torch", "transformers", "datasets", "sklearn", "matplotlib", "pydantic", "pyarrow", "numpy", "rich"}


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# The program itself ------------------------------------------------------------------------------


def test_importing_the_command_line_loads_no_model_library() -> None:
    code = f"import sys, stillshot.cli.main; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_threads_wait_for_each_other_as_the_user_says_or_briefly() -> None:
    assert "GOMP_SPINCOUNT" in _environment_of_a_command({})
    assert _environment_of_a_command({"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"
    assert "GOMP_SPINCOUNT" not in _environment_of_a_command({"OMP_WAIT_POLICY": "active"})


def _environment_of_a_command(given: dict[str, str]) -> dict[str, str]:
    """The environment that a process of the command line ends with."""
    shown = "import atexit, json, os, sys; atexit.register(lambda: print(json.dumps(dict(os.environ))))"
    run = f"{shown}; sys.argv = ['stillshot', '--version']; from stillshot.cli.main import main; main()"
    kept = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    done = subprocess.run(
        [sys.executable, "-c", run], env={**kept, **given}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_help_lists_every_verb_and_each_has_an_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stillshot.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^  (\w+)  +\S", done.stdout.split("Commands:")[1], flags=re.MULTILINE)
    assert tuple(sorted(listed)) == tuple(sorted(VERBS))
    assert "..." not in done.stdout.split("Commands:")[1]
    for verb in VERBS:
        assert f"  stillshot {verb} " in call(verb, "--help").stdout


def test_the_version() -> None:
    assert re.fullmatch(r"stillshot \d+\.\d+\.\d+\S*\n", call("--version").stdout)


def test_interruption_and_unexpected_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stillshot.config_files.load_recipe", interrupted)
    result = call("check", "recipe.yaml")
    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted. Run the same command again to go on."

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("stillshot.config_files.load_recipe", broken)
    with pytest.raises(ZeroDivisionError):
        call("check", "recipe.yaml")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_a_reader_that_stops_early_gets_no_traceback() -> None:
    code = (
        "import os, sys\n"
        "r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
        "import stillshot.cli.main as main\n"
        "import typer\n"
        "@main.app.command()\n"
        "def speak(): typer.echo('x')\n"
        "sys.argv = ['stillshot', 'speak']\n"
        "main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


# Recipes -----------------------------------------------------------------------------------------


def test_a_recipe_that_is_not_there() -> None:
    for verb in ("run", "check", "label", "train", "evaluate"):
        message = refused(verb, "nowhere.yaml")
        assert f"There is no file nowhere.yaml. Check the path; it is relative to {Path.cwd()}." in message
    Path("r.yaml").write_text("name: x\ntask: tasks/t.yaml\n")
    message = refused("check", "r.yaml")
    assert (
        f"There is no file {Path('tasks/t.yaml')}. Check the path; it is relative to {Path.cwd()}." in message
    )
    assert "There is no run folder nowhere." in refused("report", "nowhere")


def test_a_file_of_examples_is_no_recipe() -> None:
    write_csv(Path("my tickets.csv"), reviews(4))
    for verb in ("check", "run", "report"):
        message = refused(verb, "my tickets.csv")
        assert "is a file of examples, not a recipe." in message
        assert message.endswith("stillshot init 'my tickets.csv'\n")
    Path("recipe.json").write_text('{"name": "x"}')
    assert "task: this key is required" in refused("check", "recipe.json")


def test_an_unknown_key_gets_a_suggestion() -> None:
    Path("r.yaml").write_text("name: x\ntask: sst2\nteachers: {model: y}\n")
    assert "teachers: unknown key. Did you mean 'teacher'?" in refused("check", "r.yaml")


def test_overrides() -> None:
    Path("r.yaml").write_text("name: x\ntask: sst2\n")
    assert "teachr: unknown key" in refused("check", "r.yaml", "--set", "teachr.model=a")
    assert "--set takes key=value" in refused("check", "r.yaml", "--set", "seeds")
    message = refused("check", "r.yaml", "--set", "teacher.temperature=0")
    assert "teacher.temperature" in message


def test_check_as_json_says_what_is_wrong() -> None:
    result = call("check", "nowhere.yaml", "--json")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert "nowhere.yaml" in answer["error"]


# predict -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stillshot.student.saved import Student

    folder = tmp_path_factory.mktemp("student")
    task = new_task("reviews", ["text"], ["very-bad", "very_good"])
    Student.create(StudentSection(model="random:tiny-bert"), task, Prompt()).save(folder)
    return folder


def test_predict_keeps_order_and_what_came_with_a_query(
    student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillshot.cli.predict.CHUNK_LINES", 7)
    rows = [{**row, "id": i, "text": row["text"] * (i % 5 + 1)} for i, row in enumerate(reviews(20))]
    write_jsonl(Path("in.jsonl"), rows)
    result = call("predict", str(student_folder), "in.jsonl")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [{key: answer[key] for key in ("text", "label", "id")} for answer in answers] == rows
    for answer in answers:
        assert set(answer["probabilities"]) == {"very-bad", "very_good"}
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)
    call("predict", str(student_folder), "in.jsonl", "--output", "deep/out.jsonl", "--batch-size", "3")
    again = [json.loads(line) for line in Path("deep/out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["id"] for answer in again] == list(range(20))
    for answer, other in zip(answers, again, strict=True):
        assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_predict_reads_texts_alone_from_stdin_and_tables(student_folder: Path) -> None:
    lines = '\ufeff"a fine film \u2028 indeed"\n\n{"text": "not so fine", "label": 3}\n'
    result = call("predict", str(student_folder), stdin=lines.encode())
    answers = [json.loads(line) for line in result.stdout.split("\n") if line]
    assert [answer["text"] for answer in answers] == ["a fine film \u2028 indeed", "not so fine"]
    assert answers[1]["label"] == 3
    write_csv(Path("in.csv"), reviews(3))
    assert len(call("predict", str(student_folder), "in.csv").stdout.splitlines()) == 3
    Path("empty.jsonl").touch()
    for stdin, more, name in (
        ("", (), "stdin"),
        ("\n", ("-",), "stdin"),
        (None, ("empty.jsonl",), "empty.jsonl"),
    ):
        result = call("predict", str(student_folder), *more, stdin=stdin)
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"note: {name} holds no queries, so nothing was answered." in result.stderr


def test_predict_divides_out_a_bias_over_all_queries_together(
    student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillshot.cli.predict.CHUNK_LINES", 7)
    write_jsonl(
        Path("in.jsonl"), [{"id": i, "text": row["text"] * (i % 5 + 1)} for i, row in enumerate(reviews(20))]
    )

    def answers(*options: str) -> tuple[list[dict[str, Any]], str]:
        result = call("predict", str(student_folder), "in.jsonl", *options)
        return [json.loads(line) for line in result.stdout.splitlines()], result.stderr

    (plain, _), (fair, note) = answers(), answers("--calibrate")
    assert [row["id"] for row in fair] == list(range(20))
    bias = {
        label: sum(row["probabilities"][label] for row in plain) / 20 for label in ("very-bad", "very_good")
    }
    for before, after in zip(plain, fair, strict=True):
        shares = {label: before["probabilities"][label] / bias[label] for label in bias}
        expected = {label: share / sum(shares.values()) for label, share in shares.items()}
        assert after["probabilities"] == pytest.approx(expected, abs=1e-4)
        assert after["prediction"] == max(after["probabilities"], key=after["probabilities"].get)
    assert len({row["prediction"] for row in plain}) == 1  # as the untrained student would have it
    assert len({row["prediction"] for row in fair}) == 2
    changed = sum(
        before["prediction"] != after["prediction"] for before, after in zip(plain, fair, strict=True)
    )
    assert f"Calibrated on 20 queries; {changed} answers are others for it." in note
    assert "so few do not tell a bias from chance" in note
    write_jsonl(Path("in.jsonl"), [])
    assert answers("--calibrate")[0] == []
    write_jsonl(Path("in.jsonl"), reviews(1))
    (alone,), note = answers("--calibrate")
    assert alone == answers()[0][0]
    assert "nothing was calibrated, since all answers are alike" in note


def test_predict_refuses_answers_that_are_no_numbers(
    student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillshot.student.saved import Student

    write_jsonl(Path("in.jsonl"), reviews(3))
    monkeypatch.setattr(
        Student, "predict_proba", lambda *_: np.array([[0.5, 0.5], [np.nan, 1.0], [1.0, 0.0]])
    )
    message = refused("predict", str(student_folder), "in.jsonl", "-o", "out.jsonl")
    assert "The student answers in.jsonl:2 with numbers that are not finite" in message
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"text": ', "in.jsonl:10 is not valid JSON"),
        ("[1]", "in.jsonl:10 is a JSON list. Each line must be one object with the keys text."),
        ('{"txt": "x"}', "in.jsonl:10 has no key 'text' for the field 'text'."),
        ('{"text": "\\ud800"}', "in.jsonl:10 has half a character"),
    ],
)
def test_predict_names_a_bad_line_and_leaves_no_half_file(
    student_folder: Path, monkeypatch: pytest.MonkeyPatch, bad: str, message: str
) -> None:
    monkeypatch.setattr("stillshot.cli.predict.CHUNK_LINES", 4)
    write_jsonl(Path("in.jsonl"), reviews(9))
    with Path("in.jsonl").open("a", encoding="utf-8") as file:
        file.write(bad + "\n")
    Path("out.jsonl").write_text("as before")
    answering = ("predict", str(student_folder), "in.jsonl", "-o", "out.jsonl", "--overwrite")
    assert message in refused(*answering)
    assert Path("out.jsonl").read_text() == "as before"
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl", "out.jsonl"]


def test_predict_advises_what_fits_the_rows(student_folder: Path) -> None:
    message = refused("predict", str(student_folder), stdin='{"txt": "x"}\n')
    assert message == (
        "error: stdin:1 has no key 'text' for the field 'text'. Did you mean 'txt'? Valid names: txt. Rename the key.\n"
    )
    assert "stdin:1 is not UTF-8 text: " in (
        message := refused("predict", str(student_folder), stdin=b'"\xff"\n')
    )
    assert "Save the file" not in message
    Path("in.csv").write_text("txt\nx\n")
    message = refused("predict", str(student_folder), "in.csv")
    assert "Rename the column. If the file has no line with names of columns, put one first." in message


def test_predict_without_a_student_or_a_file(student_folder: Path) -> None:
    message = refused("predict", "nowhere", stdin='"x"\n')
    assert "nowhere does not exist. Give a folder under a run's students/" in message
    assert "does not exist" in refused("predict", str(student_folder), "nowhere.jsonl")


def test_predict_lists_the_students_near_a_path_that_is_none(student_folder: Path) -> None:
    names = (
        "context_distillation-a-s0",
        "context_distillation-a-s1",
        "pattern_finetune-a-s0",
        "shuffled_labels-a-s0",
    )
    for name in names:
        folder = Path("runs/x/students") / name
        folder.mkdir(parents=True)
        (folder / "stillshot.json").touch()
    Path("runs/x/students/.half.tmp").mkdir()
    listed = "".join(f"\n  {Path('runs/x/students', name)}" for name in names)
    records = Path("runs/x/results.json")
    missing = f"holds 2 distilled students, and which is best is not known. There is no file {records}. Run "
    missing += f"`stillshot run RECIPE -o {Path('runs/x')}` first: it writes this file"
    for path, found in {
        "runs/x": missing,
        "runs/x/students": missing,
        "runs": "holds no student itself",
        "runs/x/students/context": "does not exist",
        "runs/y/students/context_distillation-a-s0": "does not exist",
        "nowhere": "does not exist",
    }.items():
        message = refused("predict", path, stdin='"x"\n')
        assert f"{Path(path)} {found}. Give the folder of a student, e.g. one of these:{listed}\n" in message


def test_predict_says_how_a_student_that_is_gone_is_made_again() -> None:
    students = Path("runs/x/students")
    students.mkdir(parents=True)
    gone = students / "context_distillation-a-s0"
    gone.with_name(f"{gone.name}.json").touch()
    said = f"{gone} is gone. `stillshot run RECIPE -o {Path('runs/x')}` makes it again."
    for path, found in {"runs/x": "holds no student itself", str(gone): "does not exist"}.items():
        assert refused("predict", path, stdin='"x"\n') == f"error: {Path(path)} {found}: {said}\n"
    other = students / "pattern_finetune-a-s0"
    other.mkdir()
    (other / "stillshot.json").touch()
    for path in ("runs/x", str(students), str(gone)):
        message = refused("predict", path, stdin='"x"\n')
        assert f"{said} Or give the folder of a student, e.g. one of these:\n  {other}\n" in message


# run ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_recipe() -> Path:
    write_jsonl(Path("train.jsonl"), reviews(40))
    write_jsonl(Path("test.jsonl"), reviews(12, start=100))
    task = new_task("reviews", ["text"], ["very-bad", "very_good"])
    content = {
        "name": "tiny",
        "task": task.model_dump(mode="json"),
        "data": {
            "labelled": "train.jsonl",
            "unlabelled": "train.jsonl",
            "num_unlabelled": 12,
            "in_domain": {"test": "test.jsonl"},
        },
        "budgets": [{"labelled": 4, "num_contexts": 1, "num_shots": 2}],
        "teacher": {"model": "random:tiny-llama"},
        "students": [{"model": "random:tiny-bert", "distill": {"epochs": 1}, "finetune": {"epochs": 1}}],
        "methods": ["context_distillation"],
        "evaluation": {"latency_queries": 2, "bootstrap_samples": 50},
    }
    path = Path("tiny.yaml")
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def snapshot(*parts: str) -> dict[str, bytes]:
    """Every file of the run, or of some of its folders."""
    folders = [Path("runs/tiny") / part for part in parts or ("",)]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


def test_a_run_its_second_call_and_its_report(tiny_recipe: Path) -> None:
    result = call("run", str(tiny_recipe), "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["folder"] == str(Path("runs/tiny"))
    assert answer["failed"] == []
    assert [line["method"] for line in answer["summary"]] == ["context_distillation"]
    assert Path(answer["report"]).is_file()
    kept = snapshot("cells", "softlabels", "students")

    again = call("run", str(tiny_recipe))
    assert again.exit_code == 0
    assert again.stdout.startswith("| Method |")
    lines = again.stdout.splitlines()
    assert lines[-2] == f"Report: {Path('runs/tiny/report.html')}"
    hint = """Use it: echo '{"text": "..."}' | stillshot predict """
    assert lines[-1].startswith(hint)
    student = lines[-1].removeprefix(hint)
    assert student == answer["best_student"]
    queries = '{"text": "a fine film"}\n'
    predicted = call("predict", student, stdin=queries)
    assert json.loads(predicted.stdout)["prediction"] in ("very-bad", "very_good")
    of_the_run = call("predict", "runs/tiny", stdin=queries)
    assert of_the_run.stdout == predicted.stdout
    assert f"Using {student}, the only distilled student there." in of_the_run.stderr
    assert snapshot("cells", "softlabels", "students") == kept

    for stage in ("label", "train", "evaluate"):
        assert call(stage, str(tiny_recipe)).exit_code == 0
    Path("runs/tiny/report.html").unlink()
    assert call("report", str(tiny_recipe), "--paper").exit_code == 0
    assert Path("runs/tiny/claims.md").is_file()
    assert call("report", str(tiny_recipe)).exit_code == 0
    assert not Path("runs/tiny/claims.md").exists()  # the task is not the paper's
    recipe, records = Path("runs/tiny/recipe.yaml"), Path("runs/tiny/results.json").read_bytes()
    written = recipe.read_text(encoding="utf-8")
    Path("runs/tiny/SHA256SUMS").unlink()
    recipe.write_text(written.replace("random:tiny-bert", "models/elsewhere"), encoding="utf-8")
    moved = call("report", "runs/tiny")  # to where its models are not
    assert moved.stdout.strip() == str(Path("runs/tiny/report.html"))
    assert "results.json was kept as it is. The model 'models/elsewhere' cannot be loaded" in moved.stderr
    assert Path("runs/tiny/results.json").read_bytes() == records
    recipe.write_text(written, encoding="utf-8")
    for path in Path("runs/tiny/cells").iterdir():  # a copy without the large files
        path.unlink()
    page = Path("runs/tiny/report.html").read_bytes()
    Path("runs/tiny/report.html").unlink()
    assert call("report", "runs/tiny").stdout.strip() == str(Path("runs/tiny/report.html"))
    assert Path("runs/tiny/report.html").stat().st_size > len(page) / 2

    before = snapshot()
    message = refused("run", str(tiny_recipe), "--set", "seeds=[7]", "-o", "runs/tiny")
    assert "holds a run of another recipe" in message
    assert snapshot() == before


def test_a_run_of_several_students_stands_for_its_best(tiny_recipe: Path) -> None:
    changes = ("seeds=[0, 1, 2]", "methods=[pattern_finetune, context_distillation]")
    done = call(
        "run", str(tiny_recipe), *(part for change in changes for part in ("--set", change)), "--json"
    )
    answer = json.loads(done.stdout)
    records = json.loads(Path("runs/tiny/results.json").read_text())
    # What the models reach is chance; which is best is made known.
    for cell in records["cells"]:
        share = {"context_distillation": 0.5, "pattern_finetune": 0.75}[cell["method"]] + cell[
            "seed"
        ] % 2 / 10
        cell["in_domain"]["test"]["accuracy"] = share
    Path("runs/tiny/results.json").write_text(json.dumps(records))
    best = next(Path("runs/tiny/students").glob("context_distillation-*-s1"))
    for path in ("runs/tiny", "runs/tiny/students"):
        predicted = call("predict", path, stdin='{"text": "a fine film"}\n')
        assert f"Using {best}, the best of 3 distilled students there." in predicted.stderr
        assert predicted.stdout == call("predict", str(best), stdin='{"text": "a fine film"}\n').stdout
    assert answer["best_student"].startswith(str(best)[:-1])
    for damage, said in {
        json.dumps(
            records | {"cells": [c for c in records["cells"] if c["id"] != best.name]}
        ): f"nothing of {best.name}",
        "{": "does not hold run records",
    }.items():
        Path("runs/tiny/results.json").write_text(damage)
        message = refused("predict", "runs/tiny", stdin='{"text": "a fine film"}\n')
        assert "holds 3 distilled students, and which is best is not known." in message
        assert said in message


def test_check_says_how_much_will_be_used(tiny_recipe: Path) -> None:
    write_jsonl(Path("more.jsonl"), [*reviews(30, start=200), *reviews(1, start=200)])  # one text twice
    changes = (
        "data.out_of_domain={more: more.jsonl}",
        "methods=[zero_shot, in_context, context_distillation]",
        "budgets=[{labelled: 4, num_contexts: 3, num_shots: 2}, {labelled: 8, num_contexts: 1}]",
        "seeds=[0, 1]",
        "teacher.scoring=both",
    )
    result = call("check", str(tiny_recipe), *(part for change in changes for part in ("--set", change)))
    assert result.exit_code == 0, result.output
    found = dict(re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines())
    assert found["labelled"] == "4 or 8 of 40 different texts in train.jsonl"
    assert found["unlabelled"] == "12 of 40 different texts in train.jsonl"
    assert found["runs"] == "2 budgets x 2 seeds, 13 cells in all"
    # both ways x (3 + 1 contexts) x 2 seeds x 12 queries; of 12 + 30 items zero-shot 1, raw 4 and teacher 16 times
    assert found["teacher prompts"] == "up to 192 to label queries, up to 882 to be evaluated"
    assert result.stderr.splitlines() == [
        "warning: few items: test has only 12, so one item is 8 points of accuracy. Evaluate on 30 at least."
    ]


def test_failed_cells_are_named_with_their_reason(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillshot import pipeline
    from stillshot.evaluate.records import Cell, Results

    shared: dict[str, Any] = {
        "method": "pattern_finetune",
        "seed": 0,
        "parameters": 1,
        "model_bytes": 1,
        "peak_memory_bytes": 1,
    }
    cell = Cell(id="some-cell", failed="The loss is not finite.", **shared)
    results = Results(
        name="tiny",
        task="t",
        labels=["a", "b"],
        versions={},
        hardware={},
        cells=[cell],
        summary=[],
        comparisons=[],
    )
    monkeypatch.setattr(pipeline, "run", lambda *_: results)
    result = call("run", str(tiny_recipe), "--json")
    assert result.exit_code == 1
    assert "1 of 1 cells failed:\n  some-cell: The loss is not finite." in result.stderr
    assert json.loads(result.stdout)["failed"] == [{"id": "some-cell", "reason": "The loss is not finite."}]


def test_a_stage_without_the_one_before(tiny_recipe: Path) -> None:
    assert "Run `stillshot label` first." in refused("train", str(tiny_recipe), "-o", "out")


def test_stages_print_what_succeeded_and_nothing_else(tiny_recipe: Path) -> None:
    both = ("--set", "methods=[zero_shot, context_distillation]", "-o", "out")
    evaluated = call("evaluate", str(tiny_recipe), *both)
    assert evaluated.exit_code == 1
    assert evaluated.stdout.splitlines() == [str(Path("out/cells/zero_shot-tiny-llama.json"))]
    assert "error: 1 of 2 cells failed:" in evaluated.stderr
    assert "Its student is not trained yet. Run `stillshot train` first." in evaluated.stderr

    labelled = call("label", str(tiny_recipe), *both)
    assert labelled.stdout.splitlines() == [str(Path("out/softlabels/n4x1x2-s0.json"))]
    (context,) = json.loads(Path("out/softlabels/n4x1x2-s0.json").read_text(encoding="utf-8"))["contexts"]
    assert re.fullmatch("[0-9a-f]{64}", context)
    Path("out/students/.other.checkpoints").mkdir(parents=True)
    Path("out/students/other").mkdir()
    trained = call("train", str(tiny_recipe), *both)
    student = Path("out/students/context_distillation-tiny-bert-label-full-n4x1x2-s0")
    assert trained.stdout.splitlines() == [str(student)]
    assert student.is_dir()


def test_labels_that_could_not_be_made_end_the_stage(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillshot import pipeline
    from stillshot.errors import WorkError

    def full(*_: object, **__: object) -> None:
        raise WorkError("The disk is full.")

    monkeypatch.setattr(pipeline, "run_isolated", full)
    result = call("label", str(tiny_recipe))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Its queries could not be labelled: The disk is full." in result.stderr


def test_a_setting_that_cannot_be_labelled_leaves_the_rest_to_be_done(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillshot import pipeline
    from stillshot.errors import PromptError

    isolated = pipeline.run_isolated

    def one_too_long(work: Any, *arguments: Any, **settings: Any) -> Any:
        if work.__name__ == "label_setting":
            raise PromptError("A prompt is too long.")
        return isolated(work, *arguments, **settings)

    monkeypatch.setattr(pipeline, "run_isolated", one_too_long)
    result = call(
        "run", str(tiny_recipe), "-o", "out", "--set", "methods=[pattern_finetune, context_distillation]"
    )
    assert result.exit_code == 1
    assert "Its queries could not be labelled: A prompt is too long." in result.stderr
    cells = json.loads(Path("out/results.json").read_text(encoding="utf-8"))["cells"]
    assert {cell["method"] for cell in cells if cell["failed"] is None} == {"pattern_finetune"}


# Progress ----------------------------------------------------------------------------------------


class Recorder:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, name: str, what: str, done: int, total: int, seconds: float) -> None:
        self.lines.append(f"{name} {what} {done}/{total}")

    def line(self, text: str) -> None:
        self.lines.append(re.sub(r"[\d.]+ s$", "T", text))

    def close(self) -> None:
        pass


def test_a_piece_ends_where_another_begins() -> None:
    shown = Recorder()
    pieces = Pieces(shown)
    pieces.report("a", "training", 1, 2)
    pieces.report("a", "evaluating", 1, 1)
    pieces.report("b", "training", 0, 2)
    pieces.report("b", "failed: no memory", 0, 0)
    pieces.end_piece()
    assert shown.lines == [
        "a training 1/2",
        "a: training, T",
        "a evaluating 1/1",
        "a: evaluating, T",
        "b training 0/2",
        "b: failed",
    ]


def test_progress_without_a_terminal_is_few_lines() -> None:
    stream = io.StringIO()
    with progress(stream) as report:
        for done in range(1000):
            report("cell", "training", done, 1000)
    assert re.fullmatch(r"cell: training, [\d.]+ s\n", stream.getvalue())


def test_progress_on_a_terminal_leaves_whole_lines() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress(stream) as report:
        report("cell [1]", "training", 1, 4)
        report("cell [1]", "evaluating", 4, 4)
    assert re.search(r"cell \[1\]: training, [\d.]+ s", stream.getvalue())
    assert re.search(r"cell \[1\]: evaluating, [\d.]+ s", stream.getvalue())


def test_a_short_block_shows_nothing_when_it_is_to_be_quiet() -> None:
    stream = io.StringIO()
    with progress(stream, after_seconds=60) as report:
        report("predict", "answering queries", 1, 0)
    assert stream.getvalue() == ""


def test_durations() -> None:
    assert [duration(s) for s in (0.0, 9.96, 59.4, 59.7, 3599.6, 7321)] == [
        "0.0 s", "10 s", "59 s", "1 m 00 s", "1 h 00 m", "2 h 02 m",
    ]  # fmt: skip


def test_a_file_that_unpacks_to_more_than_the_memory_gets_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(_: bytes) -> bytes:
        raise MemoryError

    monkeypatch.setattr("gzip.decompress", unpack)
    (tmp_path / "big.jsonl.gz").write_bytes(b"")
    result = call("init", str(tmp_path / "big.jsonl.gz"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: There is not enough memory for this.")
    assert "Traceback" not in result.output
