"""A candidate beside the live program: which rows it answers, what their headers say, and that no row is worse off for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import runtime
from penstock.engine import Router
from penstock.errors import ModelMismatch
from penstock.pipeline import Candidate, Chunk, Pipeline, Program, check_beside
from penstock.pipeline.trial import CHECKED
from penstock.record import Outgoing, Record
from penstock.registry.directory import DirectoryRegistry
from penstock.state import States
from penstock.telemetry import Metrics
from penstock.testing import models
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink

TOPOLOGY = """\
topology: prices
sources: {items: {topic: items, schema: item.avsc}}
nodes:
  base: {kind: model, model: BASE, inputs: {x: item}}
  other: {kind: model, model: add@1, inputs: {a: number, b: number}}
  price: {kind: model, model: PRICE, inputs: {x: base}}
  total: {kind: model, model: add@1, inputs: {a: price, b: other}}
sinks: {prices: {topic: prices, fields: {item: item, total: total}}}
"""
ITEM = {"type": "record", "name": "Item", "fields": [{"name": "item", "type": "long"}, {"name": "number", "type": "float"}]}


class Make(Protocol):
    """Makes the program of the topology with these versions of two of its nodes."""

    folder: Path

    def __call__(self, base: int = 1, price: int = 1) -> Program: ...


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("prices")
    (folder / "item.avsc").write_text(json.dumps(ITEM))
    registry = DirectoryRegistry(folder / "models")
    registry.publish("add", models.add())
    registry.publish("base", models.gather([10, 20, 30, 40]))
    registry.publish("base", models.gather([11, 21, 31]))  # 2: fails for the item 3
    registry.publish("base", models.gather([-1, 20, 30]))
    registry.publish("base", models.linear([10.0], bias=10.0))  # 4: reads the item as another type
    registry.publish("price", models.linear([1.0]))
    registry.publish("price", models.linear([2.0]))
    registry.publish("price", models.log())  # 3: not finite for 0 and less

    def make(base: int = 1, price: int = 1) -> Program:
        text = TOPOLOGY.replace("BASE", f"base@{base}").replace("PRICE", f"price@{price}")
        (folder / "prices.yaml").write_text(text)
        return runtime.prepare(runtime.load(folder / "prices.yaml", models=folder / "models", schemas=Path(folder)))

    made = cast(Make, make)
    made.folder = folder
    return made


def on_trial(program: Program, *changed: str, share: float = 0.5) -> Candidate:
    return Candidate(program, frozenset(changed), Router("0192-release", share))


Item = Mapping[str, Any]
Answer = tuple[dict[str, Any], dict[str, str]]


def run(
    live: Program, candidate: Candidate | None, items: Sequence[Item], *, metrics: Metrics | None = None
) -> tuple[list[Answer], list[Outgoing]]:
    """Returns the outputs of items with their headers, in order, and the dead letters."""
    records = [
        Record("items", json.dumps({"item": 1, "number": 1, **item["value"]}).encode(), item.get("key", b"k%d" % at), offset=at)
        for at, item in enumerate(items)
    ]
    pipeline = Pipeline(live, "items", sink=MemorySink(Memory(1)), generation=7, candidate=candidate, metrics=metrics)
    parcels = pipeline.process(Chunk(records, (("items", 0, len(records)),)))
    found = [
        (json.loads(value or b""), {name: (text or b"").decode() for name, text in headers})
        for parcel in parcels if not parcel.dead for _, _, value, headers in parcel.records
    ]  # fmt: skip
    return found, [one for parcel in parcels if parcel.dead for one in parcel.records]


def items(*numbers: int) -> list[Item]:
    return [{"value": {"item": number}} for number in numbers]


def test_each_unit_is_answered_by_one_plan_and_the_outputs_say_which(program: Make) -> None:
    live, found = program(), []
    candidate = on_trial(program(price=2), "price", share=0.25)
    given: list[Item] = [{"value": {"item": at % 4}, "key": b"unit-%d" % (at % 40)} for at in range(200)]
    outputs, dead = run(live, candidate, given)
    assert not dead
    assert [value["item"] for value, _ in outputs] == [one["value"]["item"] for one in given]  # in their order
    for (value, headers), one in zip(outputs, given, strict=True):
        base = 10 * (one["value"]["item"] + 1)
        its = headers["penstock-variant"] == "candidate"
        assert value["total"] == base * (2 if its else 1) + 2
        assert headers["penstock-propensity"] == ("0.25" if its else "0.75")
        assert headers["penstock-experiment"] == "0192-release"
        assert f"price=price@{2 if its else 1}" in headers["penstock-models"]
        assert headers["penstock-generation"] == "7"
        found.append((one["key"], its))
    assert len(set(found)) == 40
    assert 0 < sum(its for _, its in set(found)) < 20


def test_a_growing_share_moves_units_to_the_candidate_only(program: Make) -> None:
    live, new, before = program(), program(price=2), set[str]()
    for share in (0.01, 0.1, 0.5, 0.9, 1.0):
        outputs, _ = run(live, on_trial(new, "price", share=share), items(*[1] * 300))
        now = {headers["penstock-id"] for _, headers in outputs if headers["penstock-variant"] == "candidate"}
        assert before <= now
        before = now
    assert len(before) == 300


def test_a_row_without_a_unit_is_answered_by_the_live_plan_and_counted(program: Make) -> None:
    metrics = Metrics()
    outputs, _ = run(program(), on_trial(program(price=2), "price", share=1.0), [{"key": None, "value": {}}, *items(1)], metrics=metrics)
    (value, headers), (_, others) = outputs
    assert value["total"] == 22
    assert not {"penstock-variant", "penstock-experiment", "penstock-propensity"} & headers.keys()
    assert "price=price@1" in headers["penstock-models"]
    assert others["penstock-variant"] == "candidate"
    assert metrics.snapshot()["trial_rows"] == {"candidate": 1, "no unit": 1}


def test_a_row_that_the_candidate_fails_on_is_answered_by_the_live_plan(program: Make) -> None:
    metrics = Metrics()
    outputs, dead = run(program(), on_trial(program(base=2), "base", share=1.0), items(0, 3, 1, 3), metrics=metrics)
    assert not dead
    assert [value["total"] for value, _ in outputs] == [13, 42, 23, 42]
    assert [headers.get("penstock-fell-back") for _, headers in outputs] == [None, "candidate", None, "candidate"]
    assert [headers["penstock-variant"] for _, headers in outputs] == ["candidate", "live", "candidate", "live"]
    assert {headers["penstock-propensity"] for _, headers in outputs} == {"1"}
    assert "base=base@1" in outputs[1][1]["penstock-models"]
    assert metrics.snapshot()["trial_rows"] == {"candidate": 2, "fell back": 2}
    assert metrics.snapshot()["node_failures"]["base,base,2"] == 2


def test_an_output_that_cannot_be_written_of_the_candidate_is_that_of_the_live_plan(program: Make) -> None:
    """NaN is an answer to the model runtime, and none to a reader."""
    outputs, dead = run(program(base=3), on_trial(program(base=3, price=3), "price", share=1.0), items(1, 0, 2))
    assert not dead
    assert [value["total"] for value, _ in outputs] == pytest.approx([np.log(20) + 2, -1 + 2, np.log(30) + 2], rel=1e-6)
    assert [headers["penstock-variant"] for _, headers in outputs] == ["candidate", "live", "candidate"]
    assert outputs[1][1]["penstock-fell-back"] == "candidate"


def test_a_row_that_both_fail_on_is_one_dead_letter_of_the_live_plan(program: Make) -> None:
    outputs, dead = run(program(), on_trial(program(base=2), "base", share=1.0), items(1, 7, 1))
    assert len(outputs) == 2
    ((_, _, _, headers),) = dead
    named = dict(headers)
    assert named["penstock-variant"] == b"live"
    assert named["penstock-node"] == b"base"
    assert b"base=base@1" in (named["penstock-models"] or b"")


def test_what_both_plans_fail_on_counts_for_neither(program: Make) -> None:
    """Items 4 and more fail in both; the item 3 only in the candidate, and of the other two plans only in the live one."""
    worse, better = on_trial(program(base=2), "base", share=0.5), on_trial(program(base=1), "base", share=0.5)
    given = [item for number in (0, 3, 4, 7) for item in items(*[number] * 50)]
    numbered = [{**item, "key": b"k%d" % at} for at, item in enumerate(given)]
    run(program(), worse, numbered)
    run(program(base=2), better, numbered)
    assert worse.tally.live_failed == 0
    assert 0 < worse.tally.failed < 50
    assert worse.tally.example.startswith("items:0:")
    assert better.tally.failed == 0
    assert 0 < better.tally.live_failed <= CHECKED


def test_a_unit_that_fails_counts_once(program: Make) -> None:
    """Its rows are not independent: one unit with bad data is one failure, however many rows it has, in whatever step."""
    candidate = on_trial(program(base=2), "base", share=1.0)
    for _ in range(3):
        run(program(), candidate, [{"value": {"item": 3}, "key": b"k%d" % (at % 2)} for at in range(20)])
    assert (candidate.tally.failed, candidate.tally.lost) == (2, 60)


def test_what_neither_plan_can_write_counts_for_neither(program: Make) -> None:
    """The item 0 is NaN to both: the candidate is not better for computing it."""
    candidate = on_trial(program(base=3, price=3), "price", share=0.5)
    other = on_trial(program(base=3, price=3), "base", share=0.5)
    _, dead = run(program(base=3, price=3), other, items(*[0] * 60))
    assert len(dead) == 60
    assert (other.tally.failed, other.tally.live_failed) == (0, 0)
    _, dead = run(program(base=3, price=1), candidate, items(*[0] * 60))
    assert not dead
    assert candidate.tally.failed > 0


def test_a_candidate_that_answers_nothing_is_not_asked_any_more(program: Make) -> None:
    """It would take fifty times as long as the live plan: which rows it fails on is found one by one."""
    metrics, candidate = Metrics(), on_trial(program(base=2), "base", share=1.0)
    for _ in range(3):
        outputs, dead = run(program(), candidate, items(*[3] * 600), metrics=metrics)
        assert not dead
        assert {headers["penstock-fell-back"] for _, headers in outputs} == {"candidate"}
    assert metrics.snapshot()["node_rows"]["base,base,2"] == 1200


def test_a_candidate_that_reads_other_columns_decodes_its_rows_for_itself(program: Make) -> None:
    """The item is a long to the live version, and a float to the candidate: both are right, and it knows items that the other does not."""
    outputs, dead = run(program(), on_trial(program(base=4), "base", share=0.5), items(*range(4), *[9] * 30))
    its = [headers["penstock-variant"] == "candidate" for _, headers in outputs]
    assert [value["total"] for value, _ in outputs] == [10 * (value["item"] + 1) + 2 for value, _ in outputs]
    assert all(candidate or value["item"] < 4 for candidate, (value, _) in zip(its, outputs, strict=True))
    assert len(dead) + len(outputs) == 34
    assert 0 < len(dead) < 30


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0, 1), st.sampled_from([("base",), ("price",), ("base", "price")]))
def test_every_row_has_one_answer_and_the_live_plans_failures_alone_are_dead(
    program: Make, numbers: list[int], share: float, changed: tuple[str, ...]
) -> None:
    """Items 4 and 5 fail in the live version too, item 3 only in the candidate's."""
    live = program()
    new = program(base=2 if "base" in changed else 1, price=2 if "price" in changed else 1)
    outputs, dead = run(live, on_trial(new, *changed, share=share), items(*numbers))
    assert [value["item"] for value, _ in outputs] == [number for number in numbers if number < 4]
    assert len(dead) == sum(number >= 4 for number in numbers)
    for value, headers in outputs:
        its = headers["penstock-variant"] == "candidate"
        base = 10 * (value["item"] + 1) + (its and "base" in changed)
        assert value["total"] == base * (2 if its and "price" in changed else 1) + 2
        assert not (its and value["item"] == 3 and "base" in changed)


