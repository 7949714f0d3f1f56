"""What `import penstock` offers, and that offering it costs nothing."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import penstock


@pytest.mark.parametrize("name", penstock.__all__)
def test_public_name_is_there_and_documented(name: str) -> None:
    """Fetched on first use, from the module that a type checker takes it from."""
    assert (inspect.getdoc(getattr(penstock, name)) or "").strip()
    assert name in dir(penstock)


def test_type_checkers_are_told_the_same_names() -> None:
    """The names that are fetched, those under TYPE_CHECKING and `__all__` are one list."""
    tree = ast.parse(Path(penstock.__file__).read_text(encoding="utf-8"))
    imports = [node for branch in tree.body if isinstance(branch, ast.If) for node in branch.body if isinstance(node, ast.ImportFrom)]
    told = {alias.name: node.module for node in imports for alias in node.names}
    assert told == {name: f"penstock.{home}" for name, home in penstock._HOMES.items()}
    assert sorted(told) == sorted(penstock.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'penstock' has no attribute 'nothing'"):
        penstock.nothing  # noqa: B018  the look is the test


def test_import_is_light() -> None:
    """The command line imports the package before it knows what is wanted."""
    script = "import sys; before = set(sys.modules); import penstock; print(*(set(sys.modules) - before))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "penstock" in shown.stdout.split()
    assert {name.partition(".")[0] for name in shown.stdout.split()}.isdisjoint({"numpy", "onnx", "onnxruntime", "faust", "rich", "click"})


def test_types_are_shipped() -> None:
    """Users' type checkers read ours."""
    assert Path(penstock.__file__).with_name("py.typed").exists()
