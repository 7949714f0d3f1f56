"""Answers in Apache Cassandra.

    penstock_state      per topology: the live generation, and the one that is being built with its progress; changed by
                        lightweight transactions
    penstock_answers    an answer per topology, generation and key. The partitions of a generation are BUCKETS buckets, by CRC-32 of the
                        key, so that removing a generation removes BUCKETS partitions
    penstock_misses     events without an answer, by topology and key, kept for a week

`begin` makes the tables; the keyspace decides about replication and has to exist. Reads and writes use LOCAL_QUORUM.
"""

from __future__ import annotations

import logging
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from cassandra import (
    AlreadyExists,
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    RequestExecutionException,
    Unauthorized,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.concurrent import execute_concurrent, execute_concurrent_with_args
from cassandra.policies import ConstantReconnectionPolicy, DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import BatchStatement, BatchType, PreparedStatement, tuple_factory

from penstock.errors import AccessRefused, ConfigError, TransportUnavailable
from penstock.stores.address import Address
from penstock.stores.base import MISSES, Building, Entry, Generation, Read, Superseded

__all__ = ["BUCKETS", "CassandraStore"]

BUCKETS: Final = 256
_AT_ONCE: Final = 64  # requests under way
_ROWS: Final = 50  # of a batch for one partition
_BYTES: Final = 20_000  # of it: servers warn from 5 kB, and refuse from 50 kB
_RECONNECT: Final = 1.0  # seconds between two attempts to reach a host that is away
_WEEK: Final = 604_800  # seconds
_PORT: Final = 9042
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS penstock_state (topology text PRIMARY KEY, last bigint, building bigint, building_about text, "
    "progress blob, live bigint, about text, since double, ttl bigint)",
    "CREATE TABLE IF NOT EXISTS penstock_answers (topology text, generation bigint, bucket int, key text, answer blob, "
    "PRIMARY KEY ((topology, generation, bucket), key))",
    "CREATE TABLE IF NOT EXISTS penstock_misses (topology text, key text, event blob, PRIMARY KEY (topology, key))",
)
_STATE: Final = "SELECT live, about, since, ttl, building, building_about, progress, last FROM penstock_state WHERE topology = ?"
_ANSWERS: Final = "SELECT key, answer FROM penstock_answers WHERE topology = ? AND generation = ? AND bucket = ? AND key IN ?"
_INSERT: Final = "INSERT INTO penstock_answers (topology, generation, bucket, key, answer) VALUES (?, ?, ?, ?, ?) USING TTL ?"
_BUCKET: Final = "SELECT key, answer FROM penstock_answers WHERE topology = ? AND generation = ? AND bucket = ?"
_REMOVE: Final = "DELETE FROM penstock_answers WHERE topology = ? AND generation = ? AND bucket = ?"

# The driver logs each host that is away, with tracebacks; the errors that it raises say the same.
logging.getLogger("cassandra").setLevel(logging.CRITICAL)


class CassandraStore:
    """See `Store`. `timeout` is in seconds, for each request."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        self.where = address.shown
        self._address, self._timeout = address, timeout
        self._lock = threading.Lock()
        self._cluster: Any = None
        self._session: Any = None
        self._prepared: dict[str, PreparedStatement] = {}
        self._numbers: dict[str, int] = {}  # the generations that were live last, by topology

    def begin(self, topology: str, about: str) -> int:
        """See `Store.begin`."""
        with self._reaching() as session:
            for table in _TABLES:
                try:
                    session.execute(table, timeout=max(self._timeout, 30))
                except AlreadyExists:
                    continue
            session.execute(self._statement("INSERT INTO penstock_state (topology, last) VALUES (?, 0) IF NOT EXISTS"), (topology,))
            while True:
                state = self._state(topology, agreed=True)
                last, former = int(state[7] or 0), state[4]
                change = "UPDATE penstock_state SET last = ?, building = ?, building_about = ?, progress = ? WHERE topology = ? IF last = ?"
                if self._changed(change, (last + 1, last + 1, about, b"", topology, last)):
                    break
            if former is not None:
                self._remove(topology, [former])
        return last + 1

    def building(self, topology: str) -> Building | None:
        """See `Store.building`."""
        state = self._found(topology, agreed=True)
        return None if state is None or state[4] is None else Building(int(state[4]), state[5], state[6] or b"")

    def write(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> None:
        """See `Store.write`."""
        with self._reaching():
            self._insert(topology, number, entries, ttl)
            if self._state(topology, agreed=True)[4] != number:
                raise Superseded(topology, number)

    def _insert(self, topology: str, number: int, entries: Sequence[Entry], ttl: int) -> None:
        # Each key once: the requests are under way together, and the last one must win.
        rows = [(topology, number, _bucket(key), key, answer, ttl) for key, answer in dict(entries).items()]
        self._together(_INSERT, sorted(rows, key=itemgetter(2)), by=itemgetter(2))

    def keep(self, topology: str, number: int, progress: bytes) -> None:
        """See `Store.keep`."""
        with self._reaching():
            if not self._changed("UPDATE penstock_state SET progress = ? WHERE topology = ? IF building = ?", (progress, topology, number)):
                raise Superseded(topology, number)

    def activate(self, topology: str, number: int, *, since: float, ttl: int = 0) -> None:
        """See `Store.activate`."""
        with self._reaching():
            state = self._state(topology, agreed=True)
            change = (
                "UPDATE penstock_state SET live = ?, about = ?, since = ?, ttl = ?, building = null, building_about = null, "
                "progress = null WHERE topology = ? IF building = ?"
            )
            if not self._changed(change, (number, state[5], since, ttl, topology, number)):
                raise Superseded(topology, number)
            if state[0] is not None:
                self._remove(topology, range(int(state[0]), number))

    def _remove(self, topology: str, numbers: Iterable[int]) -> None:
        self._each(_REMOVE, ((topology, number, bucket) for number in numbers for bucket in range(BUCKETS)))

    def live(self, topology: str) -> Generation | None:
        """See `Store.live`."""
        return _generation(self._found(topology))

    def read(self, topology: str, keys: Sequence[str]) -> Read:
        """See `Store.read`. A key that is not found is certain only if the generation is live after it was looked for."""
        number = self._numbers.get(topology, 0)
        buckets: dict[int, list[str]] = {}
        for key in dict.fromkeys(keys):
            buckets.setdefault(_bucket(key), []).append(key)
        try:
            with self._reaching():
                state = None
                while True:
                    asked = [(topology, number, bucket, some) for bucket, some in buckets.items()] if number else []
                    found = {key: answer for rows in self._each(_ANSWERS, asked) for key, answer in rows}
                    answers = [found.get(key) for key in keys]
                    if state is None or None in answers or state[0] != number:
                        state = self._state(topology)
                    live = _generation(state)
                    if live is None:
                        return Read(None, [None] * len(keys))
                    if live.number == number:
                        return Read(live, answers)
                    number = self._numbers[topology] = live.number
        except _Missing:
            return Read(None, [None] * len(keys))

    def add(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> bool:
        """See `Store.add`."""
        with self._reaching():
            if (live := _generation(self._state(topology))) is None or live.number != number:
                return False
            self._insert(topology, number, entries, ttl)
            if (live := _generation(self._state(topology))) is None or live.number != number:
                self._remove(topology, [number])  # it was removed in between, and is again
                return False
        return True

    def scan(self, topology: str, number: int, limit: int) -> Iterator[Entry]:
        """See `Store.scan`."""
        left = limit
        with self._reaching() as session:
            for bucket in range(BUCKETS):
                for key, answer in session.execute(self._statement(_BUCKET), (topology, number, bucket)):
                    if not left:
                        return
                    left -= 1
                    yield key, answer

    def miss(self, topology: str, events: Mapping[str, bytes]) -> None:
        """See `Store.miss`."""
        with self._reaching() as session:
            count = session.execute(self._statement("SELECT count(*) FROM penstock_misses WHERE topology = ?"), (topology,)).one()[0]
            taken = list(events.items())[: max(MISSES - count, 0)]
            insert = "INSERT INTO penstock_misses (topology, key, event) VALUES (?, ?, ?) USING TTL ?"
            self._together(insert, [(topology, key, event, _WEEK) for key, event in taken], by=itemgetter(0))

    def misses(self, topology: str) -> dict[str, bytes]:
        """See `Store.misses`."""
        try:
            with self._reaching() as session:
                found = session.execute(self._statement("SELECT key, event FROM penstock_misses WHERE topology = ?"), (topology,))
                return dict(found)
        except _Missing:
            return {}

    def forget(self, topology: str, keys: Sequence[str]) -> None:
        """See `Store.forget`."""
        with self._reaching():
            gone = "DELETE FROM penstock_misses WHERE topology = ? AND key = ?"
            self._together(gone, [(topology, key) for key in keys], by=itemgetter(0))

    def close(self) -> None:
        """See `Store.close`."""
        with self._lock:
            if self._cluster is not None:
                self._cluster.shutdown()
            self._cluster = self._session = None

    # -- requests --------------------------------------------------------------------------------------------------

    def _each(self, statement: str, rows: Iterable[Sequence[Any]]) -> list[Any]:
        """Runs a statement with each of these values, _AT_ONCE at a time. Returns the results as lists of rows, in order."""
        given = list(rows)
        if not given:
            return []
        done = execute_concurrent_with_args(self._session, self._statement(statement), given, concurrency=_AT_ONCE)
        return [list(result) for _, result in done]

    def _together(self, statement: str, rows: Sequence[Sequence[Any]], *, by: Callable[[Any], Any]) -> None:
        """Runs a statement with each of these values; those that follow one another in one partition, by `by`, in batches."""
        prepared, batches = self._statement(statement), list[Any]()
        for _, same in groupby(rows, by):
            count = size = 0
            for row in same:
                if not count or count == _ROWS or size > _BYTES:
                    batches.append(BatchStatement(BatchType.UNLOGGED))
                    count = size = 0
                batches[-1].add(prepared, row)
                count, size = count + 1, size + sum(len(one) for one in row if isinstance(one, str | bytes))
        if batches:
            execute_concurrent(self._session, [(batch, ()) for batch in batches], concurrency=_AT_ONCE, raise_on_first_error=True)

    def _state(self, topology: str, *, agreed: bool = False) -> Any:
        """Returns the row of the topology, None without one; `agreed` also finishes changes that another client has begun."""
        statement = self._statement(_STATE)
        profile = "agreed" if agreed else EXEC_PROFILE_DEFAULT
        return self._session.execute(statement, (topology,), execution_profile=profile).one()

    def _found(self, topology: str, *, agreed: bool = False) -> Any:
        try:
            with self._reaching():
                return self._state(topology, agreed=agreed)
        except _Missing:
            return None

    def _changed(self, statement: str, values: Sequence[Any]) -> bool:
        return bool(self._session.execute(self._statement(statement), values).was_applied)

    def _statement(self, text: str) -> PreparedStatement:
        if text not in self._prepared:
            self._prepared[text] = self._session.prepare(text)
        return self._prepared[text]

    def _connect(self) -> Any:
        with self._lock:
            if self._session is None:
                self._cluster = self._clustered()
                try:
                    session = self._cluster.connect()
                    session.set_keyspace(self._address.path.strip("/"))
                    self._session = session
                except BaseException:
                    self._cluster.shutdown()
                    raise
            return self._session

    def _clustered(self) -> Any:
        address, timeout = self._address, self._timeout
        login = PlainTextAuthProvider(address.username, address.password.reveal()) if address.username else None
        tls = None if address.cafile is None else ssl.create_default_context(cafile=str(address.cafile))
        profile = ExecutionProfile(
            TokenAwarePolicy(DCAwareRoundRobinPolicy()),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
            request_timeout=timeout,
            row_factory=tuple_factory,
        )
        agreed = ExecutionProfile(
            TokenAwarePolicy(DCAwareRoundRobinPolicy()),
            consistency_level=ConsistencyLevel.LOCAL_SERIAL,
            request_timeout=timeout,
            row_factory=tuple_factory,
        )
        port = next((port for _, port in address.hosts if port), _PORT)
        return Cluster(
            [host for host, _ in address.hosts], port=port, auth_provider=login, ssl_context=tls, connect_timeout=max(timeout, 5),
            execution_profiles={EXEC_PROFILE_DEFAULT: profile, "agreed": agreed},
            reconnection_policy=ConstantReconnectionPolicy(_RECONNECT, max_attempts=None),  # the driver's own waits for up to ten minutes
        )  # fmt: skip

    @contextmanager
    def _reaching(self) -> Iterator[Any]:
        try:
            yield self._connect()
        except (NoHostAvailable, AuthenticationFailed, Unauthorized) as error:
            causes = [error, *(error.errors.values() if isinstance(getattr(error, "errors", None), dict) else ())]
            if any(isinstance(one, AuthenticationFailed | Unauthorized) for one in causes):
                fix = "set store_password_file, or PENSTOCK_STORE_PASSWORD"
                raise AccessRefused(f"the store {self.where} refuses the login or the command: {_line(error)}; {fix}") from error
            raise TransportUnavailable(f"the store {self.where} does not answer: {_line(error)}") from error
        except InvalidRequest as error:
            text = _line(error)
            if "table" in text:
                raise _Missing(f"the store {self.where} has no tables yet: `penstock precompute` makes them") from error
            keyspace = self._address.path.strip("/")
            fix = f"CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', 'replication_factor': 3}}"
            raise ConfigError(f"the store {self.where}: {text}; make the keyspace first: {fix}") from error
        except (OperationTimedOut, RequestExecutionException, DriverException) as error:
            raise TransportUnavailable(f"the store {self.where} does not answer: {_line(error)}") from error


class _Missing(ConfigError):
    """There is no table: nothing was computed yet."""


def _bucket(key: str) -> int:
    return zlib.crc32(key.encode()) % BUCKETS


def _generation(state: Any) -> Generation | None:
    return None if state is None or state[0] is None else Generation(int(state[0]), state[1], state[2], int(state[3]))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