def test_without_changed_nodes_in_a_stage_nothing_is_divided(program: Make) -> None:
    outputs, _ = run(program(), on_trial(program(), share=1.0), items(1))
    assert not {"penstock-variant", "penstock-experiment"} & outputs[0][1].keys()


CUT = """\
topology: chain
sources: {items: {topic: items, schema: item.avsc}}
nodes:
  base: {kind: model, model: base@BASE, inputs: {x: item}, materialize: true}
  price: {kind: model, model: price@PRICE, inputs: {x: base}}
sinks: {prices: {topic: prices, fields: {item: item, price: price}}}
"""


@pytest.mark.parametrize("changed", ["base", "price"])
def test_what_a_stage_says_of_a_trial_travels_through_the_later_ones(program: Make, changed: str) -> None:
    """A trial of any stage is in the headers of the last one, whose events have the same key."""
    folder = program.folder
    loaded = [
        runtime.load(parse_text(CUT.replace("BASE", base).replace("PRICE", price)), models=folder / "models", schemas=folder)
        for base, price in (("1", "1"), ("2" if changed == "base" else "1", "2" if changed == "price" else "1"))
    ]
    live, new = ({name: runtime.prepare(share) for name, share in runtime.shares(one, "app").items()} for one in loaded)
    records = [Record("items", b'{"item":1,"number":1}', b"k%d" % at, offset=at) for at in range(40)]
    for name in live:
        pipeline = Pipeline(live[name], name, sink=MemorySink(Memory(1)), generation=7, candidate=on_trial(new[name], changed))
        (parcel,) = pipeline.process(Chunk(records, ((records[0].topic, 0, 40),)))
        records = [Record(parcel.topic, value, key, tuple(h), offset=at) for at, (_, key, value, h) in enumerate(parcel.records)]
    variants = Counter[str]()
    for one in records:
        headers = {name: (text or b"").decode() for name, text in one.headers}
        assert len(headers) == len(one.headers), "none is there twice"
        its = headers["penstock-variant"] == "candidate"
        expected = {"base": 21 if its else 20, "price": 40 if its else 20}[changed]
        assert json.loads(one.value or b"")["price"] == expected
        version = "2" if its else "1"
        other = {"base": "price=price@1", "price": "base=base@1"}[changed]
        assert set(headers["penstock-models"].split(",")) == {f"{changed}={changed}@{version}", other}
        assert headers["penstock-experiment"] == "0192-release"
        variants[headers["penstock-variant"]] += 1
    assert len(variants) == 2


