"""Rounds of faults on real brokers: nothing is lost, doubles stay within their bound, the order of a key and of generations holds.

`make test-faults ARGS='--rounds 3 --seed 7 -k "worker and paused"'` plays the rounds with the seeds 7, 8 and 9 of one scenario.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.rounds import Account, Scenario, play
from tests.faults.scenarios import ALONE, SEVERAL

Clusters = Callable[[int], Cluster]


def named(scenario: Scenario) -> str:
    return scenario.name


@pytest.mark.parametrize("scenario", ALONE, ids=named)
def test_one_kind_of_fault(scenario: Scenario, seed: int, clusters: Clusters, tmp_path: Path, played: list[Account]) -> None:
    check(play(scenario, clusters(scenario.brokers), tmp_path, seed), played, tmp_path)


@pytest.mark.parametrize("scenario", SEVERAL, ids=named)
def test_several_kinds_of_faults(scenario: Scenario, seed: int, clusters: Clusters, tmp_path: Path, played: list[Account]) -> None:
    check(play(scenario, clusters(scenario.brokers), tmp_path, seed), played, tmp_path)


def check(account: Account, played: list[Account], folder: Path) -> None:
    played.append(account)
    print(f"\n{account}")
    assert not account.problems, "\n".join([*account.problems, str(account), f"logs: {folder}/worker-*.log"])
