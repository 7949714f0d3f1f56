"""A piece of a topic, once: `penstock batch` and the source that it reads with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer

from penstock.cli.main import main
from penstock.errors import TopicMissing
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import Broker, create_topics, models, produce, read_all, unique, wait_for
from penstock.transports.kafka.extent import KafkaExtent

pytestmark = [pytest.mark.broker, pytest.mark.measured]

BEGAN = 1_700_000_000_000
TOPOLOGY = """\
topology: double
sources: {numbers: {topic: %s, schema: number.avsc}}
nodes: {double: {kind: model, model: double@1}}
sinks: {doubled: {topic: doubled, fields: {x: x, y: double}}}
"""


@pytest.fixture
def topic(broker: Broker) -> str:
    """Two partitions of ten events each, a second between them."""
    name = unique("numbers")
    create_topics(broker, {name: 2})
    produce(broker, [Record(name, b'{"x": %d}' % n, timestamp=BEGAN + n * 1000, partition=n % 2) for n in range(20)])
    return name


def read(broker: Broker, topic: str, rows: int = 3, **part: int | datetime) -> dict[int, list[bytes]]:
    async def main() -> dict[int, list[bytes]]:
        extent = KafkaExtent(Settings(brokers=broker.bootstrap), topic, **part)  # type: ignore[arg-type]  # an edge, or a limit
        await extent.begin()
        found: dict[int, list[bytes]] = {}
        try:
            while spans := await extent.take(rows):
                for span in spans:
                    found.setdefault(span.partition[1], []).extend(record.value or b"" for record in span.records)
            assert "limit" in part or extent.done == extent.total
        finally:
            await extent.close()
        return found

    return asyncio.run(main())


def values(numbers: Sequence[int]) -> list[bytes]:
    return [b'{"x": %d}' % n for n in numbers]


def test_whole_topic_to_its_present_end(broker: Broker, topic: str) -> None:
    assert read(broker, topic) == {0: values(range(0, 20, 2)), 1: values(range(1, 20, 2))}


def test_between_two_offsets_of_each_partition(broker: Broker, topic: str) -> None:
    assert read(broker, topic, start=2, stop=4) == {0: values([4, 6]), 1: values([5, 7])}


def test_between_two_times(broker: Broker, topic: str) -> None:
    def at(second: int) -> datetime:
        return datetime.fromtimestamp(BEGAN / 1000 + second, UTC)

    assert read(broker, topic, start=at(5), stop=at(8)) == {0: values([6]), 1: values([5, 7])}
    assert read(broker, topic, start=at(100)) == {}


def test_at_most_so_many(broker: Broker, topic: str) -> None:
    assert sum(map(len, read(broker, topic, limit=7).values())) == 7


def test_aborted_transactions_are_not_part_of_it_and_their_marks_are_no_obstacle(broker: Broker, topic: str) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique("extent")})
    producer.init_transactions(30)
    for number, commit in ((100, True), (102, False)):
        producer.begin_transaction()
        producer.produce(topic, b'{"x": %d}' % number, partition=0)
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)
    wait_for(lambda: values([100])[0] in [record.value for record in read_all(broker, topic)], "the marks, which come a little later")
    assert read(broker, topic)[0] == values([*range(0, 20, 2), 100])


def test_topic_that_is_not_there(broker: Broker) -> None:
    with pytest.raises(TopicMissing):
        read(broker, unique("gone"))


def test_command_writes_what_the_stream_would_publish(
    broker: Broker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    Path("schemas/number.avsc").write_text(json.dumps({"type": "record", "name": "Number", "fields": [{"name": "x", "type": "float"}]}))
    Path("double.yaml").write_text(TOPOLOGY % topic)
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))
    code = main(["batch", "double.yaml", "--in", f"kafka://{topic}", "--out", "out", "--brokers", broker.bootstrap, "--to", "8"])
    assert (code, capfd.readouterr().out) == (0, "16 events read, 16 outputs, 0 dead letters\n")
    written = [json.loads(line) for line in Path("out/doubled.ndjson").read_text().splitlines()]
    assert sorted((one["x"], one["y"]) for one in written) == [(float(n), 2.0 * n) for n in range(16)]


def test_a_schema_is_drafted_from_a_topic(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """With tombstones, and frames of a schema registry, which are passed over; what is not JSON is named by its offset."""
    topic = unique("drafted")
    create_topics(broker, {topic: 1})
    values = [b'{"id": 1, "after": {"x": 2.5}}', None, b'\0\0\0\0\7{"id": 2, "after": null}', b"\2avro"]
    produce(broker, [Record(topic, value, partition=0) for value in values])
    assert main(["schema", "infer", f"kafka://{topic}", "--limit", "3", "--brokers", broker.bootstrap]) == 0
    fields = {field["name"]: field["type"] for field in json.loads(capsys.readouterr().out)["fields"]}
    inner = {"type": "record", "name": "After", "fields": [{"name": "x", "type": "double"}]}
    assert fields == {"id": "long", "after": ["null", inner]}
    assert main(["schema", "infer", f"kafka://{topic}", "--brokers", broker.bootstrap]) == 2
    assert f"{topic}, offset 3: not JSON" in capsys.readouterr().err
    assert main(["schema", "infer", f"kafka://{unique('none')}", "--brokers", broker.bootstrap]) == 5
