"""Where the demo's files are: it runs from a clone of the repository, whose topology, models and flights are not installed."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from penstock.errors import ConfigError

__all__ = ["Clone", "find_clone"]

_EVENTS = Path("examples/flights/events.py")


@dataclass(frozen=True, slots=True)
class Clone:
    """The root of the repository and what the demo takes from it."""

    root: Path

    @property
    def topology(self) -> Path:
        return self.root / "topologies" / "flights.yaml"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def schemas(self) -> Path:
        return self.root / "schemas"

    def events(self) -> ModuleType:
        """`examples/flights/events.py` as a module; the examples are no package, so that each can be read and run by itself."""
        spec = importlib.util.spec_from_file_location("penstock_example_flights", self.root / _EVENTS)
        assert spec is not None, "a .py file has a spec"
        assert spec.loader is not None, "and a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
        return module


def find_clone(start: Path | None = None) -> Clone:
    """The clone that holds `start` (the current directory unless given), else the one this package is installed from (`pip install -e`).

    Raises ConfigError when there is neither.
    """
    begin = (start or Path.cwd()).resolve()
    for root in (begin, *begin.parents, *Path(__file__).resolve().parents):
        if (root / "pyproject.toml").is_file() and (root / _EVENTS).is_file():
            return Clone(root)
    raise ConfigError(
        f"the demo runs from a clone of Penstock, and {begin} is in none: its flights, models and topology are not part of the package; "
        "clone the repository, and call `make demo` there"
    )
