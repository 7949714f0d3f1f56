"""The providers that these tests run models on: the one that `make providers` names, or those of this build of onnxruntime.

The usual build has AzureExecutionProvider, which computes nothing itself: the processor does, through a session of other providers.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime as ort
import pytest

from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models

DEVICES = ("OpenVINOExecutionProvider", "CUDAExecutionProvider")
KNOWN = ("AzureExecutionProvider", *DEVICES)
collect_ignore = [] if set(DEVICES) & set(ort.get_available_providers()) else ["test_device.py"]
TOPOLOGY = """\
topology: doubles
sources: {readings: {topic: readings, schema: reading.avsc, id: id}}
PROVIDERSnodes:
  mix: {kind: feature, model: mix@1, inputs: {x: {stack: [a, b]}}}
  turned: {kind: model, model: turn@1, inputs: {x: mix}}
sinks: {out: {topic: out, fields: {id: id, y: turned}}}
"""
SCHEMA = {
    "type": "record",
    "name": "Reading",
    "fields": [{"name": "id", "type": "string"}, *({"name": name, "type": "float"} for name in "ab")],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "provider" in metafunc.fixturenames:
        asked, here = metafunc.config.getoption("--provider"), ort.get_available_providers()
        metafunc.parametrize("provider", [asked] if asked else [name for name in KNOWN if name in here])


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA))
    found = DirectoryRegistry(tmp_path / "models")
    found.publish("mix", models.linear([0.5, -2.0], 0.25))
    found.publish("turn", models.linear([3.0]))
    return found


def written(folder: Path, providers: str = "") -> Path:
    """Returns a topology file, with this value for `providers`."""
    file = folder / "doubles.yaml"
    file.write_text(TOPOLOGY.replace("PROVIDERS", f"providers: {providers}\n" if providers else ""))
    return file
