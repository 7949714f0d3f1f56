"""What every test gets: an environment without Penstock's own variables, except the brokers that a person names."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting in the shell of whoever runs the tests must not change what they see."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_") and name != "PENSTOCK_BROKERS"]:
        monkeypatch.delenv(name)
