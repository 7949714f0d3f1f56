"""`penstock new`: what it writes works at once, and what is there already stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.cli.new import command
from penstock.cli.new.command import FILES
from tests.docs.test_pages import flags_of
from tests.unit.cli.done import Done, Run

TEMPLATE = Path(command.__file__).parent / "project"


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        return Done(main(arguments), *capfd.readouterr())

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_valid_and_keeps_its_own_cases(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run("new", "cards")
    assert (made.code, made.err) == (0, "")
    steps = [line.strip() for line in made.out.splitlines() if line.startswith("  ")]
    assert steps == ["cd cards", "penstock validate topologies/cards.yaml", "penstock test"]
    monkeypatch.chdir(tmp_path / "cards")
    valid, tested = (run(*step.split()[1:]) for step in steps[1:])
    assert valid.code == 0, valid.err
    assert "3 cases, all passed" in tested.out
    assert run("model", "verify", "dispute-risk@production").code == 0


def test_name_is_put_in_everywhere(run: Run, tmp_path: Path) -> None:
    run("new", "my_Cards-2")
    written = files(tmp_path / "my_Cards-2")
    assert [path for path, text in written.items() if "newproject" in path or b"newproject" in text] == []
    assert b"topology: my_Cards-2\n" in written["topologies/my_Cards-2.yaml"]
    assert b"my_Cards-2.payments" in written["send.py"]


def test_events_go_to_the_brokers_of_the_environment_and_their_absence_is_one_line(run: Run, tmp_path: Path) -> None:
    run("new", "cards")
    nowhere = {**os.environ, "PENSTOCK_BROKERS": "127.0.0.1:1"}
    sent = subprocess.run(
        [sys.executable, "send.py"], cwd=tmp_path / "cards", env=nowhere, capture_output=True, text=True, check=False, timeout=60
    )
    assert (sent.returncode, sent.stdout) == (1, "")
    (line,) = sent.stderr.splitlines()
    assert line.startswith("no answer from 127.0.0.1:1:")


def test_every_file_of_the_template_is_written() -> None:
    assert sorted(path for path in files(TEMPLATE) if "__pycache__" not in path) == sorted(FILES)


def test_commands_of_its_readme_exist() -> None:
    lines = [line for line in (TEMPLATE / "README.md").read_text().splitlines() if line.startswith("penstock ")]
    assert len(lines) > 8
    for words in [line.partition("#")[0].split() for line in lines]:
        assert {word for word in words if word.startswith("--")} <= flags_of(words), words


def test_folder_that_holds_something_is_left_alone(run: Run, tmp_path: Path) -> None:
    """And the advice leads on: an empty folder is taken."""
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "notes.txt").write_text("mine")
    refused = run("new", "cards")
    assert refused.code == 2
    assert refused.err == (
        "error: cards exists and is not empty (notes.txt); next: choose another name, or give an empty folder with --into\n"
    )
    assert files(tmp_path) == {"cards/notes.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    assert run("new", "cards", "--into", "empty").code == 0
    assert (tmp_path / "empty/topologies/cards.yaml").is_file()


def test_many_files_are_not_all_listed(run: Run, tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).write_text("")
    assert "(a, b, c and 2 more)" in run("new", "cards", "--into", ".").err


def test_current_folder_is_taken_when_it_is_empty(run: Run, tmp_path: Path) -> None:
    made = run("new", "cards", "--into", ".")
    assert made.code == 0
    assert "  cd " not in made.out
    assert (tmp_path / "topologies/cards.yaml").is_file()


@pytest.mark.parametrize("name", ["1st", "a b", "../cards", "cards/", "", "ä" * 3, "x" * 101])
def test_name_that_no_topology_can_have_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    refused = run("new", "--", name)
    assert refused.code == 2
    assert f"{name!r} cannot name a topology: begin with a letter" in refused.err
    assert files(tmp_path) == {}


@pytest.mark.parametrize("folder", ["taken", "taken/below"])
def test_file_in_the_way_is_named(run: Run, tmp_path: Path, folder: str) -> None:
    (tmp_path / "taken").write_text("mine")
    refused = run("new", "cards", "--into", folder)
    assert refused.code == 2
    assert folder in refused.err
    assert "--into" in refused.err
    assert files(tmp_path) == {"taken": b"mine"}
