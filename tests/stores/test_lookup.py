"""Lookups: what a program gets from the store, what it has to score, and what becomes of the misses."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock import runtime
from penstock.batch import Failure, Table
from penstock.errors import DecodeError, TopologyError
from penstock.record import Record
from penstock.runtime import Loaded
from penstock.schema import Field
from penstock.scorer import Scorer
from penstock.settings import Settings
from penstock.stores.lookup import Lookup
from penstock.stores.nearest import Nearest, Space
from penstock.stores.open import open_store
from penstock.telemetry import Metrics
from penstock.testing import wait_for
from tests.stores import servers
from tests.stores.conftest import ENTITY, INPUTS, TOPOLOGY, events, order, write
from tests.stores.servers import Server
from tests.unit.cli.done import Run

STORE = "sqlite:///answers.db"
PATIENT = 20.0  # seconds: on a busy machine, a lookup must not give up


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_TIMEOUT", str(PATIENT))


def opened(store: str | None = STORE) -> Scorer:
    return penstock.open("prices.yaml", store=store)


def counts(plan: Scorer) -> dict[str, int]:
    assert plan.lookup is not None
    return dict(plan.lookup.counts)


def recorded() -> dict[str, Any]:
    store = open_store(Settings(store=STORE), timeout=PATIENT)
    found = {key: json.loads(event) for key, event in store.misses("prices").items()}
    store.close()
    return found


def computed(run: Run, section: str, orders: list[dict[str, Any]], *flags: str) -> None:
    write(section)
    events(orders)
    assert run("--in", "in.ndjson", *flags).code == 0


def test_store_without_answers_is_a_warning_at_the_start_and_when_that_changes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Which store, why, and that events are scored: a wrong address answers all the same."""
    with opened() as plan:
        assert plan.score(order(1))["precomputed"] == plan.score(order(1))["precomputed"] == "fallback"
        said = ["no generation of prices is live there (`penstock precompute` computes one); events are scored"]
        assert [one.removeprefix(f"lookups in {STORE}: ") for one in caplog.messages] == said
        computed(run, ENTITY, [order(1)])
        assert plan.score(order(1))["precomputed"] == "hit"
        write(version=2)
        assert run("--in", "in.ndjson").code == 0
        assert plan.score(order(1))["precomputed"] == "fallback"
    assert ["generation 2 is of other models" in one.message for one in caplog.records if one.levelname == "WARNING"] == [False, True]


def test_stored_answers_are_those_that_scoring_gives(run: Run) -> None:
    """By the inputs, the copied fields are the asking event's; the numbers are those of the event that was computed."""
    orders = [order(n, discount=n / 200 if n % 3 else None, order_id=f"first {n}", country="FR") for n in range(100)]
    computed(run, INPUTS, orders)
    asking = [{**one, "order_id": f"second {n}", "country": "IT"} for n, one in enumerate(orders)]
    with opened() as stored, penstock.open("prices.yaml") as plain:
        assert stored.score(asking) == [{**one, "precomputed": "hit"} for one in plain.score(asking) if isinstance(one, dict)]
        assert [*stored.score(asking[7])] == [*plain.score(asking[7]), "precomputed"], "in the order of the sink's fields"
        frame = stored.score(pd.DataFrame(asking))
        assert frame["precomputed"].tolist() == ["hit"] * 100
        assert frame["order_id"].tolist() == [f"second {n}" for n in range(100)]
        assert counts(stored) == {"hit": 201}


def test_defaults_and_rounding_make_one_key(run: Run) -> None:
    computed(run, INPUTS, [order(10.02)])
    with opened() as plan:
        asked = {"order_id": "x", "customer": 9, "amount": 9.98}
        assert plan.score(asked) == {
            "order_id": "x",
            "price": pytest.approx(20.04),
            "reduced": pytest.approx(20.04),
            "country": "DE",
            "precomputed": "hit",
        }
        assert plan.score({**asked, "amount": 10.06})["precomputed"] == "miss"
        assert plan.score({**asked, "discount": 0.0})["precomputed"] == "miss", "null is not 0"


