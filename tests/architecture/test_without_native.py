"""The native part is optional: the same tests hold when it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys
sys.modules["penstock._native"] = None  # the import fails, as it does where there was no compiler
import penstock.native
assert penstock.native.native is None
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
SUITES = [
    "tests/unit/codecs",
    "tests/unit/pipeline",
    "tests/unit/testing",
    "tests/unit/windows",
    "tests/contracts/test_codecs.py",
    "tests/properties/test_record_batches.py",
]


def test_everything_that_it_does_is_done_in_python_without_it() -> None:
    unmeasured = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}  # these tests count already
    command = [sys.executable, "-c", CODE, *SUITES]
    ran = subprocess.run(command, cwd=ROOT, env=unmeasured, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
