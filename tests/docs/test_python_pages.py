"""The pages about Python: their code runs as it is written, from top to bottom."""

from __future__ import annotations

import importlib.util
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
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "library.md", "exec", dont_inherit=True), names)


OWN = ROOT / "docs/your-own-model.md"
TITLED = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NEEDS = {"scikit-learn": "skl2onnx", "xgboost": "xgboost", "lightgbm": "lightgbm", "torch": "onnxscript"}


def test_every_framework_of_the_page_is_run() -> None:
    titles = [title for _, title, _ in TITLED.findall(OWN.read_text(encoding="utf-8"))]
    assert [title.partition("/")[0] for title in titles if title.endswith("/train.py")] == [*NEEDS]


@pytest.mark.parametrize("framework", NEEDS)
def test_model_of_the_page_predicts_what_it_shows(framework: str, tmp_path: Path) -> None:
    """The commands are run in the folder that the page describes. The golden records compare the answers with the framework's."""
    if importlib.util.find_spec(NEEDS[framework]) is None:
        pytest.skip(f"{NEEDS[framework]} is not installed")
    commands, shown = "", ""
    for language, title, text in TITLED.findall(OWN.read_text(encoding="utf-8")):
        if title and ("train.py" not in title or title.startswith(framework)):
            path = tmp_path / title.removeprefix(f"{framework}/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif language == "sh":
            commands += text
        elif language == "text":
            shown += text
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = ".*".join(map(re.escape, shown.strip().split("…")))
    assert re.search(f"^{answer}$", done.stdout, re.MULTILINE), done.stdout
