"""`penstock explain` on a real Kafka: what workers wrote is made once more, release by release, and what cannot be said is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from onnx import helper

from penstock.cli.main import main
from penstock.control.proposal import Change
from penstock.operate.operator import operate
from penstock.record import Position, Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import Broker, TopologyDriver, create_topics, end_offsets, produce, unique
from penstock.testing.models import gather, linear, model, tensor
from penstock.topology.parse import parse
from tests.kafka.running import Job, make_job

pytestmark = pytest.mark.broker


@dataclass(frozen=True)
class Told:
    """What the command said: its exit code, the document on stdout, and stderr."""

    code: int
    found: Any
    error: str


Explain = Callable[..., Told]


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Explain:
    """`penstock explain` of the job, unsigned as its worker is unless the flags say otherwise."""

    def call(job: Job, position: Position | str, *flags: str, topology: str | None = None) -> Told:
        told = {
            "brokers": job.broker.bootstrap,
            "application": job.application,
            "models": job.folder / "models",
            "schemas": job.folder / "schemas",
        }
        settings = [word for name, value in {**told, "cache": job.folder / "cache"}.items() for word in (f"--{name}", str(value))]
        words = [topology or str(job.file), str(position)] if topology != "" else [str(position)]
        capsys.readouterr()
        code = main(["explain", *words, *settings, "--unsigned-control", *flags, "--format", "json"])
        said = capsys.readouterr()
        return Told(code, json.loads(said.out) if said.out else None, said.err)

    return call


@pytest.fixture(scope="module")
def job(shared_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Four answers of three generations, y = 2x, 2x, 3x, 2x; and a dead letter."""
    if "create_topics" in shared_broker.lacks:
        pytest.skip(f"{shared_broker.kind} broker: {shared_broker.lacks['create_topics']}")
    job = make_job(shared_broker, tmp_path_factory.mktemp("explain"), partitions=1)
    DirectoryRegistry(job.folder / "models").publish("double", linear([3.0]))
    with job.run("--unsigned-control") as worker:
        job.send([1, 2])
        produce(shared_broker, [Record(job.source, b'{"id": "x", "x": "much"}', b"bad")])
        job.wait_for_answers(2)
        release(job, {"double": "double@2"})
        job.send([3])
        job.wait_for_answers(3)
        operate(settings(job), parse(job.file), lambda it: it.rollback(reason="two was right"))
        job.send([4])
        job.wait_for_answers(4)
        assert worker.stop() == 0, worker.log
    return job


def settings(job: Job) -> Settings:
    return Settings(
        brokers=job.broker.bootstrap,
        application=job.application,
        models=job.folder / "models",
        schemas=job.folder / "schemas",
        unsigned_control=True,
    )


def release(job: Job, changes: Mapping[str, Change | str]) -> None:
    operate(settings(job), parse(job.file), lambda it: it.deploy(changes, reason="better"))


def send_again(job: Job, record: Record, headers: Mapping[str, bytes] | None = None) -> Position:
    """Writes a record to its topic with other headers, as nobody should; where it stands."""
    offset = end_offsets(job.broker, record.topic)[record.partition]
    given = {f"penstock-{name}": value for name, value in (headers or {}).items()}
    produce(job.broker, [record._replace(headers=[(name, given.get(name, value)) for name, value in record.headers])])
    return record._replace(offset=offset).position


# -- what a worker wrote -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "generation", "version", "said_by", "y"),
    [(0, 0, "double@1", "headers", 1.0), (2, 1, "double@2", "control log", 4.5), (3, 2, "double@1", "control log", 4.0)],
)
def test_each_generation_is_explained_by_its_own_model(
    job: Job, explain: Explain, offset: int, generation: int, version: str, said_by: str, y: float
) -> None:
    told = explain(job, Position(job.sink, 0, offset))
    assert told.code == 0, told.error
    assert (told.found["generation"], told.found["models"]["double"]["version"], told.found["said_by"]) == (generation, version, said_by)
    assert told.found["nodes"][0]["outputs"] == [{"name": "y", "dtype": "float32", "shape": [1, 1], "value": [[y]]}]
    assert (told.found["verdict"], told.found["same_bytes"]) == ("equal", True)
    assert told.found["input"]["event"]["x"] == y / (3 if version == "double@2" else 2)


