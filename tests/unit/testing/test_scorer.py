"""`penstock.open`: what a program gives is what a producer would write, and what it gets is what the sinks would write."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pandas as pd
import pytest

import penstock
from penstock.errors import ConfigError, DecodeError, InferenceError, SettingsError, TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.scorer import Scorer
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

Event = Callable[..., dict[str, Any]]

ANSWER = {"scores": {"id": "o", "base": 10, "total": 11, "embedding": [1, 1, 1]}, "by_item": {"total": 11}}


@pytest.fixture(scope="module")
def plan(shop: Path) -> Iterator[Scorer]:
    with penstock.open(shop / "shop.yaml", models=str(shop / "models"), schemas=shop / "schemas") as opened:
        yield opened


RIDES = """\
topology: rides
sources:
  rides: {topic: rides, schema: ride.avsc, format: avro}
  fares: {topic: fares, schema: fare.avsc}
nodes:
  double: {kind: model, model: double@1, inputs: {x: rides.km}}
  again: {kind: model, model: double@1, inputs: {x: fares.fare}}
sinks:
  fares: {topic: fares, fields: {began: rides.began, fare: double}}
  twice: {topic: bills, fields: {began: fares.began, fare: again}}
  once: {topic: bills, fields: {paid: fares.fare}}
"""


@pytest.fixture(scope="module")
def rides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    """Two stages in a chain, of which the first reads Avro, with a time; two sinks of one topic."""
    folder = tmp_path_factory.mktemp("rides")
    (folder / "schemas").mkdir()
    time = '{"name": "began", "type": {"type": "long", "logicalType": "timestamp-millis"}}'
    for name, fields in {"ride": '{"name": "km", "type": "float"}', "fare": '{"name": "fare", "type": "float"}'}.items():
        (folder / f"schemas/{name}.avsc").write_text(f'{{"type": "record", "name": "{name}", "fields": [{time}, {fields}]}}')
    DirectoryRegistry(folder / "models").publish("double", models.linear([2]))
    (folder / "topologies").mkdir()
    (folder / "topologies/rides.yaml").write_text(RIDES)
    (folder / "penstock.toml").write_text("".join(f'{name} = "{folder}/{name}"\n' for name in ("models", "schemas", "topologies")))
    with penstock.open("rides", config=str(folder / "penstock.toml")) as opened:
        yield opened


def test_event_has_the_answer_that_the_sinks_would_write(plan: Scorer, driver: TopologyDriver, order: Event) -> None:
    """One dict per sink, by name, where there are several; the fields alone where there is one."""
    answer = assert_type(plan.score(order(), source="orders"), dict[str, Any])
    assert answer == ANSWER
    driver.send("orders", order())
    assert [answer["scores"], answer["by_item"]] == [*driver.events("scores"), *driver.events("by_item")]
    assert plan.score({"id": "r", "refunded": 4}, source="returns") == {"id": "r", "amount": 8}


def test_list_has_answers_and_failures_in_its_order(plan: Scorer, order: Event) -> None:
    """More rows than a chunk, and failures of every step, beside good ones."""
    bad: dict[int, Any] = {3: order(item=9), 5: order(embedding=[1]), 7: "no event", 9: order(id=b"bytes"), 11: order(amount=float("inf"))}
    events: list[dict[str, Any]] = [bad.get(row, order(id=str(row))) for row in range(700)]
    answers = plan.score(events, source="orders")
    assert_type(answers, list[dict[str, Any] | penstock.Failure])
    failed = {row: one for row, one in enumerate(answers) if isinstance(one, penstock.Failure)}
    assert sorted(failed) == sorted(bad)
    assert [one.row for one in failed.values()] == sorted(failed)
    assert [failed[row].error.where for row in sorted(bad)] == ["base", "decode", "decode", "decode", "decode"]
    assert [one["scores"]["id"] for one in answers if isinstance(one, dict)] == [str(row) for row in range(700) if row not in bad]
    assert plan.score([], source="orders") == []


def test_event_without_an_answer_raises_why(plan: Scorer, order: Event) -> None:
    with pytest.raises(InferenceError, match="refused the batch"):
        plan.score(order(item=9), source="orders")
    with pytest.raises(DecodeError, match="required field `item`"):
        plan.score({"id": "o"}, source="orders")
    assert plan.score(order(), source="orders") == ANSWER


def test_columns_give_columns(plan: Scorer) -> None:
    """Lists, arrays and series; an array field has an array per row; whole numbers may be floats."""
    columns: dict[str, Any] = {"id": ["a", "b", "c"], "item": np.array([0.0, 1.0, 9.0]), "embedding": np.ones((3, 3))}
    columns["amount"] = pd.Series([5.0, np.nan, 5])
    answers = plan.score(columns, source="orders")
    assert {name: values[:2] for name, values in answers.items()} == {
        "scores.id": ["a", "b"],
        "scores.base": [10, 20],
        "scores.total": [11, 11],
        "scores.embedding": [[1, 1, 1], [1, 1, 1]],
        "by_item.total": [11, 11],
        "failure": [None, None],
    }
    assert [values[2] for name, values in answers.items() if name != "failure"] == [None] * 5
    assert "refused the batch" in answers["failure"][2]
    with pytest.raises(ValueError, match="columns of different lengths: id has 2, refunded has 1"):
        plan.score({"id": ["a", "b"], "refunded": [1]}, source="returns")


def test_frame_gives_a_frame(plan: Scorer) -> None:
    """A missing value makes floats of pandas' whole numbers; the index stays."""
    frame = pd.DataFrame({"id": ["a", "b"], "refunded": pd.array([4, None], dtype="Int64")}, index=[7, 3])
    answers = assert_type(plan.score(frame, source="returns"), pd.DataFrame)
    assert list(answers.columns) == ["id", "amount", "failure"]
    assert list(answers.index) == [7, 3]
    assert answers["amount"].tolist()[0] == 8
    assert answers.isna().to_numpy().tolist() == [[False, False, True], [True, True, False]]
    assert "refunded" in str(answers["failure"].tolist()[1])
    frame = pd.DataFrame({"id": ["a", "b"], "item": [1, None], "amount": [5.0, None], "embedding": [[1, 1, 1]] * 2})
    assert plan.score(frame, source="orders")["scores.base"].tolist()[0] == 20


