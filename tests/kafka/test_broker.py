"""The broker fixture itself: what the other tests of this folder stand on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from penstock.errors import DeliveryFailed, TransportUnavailable
from penstock.record import Record
from penstock.testing.broker import Broker, JvmBroker, MockBroker, open_broker
from penstock.testing.topics import committed, create_topics, end_offsets, produce, read_all, unique, wait_for


def test_a_real_broker_is_used_where_java_and_maven_answer(broker: Broker) -> None:
    """Falling back to the mock cluster in silence would make most of this folder prove nothing."""
    if not (os.environ.get("PENSTOCK_BROKERS") or (shutil.which("java") and shutil.which("mvn"))):
        pytest.skip("no Java or no Maven: the mock cluster is all there is")
    assert broker.kind != "mock"


@pytest.mark.broker
def test_records_come_back_as_they_were_sent(broker: Broker) -> None:
    topic = unique("kit")
    create_topics(broker, {topic: 2})
    sent = [Record(topic, b"v%d" % n, b"k", (("h", b"1"), ("empty", None)), 1_000 + n, n % 2, n // 2) for n in range(10)]
    produce(broker, sent)
    assert read_all(broker, topic) == sorted(sent, key=lambda record: (record.partition, record.offset))
    assert end_offsets(broker, topic) == {0: 5, 1: 5}
    assert committed(broker, unique("group"), topic) == {0: 0, 1: 0}


@pytest.mark.broker("topic_config")
def test_a_refused_record_is_an_error(broker: Broker) -> None:
    topic = unique("small")
    create_topics(broker, {topic: 1}, {"max.message.bytes": "1000"})
    with pytest.raises(DeliveryFailed, match="1 records were refused"):
        produce(broker, [Record(topic, b"x" * 5000)])


@pytest.mark.broker
def test_aborted_records_are_seen_only_by_those_who_ask(broker: Broker) -> None:
    topic = unique("aborted")
    create_topics(broker, {topic: 1})
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"never")
    producer.flush()
    producer.abort_transaction()
    assert read_all(broker, topic) == []
    assert [record.value for record in read_all(broker, topic, "read_uncommitted")] == [b"never"]


def test_the_mock_cluster_serves_topics_without_creating_them() -> None:
    with open_broker(kinds=("mock",)) as mock:
        assert mock.kind == "mock"
        produce(mock, [Record("anything", b"1", partition=3)])
        assert end_offsets(mock, "anything") == {0: 0, 1: 0, 2: 0, 3: 1}
        assert [record.value for record in read_all(mock, "anything")] == [b"1"]
    assert not _answers(mock)


def test_the_mock_cluster_says_why_it_cannot_do_a_thing() -> None:
    mock = MockBroker()
    mock.stop()
    mock.stop()
    assert mock.capabilities == frozenset()
    assert "CreateTopics" in mock.lacks["create_topics"]


def test_named_brokers_are_taken_without_looking_further() -> None:
    with open_broker("kafka.example:9092") as named:
        assert (named.kind, named.bootstrap, named.passed_over) == ("external", "kafka.example:9092", ())
        assert named.capabilities == {"create_topics", "topic_config"}


def test_when_nothing_can_be_had_every_reason_is_told() -> None:
    with pytest.raises(TransportUnavailable, match="external: no brokers were given"), open_broker(kinds=("external",)):
        pytest.fail("there is no such broker")


@pytest.mark.broker("restart", "pause")
def test_a_killed_broker_comes_back_with_its_data_and_leaves_nothing_behind() -> None:
    own = JvmBroker()
    try:
        topic = unique("kept")
        create_topics(own, {topic: 1})
        produce(own, [Record(topic, b"1")])
        own.pause()
        wait_for(lambda: not _answers(own), "a paused broker's silence")
        own.resume()
        wait_for(lambda: _answers(own), "a resumed broker's answer")
        own.kill()
        own.restart()
        assert [record.value for record in read_all(own, topic)] == [b"1"]
        pid = own.pid
    finally:
        own.stop()
    assert not _runs(pid)


@pytest.mark.broker("restart")
def test_a_broker_does_not_outlive_a_killed_test_run(broker: Broker) -> None:
    code = "from penstock.testing.broker import JvmBroker; import sys; b = JvmBroker(); print(b.pid, flush=True); sys.stdin.read()"
    run = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert _runs(pid)
        run.kill()
    wait_for(lambda: not _runs(pid), "the end of the broker whose test run was killed")


def _answers(broker: Broker) -> bool:
    try:
        AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0}).list_topics(timeout=0.5)
    except KafkaException:
        return False
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
