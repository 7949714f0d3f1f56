"""The paths of the demo's files: the topologies, the models and the schemas of the clone with this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["MODELS", "ROOT", "SCHEMAS", "TOPOLOGIES"]

ROOT: Final = Path(__file__).resolve().parents[3]
TOPOLOGIES: Final = ROOT / "topologies"
MODELS: Final = ROOT / "models"
SCHEMAS: Final = ROOT / "schemas"
