"""An exported topology is a package that pip installs without an index and without a build tool, and that scores by itself."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import penstock
from penstock.cli.main import main
from tests.packaging.conftest import ROOT

CODE = """
import json, sys
import flights_edge
assert "onnxruntime" not in sys.modules, "it is opened when it is first used"
assert flights_edge.__file__.startswith(sys.prefix), flights_edge.__file__
def refuse(event, _):
    assert event not in ("socket.connect", "socket.getaddrinfo", "socket.sendto"), "the network is asked"
sys.addaudithook(refuse)
events = json.load(sys.stdin)
answers = flights_edge.score(events)
columns = {name: [one[name] for one in events] for name in events[0]}
assert flights_edge.score_columns(columns).columns["flight_id"].tolist() == [one["flight_id"] for one in answers]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "exported"
    models = ("--models", str(ROOT / "models"), "--schemas", str(ROOT / "schemas"))
    assert main(["export", "edge", str(ROOT / "topologies/flights.yaml"), *models, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def python(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment in which pip has installed the folder; it has the packages of this one beside it."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(place / "bin/python")]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(folder)], check=True, timeout=120)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(f"{sysconfig.get_path('purelib')}\n{Path(penstock.__file__).parents[1]}\n")
    return place / "bin/python"


def scored(python: Path, where: Path, events: list[object]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "PYTHON", "COVERAGE"))}
    return subprocess.run(
        [python, "-c", CODE], cwd=where, env=kept, input=json.dumps(events), capture_output=True, text=True, timeout=120, check=False
    )


def test_installed_package_scores_as_the_repository_does(python: Path, tmp_path: Path) -> None:
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
        events = [json.loads(next(lines)) for _ in range(20)]
    done = scored(python, tmp_path, events)
    assert done.returncode == 0, done.stderr
    with penstock.open(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas") as plan:
        assert json.loads(done.stdout) == plan.score(events)


def test_installed_package_refuses_a_changed_byte(python: Path, tmp_path: Path) -> None:
    (model,) = python.parents[1].glob("lib/python*/site-packages/flights_edge/models/flight-trees/1/model.onnx")
    data = model.read_bytes()
    try:
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        done = scored(python, tmp_path, [])
    finally:
        model.write_bytes(data)
    assert done.returncode == 1
    assert f"{model}: is not the file that was exported" in done.stderr


def test_installing_writes_nothing_into_the_folder(python: Path, folder: Path) -> None:
    """So that it can be opened, and installed, again."""
    assert {one.name for one in folder.iterdir()} - {"__pycache__"} == {
        "SHA256SUMS", "__init__.py", "_wheel.py", "edge.json", "models", "plan.json", "pyproject.toml", "schemas", "topologies",
    }  # fmt: skip
    penstock.open(folder).close()


def test_wheels_of_one_folder_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index", "--no-deps"]
    for name in "ab":
        subprocess.run([*pip, "--wheel-dir", str(tmp_path / name), str(folder)], check=True, timeout=120)
    (first,), (second,) = ([*(tmp_path / name).iterdir()] for name in "ab")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as wheel:
        (about,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
    assert f"Requires-Dist: penstock=={_version()}\n" in about


def _version() -> str:
    from importlib.metadata import version

    return version("penstock")
