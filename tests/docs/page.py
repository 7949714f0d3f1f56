"""Runs a page: its `sh` blocks in one shell; a block with a title is a file; a `text` block is what the commands above it print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from penstock.testing.broker import Broker

__all__ = ["check_page"]

BLOCK: Final = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
MARK: Final = "===== {} ====="


def check_page(page: Path, folder: Path, broker: Broker, *, blocks: int) -> None:
    """Runs the page in the folder, and asserts that it prints its `blocks` blocks of text.

    What a person does once for their machine (`console`: a broker, the installation) is in place here. librdkafka's mock cluster makes
    topics by itself and cannot stamp what signatures are judged by, so there `topics create` is left out and releases are unsigned.
    """
    mock = broker.kind == "mock"
    script, shown = ["set -euo pipefail", "trap 'jobs -p | xargs -r kill' EXIT"], dict[int, str]()
    for number, (language, title, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        if title:
            script.append(f"mkdir -p {shlex.quote(str(Path(title).parent))}\ncat > {shlex.quote(title)} <<'END OF FILE'\n{text}END OF FILE")
        elif language == "sh":
            lines = [line for line in text.splitlines() if not (mock and line.startswith("penstock topics create"))]
            script += [f"echo; echo {shlex.quote(MARK.format(number))}", *lines]  # the output before it may not end its line
        elif language == "text":
            shown[number - 1] = text
    here = {"PENSTOCK_BROKERS": broker.bootstrap, "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    unsigned = {"PENSTOCK_UNSIGNED_CONTROL": "1", "PENSTOCK_FETCH_WAIT_MS": "10"} if mock else {}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=os.environ | here | unsigned,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    printed = re.split(rf"^{MARK.format('([0-9]+)')}\n", done.stdout, flags=re.MULTILINE)
    said = dict(zip(map(int, printed[1::2]), printed[2::2], strict=True))
    assert len(shown) == blocks
    for number, text in shown.items():
        missing = [line for line in text.splitlines() if not re.search(pattern(line), said[number], re.MULTILINE)]
        assert missing == [], said[number]


def pattern(line: str) -> str:
    """A line of the page as a regular expression; `…` stands for anything, and so do several spaces."""
    return "^" + ".*".join(re.escape(part) for part in re.split(r"…|  +", line)) + "$"