def test_id_of_an_entity_is_enough(run: Run) -> None:
    computed(run, ENTITY, [order(10, customer=7)])
    with opened() as plan:
        assert plan.score({"customer": 7})["price"] == 20
        with pytest.raises(DecodeError, match="order_id"):
            plan.score({"customer": 8})  # a miss is scored, and for that the event is not enough
        assert counts(plan) == {"hit": 1, "miss": 1}


def test_miss_is_scored_and_written_back(run: Run) -> None:
    computed(run, ENTITY, [order(10, customer=1)], "--ttl", "3600")
    with opened() as plan:
        assert plan.score(order(30, customer=3))["precomputed"] == "miss"
    with opened() as plan:
        assert plan.score(order(99, customer=3)) == {"order_id": "o30", "price": 60, "reduced": 60, "country": "DE", "precomputed": "hit"}
    assert recorded() == {"3": order(30, customer=3)}


def test_damaged_answer_is_a_miss_and_written_again(run: Run) -> None:
    computed(run, ENTITY, [order(10, customer=1)])
    store = open_store(Settings(store=STORE), timeout=PATIENT)
    assert store.add("prices", 1, [("1", b'{"sinks": 7')])
    store.close()
    with opened() as plan:
        assert plan.score(order(20, customer=1)) == {"order_id": "o20", "price": 40, "reduced": 40, "country": "DE", "precomputed": "miss"}
    with opened() as plan:
        assert plan.score(order(1, customer=1))["price"] == 40


def test_event_that_fails_is_not_written_back(run: Run) -> None:
    computed(run, ENTITY, [order(10, customer=1)])
    with opened() as plan:
        (failure,) = plan.score([order(5000, customer=3)])
        assert isinstance(failure, Failure)
    with opened() as plan:
        assert plan.score(order(1, customer=3))["precomputed"] == "miss"


def test_event_without_a_key_is_scored_and_says_why(run: Run) -> None:
    computed(run, INPUTS, [order(10)])
    with opened() as plan:
        good, bad, none = plan.score([order(10), order("ten"), order(10)])  # type: ignore[arg-type]  # the second one is wrong
        assert isinstance(bad, Failure)
        assert "amount" in str(bad.error)
        assert good == none
        assert counts(plan) == {"hit": 2, "unkeyed": 1}


def test_misses_get_the_default(run: Run) -> None:
    computed(run, "{inputs: [amount, discount], decimals: {amount: 0, discount: 2}, on_miss: default, default: {price: -1}}", [order(10)])
    with opened() as plan:
        assert plan.score(order(11)) == {"order_id": "o11", "price": -1, "reduced": None, "country": "DE", "precomputed": "default"}
        assert plan.score(order(10))["precomputed"] == "hit"
        assert counts(plan) == {"default": 1, "hit": 1}
    assert list(recorded().values()) == [order(11)]


def test_misses_are_unknown(run: Run) -> None:
    computed(run, "{entity: customer, on_miss: unknown}", [order(10, customer=1)])
    with opened() as plan:
        assert plan.score({"customer": 2}) == {
            "order_id": None, "price": None, "reduced": None, "country": None, "precomputed": "unknown",
        }  # fmt: skip