REMEMBERS = """\
topology: lately
sources: {items: {topic: items, schema: item.avsc}}
nodes:
  base: {kind: model, model: base@BASE, inputs: {x: item}}
  seen: {kind: window, by: item, over: [1h], features: {n: count, sum: sum(WHAT)}}
  price: {kind: model, model: price@PRICE, inputs: {x: base}}
sinks: {prices: {topic: prices, fields: {price: price, n: seen.n_1h, sum: seen.sum_1h}}}
"""


def prepared(text: str, folder: Path) -> Program:
    return runtime.prepare(runtime.load(parse_text(text), models=folder / "models", schemas=folder))


def test_a_window_counts_every_event_once_whichever_plan_answers_it(program: Make) -> None:
    text = REMEMBERS.replace("BASE", "1").replace("WHAT", "number")
    live, new = (prepared(text.replace("PRICE", price), program.folder) for price in ("1", "2"))
    records = [Record("items", b'{"item":1,"number":1}', b"k%d" % at, timestamp=1000 + at, offset=at) for at in range(40)]
    pipeline = Pipeline(live, "items", sink=MemorySink(Memory(1)), candidate=on_trial(new, "price"))
    (parcel,) = pipeline.complete(pipeline.begin(Chunk(records, (("items", 0, 40),)), States(clock=lambda: 2.0)))
    found = [json.loads(value or b"") for value in parcel.values]
    assert [one["n"] for one in found] == [*range(40)]
    assert {one["price"] for one in found} == {20.0, 40.0}