def test_without_a_control_log_the_headers_are_taken_at_their_word(job: Job, explain: Explain) -> None:
    told = explain(job, Position(job.sink, 0, 2), "--no-releases")
    assert (told.code, told.found["said_by"], told.found["models"]["double"]["version"]) == (0, "headers", "double@2"), told.error


def test_record_names_its_topology_itself(job: Job, explain: Explain) -> None:
    told = explain(job, Position(job.sink, 0, 0), "--topologies", str(job.folder), topology="")
    assert (told.code, told.found["file"]) == (0, str(job.file)), told.error


@pytest.mark.parametrize(("flags", "generation"), [((), 0), (("--now",), 2)])
def test_dead_letter_is_run_through_what_failed_on_it_or_what_is_active_today(
    job: Job, explain: Explain, flags: tuple[str, ...], generation: int
) -> None:
    told = explain(job, Position(job.dead, 0, 0), *flags)
    assert told.code == 0, told.error
    assert told.found["kind"] == "dead letter"
    assert told.found["input"]["position"] == f"{job.source}:0:2"
    assert told.found["recorded"] == told.found["failure"] == {"stage": "decode", "message": "Expected `float`, got `str` - at `$.x`"}
    assert (told.found["generation"], told.found["outputs"]) == (generation, [])


def test_what_people_see_names_every_step(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--brokers",
        job.broker.bootstrap,
        "--application",
        job.application,
        "--unsigned-control",
        "--cache",
        str(job.folder / "cache"),
    ]
    folders = ["--models", str(job.folder / "models"), "--schemas", str(job.folder / "schemas")]
    assert main(["explain", str(job.file), f"{job.sink}:0:2", *flags, *folders]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"{job.sink}:0:2 prediction of doubles ({job.file})"
    assert lines[1].startswith("generation 1: bound by the control log, release ")
    assert "node double double@2" in lines
    assert "in x float32[1, 1] 1.5" in lines
    assert "out y float32[1, 1] 4.5" in lines
    assert "y 4.5 4.5 equal" in lines
    assert lines[-1] == "equal, byte by byte"


@pytest.mark.parametrize(("flags", "when"), [((), "run again"), (("--now",), "today")])
def test_what_people_see_of_a_dead_letter_tells_which_versions_it_was_run_through(
    job: Job, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], when: str
) -> None:
    where = ["--brokers", job.broker.bootstrap, "--application", job.application, "--unsigned-control"]
    folders = ["--cache", str(job.folder / "cache"), "--models", str(job.folder / "models"), "--schemas", str(job.folder / "schemas")]
    assert main(["explain", str(job.file), f"{job.dead}:0:0", *where, *folders, *flags]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == f"{when} it fails at decode: Expected `float`, got `str` - at `$.x`"
    assert any(line.startswith("today") for line in lines) is bool(flags)


# -- what is not as it was ---------------------------------------------------------------------------------------------


def test_value_that_was_not_made_so_is_different(job: Job, explain: Explain) -> None:
    answer = job.answers()[2]
    near = explain(job, send_again(job, answer._replace(value=b'{"id":"3","y":4.500001}')))
    assert (near.code, near.found["verdict"], near.found["same_bytes"]) == (0, "close", False)
    far = explain(job, send_again(job, answer._replace(value=b'{"id":"3","y":4.6}', key=b"other")))
    assert (far.code, far.found["verdict"]) == (1, "different")
    assert [(one["name"], one["verdict"]) for one in [far.found["key"], *far.found["fields"]]] == [
        ("key", "different"), ("id", "equal"), ("y", "different"),
    ]  # fmt: skip
    spaced = explain(job, send_again(job, answer._replace(value=b'{"id": "3", "y": 4.5}')))
    assert (spaced.code, spaced.found["verdict"], spaced.found["same_bytes"]) == (0, "equal", False)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"models": b"double=double@1"}, "contradicts the control log: in generation 1, double is double@1 in the headers and double@2 in"),
        ({"generation": b"9"}, "names generation 9 as its origin, but the newest one of the control log is 2: a bug, or a forgery"),
        ({"generation": b"nine"}, "its headers are not as a worker of Penstock writes them"),
    ],
)  # fmt: skip
def test_headers_that_are_not_true_are_told(job: Job, explain: Explain, headers: dict[str, bytes], said: str) -> None:
    told = explain(job, send_again(job, job.answers()[2], headers))
    assert (told.code, told.found) == (1, None)
    assert said in told.error


