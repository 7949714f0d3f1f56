"""A range of a topic as features, and what is explained of a topology with windows, on a real Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.record import Record
from penstock.testing import Broker, TopologyDriver, create_topics, end_offsets, produce, read_all, unique, wait_for
from tests.kafka.operating import configure, penstock
from tests.kafka.running import Job, make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]

BEGAN = 1_700_000_000_000
SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [{"name": "id", "type": "string"}, {"name": "card", "type": "string"}, {"name": "amount", "type": "double"}],
}
# The time of an event is that of its record.
TOPOLOGY = """\
topology: payments
sources: {payments: {topic: %s, schema: payment.avsc, id: id}}
nodes:
  spent: {kind: window, by: card, over: [10s, 1m], hops: 5, features: {n: count, mean: mean(amount), last: "last_k(amount, 2)"}}
sinks:
  out:
    topic: out
    fields:
      id: id
      spent_n_10s: spent.n_10s
      spent_n_1m: spent.n_1m
      spent_mean_10s: spent.mean_10s
      spent_mean_1m: spent.mean_1m
      spent_last_10s_0: spent.last_10s[0]
      spent_last_10s_1: spent.last_10s[1]
      spent_last_1m_0: spent.last_1m[0]
      spent_last_1m_1: spent.last_1m[1]
"""


def test_partitions_of_a_topic_have_their_own_windows_as_in_the_stream(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    topic = unique("payments")
    Path("schemas").mkdir()
    Path("schemas/payment.avsc").write_text(json.dumps(SCHEMA))
    Path("payments.yaml").write_text(TOPOLOGY % topic)
    create_topics(broker, {topic: 2}, {"retention.ms": "-1"})  # the records are old
    values = [json.dumps({"id": str(n), "card": "ab"[n % 3 % 2], "amount": n / 7}).encode() for n in range(60)]
    records = [Record(topic, value, None, (), BEGAN + n * 1000, n % 2) for n, value in enumerate(values)]
    produce(broker, records)
    driver = TopologyDriver("payments.yaml", partitions=2)
    driver.send_records("payments", records)
    arguments = ["features", "payments.yaml", "--in", f"kafka://{topic}", "--brokers", broker.bootstrap, "--chunk-rows", "7"]
    assert main([*arguments, "--out", "whole.ndjson"]) == 0, capfd.readouterr().err
    assert rows("whole.ndjson") == {one["id"]: one for one in driver.events("out")}
    # From the offset on that is given, the windows begin empty, and fill again.
    late = TopologyDriver("payments.yaml", partitions=2)
    late.send_records("payments", records[20:50])
    assert main([*arguments, "--out", "part.ndjson", "--from", "10", "--to", "25"]) == 0
    assert rows("part.ndjson") == {one["id"]: one for one in late.events("out")}
    assert rows("part.ndjson") != {name: one for name, one in rows("whole.ndjson").items() if 20 <= int(name) < 50}
    assert main([*arguments, "--out", "times.ndjson", "--from", "2023-11-14T22:13:40Z", "--to", "2023-11-14T22:14:10Z"]) == 0
    assert rows("times.ndjson") == rows("part.ndjson")


def rows(path: str) -> dict[str, dict[str, object]]:
    """The rows by the id of their event, without the event's other fields."""
    found = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {one["id"]: {name: value for name, value in one.items() if name not in ("card", "amount")} for one in found}


EXPLAINED = """\
topology: doubles
sources: {{readings: {{topic: {source}, schema: reading.avsc, id: id, dead_letter: {dead}}}}}
nodes:
  seen: {{kind: window, by: id, over: [1h], features: {{n: count, sum: sum(x)}}{materialize}}}
  double: {{kind: model, model: double@1}}
sinks:
  doubled: {{topic: {sink}, fields: {{id: id, n: seen.n_1h, sum: seen.sum_1h, y: double}}}}
"""


def explained(broker: Broker, folder: Path, materialize: str) -> Job:
    if "create_topics" in broker.lacks:
        pytest.skip(f"{broker.kind} broker: {broker.lacks['create_topics']}")
    job = make_job(broker, folder, partitions=1)
    job.file.write_text(EXPLAINED.format(source=job.source, sink=job.sink, dead=job.dead, materialize=materialize))
    configure(job, unsigned_control=True)
    made = penstock(job, "topics", "create", str(job.file))
    assert made.code == 0, made.err
    produce(broker, [Record(job.source, b'{"id": "a", "x": %d.5}' % n, b"a") for n in range(3)])
    with job.run("--unsigned-control") as worker:
        wait_for(lambda: sum(end_offsets(broker, job.sink).values()) == 3, lambda: worker.log, 60)
        assert worker.stop() == 0, worker.log
    return job


def test_what_a_stage_behind_a_window_has_written_is_explained(broker: Broker, tmp_path: Path) -> None:
    job = explained(broker, tmp_path, ", materialize: true")
    answers = read_all(broker, job.sink)
    assert [json.loads(one.value or b"") for one in answers] == [
        {"id": "a", "n": 0, "sum": 0.0, "y": 1.0},
        {"id": "a", "n": 1, "sum": 0.5, "y": 3.0},
        {"id": "a", "n": 2, "sum": 2.0, "y": 5.0},
    ]
    told = penstock(job, "explain", str(job.file), str(answers[2].position), "--no-releases", "--format", "json")
    assert told.code == 0, told.err
    assert told.json["verdict"] == "equal"
    assert told.json["input"]["position"].startswith(f"{job.group}.seen:0:")
    assert [one["node"] for one in told.json["nodes"]] == ["double"]


def test_what_the_stage_of_a_window_has_written_is_not(broker: Broker, tmp_path: Path) -> None:
    job = explained(broker, tmp_path, "")
    told = penstock(job, "explain", str(job.file), f"{job.sink}:0:2", "--no-releases", "--format", "json")
    assert told.code == 2
    said = " ".join(told.err.split())
    assert "nodes.seen: a window depends on earlier events, and a record alone keeps none (add materialize: true to it" in said
