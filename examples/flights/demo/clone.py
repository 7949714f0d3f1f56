"""The paths of the demo's files: the topology, the models and the schemas of the clone with this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["MODELS", "ROOT", "SCHEMAS", "TOPOLOGY"]

ROOT: Final = Path(__file__).resolve().parents[3]
TOPOLOGY: Final = ROOT / "topologies" / "flights.yaml"
MODELS: Final = ROOT / "models"
SCHEMAS: Final = ROOT / "schemas"
