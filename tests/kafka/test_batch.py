"""A piece of a topic, once: `penstock batch` and the source that it reads with."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from penstock.cli.main import main
from penstock.errors import RecordMissing, TopicMissing
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import Broker, create_topics, models, produce, read_all, unique, wait_for
from penstock.transports.checkpoint import Checkpoint, Unit
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
    create_topics(broker, {name: 2}, {"retention.ms": "-1"})  # the records are old
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


def test_topic_that_was_made_anew_is_not_waited_for(broker: Broker, topic: str) -> None:
    """A run that goes on knows where the topic ended."""

    async def begun() -> None:
        units = Checkpoint([Unit(topic, 0, 0, 600, 5, 5)])
        extent = KafkaExtent(Settings(brokers=broker.bootstrap), topic, checkpoint=units)
        await extent.begin()

    with pytest.raises(RecordMissing, match="reads to offset 600, and it ends at 10: was the topic created again"):
        asyncio.run(begun())


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
    written = [json.loads(line) for part in Path("out/doubled").iterdir() for line in part.read_text().splitlines()]
    assert sorted((one["x"], one["y"]) for one in written) == [(float(n), 2.0 * n) for n in range(16)]


def test_topic_of_messages_that_is_not_there_is_named_at_once(broker: Broker, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    topic = unique("asked")
    arguments = ["batch", "double.yaml", "--in", ".", "--out", "out", "--brokers", broker.bootstrap]
    assert main([*arguments, "--on", f"kafka://{topic}"]) == 5
    said = capfd.readouterr().err
    assert f"no such topic: {topic}, {topic}.results; both have one partition: kafka-topics.sh" in said
    create_topics(broker, {topic: 1})
    assert main([*arguments, "--on", f"kafka://{topic}"]) == 5
    assert f"no such topic: {topic}.results; both" in capfd.readouterr().err


def test_command_waits_for_brokers_as_long_as_it_is_told_and_says_how(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["batch", "double.yaml", "--in", "kafka://numbers", "--out", "out", "--brokers", "127.0.0.1:9"]
    assert main([*arguments, "--broker-timeout", "1"]) == 4
    assert "no broker answered at 127.0.0.1:9 within 1 s" in capfd.readouterr().err
    assert not Path("out").exists()


def test_command_names_the_topic_that_is_not_there(broker: Broker, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    topic = unique("gone")
    Path("double.yaml").write_text(TOPOLOGY % topic)
    assert main(["batch", "double.yaml", "--in", f"kafka://{topic}", "--out", "out", "--brokers", broker.bootstrap]) == 5
    assert f"no such topic: {topic}; `penstock topics create" in capfd.readouterr().err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A topology that doubles, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    Path("schemas/number.avsc").write_text(json.dumps({"type": "record", "name": "Number", "fields": [{"name": "x", "type": "float"}]}))
    Path("double.yaml").write_text(TOPOLOGY % "numbers")
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))
    return tmp_path


def test_a_range_of_a_topic_becomes_columns(broker: Broker, topic: str, project: Path) -> None:
    Path("double.yaml").write_text(TOPOLOGY % topic)
    assert main(["batch", "double.yaml", "--in", f"kafka://{topic}", "--out", "out.parquet", "--brokers", broker.bootstrap]) == 0
    assert sorted(pq.read_table("out.parquet").column("y").to_pylist()) == [2.0 * n for n in range(20)]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--from", "7", "--to", "3"], 2, "--to 3 is not behind --from 7"),
        (["--to", "0"], 2, "--to 0 is not behind --from 0"),
        (["--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], 2, "there is nothing between them"),
        (["--to", "1960-01-01T00:00:00Z"], 0, "no event lies in the part that was asked for"),
    ],
)
def test_part_of_a_topic_that_cannot_be_leaves_nothing(
    broker: Broker, topic: str, project: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, words: str
) -> None:
    Path("double.yaml").write_text(TOPOLOGY % topic)
    given = ["batch", "double.yaml", "--in", f"kafka://{topic}", "--out", "out/", "--brokers", broker.bootstrap]
    assert main([*given, *flags]) == code
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert not Path("out").exists()


class Asking:
    """A topic of messages that ask for runs, and the process that answers them."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.topic = broker, unique("asks")
        create_topics(broker, {self.topic: 1, f"{self.topic}.results": 1})

    def ask(self, *messages: bytes | dict[str, object]) -> None:
        values = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in messages]
        produce(self.broker, [Record(self.topic, value, partition=0) for value in values])

    @contextmanager
    def start(self, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "penstock", "batch", "double.yaml", "--on", f"kafka://{self.topic}", "--in", "in", "--out", "out"]
        with subprocess.Popen([*command, "--brokers", self.broker.bootstrap, *flags]) as process:
            try:
                yield process
            finally:
                process.kill()  # it listens until it is ended

    def results(self) -> list[tuple[str, str]]:
        return [(one["id"], one["state"]) for one in self.all()]

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(record.value or b"") for record in read_all(self.broker, f"{self.topic}.results")]


