"""The examples digits, wine and reviews do what examples/README.md says: its commands are run in a copy of each folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["digits", "wine", "reviews"])
def test_example_trains_tests_and_scores(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder)
    (commands,) = COMMANDS
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(done.stdout.split("has not seen: ")[1].split()[0]) > 0.9
    events = [json.loads(line) for line in (folder / "events.ndjson").read_text().splitlines()]
    answers = [json.loads(line) for line in (folder / "answers.ndjson").read_text().splitlines()]
    assert len(answers) == sum(event.get("op") != "d" for event in events) > 0
