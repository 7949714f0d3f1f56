"""`penstock model`, from the outside: arguments in; exit code, stdout, stderr and files out."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.model.golden import GoldenRecord, dump
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.unit.cli.done import Done, Run


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `penstock model ...` in an empty folder with the registry in `models/`."""
    monkeypatch.chdir(tmp_path)
    Path("linear.onnx").write_bytes(models.linear([1, 2]))

    def call(*arguments: str) -> Done:
        code = main(["model", *arguments])
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture
def registry(run: Run) -> DirectoryRegistry:
    made = DirectoryRegistry("models")
    made.publish("score", models.constant(1), description="says one [of many]")
    made.publish("score", models.constant(2))
    made.publish("rank", models.linear([1, 2]), metrics={"auc": 0.75}, provenance={"author": "us"})
    made.alias("score", "live", "1")
    return made


def test_push_registers_checks_and_says_that_golden_records_were_made_up(run: Run) -> None:
    done = run(
        "push", "linear.onnx", "--name", "score", "--metrics", "auc=0.7", "--author", "us", "--description", "two", "--alias", "live"
    )
    assert done.code == 0
    assert done.out == "pushed score@1 to models/score/1, and score@live points at it\n"
    assert "golden records were generated: they fix today's outputs and do not show that they are correct" in done.err
    manifest = DirectoryRegistry("models").resolve("score", "live").manifest
    assert (dict(manifest.metrics), dict(manifest.provenance), manifest.description) == ({"auc": 0.7}, {"author": "us"}, "two")
    assert manifest.golden.origin == "synthetic"