def test_messages_ask_for_runs_each_once_and_bad_ones_are_refused_with_a_reason(broker: Broker, project: Path) -> None:
    Path("in").mkdir()
    Path("in/a.ndjson").write_text('{"x": 1}\n{"x": 2}\n')
    Path("in/bad.ndjson").write_text("no event\n")
    Path("in/large.ndjson").write_text("no event" * 1_000_000)
    asking = Asking(broker)
    asking.ask(
        {"id": "first", "in": "a.ndjson"},
        b"not JSON",
        {"id": "outside", "in": "../../etc/passwd"},
        {"id": "elsewhere", "in": "a.ndjson", "out": "/tmp/x"},
        {"id": "none", "in": "none.ndjson"},
        {"id": "bad", "in": "bad.ndjson"},
        {"id": "large", "in": "large.ndjson"},
        {"id": "below", "in": "a.ndjson", "from": -1, "to": 1},
        {"id": "first", "in": "a.ndjson", "out": "again"},
        {"id": "one", "in": "a.ndjson", "out": "one.parquet", "limit": 1},
    )
    with asking.start() as process:
        wait_for(lambda: ("one", "done") in asking.results(), "the last result", timeout=60)
        process.terminate()
        assert process.wait(30) == 0
    assert asking.results() == [
        ("first", "done"), ("offset 1", "refused"), ("outside", "refused"), ("elsewhere", "refused"), ("none", "refused"),
        ("bad", "failed"), ("large", "failed"), ("below", "refused"), ("one", "done"),
    ]  # fmt: skip
    reasons = {one["id"]: one["reason"] for one in asking.all()}
    assert "no name below the folder" in reasons["outside"]
    assert "none.ndjson: cannot be read" in reasons["none"]
    assert "no event could be scored" in reasons["bad"]
    assert "8000000 bytes, more than the 1048576 allowed" in reasons["large"]
    assert "-1 is below 0" in reasons["below"]
    assert sorted(one.name for one in Path("out").iterdir()) == ["bad", "first", "large", "one.parquet", "one.parquet.manifest.json"]
    asking.ask({"id": "bad", "in": "a.ndjson", "out": "mended"}, {"id": "last", "in": "a.ndjson"})
    with asking.start():  # what was answered is not run again
        wait_for(lambda: ("last", "done") in asking.results(), "the last result", timeout=60)
    assert asking.results()[9:] == [("bad", "done"), ("last", "done")]


def test_run_that_was_asked_for_survives_a_kill_and_is_run_once(broker: Broker, project: Path) -> None:
    Path("in").mkdir()
    Path("in/a.ndjson").write_text("".join(f'{{"x": {n}}}\n' for n in range(6000)))
    asking = Asking(broker)
    asking.ask({"id": "a", "in": "a.ndjson"})
    manifest = Path("out/a/_manifest.json")
    with asking.start("--chunk-rows", "1", "--max-batch-rows", "1", "--part-rows", "300") as process:
        wait_for(lambda: manifest.exists() and len(json.loads(manifest.read_text())["parts"]) > 1, "some parts", timeout=60)
        process.kill()
    before = {one["name"] for one in json.loads(manifest.read_text())["parts"]}
    with asking.start():
        wait_for(lambda: asking.results() == [("a", "done")], "the result", timeout=60)
    assert before < {one["name"] for one in json.loads(manifest.read_text())["parts"]}  # it went on
    lines = [json.loads(line) for part in sorted(Path("out/a/doubled").iterdir()) for line in part.read_text().splitlines()]
    assert [one["x"] for one in lines] == list(range(6000))


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
