"""An sdist and the wheels that are built from it, once per run: `python -m build` without isolation, so no index is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Built(NamedTuple):
    """What `python -m build` gave; `source` is the sdist, unpacked."""

    sdist: Path
    source: Path
    wheel: Path
    pure: Path


def build(source: Path, folder: Path, *options: str, native: str = "") -> Path:
    """Builds what `options` say from `source` and returns the newest file."""
    if source != ROOT:
        shutil.rmtree(source / "build", ignore_errors=True)  # setuptools would pack what an earlier build left there
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *options, str(source)]
    environment = {**os.environ, "PENSTOCK_NATIVE": native}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    sdist = build(ROOT, folder / "sdist", "--sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    pure = build(source, folder / "pure", "--wheel", native="none")
    return Built(sdist, source, build(source, folder / "wheel", "--wheel"), pure)