def test_null_in_a_frame_is_what_the_event_lacks(tmp_path: Path) -> None:
    """Where a default replaces it: pandas has no cell that is not there. A list of events says what it means."""
    (tmp_path / "e.avsc").write_text(
        """{"type": "record", "name": "E", "fields": [{"name": "x", "type": "int", "default": 4},
        {"name": "inner", "type": {"type": "record", "name": "I", "fields": [{"name": "y", "type": "int"}]}, "default": {"y": 5}}]}"""
    )
    (tmp_path / "t.yaml").write_text(
        "topology: t\nsources: {s: {topic: s, schema: e.avsc}}\nnodes: {n: {kind: rule, outputs: {z: x + inner.y}}}\n"
        "sinks: {o: {topic: o, fields: [n.z]}}"
    )
    with penstock.open(tmp_path / "t.yaml", models=tmp_path, schemas=tmp_path) as plan:
        frame = pd.DataFrame([{"x": 1}, {"inner": {"y": 2}}])
        assert plan.score(frame)["z"].tolist() == [6, 6]
        assert plan.score({"x": [1, None], "inner": [None, {"y": 2}]}) == {"z": [6, 6], "failure": [None, None]}
        assert isinstance(plan.score([{"x": None}])[0], penstock.Failure)
        with pytest.raises(ValueError, match=r"the column 'inner.y' is inside the field 'inner': give a column 'inner' of mappings"):
            plan.score(pd.DataFrame({"x": [1], "inner.y": [2]}))