@pytest.mark.parametrize(("policy", "price"), [("default, default: {price: -1}", -1), ("unknown", None)])
def test_event_of_an_entity_without_an_answer_is_copied_as_far_as_it_goes(run: Run, policy: str, price: float | None) -> None:
    computed(run, f"{{entity: customer, on_miss: {policy}}}", [order(10, customer=1)])
    none = {"order_id": None, "price": price, "reduced": None, "country": None, "precomputed": policy.partition(",")[0]}
    asked = order(11, customer=2, country="FR")
    with opened() as plan:
        assert plan.score(asked) == {**none, "order_id": "o11", "country": "FR"}
        assert plan.score({"customer": 2, "country": "IT"}) == {**none, "country": "IT"}
        assert plan.score([order(10, customer=1), {"customer": 2, "order_id": 7}]) == [
            {"order_id": "o10", "price": 20, "reduced": 20, "country": "DE", "precomputed": "hit"},
            none,  # what is no text is not copied, and the id is enough
        ]
        frame = plan.score(pd.DataFrame([order(10, customer=1), asked]))
        assert frame["order_id"].tolist() == ["o10", "o11"]


NEAR = "{inputs: [amount, discount], decimals: {amount: 1, discount: 2}, on_miss: nearest, scale: {amount: 5}}"


def test_misses_get_the_nearest_answer_within_the_scale(run: Run) -> None:
    computed(run, NEAR, [order(10), order(20), order(20, discount=0.5)])
    with opened() as plan:
        assert plan.score(order(14.9, order_id="x")) == {
            "order_id": "x",
            "price": 20,
            "reduced": 20,
            "country": "DE",
            "precomputed": "nearest",
        }
        assert plan.score(order(16))["price"] == 40
        assert plan.score(order(26))["precomputed"] == "miss", "more than 1 away"
        assert plan.score(order(20, discount=0.4))["precomputed"] == "miss", "what has no scale has to be equal"
        assert counts(plan) == {"nearest": 2, "miss": 2}
    with opened() as plan:
        assert plan.score(order(26))["precomputed"] == "hit", "it was scored, and written back"


def test_index_follows_the_live_generation(run: Run) -> None:
    computed(run, NEAR, [order(10)])
    with opened() as plan:
        assert plan.score(order(11))["price"] == 20
        computed(run, NEAR, [order(50)])
        amounts = (48 + n / 10 for n in range(40))  # those that are asked for before the index is made are scored, and written back
        wait_for(lambda: plan.score(order(next(amounts)))["precomputed"] == "nearest", "the new generation's index answers")
        assert plan.score(order(11.5))["precomputed"] == "miss", "the former generation's answers are gone"


def test_index_holds_answers_of_the_same_key_only(run: Run) -> None:
    """In whatever order the file names its fields; answers of a former key, which `stale` allows, are near nothing."""
    computed(run, NEAR, [order(10, discount=0.5), order(20, discount=0.5)])
    write(NEAR.replace("[amount, discount]", "[discount, amount]"))
    with opened() as plan:
        assert plan.score(order(11, discount=0.5)) == {
            "order_id": "o11", "price": 20, "reduced": 10, "country": "DE", "precomputed": "nearest",
        }  # fmt: skip
    write(NEAR.replace("[amount, discount]", "[country, amount, discount]").replace("}}", "}, stale: 60}"))
    with opened() as plan:
        assert plan.score(order(11, discount=0.5))["price"] == 22
        assert counts(plan) == {"miss": 1}


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(-9, 9, width=16), st.none() | st.integers(-9, 9)), min_size=1, max_size=20),
    st.tuples(st.sampled_from("ab"), st.floats(-9, 9, width=16), st.none() | st.integers(-9, 9)),
)
def test_nearest_is_the_nearest(stored: list[tuple[str, float, int | None]], asked: tuple[str, float, int | None]) -> None:
    fields = [Field("kind", "string"), Field("x", "double"), Field("n", "int", optional=True)]
    space = Space(fields, {"x": 1}, {"x": 2.0, "n": 3})
    named = [dict(zip(space.names, one, strict=True)) for one in stored]
    entries = [(str(at), json.dumps({"sinks": {"s": {"at": at}}, "inputs": one}).encode()) for at, one in enumerate(named)]
    found = Nearest(space, 1, entries).find(asked)

    def distance(one: tuple[str, float, int | None]) -> float:
        if one[0] != asked[0] or one[2] is None or asked[2] is None:
            return math.inf
        return math.hypot((round(one[1], 1) - round(asked[1], 1)) / 2.0, (one[2] - asked[2]) / 3)

    best = min(map(distance, stored))
    if found is None:
        assert best > 1 - 1e-9
    else:
        assert distance(stored[json.loads(found)["sinks"]["s"]["at"]]) == pytest.approx(best)
        assert best <= 1 + 1e-9


