"""A Kafka broker for one test run: the first of these kinds that this machine can provide.

1. `external`    given brokers (`PENSTOCK_BROKERS` in the project's suite); nothing is started or stopped
2. `container`   testcontainers, when a Docker engine answers
3. `jvm`         Apache Kafka from Maven Central as a child process, when java and mvn are available (see `jvm_kafka`)
4. `mock`        librdkafka's mock cluster inside this process: always available, but only a part of Kafka

`Broker.lacks` maps each missing ability of a broker to its reason, so that a test that needs the ability is skipped with that
reason. `Broker.passed_over` lists the kinds that were tried before.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import KafkaException, Producer

from penstock.errors import TransportUnavailable
from penstock.testing.jvm_kafka import JvmKafka, require_java

__all__ = ["Ability", "Broker", "ContainerBroker", "ExternalBroker", "JvmBroker", "Kind", "MockBroker", "open_broker"]

Kind = Literal["external", "container", "jvm", "mock"]
Ability = Literal["create_topics", "topic_config", "restart", "pause"]

KAFKA_IMAGE = "confluentinc/cp-kafka:7.9.0"
DOCKER_ANSWERS_S = 2.0
_ABILITIES: tuple[Ability, ...] = ("create_topics", "topic_config", "restart", "pause")


class Broker:
    """A running broker: `bootstrap` is the address for clients, `lacks` maps missing abilities to reasons."""

    kind: Kind
    lacks: Mapping[Ability, str] = {}

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.passed_over: tuple[str, ...] = ()

    @property
    def capabilities(self) -> frozenset[Ability]:
        """Returns its abilities."""
        return frozenset(ability for ability in _ABILITIES if ability not in self.lacks)

    def stop(self) -> None:
        """Ends everything that was started for it, and returns when that has ended. A second call does nothing."""

    def kill(self) -> None:
        """Sends SIGKILL, like a failed machine; the data remain for `restart`. Raises TransportUnavailable if that is impossible."""
        raise TransportUnavailable(self.lacks["restart"])

    def restart(self) -> None:
        """Kills it if it runs, starts it on the same address with the same data, and returns when it answers. Raises like `kill`."""
        raise TransportUnavailable(self.lacks["restart"])

    def pause(self) -> None:
        """Sends SIGSTOP: it keeps its connections but answers no request until `resume`. Raises like `kill`."""
        raise TransportUnavailable(self.lacks["pause"])

    def resume(self) -> None:
        """Sends SIGCONT. Raises like `kill`."""
        raise TransportUnavailable(self.lacks["pause"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.bootstrap!r})"


class ExternalBroker(Broker):
    """Brokers that are running already."""

    kind: Kind = "external"
    lacks: Mapping[Ability, str] = {
        "restart": "these brokers were not started here, so they must not be killed",
        "pause": "these brokers were not started here, so they must not be paused",
    }


class ContainerBroker(Broker):
    """Kafka (KRaft) in a container of testcontainers."""

    kind: Kind = "container"
    lacks: Mapping[Ability, str] = {
        "restart": "a restarted container has another port, so clients cannot reconnect",
        "pause": "only a broker that is a child process can be paused",
    }

    def __init__(self) -> None:
        from testcontainers.community.kafka import KafkaContainer  # imported here: an optional extra, and slow to import

        self._container: Any = KafkaContainer(KAFKA_IMAGE).with_kraft()
        self._container.start()
        super().__init__(self._container.get_bootstrap_server())

    def stop(self) -> None:
        """Removes the container."""
        self._container.stop()


class JvmBroker(Broker):
    """Apache Kafka in a child process, which may be killed, restarted and paused."""

    kind: Kind = "jvm"

    def __init__(self) -> None:
        self._kafka = JvmKafka()
        super().__init__(self._kafka.bootstrap)

    @property
    def pid(self) -> int:
        """Process id of the Java process."""
        return self._kafka.pid

    @property
    def data(self) -> Path:
        """The folder with a folder per partition; touch it only while the broker is killed."""
        return self._kafka.data

    @property
    def log(self) -> str:
        """Returns the broker's log so far."""
        return self._kafka.log

    def kill(self) -> None:
        self._kafka.kill()

    def restart(self) -> None:
        self._kafka.kill()
        self._kafka.start()

    def pause(self) -> None:
        self._kafka.pause()

    def resume(self) -> None:
        self._kafka.resume()

    def stop(self) -> None:
        """Ends the process and removes its data and log."""
        self._kafka.stop()