class Polars:
    """The part of polars.DataFrame that is used, which the tests do not install."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns

    def to_dicts(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


def test_frame_of_polars_gives_one(plan: Scorer) -> None:
    answers = plan.score(Polars({"id": ["a"], "refunded": [4.0]}), source="returns")
    assert isinstance(answers, Polars)
    assert answers.columns == {"id": ["a"], "amount": [8.0], "failure": [None]}


def test_event_goes_through_every_stage_of_a_chain(rides: Scorer) -> None:
    """A source of Avro takes the same mappings; a time may be a datetime; two sinks of one topic are told apart."""
    began = datetime(2026, 11, 29, 8, tzinfo=UTC)
    stamp = 1_795_939_200_000
    expected = {"fares": {"began": stamp, "fare": 3}, "twice": {"began": stamp, "fare": 6}, "once": {"paid": 3}}
    times = [began, began.replace(tzinfo=None), np.datetime64("2026-11-29T08:00", "ns"), pd.Timestamp(began), stamp]
    assert rides.score([{"began": time, "km": np.float32(1.5)} for time in times]) == [expected] * 5
    frame = pd.DataFrame({"began": [pd.Timestamp(began), pd.NaT], "km": [1.5, 1.5]})
    answers = rides.score(frame)
    assert answers["twice.fare"].tolist()[0] == 6
    assert "began" in str(answers["failure"].tolist()[1])


def test_failure_behind_the_first_stage_is_that_of_the_event(rides: Scorer) -> None:
    """1e38 doubles once to what a float holds, and twice to what it does not."""
    good, bad = rides.score([{"began": 0, "km": 1}, {"began": 0, "km": 1e38}])
    assert isinstance(good, dict)
    assert isinstance(bad, penstock.Failure)
    assert (bad.row, bad.error.where) == (1, "again")
    with pytest.raises(ValueError, match="no source 'fares' to give events to"):
        rides.score([], source="fares")


PAID = """\
topology: paid
sources: {{orders: {{topic: orders, schema: order.avsc{key_schema}}}}}
nodes: {{double: {{kind: model, model: double@1, inputs: {{x: amount}}}}}}
sinks: {{out: {{topic: out, fields: {{who: {who}, tenant: header.x-tenant, y: double}}}}}}
"""


@pytest.mark.parametrize(
    ("who", "keys"), [("key", ["a", b"b", None, float("nan"), pd.NA]), ("key.id", [{"id": "a"}, b'{"id":"b"}', None, float("nan"), pd.NA])]
)
def test_keys_and_headers_come_beside_the_events(tmp_path: Path, who: str, keys: list[Any]) -> None:
    (tmp_path / "order.avsc").write_text('{"type": "record", "name": "Order", "fields": [{"name": "amount", "type": "float"}]}')
    (tmp_path / "key.avsc").write_text('{"type": "record", "name": "Key", "fields": [{"name": "id", "type": "string"}]}')
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))
    (tmp_path / "paid.yaml").write_text(PAID.format(who=who, key_schema=", key_schema: key.avsc" * (who != "key")))
    names = ["a", "b", None, None, None]
    with penstock.open(tmp_path / "paid.yaml", models=tmp_path / "models", schemas=tmp_path) as plan:
        assert plan.score({"amount": 1}, key=keys[0], headers={"x-tenant": "acme", "x": b"y"}) == {"who": "a", "tenant": "acme", "y": 2}
        assert plan.score({"amount": 1}) == {"who": None, "tenant": None, "y": 2}
        answers = plan.score([{"amount": 1}] * 5, key=keys, headers=[{"x-tenant": "acme"}, *[None] * 4])
        assert [one["who"] for one in answers if isinstance(one, dict)] == names
        assert [one["tenant"] for one in answers if isinstance(one, dict)] == ["acme", None, None, None, None]
        assert plan.score({"amount": [1.0] * 5}, key=keys)["who"] == names
        scored = plan.score(pd.DataFrame({"amount": [1.0] * 5}), key=pd.Series(keys, dtype=object))
        assert scored["who"].astype(object).where(scored["who"].notna(), None).tolist() == names
        answer, bad, odd = plan.score([{"amount": 1}] * 3, key=[keys[0], 7, None], headers=[None, None, {"x": 7}])  # type: ignore[list-item,dict-item]
        assert isinstance(answer, dict)
        assert isinstance(bad, penstock.Failure)
        assert "the key is text, bytes, or a mapping of its fields" in str(bad.error)
        assert isinstance(odd, penstock.Failure)
        with pytest.raises(ValueError, match="1 keys for 2 events"):
            plan.score([{"amount": 1}] * 2, key=["a"])
        with pytest.raises(TypeError, match="headers of several events are a list"):
            plan.score([{"amount": 1}], headers={"x": "y"})  # type: ignore[call-overload]


INSIDE: dict[str, Any] = {}
INSIDE["self"] = INSIDE


@pytest.mark.parametrize(
    "given",
    [
        ({"in": {"x": float("inf")}},),
        ({"in": {"x": np.float64("-inf")}},),
        ({"in": {"x": 1, "note": b"abc"}},),
        ({"at": np.datetime64("20000-01-01")},),
        ({"in": INSIDE},),
        ({}, {"x": float("inf")}),
        ({}, INSIDE),
        ({}, None, {7: "a"}),
        ({}, None, {"\ud800": "a"}),
    ],
    ids=["infinity", "infinity of numpy", "bytes", "a far year", "a circle", "key", "key in a circle", "header", "header not Unicode"],
)
def test_what_json_would_change_or_refuse_fails_its_row_alone(tmp_path: Path, given: tuple[Any, ...]) -> None:
    """Infinity inside a record would be null, and so be replaced; bytes would be text in base64."""
    event, key, headers = (*given, None, None)[:3]
    at = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0}
    parts = [{"name": "x", "type": ["null", "double"], "default": None}, {"name": "note", "type": ["null", "string"], "default": None}]
    inside = {"name": "in", "type": ["null", {"type": "record", "name": "I", "fields": parts}], "default": None}
    (tmp_path / "event.avsc").write_text(json.dumps({"type": "record", "name": "E", "fields": [at, inside]}))
    (tmp_path / "key.avsc").write_text(json.dumps({"type": "record", "name": "K", "fields": parts}))
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))
    (tmp_path / "odd.yaml").write_text(
        "topology: odd\n"
        "sources: {events: {topic: events, schema: event.avsc, key_schema: key.avsc}}\n"
        "nodes: {double: {kind: model, model: double@1, inputs: {x: {field: in.x, missing: 7}}}}\n"
        "sinks: {out: {topic: out, fields: {y: double, note: in.note}}}\n"
    )
    with penstock.open(tmp_path / "odd.yaml", models=tmp_path / "models", schemas=tmp_path) as plan:
        bad, good = plan.score([event, {"in": {"x": float("nan")}}], key=[key, None], headers=[headers, None])
        assert isinstance(bad, penstock.Failure)
        assert isinstance(bad.error, DecodeError)
        assert good == {"y": 14, "note": None}


def test_threads_share_an_open_topology(plan: Scorer, order: Event) -> None:
    """Eight at once, each with events of its own, get the answers that one alone gets."""

    def rows(thread: int) -> list[dict[str, Any]]:
        return [order(id=f"{thread}-{n}", item=n % 3, amount=thread) for n in range(300)]

    alone = [plan.score(rows(thread), source="orders") for thread in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert list(threads.map(lambda thread: plan.score(rows(thread), source="orders"), range(8))) == alone


def test_running_event_loop_is_no_obstacle(plan: Scorer, order: Event) -> None:
    """As in a notebook, or in a handler of a web framework."""

    async def main() -> dict[str, Any]:
        return plan.score(order(), source="orders")

    assert asyncio.run(main()) == ANSWER


def test_call_that_raises_leaves_nothing_to_the_next(plan: Scorer, order: Event) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield order()
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        plan.score(broken(), source="orders")
    assert plan.score([order()], source="orders") == [ANSWER]


@pytest.mark.parametrize(("events", "error"), [("text", TypeError), (7, TypeError)])
def test_what_is_no_event_is_refused(plan: Scorer, events: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="events are mappings"):
        plan.score(events, source="orders")


def test_source_is_named_where_there_are_several(plan: Scorer, order: Event) -> None:
    with pytest.raises(ValueError, match="several sources: name one of them, source='orders' or 'returns'"):
        plan.score(order())
    with pytest.raises(ValueError, match="did you mean 'orders'"):
        plan.score(order(), source="order")


def test_closed_topology_scores_nothing_and_frees_its_models(shop: Path, order: Event) -> None:
    opened = penstock.open(shop / "shop.yaml", models=shop / "models", schemas=shop / "schemas")
    program = weakref.ref(opened._entries["orders"])
    opened.close()
    opened.close()
    gc.collect()
    assert program() is None
    with pytest.raises(RuntimeError, match="shop is closed"):
        opened.score(order(), source="orders")


def test_settings_come_from_where_the_command_line_takes_them(shop: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_MODELS", str(shop / "models"))
    monkeypatch.setenv("PENSTOCK_TOPOLOGIES", str(shop))
    with pytest.raises(TopologyError, match=r"there is no schema file schemas/order.avsc"):
        penstock.open("shop")
    Path("penstock.toml").write_text(f'schemas = "{shop}/schemas"\n')
    penstock.open("shop").close()
    with pytest.raises(ConfigError, match=r"'shp' is neither a file nor a topology in .* \(did you mean 'shop'\?\)"):
        penstock.open("shp")
    Path("penstock.toml").write_text("chunks = 1\n")
    with pytest.raises(SettingsError, match="there is no setting chunks"):
        penstock.open("shop")


def test_untrusted_model_is_not_opened(shop: Path, tmp_path: Path) -> None:
    """As on a worker: the policy of the file holds, unlike in the test driver."""
    text = (shop / "shop.yaml").read_text() + "releases: {signatures: require}\n"
    (tmp_path / "strict.yaml").write_text(text)
    with pytest.raises(penstock.ModelError):
        penstock.open(tmp_path / "strict.yaml", models=shop / "models", schemas=shop / "schemas")
