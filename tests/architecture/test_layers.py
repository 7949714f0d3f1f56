"""The shape of the code is a promise: layers, who may import what, and an error tree that is drawn as it is."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from penstock import errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "app" / "penstock"

# A library, or a thing in one, and the only places that may name it ("" is nowhere).
HOMES = {
    "onnxruntime": ("model/session.py",),
    "faust": ("transports/kafka/faust.py",),
    "aiokafka": ("transports/kafka/",),
    "model_signing": ("model/signing.py",),
    "sigstore": (),
    "sigstore_models": ("model/signing.py",),
    "OpenSSL": ("model/signing.py",),
    "yaml": ("topology/document.py",),
    "prometheus_client": ("telemetry/export.py",),
    "jwt": ("access/",),
    "datasketches": ("windows/sketches.py",),
    "starlette": ("serving/app.py",),
    "uvicorn": ("serving/app.py", "serving/connections.py"),
    "redis": ("stores/redis.py",),
    "psycopg": ("stores/sql.py",),
    "cassandra": ("stores/cassandra.py",),
    "pyspark": ("integrations/spark.py",),
    "pyflink": ("integrations/flink.py",),
    "grpc": ("serving/grpc.py", "conformance/grpc.py"),
    "os.environ": ("settings.py", "cli/new/project/"),  # the project is its user's, and imports nothing of ours
    "os.getenv": ("settings.py",),
    "pickle": (),
    "joblib": (),
    "marshal": (),
    "shelve": (),
}


@cache
def names(path: Path) -> frozenset[str]:
    """Every dotted name that a module imports or takes from a module: `os.environ`, `faust`, `aiokafka.errors`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return frozenset(found)


def trespassers(package: Path, name: str, homes: tuple[str, ...]) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        if not place.startswith(homes or "/") and any(one == name or one.startswith(f"{name}.") for one in names(path)):
            found.append(place)
    return found


@pytest.mark.parametrize("name", HOMES)
def test_library_is_named_at_home_only(name: str) -> None:
    assert trespassers(PACKAGE, name, HOMES[name]) == []


def test_trespasser_is_found(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    (tmp_path / "settings.py").write_text("import os\nos.environ['A']\n")
    (tmp_path / "batch.py").write_text("from os import environ\n")
    (tmp_path / "record.py").write_text("import faust.types\n")
    assert trespassers(tmp_path, "os.environ", HOMES["os.environ"]) == ["batch.py"]
    assert trespassers(tmp_path, "faust", HOMES["faust"]) == ["record.py"]


def test_bans_of_ruff_are_lifted_at_these_homes_only() -> None:
    """Ruff tells a writer at once what this file tells later; they must mean the same files."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    lifted = {
        path.removeprefix("app/penstock/").removesuffix("**") for path, rules in lint["per-file-ignores"].items() if "TID251" in rules
    }
    banned = set(lint["flake8-tidy-imports"]["banned-api"])
    homes = {home for name in banned & set(HOMES) for home in HOMES[name]}
    assert lifted - {"tests/", "benchmarks/", "examples/", "setup.py"} == homes


def test_layers_hold() -> None:
    shown = subprocess.run([_script("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout


def _script(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, f"{name} is not beside {sys.executable}; install the extra `check`"
    return found


def _drawn() -> dict[str, str]:
    """Class -> parent, as the docstring of penstock.errors draws them."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if branch := re.match(r"^((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+)(?:  |$)", line):
            depth = len(branch[1]) // 4 + ("── " in line)
            above[depth:] = [branch[2]]
            parents[branch[2]] = above[depth - 1] if depth else "Exception"
    return parents


def test_error_tree_is_drawn_as_it_is() -> None:
    classes = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, Exception)]
    assert _drawn() == {one.__name__: one.__bases__[0].__name__ for one in classes}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_opens_with_its_sentence_and_names_what_it_offers(path: Path) -> None:
    """A docstring first; and every name of `__all__` is there, in order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    offered = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    if offered:
        listed = ast.literal_eval(offered[0])
        defined = {name for node in tree.body for name in _defines(node)}
        assert [name for name in listed if name not in defined] == []
        assert len(set(listed)) == len(listed)


def _defines(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Assign):
        yield from (ast.unparse(target) for target in node.targets)
    elif isinstance(node, ast.AnnAssign):
        yield ast.unparse(node.target)
    elif isinstance(node, ast.If | ast.Try):
        yield from (name for child in node.body for name in _defines(child))


def test_engine_never_awaits() -> None:
    """The hot loop runs the same in a stream, in a file and in a test because nothing in it waits for the world.

    The rules of `control` are tested without a broker for the same reason.
    """
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    for folder in ("engine", "nodes", "codecs", "model", "topology", "control"):
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            assert not any(isinstance(node, waiting) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))), path
