"""The rows of a database, by ADBC: they are written to a file once, so that a run that goes on finds the same rows in the same order."""

from __future__ import annotations

import importlib
import os
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from penstock.errors import AccessRefused, ConfigError, Problem, TransportError, TransportUnavailable
from penstock.transports.files.places import Place, arrow, without_password

__all__ = ["fetch", "is_database"]


class _Driver(NamedTuple):
    """A module of ADBC, and how to install it."""

    module: str
    package: str


_POSTGRES: Final = _Driver("adbc_driver_postgresql.dbapi", "adbc-driver-postgresql")
_DRIVERS: Final = {"sqlite": _Driver("adbc_driver_sqlite.dbapi", "adbc-driver-sqlite"), "postgresql": _POSTGRES, "postgres": _POSTGRES}


def is_database(name: str) -> bool:
    """Whether an input is a database: `sqlite:///flights.db#flights`, or `postgresql://host/database#flights`."""
    scheme, found, _ = name.partition("://")
    return bool(found) and scheme in _DRIVERS


def fetch(name: str, query: str | None, place: Place, *, most: int | None = None) -> None:
    """Writes the rows of a table, or those of `query`, to an Arrow file; with `most`, not many more than so many.

    Raises ConfigError for an address or a query that cannot be meant, TransportUnavailable and AccessRefused for the database.
    """
    address, _, table = name.partition("#")
    shown = without_password(address)
    if bool(table) is (query is not None):
        raise ConfigError(Problem(shown, 0, 0, "either a table or a query is read", "add #TABLE to the address, or give --query"))
    driver = _DRIVERS[address.partition("://")[0]]
    try:
        dbapi = importlib.import_module(driver.module)
    except ImportError:
        raise ConfigError(f"this needs {driver.package}, which is not installed: pip install 'penstock[batch]'") from None
    parts = urlsplit(address)
    where = unquote(parts.path[1:]) if parts.scheme == "sqlite" else urlunsplit(parts)
    if parts.scheme == "sqlite":
        if not os.path.isfile(where):  # SQLite says "failed to allocate memory"
            raise ConfigError(Problem(shown, 0, 0, "cannot be read: No such file or directory", "sqlite:////srv/x.db is an absolute path"))
        where = f"file:{quote(where)}?mode=ro"  # a name that is misspelt would be a new database
    pa = arrow()
    try:
        with dbapi.connect(where) as connection, connection.cursor() as cursor:
            cursor.execute(query or f"SELECT * FROM {_quoted(unquote(table))}")  # noqa: S608  a name in quotes
            reader = cursor.fetch_record_batch()
            with place.create() as file, pa.ipc.new_file(file, reader.schema) as writer:
                rows = 0
                for batch in reader:
                    writer.write_batch(batch)
                    rows += batch.num_rows
                    if most is not None and rows >= most:
                        break
    except dbapi.ProgrammingError as error:
        raise ConfigError(Problem(shown, 0, 0, f"cannot be queried: {_said(error)}", "check the table or the query")) from error
    except dbapi.Error as error:
        said = _said(error)
        if "password authentication failed" in said or "permission denied" in said:
            raise AccessRefused(f"{shown}: {said}") from error
        if "connect" in said or "unable to open" in said:
            raise TransportUnavailable(f"{shown} cannot be read: {said}") from error
        raise TransportError(f"{shown} cannot be read: {said}") from error


def _quoted(table: str) -> str:
    """Returns the name of a table, with that of its schema before a dot, so that it is nothing but a name."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in table.split("."))


def _said(error: Exception) -> str:
    return " ".join(without_password(str(error)).split())[:300]
