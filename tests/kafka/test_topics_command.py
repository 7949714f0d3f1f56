"""`penstock topics` on a real broker: looks, says, creates what is missing, and leaves what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from penstock.cli.main import main
from penstock.testing import Broker, create_topics, unique

pytestmark = pytest.mark.broker


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """The topics of the topology in t.yaml: source, sink, dead letters, control log, status."""
    source = unique("orders")
    (tmp_path / "t.yaml").write_text(f"""\
topology: t
sources: {{orders: {{topic: {source}, schema: order.avsc}}}}
nodes: {{n: {{kind: model, model: n@1}}}}
sinks: {{scores: {{topic: {source}.scores, fields: [n]}}}}
""")
    return [source, f"{source}.scores", f"{source}.dead-letter", f"{source}.t.control", f"{source}.t.status"]


@pytest.fixture
def topics(broker: Broker, tmp_path: Path, names: list[str]) -> Callable[..., int]:
    """`penstock topics COMMAND` for the topology, its application named like the source."""

    def run(command: str, *flags: str) -> int:
        return main(["topics", command, str(tmp_path / "t.yaml"), "--brokers", broker.bootstrap, "--application", names[0], *flags])

    return run


def test_topics_are_listed_created_and_then_left_alone(
    topics: Callable[..., int], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    partitions = dict(zip(names, (3, 3, 3, 1, 1), strict=True))
    assert topics("ls") == 1
    assert capsys.readouterr().out.count("missing") == 5
    assert topics("create", "--dry-run") == 0
    planned = capsys.readouterr().out
    assert (planned.count("would be created with 4 partitions"), planned.count("would be created with 1 partition ")) == (3, 2)
    assert topics("ls") == 1, "a dry run creates nothing"
    capsys.readouterr()
    assert topics("create", "--partitions", "3", "--replication", "1", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"topic": name, "created": True, "partitions": count} for name, count in partitions.items()
    ]
    assert topics("ls", "--format", "json") == 0
    assert [(row["topic"], row["partitions"]) for row in json.loads(capsys.readouterr().out)] == [*partitions.items()]
    assert topics("create", "--partitions", "9") == 0
    shown = capsys.readouterr()
    assert (shown.out.count("exists with 3 partitions"), shown.err) == (3, "Nothing to do.\n")


def test_what_is_missing_gets_as_many_partitions_as_the_source_has(
    broker: Broker, topics: Callable[..., int], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    create_topics(broker, {names[0]: 7})
    assert topics("create") == 0
    shown = capsys.readouterr().out
    assert "exists with 7 partitions" in shown
    assert shown.count("created with 7 partitions") == 2


@pytest.mark.parametrize(("there", "made"), [({1: 2}, 2), ({0: 3, 1: 5}, 3)], ids=["the sink, without a source", "the source"])
def test_what_is_missing_fits_what_exists(
    there: dict[int, int], made: int, broker: Broker, topics: Callable[..., int], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A source that was deleted comes back with as many partitions as its sink: a worker refuses a sink with fewer."""
    create_topics(broker, {names[at]: count for at, count in there.items()})
    assert topics("create", "--format", "json") == 0
    created = [row for row in json.loads(capsys.readouterr().out) if row["created"]]
    assert {row["partitions"] for row in created if row["topic"] not in names[3:]} == {made}


def test_replication_that_the_cluster_cannot_give_is_an_error(
    topics: Callable[..., int], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The test broker is one node."""
    assert topics("create", "--replication", "3") == 4
    assert names[0] in capsys.readouterr().err


def test_the_topics_of_releases_keep_what_they_must(broker: Broker, topics: Callable[..., int], names: list[str]) -> None:
    """The control log is kept for ever and stamped by the brokers; of the status the last word of each key stays."""
    assert topics("create") == 0
    control, status = configured(broker, names[3]), configured(broker, names[4])
    assert (control["cleanup.policy"], control["retention.ms"], control["message.timestamp.type"]) == ("delete", "-1", "LogAppendTime")
    assert (status["cleanup.policy"], status["message.timestamp.type"]) == ("compact", "LogAppendTime")


def configured(broker: Broker, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)])
    return {name: entry.value for future in asked.values() for name, entry in future.result(15).items()}


def test_dead_letter_topic_takes_larger_records_than_its_source(broker: Broker, topics: Callable[..., int], names: list[str]) -> None:
    create_topics(broker, {names[0]: 1}, {"max.message.bytes": "5000000"})
    assert topics("create") == 0
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    ((_, answer),) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, names[2])]).items()
    assert int(answer.result()["max.message.bytes"].value) == 5_000_000 + 65_536