def test_what_no_stage_sees_alone_is_refused_for_all_of_them(program: Make) -> None:
    """A window behind a topic remembers what a changed node before it answers; and nodes of two stages would be tried apart."""
    folder = program.folder

    def checked(text: str, *changed: str) -> None:
        loaded = runtime.load(parse_text(text), models=folder / "models", schemas=folder)
        share = next(iter(runtime.shares(loaded, "app").values()))
        runtime.check_tried(share, loaded.artifacts, {node: {} for node in loaded.artifacts}, frozenset(changed))

    behind = REMEMBERS.replace("inputs: {x: item}}", "inputs: {x: item}, materialize: true}", 1).replace("BASE", "1").replace("PRICE", "1")
    checked(behind.replace("WHAT", "base"), "price")
    with pytest.raises(ModelMismatch, match=r"nodes\.seen remembers what changed nodes answer"):
        checked(behind.replace("WHAT", "base"), "base")
    cut = CUT.replace("BASE", "1").replace("PRICE", "1")
    checked(cut, "base")
    with pytest.raises(ModelMismatch, match=r"it changes nodes of the stages base, .*: try one stage after the other"):
        checked(cut, "base", "price")


def test_a_candidate_whose_answers_a_window_would_remember_is_refused(program: Make) -> None:
    text = REMEMBERS.replace("PRICE", "1").replace("WHAT", "base")
    live, new = (prepared(text.replace("BASE", base), program.folder) for base in ("1", "2"))
    check_beside(live, on_trial(new, "price"))
    with pytest.raises(ModelMismatch, match=r"nodes\.seen remembers what changed nodes answer.*deploy it without a trial"):
        check_beside(live, on_trial(new, "base"))


