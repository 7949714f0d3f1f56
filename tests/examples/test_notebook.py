"""The notebook prints what it shows, from any folder of the repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = "examples/notebooks/run.py"
NOTEBOOK = "examples/notebooks/topology_driver.ipynb"


def test_cells_print_what_the_notebook_shows(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(root / RUN), str(root / NOTEBOOK)],
        cwd=root / "examples/notebooks",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("source", "code"), [("print(1)", 0), ("print(2)", 1), ("1 / 0", 1)])
def test_cell_that_prints_something_else_is_noticed(root: Path, tmp_path: Path, source: str, code: int) -> None:
    """Otherwise the test above could not fail."""
    cell = {"cell_type": "code", "source": [source], "outputs": [{"output_type": "stream", "text": ["1\n"]}]}
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": [cell]}))
    shutil.copy(root / RUN, tmp_path)
    done = subprocess.run([sys.executable, "run.py", "one.ipynb"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr


def test_notebook_has_the_form_of_one(root: Path) -> None:
    """What Jupyter asks for: format 4, an id and metadata per cell, outputs of code only."""
    notebook = json.loads((root / NOTEBOOK).read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        code = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | code
