"""The pages about Python: their code runs as it is written, from top to bottom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def test_code_of_the_library_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/library.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "library.md", "exec", dont_inherit=True), names)


def test_code_of_the_edge_page_runs(tmp_path: Path) -> None:
    """In an empty folder, after the command that the page begins with."""
    page = (ROOT / "docs/edge.md").read_text(encoding="utf-8")
    command = re.search(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    code = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert command is not None
    assert code is not None
    folders = {f"PENSTOCK_{each.upper()}": str(ROOT / each) for each in ("topologies", "models", "schemas")}
    environment = os.environ | folders | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", command[1]], cwd=tmp_path, env=environment, check=True, timeout=120)
    subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, check=True, timeout=120)


OWN = ROOT / "docs/your-own-model.md"
TITLED = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
ELSEWHERE = ("xgboost", "lightgbm", "catboost", "torch")  # run by tests/frameworks, in the environment of `make frameworks`
NUMBERS, TEXT = re.split(r"^## Text$", OWN.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_framework_of_the_page_is_run() -> None:
    titles = [title for _, title, _ in TITLED.findall(NUMBERS)]
    assert [title.partition("/")[0] for title in titles if title.endswith("/train.py")] == ["scikit-learn", *ELSEWHERE]


def test_model_of_the_page_predicts_what_it_shows(tmp_path: Path) -> None:
    """The commands are run in the folder that the page describes. The golden records compare the answers with the framework's."""
    follow(NUMBERS, "scikit-learn", tmp_path)


def test_text_of_the_page_is_scored_as_it_shows(tmp_path: Path) -> None:
    first, second = (float(number) for number in re.findall(r"'good': ([0-9.]+)", follow(TEXT, "text", tmp_path)))
    assert first > 0.5 > second


def follow(page: str, framework: str, folder: Path) -> str:
    """Makes the files of the page, and of this section, runs the commands, and returns what they print: it is what the page shows."""
    commands, shown = "", ""
    for language, title, text in TITLED.findall(page):
        if title and ("train.py" not in title or title.startswith(f"{framework}/")):
            path = folder / title.removeprefix(f"{framework}/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif language == "sh":
            commands += text
        elif language == "text":
            shown += text
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in shown.splitlines():
        assert re.search(f"^{'.*'.join(map(re.escape, line.split('…')))}$", done.stdout, re.MULTILINE), done.stdout
    return done.stdout
