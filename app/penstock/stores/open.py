"""Opens the store that the settings name. The library of a store is imported when it is opened."""

from __future__ import annotations

from penstock.errors import ConfigError
from penstock.settings import Settings
from penstock.stores.address import EXTRAS, address
from penstock.stores.base import Store

__all__ = ["open_store"]


def open_store(settings: Settings, *, timeout: float | None = None) -> Store:
    """Returns the store at the setting `store`. `timeout` is in seconds; None: that of the setting `store_timeout`, for lookups.

    Nothing is connected yet. Raises SettingsError for an address, ConfigError for a library that is not installed.
    """
    at = address(settings)
    timeout = settings.store_timeout if timeout is None else timeout
    try:
        match at.scheme:
            case "redis" | "rediss":
                from penstock.stores.redis import RedisStore

                return RedisStore(at, timeout=timeout)
            case "cassandra":
                from penstock.stores.cassandra import CassandraStore

                return CassandraStore(at, timeout=timeout)
            case _:
                from penstock.stores.sql import SqlStore

                return SqlStore(at, timeout=timeout)
    except ImportError as error:
        extra = EXTRAS[at.scheme]
        raise ConfigError(f"the store {at.shown} needs its library: pip install 'penstock[{extra}]' ({error})") from error
