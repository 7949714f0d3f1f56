"""The tutorial is run from top to bottom in an empty folder, and prints what it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.broker import Broker, open_broker

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-model.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
MARK = "===== {} ====="


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with open_broker(os.environ.get("PENSTOCK_BROKERS")) as opened:
        yield opened


def test_tutorial_prints_what_it_shows(broker: Broker, tmp_path: Path) -> None:
    """One shell runs every `sh` block in order; a block with a title is a file; a `text` block is what the commands above it print.

    What a person does once for their machine (`console`: a broker, the installation) is in place here. librdkafka's mock cluster makes
    topics by itself and cannot stamp what signatures are judged by, so there `topics create` is left out and releases are unsigned.
    """
    mock = broker.kind == "mock"
    script, shown = ["set -euo pipefail", "trap 'jobs -p | xargs -r kill' EXIT"], dict[int, str]()
    for number, (language, title, text) in enumerate(BLOCK.findall(PAGE.read_text(encoding="utf-8"))):
        if title:
            script.append(f"mkdir -p {shlex.quote(str(Path(title).parent))}\ncat > {shlex.quote(title)} <<'END OF FILE'\n{text}END OF FILE")
        elif language == "sh":
            lines = [line for line in text.splitlines() if not (mock and line.startswith("penstock topics create"))]
            script += [f"echo {shlex.quote(MARK.format(number))}", *lines]
        elif language == "text":
            shown[number - 1] = text
    here = {"PENSTOCK_BROKERS": broker.bootstrap, "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    unsigned = {"PENSTOCK_UNSIGNED_CONTROL": "1", "PENSTOCK_FETCH_WAIT_MS": "10"} if mock else {}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=os.environ | here | unsigned,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    log = tmp_path / "worker.log"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log.read_text() if log.exists() else ''}"
    printed = re.split(rf"^{MARK.format('([0-9]+)')}\n", done.stdout, flags=re.MULTILINE)
    said = dict(zip(map(int, printed[1::2]), printed[2::2], strict=True))
    assert len(shown) == 7
    for number, text in shown.items():
        missing = [line for line in text.splitlines() if not re.search(pattern(line), said[number], re.MULTILINE)]
        assert missing == [], said[number]


def pattern(line: str) -> str:
    """A line of the page as a regular expression; `…` stands for anything, and so do several spaces."""
    return "^" + ".*".join(re.escape(part) for part in re.split(r"…|  +", line)) + "$"
