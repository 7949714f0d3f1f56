"""`penstock run` on a real broker: what it writes, how it stops, and that nothing is lost whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupState, TopicPartition
from confluent_kafka.admin import AdminClient

from penstock.record import Record
from penstock.testing import Broker, committed, create_topics, end_offsets, produce, read_all, unique, wait_for
from tests.kafka.running import make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]


def test_answers_keep_key_partition_and_timestamp_and_carry_their_origin(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    trace = [("traceparent", b"00-abc"), ("x-request-id", b"7")]
    with job.run() as worker:
        job.send(range(40), headers=trace)
        job.wait_for_answers(40)
        assert worker.stop() == 0, worker.log
        assert " refetches=0 " in worker.log
    asked = {record.key: record for record in read_all(broker, job.source)}
    for answer in job.answers():
        question = asked[answer.key]
        assert json.loads(answer.value or b"") == {"id": (answer.key or b"").decode(), "y": float(answer.key or 0)}
        assert (answer.partition, answer.timestamp) == (question.partition, question.timestamp)
        assert dict(answer.headers) == {
            "penstock-topology": b"doubles",
            "penstock-generation": b"0",
            "penstock-models": b"double=double@1",
            "penstock-source": f"{job.source}/{question.partition}/{question.offset}".encode(),
            "penstock-id": answer.key,  # the key and the source's id field hold the same here
            **dict(trace),
        }
    assert committed(broker, job.group, job.source) == end_offsets(broker, job.source)


def test_bad_records_become_dead_letters_and_their_neighbours_do_not_notice(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path, partitions=1)
    bad = [b"{not json", b'{"id": "a"}', b'{"id": "b", "x": "text"}', b"\xff\xfe", None, b'{"id": "c", "x": 1e999}']
    records = [Record(job.source, value, b"bad", [("trace", b"1")], 1_700_000_000_000 + at) for at, value in enumerate(bad)]
    with job.run() as worker:
        produce(broker, [job.reading(0), *records, job.reading(1)])
        job.wait_for_answers(2)
        wait_for(lambda: len(read_all(broker, job.dead)) == len(bad), "all dead letters")
        assert worker.stop() == 0, worker.log
    assert job.ids() == Counter(["0", "1"])
    letters = read_all(broker, job.dead)
    assert [(letter.key, letter.value, letter.timestamp) for letter in letters] == [(one.key, one.value, one.timestamp) for one in records]
    headers = dict(letters[0].headers)
    assert headers["trace"] == b"1"
    assert headers["__streams.errors.exception"] == b"penstock.errors.DecodeError"
    assert (headers["__streams.errors.topic"], headers["__streams.errors.partition"]) == (job.source.encode(), b"0")
    assert [dict(letter.headers)["__streams.errors.offset"] for letter in letters] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert b"JSON" in (headers["__streams.errors.message"] or b"")


def test_an_output_too_large_for_its_topic_is_a_dead_letter(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path, partitions=1, sink_config={"max.message.bytes": "2000"})
    huge = Record(job.source, json.dumps({"id": "z" * 5000, "x": 1.0}).encode(), b"huge")
    with job.run() as worker:
        produce(broker, [job.reading(0), huge, job.reading(1)])
        job.wait_for_answers(2)
        assert worker.stop() == 0, worker.log
    (letter,) = read_all(broker, job.dead)
    assert letter.value == huge.value
    assert dict(letter.headers)["__streams.errors.exception"] == b"penstock.errors.EncodeError"
    assert committed(broker, job.group, job.source) == {0: 3}


def test_a_dead_letter_topic_that_cannot_be_written_stops_the_worker(broker: Broker, tmp_path: Path) -> None:
    """Losing a record silently would be worse: the worker stops, and its offset is not committed."""
    job = make_job(broker, tmp_path, partitions=1, dead_letter=False)
    create_topics(broker, {job.dead: 1}, {"max.message.bytes": "200"})
    with job.run() as worker:
        job.send([0])
        job.wait_for_answers(1)
        produce(broker, [Record(job.source, b"{" + b"x" * 1000, b"bad"), job.reading(1)])
        assert worker.wait() == 6, worker.log
        assert "dead-letter" in worker.log
    assert committed(broker, job.group, job.source)[0] <= 1


@pytest.mark.broker("restart")
def test_killing_one_of_two_workers_loses_nothing(broker: Broker, tmp_path: Path) -> None:
    """Kill -9 in mid-stream: every id is in the output, and committed offsets never ran ahead of it."""
    job = make_job(broker, tmp_path)
    total = 30_000
    with job.run() as survivor, job.run() as victim:
        survivor.wait_until_assigned()
        victim.wait_until_assigned()

        def load() -> None:
            for at in range(0, total, 2000):
                job.send(range(at, at + 2000))

        sender = threading.Thread(target=load)
        sender.start()
        wait_for(lambda: sum(end_offsets(broker, job.sink).values()) > total // 4, "a quarter of the answers", 30)
        victim.process.kill()
        victim.process.wait()
        upto = committed(broker, job.group, job.source)
        finished = {dict(one.headers)["penstock-source"] for one in job.answers()}
        ahead = [
            (partition, offset)
            for partition, end in upto.items()
            for offset in range(end)
            if f"{job.source}/{partition}/{offset}".encode() not in finished
        ]
        assert not ahead, f"committed but not in the output: {ahead[:5]}"
        sender.join()
        job.wait_until_committed(total, survivor)
        assert survivor.stop() == 0, survivor.log
    seen = job.ids()
    missing = [number for number in range(total) if str(number) not in seen]
    assert not missing, f"{len(missing)} lost: {missing[:5]}"
    # At least once: only what was not committed when the worker died may come twice, with the same position.
    positions = Counter((dict(one.headers)["penstock-source"] or b"").decode() for one in job.answers())
    early = [at for at, times in positions.items() if times > 1 and int(at.rsplit("/", 1)[1]) < upto[int(at.rsplit("/", 2)[1])]]
    assert not early, f"committed, and yet scored again: {early[:5]}"


def test_sigterm_under_load_finishes_and_commits_what_is_in_flight(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    job.send(range(40_000))
    with job.run() as worker:
        wait_for(lambda: sum(end_offsets(broker, job.sink).values()) > 1000, "the first answers", 30)
        assert worker.stop() == 0, worker.log
    done = sum(committed(broker, job.group, job.source).values())
    assert sum(end_offsets(broker, job.sink).values()) == done, "what was answered is committed, to the record"
    with job.run() as worker:
        wait_for(lambda: "assigned " in worker.log, "the second worker to be up", 40)  # its work may have been done before
        job.wait_for_answers(40_000)
        os.kill(worker.process.pid, signal.SIGINT)
        assert worker.wait() == 0, worker.log
    assert job.ids() == Counter(map(str, range(40_000))), "nothing lost, nothing doubled"


def test_workers_on_one_host_share_the_partitions_and_come_back_when_killed(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    with job.run("--workers", "2") as supervisor:
        wait_for(lambda: supervisor.log.count("assigned ") >= 2, "two workers with partitions", 40)
        job.send(range(1000))
        job.wait_for_answers(1000)
        first = int(supervisor.log.split("worker 1 is process ")[1].split()[0])
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: supervisor.log.count("worker 1 is process ") == 2, "the worker to be started again")
        job.send(range(1000, 2000))
        wait_for(lambda: set(job.ids()) >= set(map(str, range(2000))), "all ids", 40)
        assert supervisor.stop() == 0, supervisor.log


def test_workers_told_to_stop_together_double_nothing(broker: Broker, tmp_path: Path) -> None:
    """The first to leave makes the group rebalance while the others still finish what is in flight."""
    job = make_job(broker, tmp_path)
    with job.run() as one, job.run() as other:
        one.wait_until_assigned()
        other.wait_until_assigned()
        job.send(range(30_000))
        wait_for(lambda: sum(end_offsets(broker, job.sink).values()) > 1000, "the first answers", 30)
        one.process.terminate()
        assert (other.stop(), one.wait()) == (0, 0), one.log + other.log
    assert committed(broker, job.group, job.source) == end_offsets(broker, job.sink), "what was answered is committed, to the record"


def test_a_worker_that_waits_for_the_group_stops_when_told_to(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    with job.run(session_timeout="30") as silent:
        silent.wait_until_assigned()
        os.kill(silent.process.pid, signal.SIGSTOP)
        with job.run(session_timeout="30") as waiting:
            groups = AdminClient({"bootstrap.servers": broker.bootstrap})

            def rebalances() -> bool:
                state = groups.describe_consumer_groups([job.group])[job.group].result(10).state
                return state is ConsumerGroupState.PREPARING_REBALANCING

            wait_for(rebalances, "the second worker to join, and the group to wait for the first")
            assert waiting.stop(15) == 0, waiting.log


def test_a_group_that_starts_at_the_end_finds_that_place_again(broker: Broker, tmp_path: Path) -> None:
    """Also when it has read nothing yet: what arrives while no worker runs would be lost otherwise."""
    job = make_job(broker, tmp_path)
    job.send(range(10))
    with job.run(start_from="latest") as worker:
        worker.wait_until_assigned()
        assert worker.stop() == 0, worker.log
    job.send(range(10, 20))
    with job.run(start_from="latest") as worker:
        job.wait_for_answers(10)
        assert worker.stop() == 0, worker.log
    assert job.ids() == Counter(map(str, range(10, 20)))


@pytest.mark.parametrize("start_from", ["earliest", "latest"])
def test_records_deleted_before_they_were_read_stop_the_worker(broker: Broker, tmp_path: Path, start_from: str) -> None:
    """A jump over them, to either end of the topic, would be a silent loss."""
    job = make_job(broker, tmp_path, partitions=1)
    job.send(range(5))
    with job.run() as worker:
        job.wait_for_answers(5)
        assert worker.stop() == 0, worker.log
    job.send(range(5, 20))
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for answer in admin.delete_records([TopicPartition(job.source, 0, 15)]).values():
        answer.result(10)
    with job.run(start_from=start_from) as worker:
        assert worker.wait() == 5, worker.log
        assert "offset 5 is out of range" in worker.log
    assert committed(broker, job.group, job.source) == {0: 5}


def test_many_outputs_too_large_for_their_topic_are_as_many_dead_letters(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path, partitions=1, sink_config={"max.message.bytes": "100"})
    job.send(range(3000))
    with job.run() as worker:
        wait_for(lambda: sum(end_offsets(broker, job.dead).values()) == 3000, "all dead letters", 20)
        assert worker.stop() == 0, worker.log
        assert "records_out=0 dead_letters=3000" in worker.log
    assert committed(broker, job.group, job.source) == {0: 3000}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_workers_do_not_outlive_a_killed_supervisor(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    with job.run("--workers", "2", "--group-instance-id", "host") as supervisor:
        wait_for(lambda: supervisor.log.count("assigned ") >= 2, lambda: f"two workers, each a member of its own\n{supervisor.log}", 40)
        pids = [int(line.split()[0]) for line in supervisor.log.split(" is process ")[1:]]
        supervisor.process.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), lambda: f"the end of its workers\n{supervisor.log}")


@pytest.mark.broker("restart")
def test_a_broker_that_dies_and_comes_back_costs_nothing(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    with job.run() as worker:
        job.send(range(2000))
        job.wait_for_answers(2000)
        broker.restart()
        job.send(range(2000, 4000))
        wait_for(lambda: set(job.ids()) >= set(map(str, range(4000))), lambda: f"all ids\n{worker.log}", 60)
        assert worker.stop() == 0, worker.log
    assert committed(broker, job.group, job.source) == end_offsets(broker, job.source)


def test_brokers_that_do_not_answer_end_in_their_own_exit_code(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    with job.run(brokers="127.0.0.1:1", broker_timeout="1.5") as worker:
        assert worker.wait() == 4
        assert "no broker answered at 127.0.0.1:1" in worker.log


def test_missing_topics_are_named_with_the_command_that_makes_them(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    job.file.write_text(job.file.read_text().replace(job.sink, missing := unique("missing")))
    with job.run() as worker:
        assert worker.wait() == 5
        assert missing in worker.log
        assert "penstock topics create" in worker.log


def test_too_few_partitions_for_the_outputs_is_said_before_anything_is_read(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    narrow = unique("narrow")
    create_topics(broker, {narrow: 2})
    job.file.write_text(job.file.read_text().replace(job.sink, narrow))
    with job.run() as worker:
        assert worker.wait() == 2
        assert f"{narrow} has 2 partitions, but {job.source} has 4" in worker.log


def test_a_changed_model_file_stops_the_worker_before_any_event_is_read(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    job.send([1])
    file = tmp_path / "models" / "double" / "1" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b" ")
    with job.run() as worker:
        assert worker.wait() == 3
        assert "double@1" in worker.log
    assert committed(broker, job.group, job.source)[0] == 0
    assert not job.answers()


@pytest.mark.parametrize("library", ["onnxruntime", "confluent_kafka", "_cython"])
def test_sigterm_while_a_worker_starts_ends_it_with_0(broker: Broker, tmp_path: Path, library: str) -> None:
    """In the middle of its imports, which take the longest: a library that has just been mapped shows how far they are."""
    job = make_job(broker, tmp_path, partitions=1)
    with job.run() as worker:
        maps = Path(f"/proc/{worker.process.pid}/maps")
        deadline = time.monotonic() + 30
        while library not in maps.read_text() and time.monotonic() < deadline:
            pass
        assert worker.stop() == 0, worker.log
    assert "Traceback" not in worker.log
    assert "bug" not in worker.log
