"""The same plays for stock Faust, which must show what is wrong with it, and for Penstock, which must not.

That stock Faust fails is asserted, and in which way: so the plays are known to see loss, doubles and stalls where they are.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from penstock.testing.broker import Broker
from tests.kafka.stock.scenarios import SCENARIOS, Outcome, Play
from tests.kafka.stock.workers import IMPLEMENTATIONS

NAMES = [play.__name__ for play, _ in SCENARIOS]


@pytest.mark.broker("topic_config")
@pytest.mark.parametrize(("play", "wrong"), SCENARIOS, ids=NAMES)
def test_stock_faust_shows_the_hazard(play: Play, wrong: frozenset[str], broker: Broker, tmp_path: Path) -> None:
    outcome = play(IMPLEMENTATIONS["stock"], broker, tmp_path)
    assert {name for name, found in asdict(outcome).items() if found} == wrong, outcome


@pytest.mark.broker("topic_config")
@pytest.mark.parametrize(("play", "wrong"), SCENARIOS, ids=NAMES)
def test_penstock_does_not(play: Play, wrong: frozenset[str], broker: Broker, tmp_path: Path) -> None:
    assert play(IMPLEMENTATIONS["penstock"], broker, tmp_path) == Outcome()
