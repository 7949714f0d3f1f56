"""A small topology and `penstock run` over it as child processes, for tests that break things while it runs."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from penstock.control.topics import Topics
from penstock.record import Header, Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, committed, create_release_topics, create_topics, end_offsets, produce, read_all, unique, wait_for
from penstock.testing import models as onnx_models

SCHEMA = {"type": "record", "name": "Reading", "fields": [{"name": "id", "type": "string"}, {"name": "x", "type": "double"}]}

TOPOLOGY = """\
topology: doubles
sources:
  readings: {{topic: {source}, schema: reading.avsc, id: id, dead_letter: {dead}}}
nodes:
  double: {{kind: model, model: double@1}}
sinks:
  doubled: {{topic: {sink}, fields: {{id: id, y: double}}}}
"""


@dataclass(frozen=True)
class Job:
    """A topology, `doubles` unless said otherwise, on topics of its own."""

    broker: Broker
    folder: Path
    source: str
    sink: str
    dead: str
    application: str
    partitions: int
    topology: str = "doubles"

    @property
    def file(self) -> Path:
        return self.folder / f"{self.topology}.yaml"

    @property
    def group(self) -> str:
        return f"{self.application}.{self.topology}"

    @property
    def releases(self) -> Topics:
        return Topics.of(self.application, self.topology)

    def send(self, ids: Iterable[int], *, headers: Sequence[Header] = ()) -> None:
        produce(self.broker, [self.reading(number, headers) for number in ids])

    def reading(self, number: int, headers: Sequence[Header] = ()) -> Record:
        value = json.dumps({"id": str(number), "x": number / 2}).encode()
        return Record(self.source, value, str(number).encode(), headers, partition=number % self.partitions)

    def answers(self) -> list[Record]:
        return read_all(self.broker, self.sink)

    def wait_for_answers(self, count: int, timeout: float = 30.0) -> None:
        wait_for(lambda: sum(end_offsets(self.broker, self.sink).values()) >= count, f"{count} answers", timeout, 0.1)

    def ids(self) -> Counter[str]:
        """How often each event was answered."""
        return Counter(json.loads(one.value or b"")["id"] for one in self.answers())

    def wait_until_committed(self, count: int, *workers: Running) -> None:
        """Until the group has committed so many records of the source."""
        wait_for(
            lambda: sum(committed(self.broker, self.group, self.source).values()) == count,
            lambda: "\n".join([f"{count} records committed", *(one.log[-3000:] for one in workers)]),
            60,
            0.3,
        )

    def run(self, *flags: str, **settings: str) -> Running:
        return Running(self, flags, settings)


class Running:
    """A `penstock run` process. Stops on leaving the `with` block, however it is left.

    With `code`, the folder that holds another version's package, that version runs.
    """

    def __init__(self, job: Job, flags: Sequence[str] = (), settings: dict[str, str] | None = None, *, code: Path | None = None) -> None:
        self.log_file = job.folder / f"{unique('worker')}.log"
        defaults = {
            "brokers": job.broker.bootstrap,
            "application": job.application,
            "session_timeout": "3",
            "commit_interval": "0.3",
            "cache": str(job.folder / "cache"),
        }
        given = {**defaults, **(settings or {})}
        environment = {f"PENSTOCK_{name.upper()}": value for name, value in given.items()}
        if code is not None:
            environment["PYTHONPATH"] = str(code)
        command = [sys.executable, "-m", "penstock", "run", str(job.file), *flags]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job.folder, env={**os.environ, **environment}
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """The lines that say why it ended."""
        return [line for line in self.log.splitlines() if line.startswith("error:")]

    def wait_until_assigned(self, timeout: float = 30.0) -> None:
        wait_for(lambda: "assigned " in self.log or self.process.poll() is not None, lambda: f"partitions\n{self.log}", timeout)
        assert self.process.poll() is None, self.log

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code of a worker that ends by itself."""
        return self.process.wait(timeout)


def delete_topic(broker: Broker, topic: str) -> None:
    """Returns when the brokers no longer list it."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for deleted in admin.delete_topics([topic]).values():
        deleted.result(15)
    wait_for(lambda: topic not in admin.list_topics(timeout=15).topics, f"the end of {topic}")


def make_job(
    broker: Broker,
    folder: Path,
    *,
    partitions: int = 4,
    model: bytes | None = None,
    dead_letter: bool = True,
    sink_config: dict[str, str] | None = None,
    source_config: dict[str, str] | None = None,
) -> Job:
    """Registers the model, writes the files, makes the topics."""
    name = unique("readings")
    job = Job(broker, folder, name, f"{name}.doubled", f"{name}.dead-letter", unique("app"), partitions)
    (folder / "schemas").mkdir()
    (folder / "schemas" / "reading.avsc").write_text(json.dumps(SCHEMA))
    DirectoryRegistry(folder / "models").publish("double", model or onnx_models.linear([2.0]), version="1")
    job.file.write_text(TOPOLOGY.format(source=job.source, sink=job.sink, dead=job.dead))
    create_topics(broker, {job.source: partitions}, source_config)
    if dead_letter:
        create_topics(broker, {job.dead: partitions})
    create_topics(broker, {job.sink: partitions}, sink_config)
    create_release_topics(broker, job.application, "doubles")
    return job


def get(worker: Running, path: str) -> tuple[int, bytes]:
    """Status and body of a page; status 0 while nothing answers."""
    found = re.search(r"on http://127\.0\.0\.1:(\d+)", worker.log)
    if found is None:
        return 0, b""
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except ConnectionError:
        return 0, b""
    finally:
        connection.close()


def ask(worker: Running, path: str) -> tuple[int, dict[str, Any]]:
    status, body = get(worker, path)
    return status, json.loads(body) if body else {}
