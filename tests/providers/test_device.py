"""Where a provider is a library or a device of its own: it may fail to start, and it may compute something else.

Collected only where the build of onnxruntime has such a provider (`make providers`): `conftest` leaves this file out elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock import runtime
from penstock.errors import ConfigError
from penstock.registry.directory import DirectoryRegistry
from tests.providers.conftest import DEVICES, written

WRONG = {
    "OpenVINOExecutionProvider": ["{device_type: NPU}", "{nonsense: 1}"],
    "CUDAExecutionProvider": ["{device_id: 99}", "{nonsense: 1}"],
}


@pytest.mark.parametrize("which", [0, 1], ids=["no such device", "no such option"])
def test_provider_that_does_not_start_is_an_error(provider: str, which: int, registry: DirectoryRegistry, tmp_path: Path) -> None:
    """onnxruntime alone goes on with the processor, and only logs it."""
    file = written(tmp_path, f"[{{{provider}: {WRONG[provider][which]}}}]")
    loaded = runtime.load(file, models=registry.root, schemas=tmp_path)
    with pytest.raises(ConfigError, match=rf"mix@1.*{provider}"):
        runtime.prepare(loaded)


def test_device_is_there(provider: str) -> None:
    """Otherwise the other tests would test another one."""
    assert provider in DEVICES