def test_answers_of_other_models_are_not_served(run: Run) -> None:
    computed(run, ENTITY, [order(10, customer=1)])
    write(version=2)
    with opened() as plan:
        assert plan.score(order(10, customer=1)) == {
            "order_id": "o10",
            "price": 30,
            "reduced": 30,
            "country": "DE",
            "precomputed": "fallback",
        }
    assert recorded() == {}, "a whole new generation is due, not a few events"


def test_answers_of_another_topology_are_not_served(run: Run) -> None:
    computed(run, ENTITY, [order(10, customer=1)])
    changed = TOPOLOGY.replace("price * (1 - ", "2 * price * (1 - ")
    write(text=changed)
    with opened() as plan:
        assert plan.score(order(10, customer=1))["reduced"] == 40
        assert counts(plan) == {"fallback": 1}
    write(text="# a comment, and another topic\n" + TOPOLOGY.replace("topic: prices", "topic: others"))
    with opened() as plan:
        assert plan.score(order(10, customer=1))["precomputed"] == "hit"


def test_older_answers_are_served_for_the_stated_time(run: Run) -> None:
    section = "{entity: customer, stale: 60}"
    computed(run, section, [order(10, customer=1)])
    write(section, version=2)
    with opened() as plan:
        assert plan.score(order(10, customer=1))["price"] == 20
        assert plan.score(order(10, customer=1))["precomputed"] == "stale"
        assert plan.score(order(10, customer=2))["price"] == 30
    loaded = loaded_now()
    late = Lookup(loaded, open_store(Settings(store=STORE)), timeout=PATIENT, clock=lambda: time.time() + 61)
    assert late.find(records([order(10, customer=1)])).outcomes == ["fallback"]
    late.close()


def loaded_now() -> Loaded:
    return runtime.load("prices.yaml", models=Path("models"), schemas=Path("schemas"))


def records(orders: list[dict[str, Any]]) -> list[Record]:
    return [Record("orders", json.dumps(one).encode()) for one in orders]


@pytest.fixture
def lookup(run: Run) -> Iterator[Lookup]:
    computed(run, ENTITY, [order(10, customer=1), order(20, customer=2)])
    made = Lookup(loaded_now(), open_store(Settings(store=STORE)), timeout=PATIENT, metrics=(metrics := Metrics()))
    made.numbers = metrics  # type: ignore[attr-defined]  # for the tests
    yield made
    made.close()


def test_swap_makes_answers_stale(lookup: Lookup) -> None:
    """A service that follows releases says which models serve."""
    assert lookup.find(records([order(1, customer=1)])).outcomes == ["hit"]
    first = runtime.bindings(loaded_now())
    write(version=2)
    lookup.serving(runtime.bindings(loaded_now()))
    assert lookup.find(records([order(1, customer=1)])).outcomes == ["fallback"]
    lookup.serving(first)
    assert lookup.find(records([order(1, customer=1)])).outcomes == ["hit"]


def test_search_waits_without_holding_the_loop(lookup: Lookup) -> None:
    async def together() -> list[list[str]]:
        found = await asyncio.gather(*(lookup.search(records([order(1, customer=n), order(1, customer=9)])) for n in (1, 2, 3)))
        return [[*one.outcomes] for one in found]

    assert asyncio.run(together()) == [["hit", "miss"], ["hit", "miss"], ["miss", "miss"]]
    assert lookup.counts == {"hit": 2, "miss": 4}