def test_log_that_is_trusted_less_here_is_named_as_the_reason(job: Job, explain: Explain) -> None:
    told = explain(job, Position(job.sink, 0, 2), "--no-unsigned-control")
    assert told.code == 1
    assert "the newest one of the control log is 0 with the keys that are trusted here, which refuse 4 unsigned" in told.error


def test_file_of_another_topology_or_of_another_time_is_refused(job: Job, explain: Explain, tmp_path: Path) -> None:
    text = job.file.read_text()
    for old, new, said in (
        ("topology: doubles", "topology: others", "this is the topology others, but"),
        ("double: {kind", "twice: {kind", "it had the node 'double', it had no node 'twice' (the file has changed since"),
        (f"topic: {job.source},", "topic: elsewhere,", f"came from the topic {job.source}, which no source reads"),
        (f"topic: {job.sink},", "topic: elsewhere,", f"no sink writes to {job.sink}"),
    ):
        assert old in text
        file = tmp_path / "changed.yaml"
        file.write_text(text.replace(old, new).replace("id, y: double", "id, y: twice" if "twice" in new else "id, y: double"))
        told = explain(job, Position(job.sink, 0, 0), topology=str(file))
        assert (told.code, said in told.error) == (2, True), told.error


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("{sink}:0:999", 5, "{sink}:0:999: the partition holds offsets 0 to "),
        ("{sink}:7:0", 5, "{sink}:7:0: {sink} has 1 partition, which is 0"),
        ("nowhere:0:0", 5, "no such topic: nowhere"),
        ("{source}:0:0", 1, "{source}:0:0: no worker of Penstock wrote this record: it has no header penstock-topology"),
        ("{sink}:0", 2, "is not a position: write TOPIC:PARTITION:OFFSET"),
    ],
)
def test_place_without_a_prediction_is_told(job: Job, explain: Explain, place: str, code: int, said: str) -> None:
    names = {"sink": job.sink, "source": job.source}
    told = explain(job, place.format(**names))
    assert (told.code, told.found) == (code, None)
    assert said.format(**names) in told.error


def test_dead_letter_names_its_topology_itself(job: Job, explain: Explain) -> None:
    told = explain(job, Position(job.dead, 0, 0), "--topologies", str(job.folder), topology="")
    assert (told.code, told.found["file"]) == (0, str(job.file)), told.error


def test_other_application_has_no_control_log(job: Job, explain: Explain) -> None:
    told = explain(job, Position(job.sink, 0, 2), "--application", "nobody")
    assert told.code == 5
    assert "nobody.doubles.control" in told.error
    assert "--no-releases" in told.error


