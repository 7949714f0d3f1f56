"""A service with a store: events are looked up first, and each answer says where it is from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.cli.main import main
from penstock.settings import Settings
from penstock.stores.open import open_store
from penstock.testing import wait_for
from tests.serving.conftest import ROOT, Service, served

SCORE = "/v1/topologies/flights:score"
SECTION = """
precomputed:
  inputs: [hour, minute, dep_delay, distance, sched_arr_time, carrier, origin, dest]
  decimals: {dep_delay: 0}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, flights: list[dict[str, Any]]) -> str:
    """The first hundred flights, computed."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "flights.yaml").write_text((ROOT / "topologies/flights.yaml").read_text() + SECTION)
    (folder / "in.ndjson").write_text("".join(f"{json.dumps(one)}\n" for one in flights[:100]))
    found = f"sqlite:///{folder}/answers.db"
    command = ["precompute", str(folder / "flights.yaml"), "--in", str(folder / "in.ndjson"), "--store", found]
    assert main([*command, "--models", str(ROOT / "models"), "--schemas", str(ROOT / "schemas")]) == 0
    return found


@pytest.fixture(scope="module")
def looking(store: str) -> Iterator[Service]:
    file = Path(store.removeprefix("sqlite:///")).parent / "flights.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_STORE_TIMEOUT", "20")  # the machine may be busy
        with served(file, "--store", store, doors=("http",)) as found:
            yield found


@pytest.fixture(scope="module")
def expected(flights: list[dict[str, Any]]) -> list[Any]:
    with penstock.open(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas") as plan:
        return plan.score(flights)


def test_answers_come_from_the_store_and_from_the_models_in_order(
    looking: Service, flights: list[dict[str, Any]], expected: list[Any], store: str
) -> None:
    answer = looking.post(SCORE, json.dumps([*flights[150:155], *flights[:5], {**flights[0], "origin": "BOS"}, *flights[155:160]]))
    assert answer.status_code == 200
    *first, bad = answer.json()[:11]
    assert first == [{**one, "precomputed": "miss"} for one in expected[150:155]] + [{**one, "precomputed": "hit"} for one in expected[:5]]
    assert "BOS" in json.dumps(bad["failure"])
    assert [one["precomputed"] for one in answer.json()[11:]] == ["miss"] * 5
    assert answer.headers["penstock-generation"] == "0"
    opened = open_store(Settings(store=store), timeout=20)
    wait_for(lambda: len(opened.misses("flights")) >= 10, "the misses are recorded")
    opened.close()
    again = looking.post(SCORE, json.dumps(flights[150:155])).json()
    assert again == [{**one, "precomputed": "hit"} for one in expected[150:155]]


def test_one_event_and_lines_are_looked_up(looking: Service, flights: list[dict[str, Any]], expected: list[Any]) -> None:
    asking = {**flights[1], "flight_id": "another"}
    assert looking.post(SCORE, json.dumps(asking)).json() == {**expected[1], "flight_id": "another", "precomputed": "hit"}
    lines = looking.post(SCORE, "\n".join(map(json.dumps, flights[:3])), content_type="application/x-ndjson").text.splitlines()
    assert [json.loads(one) for one in lines] == [{**one, "precomputed": "hit"} for one in expected[:3]]


def test_outcomes_are_counted(looking: Service, flights: list[dict[str, Any]]) -> None:
    looking.post(SCORE, json.dumps(flights[:2]))
    text = looking.get("/metrics").text
    assert 'penstock_lookups_total{outcome="hit"}' in text
    assert "penstock_lookup_seconds_bucket" in text


def test_store_that_is_away_costs_no_answer(store: str, flights: list[dict[str, Any]], expected: list[Any]) -> None:
    file = Path(store.removeprefix("sqlite:///")).parent / "flights.yaml"
    with served(file, "--store", "redis://127.0.0.1:9", doors=("http",)) as service:
        log = service.log.read_text()
        answer = service.post(SCORE, json.dumps(flights[:2]))
    assert answer.json() == [{**one, "precomputed": "fallback"} for one in expected[:2]]
    assert log.count("WARNING") == log.count("lookups in redis://127.0.0.1:9: ") == 1, "at the start, before the first event"
