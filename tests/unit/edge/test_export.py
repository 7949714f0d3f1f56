"""`penstock export edge`: a folder that scores alone, with the same answers, and only as it was exported."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.cli.main import main
from penstock.edge.write import package_name
from tests.unit.cli.done import Done, Run

ROOT = Path(__file__).parents[3]
with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
    FLIGHTS = [json.loads(line) for line in itertools.islice(lines, 50)]
HERE = ("--models", str(ROOT / "models"), "--schemas", str(ROOT / "schemas"))


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        return Done(main(arguments), *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("exported") / "flights_edge"
    assert main(["export", "edge", str(ROOT / "topologies/flights.yaml"), *HERE, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def changed(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "flights_edge"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file() and "__pycache__" not in str(one)
    }


def answers(where: Path, models: Path | None = None, schemas: Path | None = None) -> Any:
    with penstock.open(where, models=models, schemas=schemas) as plan:
        return plan.score(FLIGHTS)


def test_folder_scores_alone_as_the_topology_does(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone: in an empty folder, without the repository's settings."""
    monkeypatch.chdir(tmp_path)
    there = answers(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas")
    assert answers(exported) == there
    assert len(there) == 50
    assert isinstance(there[0], dict)


def test_same_versions_give_the_same_bytes(run: Run, exported: Path, tmp_path: Path) -> None:
    made = run("export", "edge", str(ROOT / "topologies/flights.yaml"), *HERE, "--out", "again", "--format", "json")
    assert contents(tmp_path / "again") == contents(exported)
    assert made.json["digest"].startswith("sha256:")
    assert made.json["files"] == len(contents(exported)) - 1  # the list is not in the list
    assert made.json["models"]["trees"] == "flight-trees@1"
    assert made.json["package"] == "flights_edge"


def test_list_of_digests_is_one_of_sha256sum(exported: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=exported, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_name_of_the_folder_is_that_of_the_package(run: Run, tmp_path: Path) -> None:
    made = run("export", "edge", str(ROOT / "topologies/flights-desk.yaml"), *HERE)
    assert made.code == 0, made.err
    assert (tmp_path / "flights_desk_edge" / "__init__.py").is_file()
    assert "import flights_desk_edge" in made.err


@pytest.mark.parametrize("topology", ["flights-cascade", "flights-desk"])
def test_topology_with_rules_and_chains_scores_from_its_folder(run: Run, tmp_path: Path, topology: str) -> None:
    assert run("export", "edge", str(ROOT / f"topologies/{topology}.yaml"), *HERE, "--out", "out").code == 0
    there = answers(ROOT / f"topologies/{topology}.yaml", models=ROOT / "models", schemas=ROOT / "schemas")
    assert answers(tmp_path / "out") == there


def test_plan_is_the_wiring_by_paths_of_the_folder(run: Run, tmp_path: Path) -> None:
    """Of a topology with conditions: their rules are files, too."""
    assert run("export", "edge", str(ROOT / "topologies/flights-cascade.yaml"), *HERE, "--out", "out").code == 0
    plan = json.loads((tmp_path / "out/plan.json").read_text())
    (stage,) = plan["stages"]
    assert [step["node"] for step in stage["steps"]] == ["features", "logistic", "trees?", "trees", "verdict"]
    assert {step["model"] for step in stage["steps"]} == {path for path in contents(tmp_path / "out") if path.endswith(".onnx")}, (
        "each file is read, and there is each file"
    )
    made = {column["name"] for column in stage["columns"]} | {one["column"] for step in stage["steps"] for one in step["outputs"]}
    read = {part["column"] for step in stage["steps"] for one in step["inputs"] for part in one.get("parts", ())}
    assert read | {field["from"]["column"] for field in stage["sinks"][0]["fields"]} <= made
    assert {step["node"]: step["when"] for step in stage["steps"] if "when" in step} == {"trees": "trees?.when"}
    assert next(column for column in stage["columns"] if column["field"] == "dep_delay")["fill"] == "NaN"
    assert {field["name"]: field for field in stage["fields"]}["origin"]["symbols"] == ["EWR", "JFK", "LGA"]


def test_folder_that_holds_something_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    refused = run("export", "edge", str(ROOT / "topologies/flights.yaml"), *HERE, "--out", "out")
    assert refused.code == 2
    assert (
        refused.err == "error: out exists and is not empty (notes.txt): nothing is overwritten; next: choose another --out, or remove it\n"
    )
    assert contents(tmp_path) == {"out/notes.txt": b"mine"}
    (tmp_path / "out/notes.txt").unlink()
    assert run("export", "edge", str(ROOT / "topologies/flights.yaml"), *HERE, "--out", "out").code == 0


def test_nothing_is_left_of_an_export_that_fails(run: Run, tmp_path: Path) -> None:
    models = Path(shutil.copytree(ROOT / "models", tmp_path / "models"))
    golden = models / "flight-trees/1/golden.json"
    golden.chmod(0o644)
    golden.write_bytes(golden.read_bytes() + b" ")
    refused = run("export", "edge", str(ROOT / "topologies/flights.yaml"), "--models", "models", *HERE[2:], "--out", "out/deep")
    assert refused.code == 3
    assert "golden.json is not the file that was pushed" in refused.err
    assert not (tmp_path / "out").exists()


@given(st.data())
def test_no_changed_byte_is_opened(exported: Path, data: st.DataObject) -> None:
    """Of any file, the list of digests included."""
    paths = sorted(contents(exported))
    path = exported / data.draw(st.sampled_from(paths))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    try:
        path.write_bytes(before[:at] + bytes([before[at] ^ data.draw(st.integers(1, 255))]) + before[at + 1 :])
        with pytest.raises(penstock.ConfigError) as refused:
            penstock.open(exported)
    finally:
        path.write_bytes(before)
    assert str(exported) in str(refused.value)


def _lose(folder: Path) -> None:
    (folder / "models/flight-trees/1/golden.json").unlink()


def _add(folder: Path) -> None:
    (folder / "trust").mkdir()
    (folder / "trust/key.pem").write_text("mine")


def _link(folder: Path) -> None:
    (folder / "more").symlink_to("/")


def _pipe(folder: Path) -> None:
    (folder / "plan.json").unlink()
    os.mkfifo(folder / "plan.json")


def _unlist(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()


def _escape(folder: Path) -> None:
    file = folder / "SHA256SUMS"
    file.write_text(file.read_text() + f"{'0' * 64}  ../secret\n")


def _rebind(folder: Path) -> None:
    _relist(folder, '"trees":', '"other":')


def _lead_out(folder: Path) -> None:
    _relist(folder, '"topologies/', '"../topologies/')


def _relist(folder: Path, old: str, new: str) -> None:
    """Changes edge.json, and its digest in the list."""
    before = (folder / "edge.json").read_bytes()
    after = before.replace(old.encode(), new.encode())
    assert after != before
    (folder / "edge.json").write_bytes(after)
    listed = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(listed.replace(hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose, "golden.json: is missing: SHA256SUMS lists it (copy the exported folder again, or export it again)"),
        (_add, "trust/key.pem: is not in SHA256SUMS: it was added after the export (remove it)"),
        (_link, "more: is not in SHA256SUMS: it was added after the export (remove it)"),
        (_pipe, "plan.json: is not a file"),
        (_unlist, "SHA256SUMS: cannot be read: No such file or directory"),
        (_escape, "SHA256SUMS:20:1: not a digest and the path of a file"),
        (_rebind, "edge.json: binds other nodes than the topology topologies/flights.yaml has"),
        (_lead_out, "edge.json: names '../topologies/flights.yaml' as the topology, which is no file of the folder"),
    ],
)
def test_folder_that_differs_is_refused_by_name(changed: Path, change: Callable[[Path], None], message: str) -> None:
    change(changed)
    with pytest.raises(penstock.ConfigError) as refused:
        penstock.open(changed)
    assert message in str(refused.value)


def test_models_of_an_exported_folder_are_its_own(exported: Path) -> None:
    with pytest.raises(penstock.ConfigError, match="is an exported folder, which has its models and schemas in it: leave out models"):
        penstock.open(exported, models="models")


def test_package_is_imported_from_beside_it_and_opens_when_it_scores(changed: Path, tmp_path: Path) -> None:
    """Without pip, too: the folder is the package."""
    code = (
        "import sys, json, flights_edge; assert 'onnxruntime' not in sys.modules;"
        f"print(json.dumps(flights_edge.score(json.loads({json.dumps(FLIGHTS[0])!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == answers(changed)[0]


def test_names_become_names_of_packages() -> None:
    assert package_name("flights-desk") == "flights_desk_edge"
    assert package_name("_a9") == "_a9_edge"
