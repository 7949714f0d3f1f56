"""The word list finds idioms in prose only, and its numbers cannot grow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from docs import words


def test_prose_is_within_its_numbers() -> None:
    """`python docs/words.py` lists what is too much, and what to write instead."""
    assert list(words.check(words.findings(), words.allowed())) == []


@pytest.mark.parametrize(
    "text",
    [
        "The operator is told.",
        "Nobody reads it",
        "who is\n    held against",
        "the log says so",
        "one agent a source",
        "the plan in force",
        "A file says no",
    ],
)
def test_idiom_is_found(text: str) -> None:
    assert len(words.find(text)) == 1


@pytest.mark.parametrize(
    "text", ["told apart", "The worker reports it.", "a topic's record", "5,000 events per second", "enforce", "tellstone"]
)
def test_plain_english_is_not(text: str) -> None:
    assert words.find(text) == []


def _project(root: Path) -> Path:
    (root / "docs").mkdir()
    (root / "app/penstock").mkdir(parents=True)
    (root / "docs/page.md").write_text("Nobody.\n\n```sh\necho nobody\n```\n\n`nobody` and [a link](nobody.md)\n")
    (root / "app/penstock/one.py").write_text('"""It is told."""\nnobody = 1  # nobody\nf"{nobody} nobody"\n')
    return root


def test_code_is_not_prose(tmp_path: Path) -> None:
    """Names, code blocks and link targets are what they are; comments, docstrings and strings are prose."""
    found = words.findings(_project(tmp_path))
    assert [(one.file, one.line) for many in found.values() for one in many][-1] == ("docs/page.md", 1)
    assert {one.line for one in found["app/penstock/one.py"]} == {1, 2, 3}


def test_numbers_may_only_shrink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Too many, too high a number, and a file that moved."""
    found = words.findings(_project(tmp_path))
    assert any("1 idioms, 0 are allowed" in line for line in words.check(found, {"app/penstock/one.py": 9}))
    assert any("still allows 9" in line for line in words.check(found, {"app/penstock/one.py": 9, "docs/page.md": 1}))
    listed = tmp_path / "words.txt"
    monkeypatch.setattr(words, "ALLOWED", listed)
    monkeypatch.setattr(words, "findings", lambda: found)
    monkeypatch.setattr(sys, "argv", ["words.py", "--write"])
    many = sum(map(len, found.values()))
    listed.write_text(f"# head\n{many} app/penstock/moved.py\n")
    assert words.main() == 0
    assert words.allowed(listed) == {file: len(one) for file, one in found.items()}
    listed.write_text(f"# head\n{many - 1} app/penstock/one.py\n")
    assert words.main() == 1
    assert f"{many} idioms, and only {many - 1} are allowed" in capsys.readouterr().out
