"""Apache Kafka as child processes: jars from Maven Central once, KRaft nodes on free ports, removed completely at the end.

A node never outlives the test run: its process is ended on `stop` and at exit. When this process is killed (kill -9), a
watchdog ends the node and removes its data, because the watchdog's standard input then closes.
"""

from __future__ import annotations

import atexit
import base64
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from penstock.errors import TransportUnavailable
from penstock.testing import maven

__all__ = ["KAFKA_VERSION", "JvmCluster", "JvmKafka", "JvmNode", "jars", "require_java"]

KAFKA_VERSION = "4.1.1"
_NAME = f"kafka-{KAFKA_VERSION}"
READY_S = 60.0
# Below the range of ephemeral ports, so that a port stays free for a restart.
_PORTS = range(20_000, 32_000)

# Tests create their topics and need short sessions, fast groups and fast compaction. They also restart a killed node soon,
# and the controller rejects the node until its former session has expired. The rest are Kafka's defaults.
_COMMON = """controller.listener.names=CONTROLLER
num.partitions=4
auto.create.topics.enable=false
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.backoff.ms=200
log.initial.task.delay.ms=500
"""
_ONE_NODE = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}
inter.broker.listener.name=PLAINTEXT
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""
_CONTROLLER = """process.roles=controller
node.id=0
controller.quorum.voters=0@127.0.0.1:{controller}
listeners=CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
"""
# The cleaner's buffer is part of the heap; its default of 128 MB would be half of it.
_BROKER = """process.roles=broker
node.id={id}
controller.quorum.voters=0@127.0.0.1:{controller}
listeners=PLAINTEXT://{address}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
log.cleaner.dedupe.buffer.size=8388608
"""


def require_java() -> None:
    """Raises TransportUnavailable with the reason when Kafka cannot run: no Java, or neither jars nor Maven to fetch them."""
    maven.require(_NAME)


def jars() -> Path:
    """Returns the folder with Kafka's jars. The first call fetches them; concurrent processes wait for it."""
    return maven.jars(_NAME, f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")


class JvmNode:
    """One process of Kafka, and a folder with its properties, data and log. It runs from `start` on, and never outlives this process.

    `cluster` is the cluster's id and `heap_mb` the size of the Java heap. Raises TransportUnavailable when its storage cannot be formatted.
    """

    def __init__(self, properties: str, cluster: str, *, heap_mb: int = 512, scram: Mapping[str, str] | None = None) -> None:
        self._libs = jars()
        self._heap_mb = heap_mb
        self._home = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
        self._log = self._home / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)
        try:
            (self._home / "server.properties").write_text(f"{_COMMON}{properties}log.dirs={self.data}\n")
            self._format(cluster, scram or {})
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id of the running node."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there; a paused one is."""
        return self._process is not None and self._process.poll() is None

    @property
    def data(self) -> Path:
        """The folder with a folder per partition."""
        return self._home / "data"

    @property
    def log(self) -> str:
        """Returns the node's log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Starts the process with its existing data."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java(), "kafka.Kafka", str(self._home / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests; they stop the broker themselves
            )
        watch = 'read -r _; kill -9 "$1" 2>/dev/null; sleep 0.2; rm -rf "$2"'
        self._watchdog = subprocess.Popen(
            ["sh", "-c", watch, "watchdog", str(self.pid), str(self._home)], stdin=subprocess.PIPE, start_new_session=True
        )

    def kill(self) -> None:
        """Sends SIGKILL; the data remain."""
        # The watchdog goes first: it must never kill a process id that the system has assigned to another process.
        for process in (self._watchdog, self._process):
            if process is not None:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        self._watchdog = self._process = None

    def pause(self) -> None:
        """SIGSTOP."""
        assert self._process is not None, "the broker is not running"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None, "the broker is not running"
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends the node and removes its folder. The data are discarded, so an orderly shutdown has no benefit."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)
        atexit.unregister(self.stop)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Polls until `ready()`. Raises TransportUnavailable when the process has ended, or it takes longer than READY_S."""
        deadline = time.monotonic() + READY_S
        while not ready():
            assert self._process is not None
            if (code := self._process.poll()) is not None:
                raise TransportUnavailable(f"Kafka ended with {code} before it was ready; its log ends:\n{self.log[-1500:]}")
            if time.monotonic() > deadline:
                raise TransportUnavailable(f"Kafka was not ready after {READY_S:g} s; its log ends:\n{self.log[-1500:]}")

    def _java(self) -> list[str]:
        # Only the first compiler: in a broker that runs for a minute, the second one costs more time than it saves.
        flags = [f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return ["java", *flags, "-cp", f"{self._libs}/*"]

    def _format(self, cluster: str, scram: Mapping[str, str]) -> None:
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._home / "server.properties")]
        for user, password in scram.items():
            command += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TransportUnavailable(f"Kafka could not format its storage: {(done.stdout + done.stderr).strip()[-500:]}")


