"""`when`: a node computes, and a sink writes, the events for which a condition holds; for the others a node's outputs are null."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.cli.main import main
from penstock.engine import execute, watched
from penstock.engine.observe import Observers
from penstock.engine.watch import Run
from penstock.explain.provenance import DeadLetter, Origin, provenance
from penstock.pipeline import Chunk, Pipeline
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.scorer import Scorer
from penstock.telemetry import Metrics
from penstock.testing import TopologyDriver
from penstock.testing import models as tiny
from penstock.transports.memory import Memory, MemorySink
from penstock.worker.proof import prove
from penstock.worker.recent import Recent

TEXT = """\
topology: t
sources: {s: {topic: in, schema: event.avsc, id: id}}
nodes:
  small: {kind: model, model: small@1, when: amount < 100, inputs: {x: amount}}
  large: {kind: model, model: large@1, when: amount >= 100, inputs: {x: amount}}
  follow: {kind: model, model: small@1, when: large, inputs: {x: large}}
  filled: {kind: model, model: pair@1, inputs: {p: {stack: [large, amount], missing: -1}}}
  desk:
    kind: rule
    outputs:
      score: coalesce(large, small)
      by: "where(missing(large), 'small', 'large')"
  names: {kind: rule, when: "country != 'DE'", outputs: {text: country, ratio: 12 / amount}}
sinks:
  all: {topic: all, fields: {id: id, score: desk.score, by: desk.by, large: large, filled: filled, text: names.text}}
  high: {topic: high, when: large, fields: {id: id, score: follow, large: large}}
  picked: {topic: high, when: "country == 'FR'", fields: {id: id, score: desk.score}}
