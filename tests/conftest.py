"""What every test gets: an environment without Penstock's own variables, and in some folders without coverage of child processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Each run draws new examples, and there are many runs. `pytest tests/properties --hypothesis-profile many` searches longer.
# Neither fails because the machine has other work.
for name, examples in (("few", 50), ("many", 1000)):
    settings.register_profile(name, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("few")

ROOT = Path(__file__).parent
# Their tests start workers and commands by the hundred. Coverage makes such a start half as long again, so it is taken from a part of
# them, those marked `measured`; the floor of `make test` says whether the part suffices.
UNMEASURED = ("docs", "examples", "kafka")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak", type=int, default=40, metavar="SWAPS", help="how often one worker swaps models in the soak test (make soak: 1000)"
    )
    parser.addoption("--releases", type=int, default=6, help="how many releases test_swap_under_load makes")
    parser.addoption(
        "--rounds", type=int, default=0, help="rounds of test_paused, test_sigterm and each scenario in tests/faults (make test-faults: 10)"
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


@pytest.fixture(autouse=True)
def _measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes count for coverage, except in UNMEASURED: there only those of tests marked `measured` do."""
    if request.path.relative_to(ROOT).parts[0] in UNMEASURED and request.node.get_closest_marker("measured") is None:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # coverage.py sets it for child processes
