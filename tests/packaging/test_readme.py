"""The README is shown by the package index too, where a relative link leads nowhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
LINKS = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))


def test_links_are_absolute() -> None:
    assert LINKS
    assert [link for link in LINKS if not re.match(r"https?://|#", link)] == []


def test_links_to_the_repository_lead_to_its_files() -> None:
    ours = [link for link in LINKS if link.startswith(SOURCE)]
    assert ours
    for link in ours:
        assert link.startswith(f"{SOURCE}/blob/main/"), link
        assert (ROOT / link.removeprefix(f"{SOURCE}/blob/main/").partition("#")[0]).is_file(), link