"""
EVENT = {
    "type": "record",
    "name": "Event",
    "fields": [{"name": "id", "type": "string"}, {"name": "amount", "type": "int"}, {"name": "country", "type": "string"}],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(tmp_path: Path) -> Path:
    (tmp_path / "t.yaml").write_text(TEXT)
    (tmp_path / "event.avsc").write_text(json.dumps(EVENT))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("small", tiny.linear([2.0]))  # y = 2 x
    registry.publish("large", tiny.gather([10.0 * x for x in range(1001)]))  # y = 10 x, raises above 1000
    registry.publish("pair", tiny.linear([1.0, 1.0], x="p"))
    return tmp_path


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    folder = written(tmp_path_factory.mktemp("when"))
    with penstock.open(folder / "t.yaml", models=folder / "models", schemas=folder) as plan:
        yield plan


def opened(root: Path) -> TopologyDriver:
    return TopologyDriver(root / "t.yaml", models=root / "models", schemas=root)


def event(id: str, amount: int, country: str = "DE") -> dict[str, Any]:
    return {"id": id, "amount": amount, "country": country}


def test_each_row_goes_down_its_branch(root: Path) -> None:
    driver = opened(root)
    driver.send("s", event("a", 1), event("b", 200, "FR"), event("c", 99, "FR"), event("d", 100))
    assert driver.events("all") == [
        {"id": "a", "score": 2.0, "by": "small", "large": None, "filled": 0.0, "text": None},
        {"id": "b", "score": 2000.0, "by": "large", "large": 2000.0, "filled": 2200.0, "text": "FR"},
        {"id": "c", "score": 198.0, "by": "small", "large": None, "filled": 98.0, "text": "FR"},
        {"id": "d", "score": 1000.0, "by": "large", "large": 1000.0, "filled": 1100.0, "text": None},
    ]
    assert driver.events("high") == [
        {"id": "b", "score": 4000.0, "large": 2000.0}, {"id": "d", "score": 2000.0, "large": 1000.0},
        {"id": "b", "score": 2000.0}, {"id": "c", "score": 198.0},
    ]  # fmt: skip
    assert driver.dead_letters("s") == []


def test_a_model_is_not_run_over_the_rows_that_it_leaves_out(root: Path) -> None:
    driver = opened(root)
    runs: list[Run] = []
    stage = watched(driver.program.plan.stages["s"], runs.append)
    values = [json.dumps(event("a", amount)).encode() for amount in (1, 500, 2, 600, 3)]
    execute(stage, driver.program.ports["s"].decode([_record(one) for one in values]))
    rows = {one.node: len(next(iter(one.inputs.values()))) for one in runs}
    assert rows["small"] == 3
    assert rows["large"] == rows["follow"] == 2
    assert rows["small?"] == rows["desk"] == rows["filled"] == 5
    assert "names" not in rows, "where no row is left, it is not run at all"


def _record(value: bytes) -> Any:
    return Record("in", value)


def test_a_row_that_fails_in_a_branch_fails_alone(root: Path) -> None:
    driver = opened(root)
    driver.send("s", event("a", 1), event("b", 5000), event("c", 0, "FR"), event("d", 300), event("e", 7000, "FR"), event("f", 3, "FR"))
    assert [one["id"] for one in driver.events("all")] == ["a", "c", "d", "f"], "nothing reads the ratio of c"
    letters = [provenance(one) for one in driver.dead_letters("s")]
    assert [one.where for one in letters if isinstance(one, DeadLetter)] == ["large", "large"]
    driver.clear()
    driver.send("s", event("b", 5000), event("e", 7000, "FR"))
    assert driver.events("all") == driver.events("high") == []
    assert len(driver.dead_letters("s")) == 2


def test_a_condition_without_a_value_fails_its_row(root: Path) -> None:
    (root / "t.yaml").write_text(TEXT.replace("amount < 100", "1 / amount > 0.01"))
    driver = opened(root)
    driver.send("s", event("a", 0), event("b", 2))
    assert [one["id"] for one in driver.events("all")] == ["b"]
    (letter,) = [provenance(one) for one in driver.dead_letters("s")]
    assert isinstance(letter, DeadLetter)
    assert (letter.where, letter.message) == ("small?", "when has no value for the event: a division by zero in `1 / amount`")


def test_the_conditions_are_named_by_every_output(root: Path) -> None:
    driver = opened(root)
    driver.send("s", event("a", 1))
    said = provenance(driver.records("all")[0])
    assert isinstance(said, Origin)
    assert [*said.rules] == ["small?", "large?", "names?", "picked?", "desk", "names"]
    assert [*said.models] == ["small", "large", "follow", "filled"]


def test_rows_are_the_same_alone_and_together(root: Path) -> None:
    events = [
        event(str(number), amount, country) for number, (amount, country) in enumerate([(1, "DE"), (500, "FR"), (2000, "DE"), (99, "FR")])
    ]
    with penstock.open(root / "t.yaml", models=root / "models", schemas=root) as plan:
        together = plan.score(events)
        for one, answer in zip(events, together, strict=True):
            (alone,) = plan.score([one])
            assert repr(alone).replace("row=0", "row=2") == repr(answer).replace("row=0", "row=2")
        assert together[1] == {
            "all": {"id": "1", "score": 5000.0, "by": "large", "large": 5000.0, "filled": 5500.0, "text": "FR"},
            "high": {"id": "1", "score": 10000.0, "large": 5000.0},
            "picked": {"id": "1", "score": 5000.0},
        }
        last = together[3]
        assert isinstance(last, dict)
        assert set(last) == {"all", "picked"}, "of two sinks with one topic, the one that wrote it"


@given(st.lists(st.tuples(st.integers(-5, 1005), st.sampled_from(["DE", "FR"])), min_size=1, max_size=40))
def test_rows_are_those_of_a_loop_over_them(scorer: Scorer, rows: list[tuple[int, str]]) -> None:
    answers = scorer.score([event(str(at), amount, country) for at, (amount, country) in enumerate(rows)])
    for at, ((amount, country), answer) in enumerate(zip(rows, answers, strict=True)):
        if amount > 1000:
            assert isinstance(answer, penstock.Failure)
            continue
        large = 10.0 * amount if amount >= 100 else None
        score = 2.0 * amount if large is None else large
        expected: dict[str, Any] = {
            "all": {
                "id": str(at), "score": score, "by": "small" if large is None else "large", "large": large,
                "filled": amount + (-1.0 if large is None else large), "text": None if country == "DE" else country,
            }
        }  # fmt: skip
        if large is not None:
            expected["high"] = {"id": str(at), "score": 2 * large, "large": large}
        if country == "FR":
            expected["picked"] = {"id": str(at), "score": score}
        assert answer == expected


def test_nan_is_not_null(root: Path) -> None:
    text = TEXT.replace("model: small@1, when: amount < 100, inputs: {x: amount}", "model: log@1, when: amount < 100, inputs: {x: amount}")
    text = text.replace("coalesce(large, small)", "where(missing(small), -1, 1)")
    (root / "t.yaml").write_text(text)
    DirectoryRegistry(root / "models").publish("log", tiny.log())
    driver = opened(root)
    driver.send("s", event("a", -1), event("b", 200))
    assert [(one["id"], one["score"]) for one in driver.events("all")] == [("a", 1), ("b", -1)]
    (root / "t.yaml").write_text(text.replace("large: large, filled", "small: small, filled"))
    driver = opened(root)
    driver.send("s", event("a", -1), event("b", 200), event("c", 1))
    assert [(one["id"], one["small"]) for one in driver.events("all")] == [("b", None), ("c", 0.0)], "it is not written as null"
    assert [one.where for one in map(provenance, driver.dead_letters("s")) if isinstance(one, DeadLetter)] == ["small"]


def test_plan_and_drawing_show_the_conditions(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(root / "t.yaml"), "--models", str(root / "models"), "--schemas", str(root)]
    assert main(["plan", *words, "--format", "json"]) == 0
    stage = json.loads(capsys.readouterr().out)["stages"][0]
    assert {one["node"]: one.get("when") for one in stage["steps"]} == {
        "small?": None, "large?": None, "names?": None, "picked?": None, "small": "small?", "large": "large?", "follow": "large",
        "filled": None, "desk": None, "names": "names?",
    }  # fmt: skip
    assert {one["sink"]: one.get("when") for one in stage["sinks"]} == {"all": None, "high": "large", "picked": "picked?"}
    assert main(["plan", *words, "--rules", str(root / "rules")]) == 0
    printed = capsys.readouterr().out
    for what in ("when large?", "<- [large.y[0] or -1, amount:float32]", "large <- large.y[0] or null", "large <- large.y[0] "):
        assert what in printed
    assert sorted(one.name for one in (root / "rules").iterdir()) == [
        "desk.onnx", "large.when.onnx", "names.onnx", "names.when.onnx", "picked.when.onnx", "small.when.onnx",
    ]  # fmt: skip
    assert main(["validate", *words, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == 6, "conditions are no nodes of the file"
    for extra in ([], ["--as", "mermaid"]):
        assert main(["draw", *words, *extra]) == 0
        assert "amount" in capsys.readouterr().out


def test_rows_that_a_node_or_a_sink_leaves_out_have_no_part_in_a_proof(root: Path) -> None:
    """In slices of one row and of several; a candidate that leaves out others is told, and its means are those of what both compute."""
    (root / "t.yaml").write_text(text := TEXT.replace("coalesce(large, small)", "coalesce(large, small, 0)"))
    live = opened(root).program
    recent = Recent(100)
    records = [Record("in", json.dumps(event(str(at), at)).encode(), offset=at) for at in [200, 300, 1, 200, 2, 99, 300, 3] * 4]
    Pipeline(live, "s", sink=MemorySink(Memory(1)), observers=Observers([recent])).process(Chunk(records, (("in", 0, len(records)),)))
    DirectoryRegistry(root / "models").publish("large", tiny.gather([11.0 * x for x in range(1001)]))
    (root / "t.yaml").write_text(text.replace("large@1, when: amount >= 100", "large@2, when: amount > 200"))
    proof = prove(opened(root).program, live, recent.kept())
    for name, values, factor in (("all.large", 8, 1), ("high.large", 8, 1), ("high.score", 8, 2)):
        drift = proof.drift[name]
        assert (drift.values, drift.lone, drift.numeric) == (values, 8, True), name
        assert (drift.was, drift.now) == (values * factor * 3000, values * factor * 3300), name
    assert str(proof.drift["high.large"]) == "differs by 300 on average (mean 3000 → 3300), and is null in one of them for 8 rows"
    assert str(proof.drift["all.by"]) == "25.00% of the values differ"
    assert str(proof.drift["all.text"]) == "has no values in both"


def test_a_chunk_in_which_a_node_computes_no_row_is_no_run_of_it(root: Path) -> None:
    metrics = Metrics()
    program = opened(root).program
    pipeline = Pipeline(program, "s", sink=MemorySink(Memory(1)), metrics=metrics)
    for amounts in ([1, 2, 3], [1, 5000, 300]):
        records = [Record("in", json.dumps(event("a", one)).encode(), offset=at) for at, one in enumerate(amounts)]
        pipeline.process(Chunk(records, (("in", 0, len(records)),)))
    found = metrics.snapshot()
    rows = {name.partition(",")[0]: count for name, count in found["node_rows"].items()}
    runs = {name.partition(",")[0]: one["count"] for name, one in found["node_seconds"].items()}
    assert (rows["small"], rows["large"], rows["follow"], rows["names"]) == (4, 2, 1, 0)
    assert (runs["small"], runs["large"], runs["follow"], runs["names"]) == (2, 1, 1, 0)
    assert {name.partition(",")[0]: count for name, count in found["node_failures"].items() if count} == {"large": 1}


def test_a_run_over_a_file_in_which_no_sink_writes_is_not_said_to_have_failed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "t.yaml").write_text(TEXT.replace("all: {topic: all, ", "all: {topic: all, when: large, "))
    words = ["batch", str(root / "t.yaml"), "--models", str(root / "models"), "--schemas", str(root), "--out", str(root / "out")]
    for name, amounts, said in (("some", (1, 5000), False), ("none", (5000, 6000), True)):
        (root / f"{name}.ndjson").write_text("".join(json.dumps(event("a", one)) + "\n" for one in amounts))
        assert main([*words, "--in", str(root / f"{name}.ndjson")]) == int(said)
        captured = capsys.readouterr()
        assert "0 outputs" in captured.out
        assert ("no event could be scored" in captured.err) is said
        shutil.rmtree(root / "out")


@pytest.mark.parametrize("node", ["", "when: amount > 1, "])
@pytest.mark.parametrize("sink", ["", "when: amount > 2, "])
def test_event_whose_answer_is_too_short_for_what_is_read_of_it_fails_alone(root: Path, node: str, sink: str) -> None:
    """An open axis is as long as the event makes it; also what watches the rows that a node leaves out finds enough of it."""
    (root / "t.yaml").write_text(OPEN.replace("NODE ", node).replace("SINK ", sink))
    items = {"name": "items", "type": {"type": "array", "items": "float"}}
    (root / "event.avsc").write_text(json.dumps({**EVENT, "fields": [*EVENT["fields"], items]}))
    DirectoryRegistry(root / "models").publish("same", tiny.identity("float32", (None,)))
    program, recent, memory = opened(root).program, Recent(100), Memory(1)
    lengths = {"a": (1, 3), "b": (9, 1), "c": (9, 3), "d": (9, 2), "e": (1, 1), "f": (2, 3)}
    events = [event(id, amount) | {"items": [*range(length)]} for id, (amount, length) in lengths.items()]
    records = [Record("in", json.dumps(one).encode(), offset=at) for at, one in enumerate(events)]
    pipeline = Pipeline(program, "s", sink=MemorySink(memory), observers=Observers([recent]))
    made = [*pipeline.process(Chunk(records, (("in", 0, len(records)),))), *pipeline.process(Chunk(records[4:5], (("in", 0, 1),)))]
    dead = {one["id"] for parcel in made if parcel.dead for one in (json.loads(value or b"") for value in parcel.values)}
    written = {
        one["id"]: one["third"] for parcel in made if not parcel.dead for one in (json.loads(value or b"") for value in parcel.values)
    }
    fails = {id for id, (amount, length) in lengths.items() if length < 3 and (not node or amount > 1)}
    assert dead == fails
    third = {id: None if node and amount <= 1 else 2.0 for id, (amount, _) in lengths.items() if not sink or amount > 2}
    assert written == {id: value for id, value in third.items() if id not in fails}
    assert sum(part.chunk.rows for part in recent.kept()["s"]) == len(lengths) - len(fails) + (not fails & {"e"})


OPEN = """\
topology: t
sources: {s: {topic: in, schema: event.avsc, id: id}}
nodes:
  open: {kind: model, model: same@1, NODE inputs: {x: items}}