def test_push_with_golden_records_and_a_version(run: Run) -> None:
    Path("golden.json").write_text(dump([GoldenRecord({"x": [1.0, 1.0]}, {"y": [3.0]})]))
    done = run("push", "linear.onnx", "--name", "score", "--version", "1.2", "--golden", "golden.json", "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert done.json["version"] == "1.2"
    assert done.json["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2]}]
    assert done.json["golden"]["origin"] == "given"


def test_push_tells_of_made_up_rows_that_the_model_refuses(run: Run) -> None:
    Path("picky.onnx").write_bytes(models.gather([5.0]))
    Path("golden.json").write_text(dump([GoldenRecord({"x": [0]}, {"y": [5.0]})]))
    done = run("push", "picky.onnx", "--name", "score", "--golden", "golden.json")
    assert done.code == 0
    assert done.err.startswith("remark: not a problem, because the golden rows pass")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["linear.onnx", "--name", "Score"], 2, "'Score' is not a valid model name: use lower-case letters"),
        (["linear.onnx", "--name", "score", "--version", "v1"], 2, "'v1' is not a valid version"),
        (["linear.onnx", "--name", "score", "--metrics", "auc"], 2, "--metrics 'auc': write NAME=NUMBER, like auc=0.71"),
        (["linear.onnx", "--name", "score", "--metrics", "auc=nan"], 2, "--metrics 'auc=nan': write NAME=NUMBER"),
        (["linear.onnx", "--name", "score", "--alias", "1st"], 2, "'1st' is not a valid alias"),
        (["absent.onnx", "--name", "score"], 2, "'absent.onnx' does not exist"),
        (["wrong.json", "--name", "score"], 3, "not an ONNX file"),
        (["linear.onnx", "--name", "score", "--golden", "wrong.json"], 3, "output 'y': expected [4.0], got [3.0]"),
    ],
)
def test_push_that_cannot_be_done_registers_nothing(run: Run, arguments: list[str], code: int, said: str) -> None:
    Path("wrong.json").write_text(dump([GoldenRecord({"x": [1.0, 1.0]}, {"y": [4.0]})]))
    done = run("push", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert DirectoryRegistry("models").names() == []


def test_push_of_a_version_that_exists_is_refused(run: Run, registry: DirectoryRegistry) -> None:
    done = run("push", "linear.onnx", "--name", "score", "--version", "2")
    assert (done.code, done.err) == (3, "error: model score@2 exists, and versions never change; push it under the next version\n")


def test_ls_of_an_empty_registry_says_how_to_begin(run: Run) -> None:
    assert run("ls").out == "no models in models; push one: penstock model push FILE.onnx --name NAME\n"
    assert run("ls", "--format", "json").json == []


def test_ls(run: Run, registry: DirectoryRegistry) -> None:
    assert run("ls", "--format", "json").json == [
        {"name": "rank", "versions": ["1"], "aliases": {}},
        {"name": "score", "versions": ["1", "2"], "aliases": {"live": "1"}},
    ]
    (line,) = [line for line in run("ls").out.splitlines() if line.startswith("score")]
    assert "1, 2" in line
    assert "live → 1" in line


def test_show_of_a_name_is_its_latest_version(run: Run, registry: DirectoryRegistry) -> None:
    assert run("show", "score", "--format", "json").json["version"] == "2"


def test_show_tells_what_a_person_wants_to_know(run: Run, registry: DirectoryRegistry) -> None:
    shown = run("show", "score@live").out
    assert shown.startswith("score@1\n")
    assert "says one [of many]" in shown
    assert "8 synthetic, compared within 1e-05 + 0.0001 x expected" in shown
    assert "x: float32[N, 1]" in shown
    told = run("show", "rank@1", "--format", "json").json
    assert (told["metrics"], told["provenance"], told["aliases"]) == ({"auc": 0.75}, {"author": "us"}, [])


def test_show_of_what_is_not_there(run: Run, registry: DirectoryRegistry) -> None:
    assert run("show", "scor") == (3, "", "error: there is no model 'scor' in models; did you mean 'score'?; models: rank, score\n")
    assert run("show", "score@9").err == "error: version or alias '9' of score is not in models; versions and aliases: 1, 2, live\n"


def test_alias_moves_and_says_from_where(run: Run, registry: DirectoryRegistry) -> None:
    assert run("alias", "score", "live", "2").out == "score@live points at 2, previously at 1\n"
    assert run("alias", "score", "next", "2").out == "score@next points at 2\n"
    assert registry.aliases("score") == {"live": "2", "next": "2"}
    assert run("alias", "score", "live", "3").code == 3


def test_verify_of_everything(run: Run, registry: DirectoryRegistry) -> None:
    done = run("verify")
    assert done.code == 0
    assert done.out.splitlines() == [
        "ok     rank@1: 8 golden records passed (synthetic)",
        "ok     score@1: 8 golden records passed (synthetic)",
        "ok     score@2: 8 golden records passed (synthetic)",
        "3 of 3 versions are unchanged since they were pushed",
    ]


def test_verify_goes_on_after_a_failure_and_exits_with_3(run: Run, registry: DirectoryRegistry) -> None:
    broken = Path("models/score/1/model.onnx")
    broken.unlink()
    broken.write_bytes(models.constant(3))
    done = run("verify", "--format", "json")
    assert done.code == 3
    assert [(result["model"], result["ok"]) for result in done.json] == [("rank@1", True), ("score@1", False), ("score@2", True)]
    assert run("verify", "score@2").code == 0
    assert run("verify", "score@live").code == 3
    assert run("verify", "score").code == 3


def test_verify_of_what_is_not_there_fails(run: Run, registry: DirectoryRegistry) -> None:
    done = run("verify", "absent", "rank")
    assert done.code == 3
    assert done.out.startswith("FAILED absent: there is no model 'absent' in models; models: rank, score\nok     rank@1")


def test_the_registry_is_where_the_flag_says(run: Run) -> None:
    run("push", "linear.onnx", "--name", "score", "--models", "elsewhere")
    assert DirectoryRegistry("elsewhere").names() == ["score"]


def test_file_over_the_limit_is_refused_before_it_is_read(run: Run) -> None:
    with open("huge.onnx", "wb") as file:
        file.truncate(2**40)
    done = run("push", "huge.onnx", "--name", "huge")
    assert (done.code, done.err) == (3, "error: huge.onnx has 1,099,511,627,776 bytes, the limit is 536,870,912\n")
