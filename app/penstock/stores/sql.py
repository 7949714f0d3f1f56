"""Answers in a SQL database: SQLite, a file of this host, and PostgreSQL.

    penstock_generations    per topology: the live generation, and the one that is being built with its progress
    penstock_answers        an answer per topology, generation and key; `expires` in seconds since the epoch, 0 for never
    penstock_misses         events without an answer, by topology and key

`begin` makes the tables. A read is one statement, so that it sees one generation.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any, Final, Protocol

from penstock.errors import AccessRefused, ConfigError, TransportUnavailable
from penstock.stores.address import Address
from penstock.stores.base import MISSES, Building, Entry, Generation, Read, Superseded

__all__ = ["SqlStore"]

_TURN: Final = 10_000  # answers that one statement removes
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS penstock_generations (topology {text} NOT NULL, number BIGINT NOT NULL, live BOOLEAN NOT NULL, "
    "about {text} NOT NULL, progress {blob} NOT NULL, since DOUBLE PRECISION NOT NULL, ttl BIGINT NOT NULL, "
    "PRIMARY KEY (topology, number))",
    "CREATE TABLE IF NOT EXISTS penstock_answers (topology {text} NOT NULL, generation BIGINT NOT NULL, key {text} NOT NULL, "
    "answer {blob} NOT NULL, expires BIGINT NOT NULL, PRIMARY KEY (topology, generation, key))",
    "CREATE TABLE IF NOT EXISTS penstock_misses (topology {text} NOT NULL, key {text} NOT NULL, event {blob} NOT NULL, "
    "PRIMARY KEY (topology, key))",
)
_READ: Final = (
    # Key by key through the index: after a new generation, a planner without statistics would rather read it all.
    "SELECT g.number, g.about, g.since, g.ttl, a.key, a.answer FROM penstock_generations g LEFT JOIN {asked} ON true "
    "LEFT JOIN penstock_answers a ON a.topology = g.topology AND a.generation = g.number AND a.key = asked.value "
    "AND (a.expires = 0 OR a.expires > ?) WHERE g.topology = ? AND g.live"
)
_INSERT: Final = (
    "INSERT INTO penstock_answers (topology, generation, key, answer, expires) {values} "
    "ON CONFLICT (topology, generation, key) DO UPDATE SET answer = excluded.answer, expires = excluded.expires"
)
_MISS: Final = "INSERT INTO penstock_misses (topology, key, event) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_REQUIRE: Final = "SELECT 1 FROM penstock_generations WHERE topology = ? AND number = ? AND live = ?"
_SCAN: Final = "SELECT key, answer FROM penstock_answers WHERE topology = ? AND generation = ? AND (expires = 0 OR expires > ?) LIMIT ?"
_SWEEP: Final = (
    "DELETE FROM penstock_answers WHERE (topology, generation, key) IN (SELECT topology, generation, key FROM penstock_answers "
    "WHERE topology = ? AND generation NOT IN (SELECT number FROM penstock_generations WHERE topology = ?) LIMIT ?)"
)


class _Database(Protocol):
    """What differs between the databases."""

    text: str
    blob: str
    asked: str  # the keys in one parameter, made by `listed`, as rows `asked.value`
    among: str  # the condition that a key is in such a parameter
    alone: str  # the statement after which no other transaction begins a generation
    lock: str  # what a transaction adds to a query of the generation that it depends on

    def connect(self, *, make: bool) -> Any:
        """Returns a connection outside a transaction; None where there is no database, and `make` is not set."""

    def run(self, connection: Any, statement: str, values: Sequence[Any] = ()) -> Any:
        """Returns the cursor of a statement with `?` for its values."""

    def each(self, connection: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement with each of these values."""

    def listed(self, keys: Sequence[str]) -> Any: ...
    def insert(self, connection: Any, topology: str, number: int, entries: Mapping[str, bytes], expires: int) -> None: ...
    def refused(self, error: BaseException) -> str:
        """Returns what an error means: "missing" for a table that is not there, "login", "away", or "" for none of the database's."""