sinks:
  all: {topic: all, SINK fields: {id: id, third: "open.y[2]"}}
"""
CHAIN = """\
topology: t
sources:
  s: {topic: in, schema: event.avsc, id: id}
  m: {topic: mid, schema: mid.avsc, id: id}
nodes:
  doubled: {kind: model, model: small@1, when: m.half > 10, inputs: {x: m.half}}
sinks:
  first: {topic: mid, fields: {id: s.id, half: s.amount}}
  again: {topic: mid, when: "country == 'FR'", fields: {id: s.id, half: s.amount}}
  end: {topic: end, when: m.half < 100, fields: {id: m.id, half: m.half}}
  large: {topic: end, when: doubled, fields: {id: m.id, y: doubled}}
"""


def test_outputs_are_told_apart_where_one_event_reaches_the_sinks_of_a_topic_twice(root: Path) -> None:
    """`again` writes what `first` has written, so each event of France goes through the second stage two times."""
    (root / "t.yaml").write_text(CHAIN)
    middle = {"type": "record", "name": "Mid", "fields": [{"name": "id", "type": "string"}, {"name": "half", "type": "int"}]}
    (root / "mid.avsc").write_text(json.dumps(middle))
    with penstock.open(root / "t.yaml", models=root / "models", schemas=root) as plan:
        answers = plan.score([event("a", 5, "FR"), event("b", 50, "FR"), event("c", 500, "FR"), event("d", 5)], source="s")
    assert [(*one,) for one in answers if isinstance(one, dict)] == [
        ("first", "again", "end"), ("first", "again", "end", "large"), ("first", "again", "large"), ("first", "end"),
    ]  # fmt: skip
    assert answers[0] == {"first": {"id": "a", "half": 5}, "again": {"id": "a", "half": 5}, "end": {"id": "a", "half": 5}}


def test_null_key_fails_only_events_that_are_written(root: Path) -> None:
    fields = [*EVENT["fields"], {"name": "who", "type": ["null", "string"], "default": None}]
    (root / "event.avsc").write_text(json.dumps({**EVENT, "fields": fields}))
    (root / "t.yaml").write_text(TEXT.replace("high: {topic: high, when: large", "high: {topic: high, key: who, when: large"))
    driver = opened(root)
    driver.send("s", event("a", 1), event("b", 200), {**event("c", 300), "who": "me"}, {**event("d", 3), "who": "you"})
    assert [one["id"] for one in driver.events("all")] == ["a", "b", "c", "d"]
    assert [(one.key, json.loads(one.value or b"")["id"]) for one in driver.records("high")] == [(b"me", "c")]
    (letter,) = [provenance(one) for one in driver.dead_letters("s")]
    assert isinstance(letter, DeadLetter)
    assert letter.message == "the key of the sink high is null"
