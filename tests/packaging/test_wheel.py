"""What is released works where the repository is not: built, installed, and used in an empty folder."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from email import message_from_bytes
from pathlib import Path

import pytest

from penstock.native import native
from penstock.testing import open_broker, unique, wait_for
from tests.packaging.conftest import ROOT, Built, build

# Of the repository, but of no use to somebody who has the sdist.
NOT_RELEASED = {".gitignore"}
BROKERS = os.environ.get("PENSTOCK_BROKERS")  # read here because a fixture removes it from the environment of each test


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="session")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that has the wheel, and the dependencies of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(interpreter), "install", "--quiet"]
    subprocess.run([*command, "--no-index", "--no-deps", str(built.wheel)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that is added this way has no .pth files of its own read: the checkout, installed as editable, stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return interpreter


def environment(python: Path) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "PYTHON", "COVERAGE"))}
    return {**kept, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}


def run(python: Path, folder: Path, *words: str) -> str:
    """Stdout of a command that has to succeed, in `folder`."""
    done = subprocess.run(words, cwd=folder, env=environment(python), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"{words} ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_sdist_holds_what_the_repository_does(built: Built) -> None:
    """So it can be tested and packaged further by people who have nothing else."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    there = {path for path in tracked if path and (ROOT / path).exists()}
    with tarfile.open(built.sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {path for path in there - held if not path.startswith(".github/")} == NOT_RELEASED
    assert {path for path in held if path.endswith((".so", ".pyc"))} == set()


@pytest.mark.parametrize("kind", ["wheel", "pure"])
def test_wheel_holds_the_package_alone(built: Built, kind: str) -> None:
    held = {name for name in names(getattr(built, kind)) if ".dist-info/" not in name}
    package = ROOT / "app" / "penstock"
    sources = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    unwanted = re.compile(r"__pycache__|\.so$|\.c$")
    assert {name for name in held if not name.endswith(".so")} == {name for name in sources if not unwanted.search(name)}


def test_one_wheel_serves_every_python_and_the_pure_one_every_platform(built: Built) -> None:
    assert built.pure.name.endswith("-py3-none-any.whl")
    assert [name for name in names(built.pure) if name.endswith(".so")] == []
    if native is None:
        pytest.skip("the native part cannot be built here")
    assert "-cp311-abi3-" in built.wheel.name
    assert [name for name in names(built.wheel) if name.endswith(".so")] == ["penstock/_native.abi3.so"]


def test_build_that_needs_the_native_part_fails_without_a_compiler(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release must not lose it in silence; an installation may."""
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(AssertionError, match="no-such-compiler"):
        build(built.source, tmp_path / "required", "--wheel", native="required")
    made = build(built.source, tmp_path / "optional", "--wheel")
    assert [name for name in names(made) if name.endswith(".so")] == []


def test_metadata_lead_home(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    links = dict(line.split(", ") for line in metadata.get_all("Project-URL") or [])
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(links)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0"


def test_installed_package_is_the_wheels(python: Path, tmp_path: Path) -> None:
    """Otherwise the next test would try the checkout."""
    shown = run(python, tmp_path, "python", "-c", "import penstock, sys; print(penstock.__file__); print(*sys.path)")
    where, path = shown.splitlines()
    assert Path(where).is_relative_to(python.parents[1])
    assert str(ROOT / "app") not in path.split()
    version = run(python, tmp_path, "penstock", "--version")
    assert ("without" if native is None else "with") + " its native part" in version


def test_new_project_is_valid_tested_and_run(python: Path, tmp_path: Path) -> None:
    """`penstock new`, validate, test, run: events go in, predictions come out, and the worker stops when it is asked to."""
    name = unique("payments")
    run(python, tmp_path, "penstock", "new", name)
    project = tmp_path / name
    assert "is valid" in run(python, project, "penstock", "validate", f"topologies/{name}.yaml")
    assert "3 cases, all passed" in run(python, project, "penstock", "test")
    with open_broker(BROKERS) as broker:
        flags = ["--brokers", broker.bootstrap]
        if "create_topics" in broker.lacks:
            flags.append("--no-releases")  # a control log has one partition, which the mock cluster cannot make
        else:
            run(python, project, "penstock", "topics", "create", f"topologies/{name}.yaml", *flags, "--replication", "1")
        log = tmp_path / "worker.log"
        with log.open("wb") as file:
            command = [str(python.with_name("penstock")), "run", f"topologies/{name}.yaml", *flags]
            worker = subprocess.Popen(command, cwd=project, env=environment(python), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            wait_for(lambda: "assigned " in log.read_text() or worker.poll() is not None, "partitions for the worker", 60)
            assert worker.poll() is None, log.read_text()
            predictions = run(python, project, "python", "send.py", broker.bootstrap).splitlines()
            assert len(predictions) == len((project / "events.ndjson").read_text().splitlines())
            worker.terminate()
            assert worker.wait(60) == 0, log.read_text()
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


@pytest.mark.skipif(importlib.util.find_spec("skl2onnx") is None, reason="skl2onnx is not installed")
def test_trained_version_takes_the_place_of_the_ready_one(python: Path, tmp_path: Path) -> None:
    """The script that a project brings: its model has the tensors that the topology reads, and keeps the cases."""
    run(python, tmp_path, "penstock", "new", "cards", "--into", ".")
    shown = run(python, tmp_path, "python", "train.py", "--rows", "4000", "--alias", "production")
    assert "dispute-risk@production points at it" in shown
    assert (tmp_path / "models/dispute-risk/aliases/production").read_text().strip() == "2"
    assert "3 cases, all passed" in run(python, tmp_path, "penstock", "test")
