"""Apache Kafka as a child process: jars from Maven Central once, one KRaft node on free ports, removed completely at the end.

It never outlives the test run: the process is ended on `stop` and at exit. When this process is killed (kill -9), a
watchdog ends the node and removes its data, because the watchdog's standard input then closes.
"""

from __future__ import annotations

import atexit
import base64
import fcntl
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from penstock.errors import TransportUnavailable

__all__ = ["KAFKA_VERSION", "JvmKafka", "jars", "require_java"]

KAFKA_VERSION = "4.1.1"
CACHE = Path.home() / ".cache" / "penstock" / f"kafka-{KAFKA_VERSION}"
READY_S = 60.0
# Below the range of ephemeral ports, so that a port stays free for a restart.
_PORTS = range(20_000, 32_000)

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>penstock</groupId><artifactId>test-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

# Tests create their topics and need short sessions, fast groups and fast compaction. They also restart a killed node soon,
# and the controller rejects the node until its former session has expired. The rest are Kafka's defaults for one node.
_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.backoff.ms=200
log.initial.task.delay.ms=500
"""


def require_java() -> None:
    """Raises TransportUnavailable with the reason when Kafka cannot run: no Java, or neither jars nor Maven to fetch them."""
    if shutil.which("java") is None:
        raise TransportUnavailable("there is no java command")
    if not _fetched().exists() and shutil.which("mvn") is None:
        raise TransportUnavailable(f"there is no mvn command to fetch Kafka's jars into {CACHE}")


def jars() -> Path:
    """Returns the folder with Kafka's jars. The first call fetches them; concurrent processes wait for it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _fetched().exists():
            _fetch()
    return CACHE / "libs"


def _fetched() -> Path:
    return CACHE / "fetched"


def _fetch() -> None:
    pom = CACHE / "pom.xml"
    pom.write_text(_POM)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={CACHE / 'libs'}"]
    done = subprocess.run(["mvn", "-q", "-B", "-f", str(pom), *goal], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TransportUnavailable(f"mvn could not fetch Kafka {KAFKA_VERSION}: {(done.stdout + done.stderr).strip()[-500:]}")
    _fetched().touch()


class JvmKafka:
    """One Kafka node, running from construction to `stop`. Raises TransportUnavailable when it does not start.

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
        self._libs = jars()
        self._home = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
        self._log = self._home / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)
        try:
            protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
            controller, *ports = _free_ports(1 + len(protocols))
            self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(protocols, ports, strict=True)}
            self.bootstrap = self.addresses["PLAINTEXT"]
            written = _PROPERTIES.format(
                listeners=",".join(f"{name}://{address}" for name, address in self.addresses.items()),
                protocols=",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
                controller=controller,
                data=self._home / "data",
            )
            written += "".join(f"{name}={value}\n" for name, value in (properties or {}).items())
            (self._home / "server.properties").write_text(written)
            self._format(scram or {})
            self.start()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id of the running node."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """Returns the node's log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Starts the node with its existing data, and returns when it answers clients."""
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
        self._wait_ready()

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

    def _java(self) -> list[str]:
        # Only the first compiler: in a broker that runs for a minute, the second one costs more time than it saves.
        flags = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return ["java", *flags, "-cp", f"{self._libs}/*"]

    def _format(self, scram: Mapping[str, str]) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A")
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._home / "server.properties")]
        for user, password in scram.items():
            command += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TransportUnavailable(f"Kafka could not format its storage: {(done.stdout + done.stderr).strip()[-500:]}")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2, "reconnect.backoff.max.ms": 200})
        while time.monotonic() < deadline:
            assert self._process is not None
            if (code := self._process.poll()) is not None:
                raise TransportUnavailable(f"Kafka ended with {code} before it was ready; its log ends:\n{self.log[-1500:]}")
            try:
                client.list_topics(timeout=0.25)
                # The first request about a group creates the offsets topic; until it has a leader, groups get errors.
                client.describe_consumer_groups(["absent"], request_timeout=1)["absent"].result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                    continue
            return
        raise TransportUnavailable(f"Kafka was not ready after {READY_S:g} s; its log ends:\n{self.log[-1500:]}")


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
