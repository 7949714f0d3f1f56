"""`penstock test`, from the outside: files of cases in; exit code, stdout and stderr out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.unit.cli.done import Done, Run

TOPOLOGY = """\
topology: double
sources: {numbers: {topic: numbers, schema: number.avsc}}
nodes: {double: {kind: model, model: double@1}}
sinks: {doubled: {topic: doubled, fields: {y: double}}}
"""
CASES = """\
cases:
  - name: two is doubled
    given: {numbers: [{x: 2}]}
    expect: {doubled: [{y: 4}]}
  - name: text [is] refused
    given: {numbers: [{x: two}]}
    expect: {dead_letters: {numbers: [{stage: decode}]}}
"""


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `penstock test ...` in a folder with topologies/double.yaml and its cases."""
    monkeypatch.chdir(tmp_path)
    for folder in ("schemas", "topologies"):
        Path(folder).mkdir()
    schema = {"type": "record", "name": "Number", "fields": [{"name": "x", "type": "float"}]}
    Path("schemas/number.avsc").write_text(json.dumps(schema))
    Path("topologies/double.yaml").write_text(TOPOLOGY)
    Path("topologies/double.test.yaml").write_text(CASES)
    DirectoryRegistry("models").publish("double", models.linear([2]))

    def call(*arguments: str) -> Done:
        code = main(["test", *arguments])
        return Done(code, *capfd.readouterr())

    return call


def test_without_files_the_folder_topologies_is_run(run: Run) -> None:
    done = run()
    assert done == (
        0,
        "topologies/double.test.yaml\n  passed  two is doubled\n  passed  text [is] refused\n2 cases, all passed\n",
        "",
    )


@pytest.mark.parametrize("path", ["topologies", "topologies/double.yaml", "topologies/double.test.yaml", "."])
def test_file_topology_or_folder_may_be_named(run: Run, path: str) -> None:
    assert run(path).out.endswith("2 cases, all passed\n")


def test_file_that_is_named_twice_is_run_once(run: Run) -> None:
    assert run("topologies", "topologies/double.yaml").out.endswith("2 cases, all passed\n")


def test_failure_says_where_what_was_expected_and_what_came(run: Run) -> None:
    Path("topologies/double.test.yaml").write_text(CASES.replace("y: 4", "y: {above: 4}").replace("stage: decode", "message: '[bold]'"))
    done = run()
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        "topologies/double.test.yaml",
        "  failed  two is doubled",
        "    topologies/double.test.yaml:4:28: doubled[0].y: expected above 4, got 4.0",
        "  failed  text [is] refused",
        '    topologies/double.test.yaml:7:49: dead_letters.numbers[0].message: expected text with "[bold]", '
        'got "Expected `float`, got `str` - at `$.x`"',
        "2 cases, 2 failed",
    ]


def test_json_tells_programs_the_same(run: Run) -> None:
    Path("topologies/double.test.yaml").write_text(CASES.replace("y: 4", "y: 5"))
    done = run("--format", "json")
    assert (done.code, done.err) == (1, "")
    wrong = {"where": "doubled[0].y", "expected": "5", "got": "4.0", "line": 4, "column": 28}
    assert done.json == {
        "passed": 1,
        "failed": 1,
        "problems": [],
        "files": [
            {
                "file": "topologies/double.test.yaml",
                "topology": "topologies/double.yaml",
                "cases": [
                    {"name": "two is doubled", "line": 2, "passed": False, "mismatches": [wrong]},
                    {"name": "text [is] refused", "line": 5, "passed": True, "mismatches": []},
                ],
            }
        ],
    }


def test_k_picks_cases_by_their_name(run: Run) -> None:
    done = run("-k", "[is]")
    assert (done.code, done.out.splitlines()[1:]) == (0, ["  passed  text [is] refused", "1 case, all passed"])


def test_k_that_picks_nothing_is_no_success(run: Run) -> None:
    done = run("-k", "three")
    assert (done.code, done.out) == (2, "")
    assert "no case has 'three' in its name" in done.err


def test_problems_of_all_files_are_told_and_nothing_runs(run: Run) -> None:
    Path("topologies/a.test.yaml").write_text("topology: double.yaml\n" + CASES.replace("doubled:", "doubld:"))
    Path("topologies/broken.yaml").write_text(TOPOLOGY.replace("double@1", "duoble@1"))
    Path("topologies/broken.test.yaml").write_text(CASES)
    done = run()
    assert (done.code, done.out) == (2, "")
    assert "error: 2 problems" in done.err
    assert "topologies/a.test.yaml:5:14: unknown sink 'doubld' (did you mean 'doubled'?)" in done.err
    assert "topologies/broken.yaml:3:38: nodes.double: there is no model 'duoble'" in done.err
    done = run("--format", "json")
    assert (done.code, done.err) == (2, "")
    assert [(one["file"], one["line"], one["column"]) for one in done.json["problems"]] == [
        ("topologies/a.test.yaml", 5, 14),
        ("topologies/broken.yaml", 3, 38),
    ]


def test_folder_without_cases_is_no_success(run: Run) -> None:
    done = run("schemas")
    assert done.code == 2
    assert "schemas holds no *.test.yaml" in done.err


def test_no_folder_at_all_says_what_to_do(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = run()
    assert done.code == 2
    assert "there is no folder topologies here" in done.err


def test_model_that_cannot_serve_has_its_own_code(run: Run) -> None:
    file = Path("models/double/1/model.onnx")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b"\0")
    done = run()
    assert (done.code, done.out) == (3, "")
    assert "double@1" in done.err


def test_a_row_that_is_none_fails_its_case(run: Run) -> None:
    """Rows of a table come before the events that look them up; a tombstone has a key."""
    row = {"type": "record", "name": "Row", "fields": [{"name": "k", "type": "float"}, {"name": "id", "type": "long"}]}
    Path("schemas/row.avsc").write_text(json.dumps(row))
    Path("topologies/double.yaml").write_text(
        "topology: double\n"
        "sources: {numbers: {topic: numbers, schema: row.avsc}}\n"
        "tables: {rows: {topic: rows, schema: row.avsc, key: id}}\n"
        "nodes: {row: {kind: lookup, table: rows, by: id}}\n"
        "sinks: {doubled: {topic: doubled, fields: {y: row.k}}}\n"
    )
    given = "  - {name: %s, given: {rows: [%s], numbers: [{k: 0, id: 7}]}, expect: {doubled: [{y: %s}]}}\n"
    cases = [("there", "{k: 2, id: 7}", "2"), ("removed", "{event: {k: 2, id: 7}, key: a}, {event: null, key: a}", "null")]
    cases += [("no row", "{id: 7}", "2"), ("no key", "null", "null")]
    Path("topologies/double.test.yaml").write_text("cases:\n" + "".join(given % case for case in cases))
    done = run()
    assert done.code == 1
    assert "passed  there" in done.out
    assert "passed  removed" in done.out
    said = " ".join(done.out.split())
    assert "double.test.yaml:4:5: given.rows: expected rows, got it is no row of rows: Object missing required field `k`" in said
    assert "double.test.yaml:5:5: given.rows: expected rows, got it is no row of rows: it removes a row, and its key names none" in said