class MockBroker(Broker):
    """librdkafka's mock cluster, inside a producer of this process: a development broker, in memory only.

    It creates a topic with 4 partitions at the first request for it, and keeps about 5 MB of each partition.
    """

    kind: Kind = "mock"
    lacks: Mapping[Ability, str] = {
        "create_topics": "librdkafka's mock cluster has no CreateTopics: the first request for a topic creates it with 4 partitions",
        "topic_config": "librdkafka's mock cluster has no topic settings (no compaction, no size limits)",
        "restart": "librdkafka's mock cluster runs in this process and in memory only",
        "pause": "librdkafka's mock cluster runs in this process",
    }

    def __init__(self, timeout: float = 10.0) -> None:
        # log_level 2: otherwise it reports on stderr that it ignores bootstrap.servers, which was not given.
        self._holder: Producer | None = Producer({"test.mock.num.brokers": 1, "log_level": 2})
        try:
            found = self._holder.list_topics(timeout=timeout).brokers.values()
        except KafkaException as error:
            self.stop()
            raise TransportUnavailable(f"librdkafka's mock cluster did not answer within {timeout:g} s: {error}") from error
        super().__init__(",".join(f"{broker.host}:{broker.port}" for broker in found))

    def stop(self) -> None:
        """Closes the cluster and drops its data."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


@contextmanager
def open_broker(brokers: str | None = None, *, kinds: tuple[Kind, ...] = ("external", "container", "jvm", "mock")) -> Iterator[Broker]:
    """Yields the first broker of `kinds` that this machine can provide, and stops it at the end.

    `brokers` is a bootstrap list ("host:port,host:port"); given brokers are used without trying other kinds.
    Raises TransportUnavailable when none of `kinds` is available; the message has the reason of each.
    """
    broker = _first(brokers, kinds)
    try:
        yield broker
    finally:
        broker.stop()


def _first(brokers: str | None, kinds: tuple[Kind, ...]) -> Broker:
    reasons: list[str] = []
    for kind in kinds:
        try:
            broker = _OPEN[kind](brokers)
        except TransportUnavailable as reason:
            reasons.append(f"{kind}: {reason}")
        else:
            broker.passed_over = tuple(reasons)
            return broker
    raise TransportUnavailable("no broker for tests is available\n  " + "\n  ".join(reasons))


def _external(brokers: str | None) -> Broker:
    if not brokers:
        raise TransportUnavailable("no brokers were given (PENSTOCK_BROKERS is not set)")
    return ExternalBroker(brokers)


def _container(_: str | None) -> Broker:
    if importlib.util.find_spec("testcontainers") is None:
        raise TransportUnavailable("the package testcontainers is not installed")
    docker = shutil.which("docker")
    if docker is None:
        raise TransportUnavailable("there is no docker command")
    version = [docker, "version", "--format", "{{.Server.Version}}"]
    try:
        asked = subprocess.run(version, capture_output=True, timeout=DOCKER_ANSWERS_S, check=False)
    except subprocess.TimeoutExpired:
        raise TransportUnavailable(f"the Docker engine did not answer within {DOCKER_ANSWERS_S:g} s") from None
    if asked.returncode:
        raise TransportUnavailable("no Docker engine answers")
    return ContainerBroker()


def _jvm(_: str | None) -> Broker:
    require_java()
    return JvmBroker()


_OPEN: Mapping[Kind, Callable[[str | None], Broker]] = {
    "external": _external,
    "container": _container,
    "jvm": _jvm,
    "mock": lambda _: MockBroker(),
}
