"""What every test gets: an environment without Penstock's own variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak", type=int, default=100, metavar="SWAPS", help="how often one worker swaps models in the soak test (make soak: 1000)"
    )
    parser.addoption(
        "--rounds", type=int, default=0, help="how many rounds of test_paused, and of each scenario in tests/faults (make test-faults: 10)"
    )
    parser.addoption(
        "--provider",
        metavar="NAME",
        help="the execution provider of tests/providers (make providers); without it, those of this build",
    )
    parser.addoption("--code", type=Path, metavar="DIR", help="the folder of another version's package, whose workers test_paused pauses")
    parser.addoption("--seed", type=int, default=1, help="the seed of the first round; each further one has the next")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first, rounds = metafunc.config.getoption("--seed"), max(metafunc.config.getoption("--rounds"), 1)
        metafunc.parametrize("seed", range(first, first + rounds), ids="seed {}".format)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting in the shell of whoever runs the tests must not change what they see. (The broker for a run is chosen before this.)"""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