class JvmKafka(JvmNode):
    """A cluster of one node, running from construction to `stop`. Raises TransportUnavailable when it does not start.

    `bootstrap` is plaintext. `listeners` (name -> security protocol) are opened beside it, each at its address in
    `addresses`. `properties` are added to the node's, and `scram` (user -> password) are its SCRAM-SHA-512 users.
    """

    def __init__(
        self,
        *,
        listeners: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
    ) -> None:
        protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        controller, *ports = _free_ports(1 + len(protocols))
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(protocols, ports, strict=True)}
        self.bootstrap = self.addresses["PLAINTEXT"]
        written = _ONE_NODE.format(
            listeners=",".join(f"{name}://{address}" for name, address in self.addresses.items()),
            protocols=",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            controller=controller,
        )
        written += "".join(f"{name}={value}\n" for name, value in (properties or {}).items())
        super().__init__(written, _cluster_id(), scram=scram)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        """Starts the node with its existing data, and returns when it answers clients."""
        super().start()
        client = _admin(self.bootstrap)
        self.wait_until(lambda: _serves_groups(client))


class JvmCluster:
    """A controller and brokers, each a process that can be killed, paused and started again, from construction to `stop`.

    Topics get a copy on each broker, three at most, and take records while all copies but one are in sync. `brokers` are in
    the order of their ids, which begin at 1. About 200 MB of memory per process. Raises TransportUnavailable when it does not start.
    """

    def __init__(self, brokers: int = 3) -> None:
        cluster = _cluster_id()
        port, *ports = _free_ports(1 + brokers)
        self.addresses = tuple(f"127.0.0.1:{one}" for one in ports)
        self.bootstrap = ",".join(self.addresses)
        copies = min(3, brokers)
        wanted = [_CONTROLLER.format(controller=port)]
        for id, address in enumerate(self.addresses, 1):
            wanted.append(_BROKER.format(id=id, address=address, controller=port, copies=copies, in_sync=max(1, copies - 1)))
        with ThreadPoolExecutor() as beside:  # to format a storage takes a second of Java
            made = list(beside.map(lambda one: JvmNode(one, cluster, heap_mb=256), wanted))
        self.controller, self.brokers = made[0], tuple(made[1:])
        try:
            for node in made:
                node.start()
            for id in range(1, brokers + 1):
                self._wait_until_listed(id)
            client = _admin(self.bootstrap)
            self.brokers[-1].wait_until(lambda: _serves_groups(client))
        except BaseException:
            self.stop()
            raise

    def start(self, id: int) -> None:
        """Starts a broker that was killed, and returns when it answers clients and its cluster lists it."""
        self.brokers[id - 1].start()
        self._wait_until_listed(id)

    def stop(self) -> None:
        """Ends all processes and removes their folders."""
        for node in (*self.brokers, self.controller):
            node.stop()

    def _wait_until_listed(self, id: int) -> None:
        client = _admin(self.addresses[id - 1])
        self.brokers[id - 1].wait_until(lambda: id in _listed(client))


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A")


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 2, "reconnect.backoff.max.ms": 200})


def _listed(client: AdminClient) -> frozenset[int]:
    try:
        return frozenset(client.list_topics(timeout=0.25).brokers)
    except KafkaException:
        return frozenset()


def _serves_groups(client: AdminClient) -> bool:
    try:
        client.list_topics(timeout=0.25)
        # The first request about a group creates the offsets topic; until it has a leader, groups get errors.
        client.describe_consumer_groups(["absent"], request_timeout=1)["absent"].result()
    except KafkaException as error:
        return bool(error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND)
    return True


def _free_ports(count: int) -> list[int]:
    """Returns ports that no process listens on."""
    found: list[int] = []
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise TransportUnavailable(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}")
