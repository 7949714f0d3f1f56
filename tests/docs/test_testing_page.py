"""What docs/testing.md shows is run as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_commands_succeed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = [line.partition("#")[0].split() for line in "".join(snippets("sh")).splitlines() if line.startswith("penstock ")]
    assert len(commands) == 3
    assert [main(words[1:]) for words in commands] == [0, 0, 0], capfd.readouterr()


def test_examples_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    shutil.copy(ROOT / "topologies/flights.yaml", tmp_path)
    (cases,) = snippets("yaml")
    (tmp_path / "flights.test.yaml").write_text(cases)
    assert main(["test", str(tmp_path)]) == 0, capfd.readouterr()


def test_python_passes(tmp_path: Path) -> None:
    """As a user would: each snippet a file of tests, run by pytest, with the repository as the current folder."""
    shown = snippets("python")
    tests = sum(text.count("def test_") for text in shown)
    for number, text in enumerate(shown):
        (tmp_path / f"test_snippet_{number}.py").write_text(text)
    # `-c` of its own: the pages' tests must not depend on how ours are configured.
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    arguments = ["-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini"), "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed, skipped = (int(found[1]) if (found := re.search(rf"(\d+) {word}", done.stdout)) else 0 for word in ("passed", "skipped"))
    assert passed + skipped == tests >= 5
    assert skipped <= 1, "only the broker may lack something"
