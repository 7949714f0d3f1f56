"""The package index shows the README without the repository around it: its links lead to files that are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
LINKS = re.findall(r"(?:\]\(|^\[[^\]]+\]: )([^)\s]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_links_to_the_repository_lead_to_its_files() -> None:
    ours = [link for link in LINKS if link.startswith(f"{SOURCE}/")]
    assert ours
    for link in ours:
        kind, _, path = link.removeprefix(f"{SOURCE}/").partition("/main/")
        assert kind in ("blob", "tree", "raw"), link
        assert (ROOT / path.partition("#")[0]).exists(), link
