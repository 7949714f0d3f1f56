"""A Kafka broker for one test run: the best that this machine can give, in a fixed order.

1. `external`    brokers that were named (`PENSTOCK_BROKERS` in our own suite); nothing is started or stopped
2. `container`   testcontainers, where a Docker engine answers
3. `jvm`         Apache Kafka from Maven Central as a child process, where java and mvn answer (see `jvm_kafka`)
4. `mock`        librdkafka's mock cluster inside this process: always there, but only a part of Kafka

What a broker cannot do is data: `Broker.lacks` maps each missing ability to its reason, so that a test that needs it can be skipped
with that reason. `Broker.passed_over` lists what was tried before.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    """A running broker: `bootstrap` is what clients connect to, `lacks` what it cannot do and why."""

    kind: Kind
    lacks: Mapping[Ability, str] = {}

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.passed_over: tuple[str, ...] = ()

    @property
    def capabilities(self) -> frozenset[Ability]:
        """What it can do."""
        return frozenset(ability for ability in _ABILITIES if ability not in self.lacks)

    def stop(self) -> None:
        """Ends what was started for it, and returns when that is gone; a second call does nothing."""

    def kill(self) -> None:
        """SIGKILL, as when a machine fails; the data stay for `restart`. Raises TransportUnavailable where that cannot be done."""
        raise TransportUnavailable(self.lacks["restart"])

    def restart(self) -> None:
        """Kills it if it runs, starts it on the same address with the same data, and returns when it answers. Raises as `kill`."""
        raise TransportUnavailable(self.lacks["restart"])

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers no request, until `resume`. Raises as `kill`."""
        raise TransportUnavailable(self.lacks["pause"])

    def resume(self) -> None:
        """SIGCONT. Raises as `kill`."""
        raise TransportUnavailable(self.lacks["pause"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.bootstrap!r})"


class ExternalBroker(Broker):
    """Brokers that run already."""

    kind: Kind = "external"
    lacks: Mapping[Ability, str] = {
        "restart": "these brokers were not started here, so they are not ours to kill",
        "pause": "these brokers were not started here, so they are not ours to pause",
    }


class ContainerBroker(Broker):
    """Kafka (KRaft) in a container that testcontainers holds."""

    kind: Kind = "container"
    lacks: Mapping[Ability, str] = {
        "restart": "a restarted container comes back on another port, so clients would not find it",
        "pause": "pausing is only wired for a broker that is a child process",
    }

    def __init__(self) -> None:
        from testcontainers.community.kafka import KafkaContainer  # here: an optional extra, and slow to import

        self._container: Any = KafkaContainer(KAFKA_IMAGE).with_kraft()
        self._container.start()
        super().__init__(self._container.get_bootstrap_server())

    def stop(self) -> None:
        """Removes the container."""
        self._container.stop()


class JvmBroker(Broker):
    """Apache Kafka in a Java process of ours, which may be killed, restarted and paused."""

    kind: Kind = "jvm"

    def __init__(self) -> None:
        self._kafka = JvmKafka()
        super().__init__(self._kafka.bootstrap)

    @property
    def pid(self) -> int:
        """Process id of the Java process."""
        return self._kafka.pid

    @property
    def log(self) -> str:
        """What the broker has written to its log so far."""
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
    """librdkafka's mock cluster, held by a producer in this process: a development broker, in memory only.

    It makes a topic with 4 partitions when one is first asked for, and keeps about 5 MB of each partition.
    """

    kind: Kind = "mock"
    lacks: Mapping[Ability, str] = {
        "create_topics": "librdkafka's mock cluster has no CreateTopics: a topic appears with 4 partitions when it is first asked for",
        "topic_config": "librdkafka's mock cluster has no topic settings (no compaction, no size limits)",
        "restart": "librdkafka's mock cluster lives in this process and in memory only",
        "pause": "librdkafka's mock cluster lives in this process",
    }

    def __init__(self, timeout: float = 10.0) -> None:
        # log_level 2: it would announce on stderr that it ignores bootstrap.servers, which was not given.
        self._holder: Producer | None = Producer({"test.mock.num.brokers": 1, "log_level": 2})
        try:
            found = self._holder.list_topics(timeout=timeout).brokers.values()
        except KafkaException as error:
            self.stop()
            raise TransportUnavailable(f"librdkafka's mock cluster did not answer within {timeout:g} s: {error}") from error
        super().__init__(",".join(f"{broker.host}:{broker.port}" for broker in found))

    def stop(self) -> None:
        """Closes the cluster; whatever it held is gone."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


@contextmanager
def open_broker(brokers: str | None = None, *, kinds: tuple[Kind, ...] = ("external", "container", "jvm", "mock")) -> Iterator[Broker]:
    """The first broker of `kinds` that this machine can give, stopped at the end.

    `brokers` is a bootstrap list ("host:port,host:port"); named brokers are taken without looking further.
    Raises TransportUnavailable when none of `kinds` can be had; the message has the reason of each.
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
    raise TransportUnavailable("no broker for tests could be had\n  " + "\n  ".join(reasons))


def _external(brokers: str | None) -> Broker:
    if not brokers:
        raise TransportUnavailable("no brokers were named (PENSTOCK_BROKERS is not set)")
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