class SqlStore:
    """See `Store`. `timeout` is in seconds, for each statement."""

    def __init__(self, address: Address, *, timeout: float, clock: Callable[[], float] = time.time) -> None:
        self.where = address.shown
        self._database: _Database = _Sqlite(address, timeout) if address.scheme == "sqlite" else _Postgres(address, timeout)
        self._idle: LifoQueue[Any] = LifoQueue()
        self._clock = clock

    def begin(self, topology: str, about: str) -> int:
        """See `Store.begin`."""
        with self._connected(make=True) as run:
            for table in _TABLES:
                run(table.format(text=self._database.text, blob=self._database.blob))
        with self._transaction() as run:
            if self._database.alone:
                run(self._database.alone)
            # Greater than that of the generation that was being built, too: its run may still try to write.
            number = int(run("SELECT coalesce(max(number), 0) FROM penstock_generations WHERE topology = ?", (topology,)).fetchone()[0]) + 1
            run("DELETE FROM penstock_generations WHERE topology = ? AND NOT live", (topology,))
            run("INSERT INTO penstock_generations VALUES (?, ?, ?, ?, ?, 0, 0)", (topology, number, False, about, b""))
        self._sweep(topology)
        return number

    def building(self, topology: str) -> Building | None:
        """See `Store.building`."""
        found = self._rows("SELECT number, about, progress FROM penstock_generations WHERE topology = ? AND NOT live", (topology,))
        return Building(int(found[0][0]), found[0][1], bytes(found[0][2])) if found else None

    def write(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> None:
        """See `Store.write`."""
        with self._transaction() as run:
            self._require(run, topology, number)
            self._insert(run, topology, number, entries, ttl)

    def _insert(self, run: _Run, topology: str, number: int, entries: Sequence[Entry], ttl: int) -> None:
        self._database.insert(run.connection, topology, number, dict(entries), int(self._clock()) + ttl if ttl else 0)

    def _require(self, run: _Run, topology: str, number: int, *, live: bool = False) -> None:
        if run(_REQUIRE + self._database.lock, (topology, number, live)).fetchone() is None:
            raise Superseded(topology, number)

    def keep(self, topology: str, number: int, progress: bytes) -> None:
        """See `Store.keep`."""
        with self._transaction() as run:
            self._require(run, topology, number)
            run("UPDATE penstock_generations SET progress = ? WHERE topology = ? AND number = ?", (progress, topology, number))

    def activate(self, topology: str, number: int, *, since: float, ttl: int = 0) -> None:
        """See `Store.activate`."""
        with self._transaction() as run:
            self._require(run, topology, number)
            run("DELETE FROM penstock_generations WHERE topology = ? AND live", (topology,))
            changed = "UPDATE penstock_generations SET live = ?, progress = ?, since = ?, ttl = ? WHERE topology = ? AND number = ?"
            run(changed, (True, b"", since, ttl, topology, number))
        self._sweep(topology)

    def _sweep(self, topology: str) -> None:
        """Removes the answers of generations that are no longer there, in short statements."""
        count = _TURN
        while count == _TURN:
            with self._connected() as run:
                count = run(_SWEEP, (topology, topology, _TURN)).rowcount

    def live(self, topology: str) -> Generation | None:
        """See `Store.live`."""
        return self.read(topology, ()).live

    def read(self, topology: str, keys: Sequence[str]) -> Read:
        """See `Store.read`."""
        statement = _READ.format(asked=self._database.asked)
        found = self._rows(statement, (self._database.listed(keys), int(self._clock()), topology))
        if not found:
            return Read(None, [None] * len(keys))
        answers = {row[4]: bytes(row[5]) for row in found if row[4] is not None}
        return Read(Generation(int(found[0][0]), *found[0][1:4]), [answers.get(key) for key in keys])

    def add(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> bool:
        """See `Store.add`."""
        try:
            with self._transaction() as run:
                self._require(run, topology, number, live=True)
                self._insert(run, topology, number, entries, ttl)
        except Superseded:
            return False
        return True

    def scan(self, topology: str, number: int, limit: int) -> Iterator[Entry]:
        """See `Store.scan`."""
        for key, answer in self._rows(_SCAN, (topology, number, int(self._clock()), limit)):
            yield key, bytes(answer)

    def miss(self, topology: str, events: Mapping[str, bytes]) -> None:
        """See `Store.miss`."""
        with self._transaction() as run:
            room = MISSES - int(run("SELECT count(*) FROM penstock_misses WHERE topology = ?", (topology,)).fetchone()[0])
            rows = [(topology, key, event) for key, event in events.items()][: max(room, 0)]
            self._database.each(run.connection, _MISS, rows)

    def misses(self, topology: str) -> dict[str, bytes]:
        """See `Store.misses`."""
        return {key: bytes(event) for key, event in self._rows("SELECT key, event FROM penstock_misses WHERE topology = ?", (topology,))}

    def forget(self, topology: str, keys: Sequence[str]) -> None:
        """See `Store.forget`."""
        statement = f"DELETE FROM penstock_misses WHERE topology = ? AND key {self._database.among}"  # noqa: S608  of constants
        with self._connected() as run:
            run(statement, (topology, self._database.listed(keys)))

    def close(self) -> None:
        """See `Store.close`."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _rows(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """Returns the rows of a query; none where there is no database yet, or no table."""
        try:
            with self._connected() as run:
                return list(run(statement, values).fetchall())
        except _Missing:
            return []

    @contextmanager
    def _transaction(self) -> Iterator[_Run]:
        with self._connected() as run:
            run("BEGIN IMMEDIATE" if isinstance(self._database, _Sqlite) else "BEGIN")
            try:
                yield run
            except BaseException:
                run("ROLLBACK")
                raise
            run("COMMIT")

    @contextmanager
    def _connected(self, *, make: bool = False) -> Iterator[_Run]:
        """Gives a connection that no other thread uses. Raises the errors of the contract."""
        connection = None
        try:
            try:
                connection = self._idle.get_nowait()
            except Empty:
                if (connection := self._database.connect(make=make)) is None:
                    raise _Missing(f"the store {self.where} is not there yet: `penstock precompute` makes it") from None
            yield _Run(self._database, connection)
            self._idle.put(connection)
        except BaseException as error:
            if connection is not None:
                self._database_close(connection)
            match self._database.refused(error):
                case "missing":
                    raise _Missing(f"the store {self.where} has no tables yet: `penstock precompute` makes them") from error
                case "login":
                    fix = "set store_password_file, or PENSTOCK_STORE_PASSWORD"
                    raise AccessRefused(f"the store {self.where} refuses the login or the command: {_line(error)}; {fix}") from error
                case "away":
                    raise TransportUnavailable(f"the store {self.where} does not answer: {_line(error)}") from error
                case "setup":
                    raise ConfigError(f"the store {self.where}: {_line(error)}") from error
            raise

    def _database_close(self, connection: Any) -> None:
        try:
            connection.close()
        except Exception as error:  # what it is, the caller decides by the first error
            if not self._database.refused(error):
                raise


class _Missing(ConfigError):
    """There is no table: nothing was computed yet."""


class _Run:
    """A connection, called with statements."""

    def __init__(self, database: _Database, connection: Any) -> None:
        self.connection = connection
        self._database = database

    def __call__(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._database.run(self.connection, statement, values)


class _Sqlite:
    text, blob, alone, lock = "TEXT", "BLOB", "", ""
    asked = "json_each(?) AS asked"
    among = "IN (SELECT value FROM json_each(?))"

    def __init__(self, address: Address, timeout: float) -> None:
        self._path = Path(address.path[1:])
        self._timeout = timeout

    def connect(self, *, make: bool) -> Any:
        if not make and not self._path.exists():
            return None
        uri = f"file:{self._path.absolute().as_posix().replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=rwc"
        connection = sqlite3.connect(uri, uri=True, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def run(self, connection: Any, statement: str, values: Sequence[Any] = ()) -> Any:
        return connection.execute(statement, values)

    def each(self, connection: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        connection.executemany(statement, rows)

    def listed(self, keys: Sequence[str]) -> Any:
        return json.dumps(list(keys))

    def insert(self, connection: Any, topology: str, number: int, entries: Mapping[str, bytes], expires: int) -> None:
        rows = ((topology, number, key, answer, expires) for key, answer in entries.items())
        connection.executemany(_INSERT.format(values="VALUES (?, ?, ?, ?, ?)"), rows)

    def refused(self, error: BaseException) -> str:
        if isinstance(error, sqlite3.OperationalError) and "no such table" in str(error):
            return "missing"
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return "away"
        return "setup" if isinstance(error, sqlite3.Error) else ""


class _Postgres:
    text, blob, lock = 'TEXT COLLATE "C"', "BYTEA", " FOR SHARE"
    alone = "LOCK TABLE penstock_generations IN SHARE ROW EXCLUSIVE MODE"
    asked = "unnest(?::text[]) AS asked (value)"
    among = "= ANY(?)"

    def __init__(self, address: Address, timeout: float) -> None:
        import psycopg  # its library is an extra

        self._psycopg = psycopg
        self._timeout = timeout
        tls = {} if address.cafile is None else {"sslmode": "verify-full", "sslrootcert": str(address.cafile)}
        login = {"user": address.username, "password": address.password.reveal()}
        self._arguments: dict[str, Any] = {"conninfo": address.bare, **{name: value for name, value in login.items() if value}, **tls}

    def connect(self, *, make: bool) -> Any:
        silence = max(round(self._timeout * 1000), 1)
        connection = self._psycopg.connect(
            **self._arguments, autocommit=True, connect_timeout=max(2, round(self._timeout)), tcp_user_timeout=silence
        )
        connection.execute(f"SET statement_timeout = {silence}")
        return connection

    def run(self, connection: Any, statement: str, values: Sequence[Any] = ()) -> Any:
        return connection.execute(statement.replace("?", "%s"), values, binary=True)

    def each(self, connection: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(statement.replace("?", "%s"), rows)  # one round trip, in pipeline mode

    def listed(self, keys: Sequence[str]) -> Any:
        return list(keys)

    def insert(self, connection: Any, topology: str, number: int, entries: Mapping[str, bytes], expires: int) -> None:
        rows = "SELECT %s, %s, key, answer, %s FROM unnest(%s::text[], %s::bytea[]) AS rows (key, answer)"
        connection.execute(_INSERT.format(values=rows), (topology, number, expires, list(entries), list(entries.values())), binary=True)

    def refused(self, error: BaseException) -> str:
        errors = self._psycopg.errors
        if isinstance(error, errors.UndefinedTable):
            return "missing"
        text = str(error)
        login = "authentication failed" in text or "no password supplied" in text
        if login or isinstance(error, errors.InsufficientPrivilege | errors.InvalidAuthorizationSpecification):
            return "login"
        if isinstance(error, errors.InvalidCatalogName) or ("database" in text and "does not exist" in text):
            return "setup"
        return "away" if isinstance(error, self._psycopg.OperationalError | self._psycopg.InterfaceError) else ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
