"""Answers in Redis, or in what speaks its protocol, such as Valkey: one server, or one behind a name that moves to its replica.

    penstock:TOPOLOGY:live              the live generation, as JSON
    penstock:TOPOLOGY:answer:N:KEY      an answer of generation N, as JSON
    penstock:TOPOLOGY:building          a hash: the generation that is being built, and its progress
    penstock:TOPOLOGY:last              the number of the last generation that was begun
    penstock:TOPOLOGY:misses            a hash: events without an answer, by key

A read is one transaction (GET, MGET), so that it sees one generation. Redis Cluster is not supported: its transactions cannot do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock.errors import AccessRefused, ConfigError, TransportUnavailable
from penstock.stores.address import Address
from penstock.stores.base import MISSES, Building, Entry, Generation, Read, Superseded

__all__ = ["RedisStore"]

_TURN: Final = 1000  # answers in one round trip of a write, keys in one of a removal
# Compares and switches in one step: Redis runs a script alone.
_ACTIVATE: Final = """
if redis.call('HGET', KEYS[1], 'number') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
return 1
"""
_KEEP: Final = """
if redis.call('HGET', KEYS[1], 'number') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'progress', ARGV[2])
return 1
"""


class RedisStore:
    """See `Store`. `timeout` is in seconds, for each answer of the server."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        self.where = address.shown
        self._numbers: dict[str, int] = {}  # the generations that were live last, by topology
        login = {"username": address.username or None, "password": address.password.reveal() or None}
        tls: dict[str, Any] = {"ssl_ca_certs": str(address.cafile)} if address.cafile is not None and address.scheme == "rediss" else {}
        try:
            self._redis: Any = redis.Redis.from_url(
                address.bare, **login, **tls, socket_timeout=timeout, socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 1),  # for a connection that the server has closed in between
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"the store {self.where}: {error}") from error

    def begin(self, topology: str, about: str) -> int:
        """See `Store.begin`."""
        with self._reaching():
            number = int(self._redis.incr(_name(topology, "last")))
            with self._redis.pipeline(transaction=True) as both:
                both.delete(_name(topology, "building"))
                both.hset(_name(topology, "building"), mapping={"number": number, "about": about})
                both.execute()
            self._sweep(topology)
        return number

    def building(self, topology: str) -> Building | None:
        """See `Store.building`."""
        with self._reaching():
            found = self._redis.hgetall(_name(topology, "building"))
        if not found:
            return None
        return Building(int(found[b"number"]), found[b"about"].decode(), found.get(b"progress", b""))

    def write(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> None:
        """See `Store.write`. What a run that was superseded has written is removed with the next generation."""
        with self._reaching():
            for at in range(0, len(entries), _TURN):
                with self._redis.pipeline(transaction=False) as turn:
                    turn.hget(_name(topology, "building"), "number")
                    self._set(turn, topology, number, entries[at : at + _TURN], ttl)
                    if turn.execute()[0] != b"%d" % number:
                        raise Superseded(topology, number)

    def _set(self, turn: Any, topology: str, number: int, entries: Sequence[Entry], ttl: int) -> None:
        start = _name(topology, f"answer:{number}:")
        if not ttl:
            turn.mset({start + key: answer for key, answer in entries})
            return
        for key, answer in entries:
            turn.set(start + key, answer, ex=ttl)

    def keep(self, topology: str, number: int, progress: bytes) -> None:
        """See `Store.keep`."""
        with self._reaching():
            if not self._redis.eval(_KEEP, 1, _name(topology, "building"), number, progress):
                raise Superseded(topology, number)

    def activate(self, topology: str, number: int, *, since: float, ttl: int = 0) -> None:
        """See `Store.activate`."""
        found = self.building(topology)
        if found is None or found.number != number:
            raise Superseded(topology, number)
        live = msgspec.json.encode(Generation(number, found.about, since, ttl))
        with self._reaching():
            if not self._redis.eval(_ACTIVATE, 2, _name(topology, "building"), _name(topology, "live"), number, live):
                raise Superseded(topology, number)
            self._sweep(topology)

    def _sweep(self, topology: str) -> None:
        """Removes the answers of all generations but the live one and the one that is being built."""
        start = _name(topology, "answer:")
        live, building = self.live(topology), self.building(topology)
        kept = tuple(f"{start}{one.number}:".encode() for one in (live, building) if one is not None)
        gone: list[bytes] = []
        for name in self._redis.scan_iter(match=f"{start}*", count=_TURN):
            if not name.startswith(kept):
                gone.append(name)
            if len(gone) == _TURN:
                self._redis.unlink(*gone)
                gone.clear()
        if gone:
            self._redis.unlink(*gone)

    def live(self, topology: str) -> Generation | None:
        """See `Store.live`."""
        with self._reaching():
            return _generation(self._redis.get(_name(topology, "live")))

    def read(self, topology: str, keys: Sequence[str]) -> Read:
        """See `Store.read`. The generation is that of the last read; only when it has changed, a second round trip follows."""
        number = self._numbers.get(topology, 0)
        while True:
            with self._reaching(), self._redis.pipeline(transaction=bool(keys)) as once:
                once.get(_name(topology, "live"))
                if keys:
                    start = _name(topology, f"answer:{number}:")
                    once.mget([start + key for key in keys])
                found = once.execute()
            live = _generation(found[0])
            if live is None:
                return Read(None, [None] * len(keys))
            if live.number == number or not keys:
                return Read(live, cast(list[bytes | None], found[1] if keys else []))
            number = self._numbers[topology] = live.number

    def add(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> bool:
        """See `Store.add`."""
        with self._reaching(), self._redis.pipeline(transaction=True) as turn:
            turn.get(_name(topology, "live"))
            self._set(turn, topology, number, entries, ttl)
            live = _generation(turn.execute()[0])
            if live is not None and live.number == number:
                return True
            self._redis.unlink(*(_name(topology, f"answer:{number}:{key}") for key, _ in entries))
            return False

    def scan(self, topology: str, number: int, limit: int) -> Iterator[Entry]:
        """See `Store.scan`."""
        start = _name(topology, f"answer:{number}:")
        seen: set[bytes] = set()  # SCAN may give a name twice
        turn: list[bytes] = []
        with self._reaching():
            for name in self._redis.scan_iter(match=f"{start}*", count=_TURN):
                if name not in seen:
                    seen.add(name)
                    turn.append(name)
                if len(turn) == _TURN or len(seen) >= limit:
                    yield from self._named(turn, len(start.encode()))
                    turn.clear()
                if len(seen) >= limit:
                    return
            yield from self._named(turn, len(start.encode()))

    def _named(self, names: Sequence[bytes], start: int) -> Iterator[Entry]:
        for name, answer in zip(names, self._redis.mget(names) if names else (), strict=True):
            if answer is not None:
                yield name[start:].decode(), answer

    def miss(self, topology: str, events: Mapping[str, bytes]) -> None:
        """See `Store.miss`."""
        name = _name(topology, "misses")
        with self._reaching():
            room = MISSES - int(self._redis.hlen(name))
            with self._redis.pipeline(transaction=False) as turn:
                for key, event in list(events.items())[: max(room, 0)]:
                    turn.hsetnx(name, key, event)
                turn.execute()

    def misses(self, topology: str) -> dict[str, bytes]:
        """See `Store.misses`."""
        with self._reaching():
            return {key.decode(): event for key, event in self._redis.hgetall(_name(topology, "misses")).items()}

    def forget(self, topology: str, keys: Sequence[str]) -> None:
        """See `Store.forget`."""
        with self._reaching():
            for at in range(0, len(keys), _TURN):
                self._redis.hdel(_name(topology, "misses"), *keys[at : at + _TURN])

    def close(self) -> None:
        """See `Store.close`."""
        self._redis.close()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            fix = "set store_password_file, or PENSTOCK_STORE_PASSWORD"
            raise AccessRefused(f"the store {self.where} refuses the login or the command: {error}; {fix}") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise TransportUnavailable(f"the store {self.where} does not answer: {error}") from error
        except redis.ResponseError as error:
            if str(error).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
                raise AccessRefused(f"the store {self.where} refuses the login or the command: {error}") from error
            raise TransportUnavailable(f"the store {self.where} refuses a command: {error}") from error


def _name(topology: str, what: str) -> str:
    return f"penstock:{topology}:{what}"


def _generation(found: bytes | None) -> Generation | None:
    try:
        return None if found is None else msgspec.json.decode(found, type=Generation)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the live generation in the store is not one of ours: {error}") from error