def test_version_that_is_nowhere_any_more_is_told(job: Job, explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    elsewhere = ("--models", str(tmp_path / "models"), "--cache", str(tmp_path / "cache"))
    released = explain(job, Position(job.sink, 0, 2), *elsewhere)
    assert (released.code, "double@2 is in no registry root" in released.error) == (3, True), released.error
    assert explain(job, Position(job.sink, 0, 0), *elsewhere).code == 3


def test_version_with_other_digests_is_not_taken(job: Job, explain: Explain, tmp_path: Path) -> None:
    """A registry that has another model under the same name and version."""
    other = DirectoryRegistry(tmp_path / "models")
    other.publish("double", linear([2.0]))
    other.publish("double", linear([3.5]))
    told = explain(job, Position(job.sink, 0, 2), "--models", str(tmp_path / "models"), "--cache", str(tmp_path / "cache"))
    assert (told.code, told.found) == (3, None)
    assert "double@2 could not be fetched from any registry root" in told.error


# -- jobs of their own -------------------------------------------------------------------------------------------------


def test_input_that_retention_has_taken_is_told_with_what_is_left(broker: Broker, explain: Explain, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path, partitions=1)
    written(
        job,
        TopologyDriver(job.file, models=tmp_path / "models", schemas=tmp_path / "schemas"),
        {job.source: [job.reading(n) for n in range(5)]},
    )
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for deleted in admin.delete_records([TopicPartition(job.source, 0, 3)]).values():
        deleted.result(15)
    told = explain(job, Position(job.sink, 0, 1))
    assert told.code == 5
    assert f"{job.sink}:0:1: the input that it was made from is gone: {job.source}:0:1: the partition holds offsets 3 to 4" in told.error
    assert "(retention)" in told.error
    assert explain(job, Position(job.sink, 0, 3)).found["verdict"] == "equal"


def written(job: Job, driver: TopologyDriver, events: Mapping[str, list[Record]]) -> None:
    """Sends the events of each source topic and what a worker makes of them, all to partition 0, as one run would leave them."""
    for source in driver.topology.sources:
        driver.send_records(source.name, [record._replace(partition=0) for record in events.get(source.topic, ())])
    topics = [*(one.topic for one in driver.topology.sources), *dict.fromkeys(one.topic for one in driver.topology.sinks)]
    topics += [one.dead_letter for one in driver.topology.sources]
    produce(job.broker, [record for topic in topics for record in driver.records(topic)])


SHOP = """\
topology: shop
sources:
  orders: {{topic: {orders}, format: avro-confluent, schema: order/order.avsc, id: id, dead_letter: {lost}}}
  returns: {{topic: {returns}, schema: return/return.avsc, id: id, dead_letter: {lost}}}
nodes:
  base: {{kind: model, model: table@1, inputs: {{x: item}}}}
  energy: {{kind: feature, model: energy@1, inputs: {{x: spectrum}}}}
  refund: {{kind: model, model: double@1, inputs: {{x: refunded}}}}
sinks:
  scores: {{topic: {scores}, format: avro-confluent, schema: score/score.avsc, fields: {{id: id, base: base, energy: energy}}}}
  by_item: {{topic: {by_item}, key: item, fields: {{base: base}}}}
  refunds: {{topic: {refunds}, fields: {{id: returns.id, amount: refund}}}}
"""
ITEMS = {"type": "array", "items": "float", "size": 20}
SHOP_SCHEMAS: dict[str, list[tuple[str, Any]]] = {
    "order": [("id", "string"), ("item", "long"), ("spectrum", ITEMS)],
    "return": [("id", "string"), ("refunded", "float")],
    "score": [("id", "string"), ("base", "float"), ("energy", "float")],
}


@pytest.fixture
def shop(broker: Broker, tmp_path: Path) -> tuple[Job, TopologyDriver]:
    """Two sources, one of them framed Avro; a framed Avro sink, a keyed one, and one that only returns reach."""
    names = {name: unique(name) for name in ("orders", "returns", "lost", "scores", "by_item", "refunds")}
    for number, (name, fields) in enumerate(SHOP_SCHEMAS.items(), 1):
        text = json.dumps({"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields]})
        (tmp_path / "schemas" / name / "ids").mkdir(parents=True)
        (tmp_path / "schemas" / name / f"{name}.avsc").write_text(text)
        (tmp_path / "schemas" / name / "ids" / f"{number}.avsc").write_text(text)
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("table", gather([10, 20, 30]))
    registry.publish("energy", energy())
    registry.publish("double", linear([2.0]))
    job = Job(broker, tmp_path, names["orders"], names["scores"], names["lost"], unique("app"), 1)
    job.file.write_text(SHOP.format(**names))
    create_topics(broker, dict.fromkeys(names.values(), 1))
    return job, TopologyDriver(job.file, models=tmp_path / "models", schemas=tmp_path / "schemas")


def energy() -> bytes:
    """The sum of squares: [N, 20] to [N, 1]."""
    node = helper.make_node("ReduceSumSquare", ["x", "axes"], ["y"], keepdims=1)
    return model([node], [tensor("x", shape=(20,))], [tensor("y")], {"axes": np.array([1])})


def test_every_sink_of_every_source_is_explained(shop: tuple[Job, TopologyDriver], explain: Explain) -> None:
    """Framed Avro, a key of the sink's own, a source that reaches one sink only; batches of many rows, each explained alone."""
    job, driver = shop
    sinks = {sink.name: sink.topic for sink in driver.topology.sinks}
    orders, returns = (source.topic for source in driver.topology.sources)
    spectra = np.random.default_rng(7).normal(size=(40, 20)).astype(np.float32).tolist()
    events = [{"id": f"o{at}", "item": at % 3, "spectrum": spectrum} for at, spectrum in enumerate(spectra)]
    sent = [Record(orders, driver.write("orders", event), b"customer") for event in events]
    written(job, driver, {orders: sent, returns: [Record(returns, b'{"id": "r", "refunded": 2.5}')]})

    score = explain(job, Position(sinks["scores"], 0, 31), "--no-releases")
    assert (score.code, score.found["input"]["source"], score.found["models"].keys()) == (0, "orders", {"base", "energy", "refund"})
    assert score.found["input"]["event"]["id"] == score.found["input"]["id"] == "o31"
    assert [run["node"] for run in score.found["nodes"]] == ["base", "energy"], "the nodes that events of orders go through"
    assert score.found["nodes"][1]["inputs"][0]["shape"] == [1, 20]
    assert score.found["nodes"][1]["inputs"][0]["value"] == [spectra[31]]
    assert [one["name"] for one in score.found["fields"]] == ["id", "base", "energy"]
    assert score.found["verdict"] in {"equal", "close"}

    keyed = explain(job, Position(sinks["by_item"], 0, 31), "--no-releases")
    assert (keyed.code, keyed.found["key"]) == (0, {"name": "key", "published": "1", "again": "1", "verdict": "equal"})

    refund = explain(job, Position(sinks["refunds"], 0, 0), "--no-releases")
    assert (refund.code, refund.found["input"]["source"], refund.found["same_bytes"]) == (0, "returns", True)
    assert [run["node"] for run in refund.found["nodes"]] == ["refund"]


def test_dead_letter_of_a_model_shows_how_far_it_came_and_what_a_better_model_makes_of_it(
    shop: tuple[Job, TopologyDriver], explain: Explain
) -> None:
    job, driver = shop
    orders = driver.topology.sources[0].topic
    poison = {"id": "o", "item": 7, "spectrum": [1.0] * 20}
    written(job, driver, {orders: [Record(orders, driver.write("orders", poison), b"customer")]})
    told = explain(job, Position(job.dead, 0, 0), "--no-releases")
    assert told.code == 0, told.error
    assert told.found["recorded"] == told.found["failure"]
    assert (told.found["recorded"]["stage"], told.found["outputs"]) == ("base", [])
    assert told.found["input"]["event"]["item"] == 7
    (run,) = told.found["nodes"]
    assert (run["inputs"][0]["value"], run["outputs"]) == ([[7]], [])
    assert "refused the batch" in run["error"]

    DirectoryRegistry(job.folder / "models").publish("table", gather(range(10)))
    job.file.write_text(job.file.read_text().replace("table@1", "table@2"))
    again = explain(job, Position(job.dead, 0, 0), "--no-releases")
    assert again.found["failure"] == told.found["failure"], "the version that failed, whatever the file says now"
    better = explain(job, Position(job.dead, 0, 0), "--no-releases", "--now")
    assert (better.code, better.found["failure"], better.found["recorded"]["stage"]) == (0, None, "base")
    assert [(one["sink"], one["key"], one["event"].get("base")) for one in better.found["outputs"]] == [
        ("scores", "customer", 7.0), ("by_item", "7", 7.0),
    ]  # fmt: skip


def test_prediction_whose_event_fails_now_is_different(shop: tuple[Job, TopologyDriver], explain: Explain) -> None:
    """Such a thing was never published by these models: the record claims the wrong input."""
    job, driver = shop
    orders = driver.topology.sources[0].topic
    events = [{"id": "o", "item": item, "spectrum": [1.0] * 20} for item in (1, 7)]
    written(job, driver, {orders: [Record(orders, driver.write("orders", event)) for event in events]})
    (score,) = driver.records("scores")
    told = explain(job, send_again(job, score, {"source": f"{orders}/0/1".encode()}), "--no-releases")
    assert (told.code, told.found["verdict"], told.found["fields"]) == (1, "different", [])
    assert told.found["failure"]["stage"] == "base"


def test_parameters_are_those_of_the_release(broker: Broker, explain: Explain, tmp_path: Path) -> None:
    """A release changed a parameter, the next one took it back; the file says a third thing by now."""
    job = make_job(broker, tmp_path, partitions=1)
    scale = model([helper.make_node("Mul", ["x", "by"], ["y"])], [tensor("x"), tensor("by")], [tensor("y")])
    DirectoryRegistry(tmp_path / "models").publish("scale", scale)
    file = job.file.read_text()
    job.file.write_text(file.replace("model: double@1", "model: scale@1, parameters: {by: 2.0}"))
    with job.run("--unsigned-control") as worker:
        job.send([4])
        job.wait_for_answers(1)
        release(job, {"double": Change(parameters={"by": 5.0})})
        job.send([4])
        job.wait_for_answers(2)
        assert worker.stop() == 0, worker.log
    job.file.write_text(file.replace("model: double@1", "model: scale@1, parameters: {by: 9.0}"))
    released = explain(job, Position(job.sink, 0, 1))
    assert (released.code, released.found["verdict"]) == (0, "equal"), released.error
    assert [one["value"] for one in released.found["nodes"][0]["inputs"]] == [[[2.0]], [[5.0]]]
    first = explain(job, Position(job.sink, 0, 0))
    assert (first.code, first.found["said_by"], first.found["fields"][1]["again"]) == (1, "headers", 18.0), "the file was changed since"


def test_rule_is_explained_byte_by_byte_and_another_rule_is_refused(broker: Broker, explain: Explain, tmp_path: Path) -> None:
    """No registry keeps earlier rules: the digest in the header is compared with that of the file."""
    if "create_topics" in broker.lacks:
        pytest.skip(f"{broker.kind} broker: {broker.lacks['create_topics']}")
    job = make_job(broker, tmp_path, partitions=1)
    rule = "  desk:\n    kind: rule\n    outputs:\n      high: double > 1\n      share: 1 / (x - 2)\nsinks:"
    text = re.sub("^sinks:", rule, job.file.read_text(), flags=re.MULTILINE)
    job.file.write_text(text.replace("id, y: double", "id, y: double, high: desk.high, share: desk.share"))
    with job.run("--unsigned-control"):
        job.send([1, 2, 4])
        job.wait_for_answers(2)
    told = explain(job, Position(job.sink, 0, 1))
    assert (told.code, told.found["same_bytes"], told.found["verdict"]) == (0, True, "equal"), told.error
    desk = next(run for run in told.found["nodes"] if run["node"] == "desk")
    assert {one["name"]: one["value"] for one in desk["inputs"]} == {"double": [2.0], "x": [1.0]}
    letter = explain(job, Position(job.dead, 0, 0))
    assert letter.found["recorded"] == letter.found["failure"]
    assert letter.found["recorded"]["stage"] == "desk"
    assert letter.found["recorded"]["message"].startswith("share has no value for the event:")

    job.file.write_text(job.file.read_text().replace("double > 1", "double > 2"))
    changed = explain(job, Position(job.sink, 0, 1))
    assert changed.code == 2
    assert "the node 'desk' was rule:" in changed.error
    assert "with the file as it was" in changed.error