OPEN = """\
topology: open
sources: {items: {topic: items, schema: list.avsc}}
nodes: {same: {kind: model, model: same@1, inputs: {x: list}WHEN}}
sinks: {out: {topic: out, fields: {id: id, y: "same.y[0]"}}}
"""
LIST = [{"name": "id", "type": "long"}, {"name": "ok", "type": "boolean"}, {"name": "list", "type": {"type": "array", "items": "float"}}]


@pytest.mark.parametrize("when", ["", ", when: ok"])
def test_rows_of_an_open_axis_come_together_whatever_their_length(tmp_path: Path, when: str) -> None:
    (tmp_path / "list.avsc").write_text(json.dumps({"type": "record", "name": "List", "fields": LIST}))
    DirectoryRegistry(tmp_path / "models").publish("same", models.identity(shape=(None,)))
    text = OPEN.replace("WHEN", when).replace("id: id, y:", "id: id, y:")
    live, new = (runtime.prepare(runtime.load(parse_text(text), models=tmp_path / "models", schemas=tmp_path)) for _ in range(2))
    events = [{"id": at, "ok": at % 3 > 0, "list": [float(at)] * 3} for at in range(30)]
    records = [Record("items", json.dumps(event).encode(), b"k%d" % at, offset=at) for at, event in enumerate(events)]
    pipeline = Pipeline(live, "items", sink=MemorySink(Memory(1)), candidate=on_trial(new, "same"))
    for size in (1, 2, 30):
        found = []
        for at in range(0, 30, size):
            piece = records[at : at + size]
            for parcel in pipeline.process(Chunk(piece, (("items", 0, len(piece)),))):
                assert not parcel.dead
                found += [json.loads(value or b"") for value in parcel.values]
        assert [one["y"] for one in found] == [event["id"] if event["ok"] or not when else None for event in events]