def test_every_outcome_is_counted_apart(lookup: Lookup) -> None:
    found = lookup.find(records([order(1, customer=1), order(1, customer=8), {"customer": "x"}]))
    assert (found.outcomes, found.rows) == (["hit", "miss", "unkeyed"], [1, 2])
    assert found.answers[0].sinks["prices"] == {"order_id": "o10", "price": 20, "reduced": 20, "country": "DE"}
    lookup.learn(found, {1: {"prices": {"order_id": "o1", "price": 2, "reduced": 2, "country": "DE"}}})
    metrics: Metrics = lookup.numbers  # type: ignore[attr-defined]  # see the fixture
    wait_for(lambda: metrics.lookup_written.value == 1, "the answer is written back")
    assert metrics.lookups.snapshot() == {"hit": 1, "miss": 1, "unkeyed": 1}
    assert lookup.find(records([order(1, customer=8)])).outcomes == ["hit"]


def test_rows_of_a_table_are_looked_up(lookup: Lookup) -> None:
    table = Table("orders", {"customer": np.array([1, 5, 2])})
    found = lookup.find(table)
    assert found.outcomes == ["hit", "miss", "hit"]
    lookup.learn(found, {})
    wait_for(lambda: recorded() == {"5": {"customer": 5}}, "the miss is recorded")


def test_store_in_which_nothing_was_computed_falls_back(folder: Path) -> None:
    with opened() as plan:
        assert plan.score(order(10)) == {"order_id": "o10", "price": 20, "reduced": 20, "country": "DE", "precomputed": "fallback"}
    assert not Path("answers.db").exists()


def test_topology_without_the_section_has_no_lookups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prices.yaml").write_text(TOPOLOGY.partition("precomputed")[0].format(version=1))
    with pytest.raises(TopologyError, match="no section precomputed"):
        opened()
    monkeypatch.setenv("PENSTOCK_STORE", STORE)  # of the host, for other topologies
    with opened(None) as plan:
        assert "precomputed" not in plan.score(order(10))


def test_store_that_is_away_or_silent_costs_no_answer(run: Run, redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused, it keeps its connections and says nothing; killed, it refuses them. Back again, it answers again."""
    monkeypatch.setenv("PENSTOCK_STORE_PASSWORD", servers.PASSWORD)
    monkeypatch.setenv("PENSTOCK_STORE_TIMEOUT", "5")
    events([order(10, customer=1)])
    assert run("--in", "in.ndjson", store=redis.url).code == 0
    with opened(redis.url) as plan:
        assert plan.score(order(10, customer=1))["precomputed"] == "hit"
        monkeypatch.setattr(plan.lookup, "_timeout", 0.2)
        redis.pause()
        try:
            began = time.monotonic()
            assert [plan.score(order(10, customer=1))["precomputed"] for _ in range(20)] == ["fallback"] * 20
            assert time.monotonic() - began < 10, "it is not asked again each time"
        finally:
            redis.resume()
        monkeypatch.setattr(plan.lookup, "_timeout", 5.0)
        wait_for(lambda: plan.score(order(10, customer=1))["precomputed"] == "hit", "the store answers again")
        redis.kill()
        assert plan.score(order(30, customer=1))["price"] == 60
        redis.start()
        wait_for(lambda: plan.score(order(10, customer=1))["precomputed"] == "hit", "the store answers again")


def test_store_with_something_else_in_it_costs_no_answer(run: Run, redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis import Redis

    monkeypatch.setenv("PENSTOCK_STORE_PASSWORD", servers.PASSWORD)
    client = Redis.from_url(redis.url, password=servers.PASSWORD)
    try:
        for name, write in (("live", lambda key: client.set(key, b"{")), ("live", lambda key: client.hset(key, "a", "b"))):
            client.delete(f"penstock:prices:{name}")
            write(f"penstock:prices:{name}")
            with opened(redis.url) as plan:
                assert plan.score(order(10))["precomputed"] == "fallback"
    finally:
        client.delete("penstock:prices:live")
        client.close()
