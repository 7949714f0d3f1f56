"""The page about the service: its requests are sent as they are written, and answered as it shows."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import ROOT, served

PAGE = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
SHOWN = re.compile(r"^```sh\n((?:(?!```).*\n)*?)```\n\n```json\n((?:(?!```).*\n)*?)```$", re.MULTILINE)


def test_requests_of_the_page_are_answered_as_it_shows(tmp_path: Path) -> None:
    """Numbers with a fraction to the two digits that are shown."""
    pairs = SHOWN.findall(PAGE)
    assert len(pairs) == 4
    with served("topologies/flights.yaml", doors=("http",)) as service:
        for commands, shown in pairs:
            commands = commands.replace("127.0.0.1:8080", f"127.0.0.1:{service.ports['http']}")
            done = subprocess.run(["bash", "-ec", commands], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
            compare(json.loads(done.stdout), json.loads(shown))


def compare(found: Any, shown: Any) -> None:
    if isinstance(shown, dict):
        assert found.keys() == shown.keys()
        for name, one in shown.items():
            compare(found[name], one)
    elif isinstance(shown, list):
        assert len(found) == len(shown)
        for one, other in zip(found, shown, strict=True):
            compare(one, other)
    else:
        assert found == (pytest.approx(shown, abs=0.006) if isinstance(shown, float) else shown)
