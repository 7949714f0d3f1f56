"""Answers from a store first: which rows have one, which have to be scored, and what the store learns from those.

    found = lookup.find(rows)              # or await lookup.search(rows)
    ...                                    # score found.rows, and nothing else
    lookup.learn(found, scored)

The outcome of each row is one of

    hit         the answer is in the live generation, which these models computed
    stale       it was computed by other models, or another version of the file, and is no older than `stale` allows
    miss        it is not there: score the row
    nearest, default, unknown     it is not there, and the topology's `on_miss` gives this in its place
    fallback    the store did not answer in time, or holds nothing that may be served: score the row
    unkeyed     the row has no key: score it, which says why

A store that failed is not asked for RETRY seconds, so that its absence costs nothing. Waits are bounded by `timeout`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from penstock.batch import Table
from penstock.binding import Binding
from penstock.errors import PenstockError
from penstock.pipeline.answers import Answer as Written
from penstock.pipeline.answers import Answers
from penstock.record import RecordLike
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.stores.base import Generation, Read, Store
from penstock.stores.nearest import LIMIT, Nearest, Space, Stored
from penstock.stores.open import open_store
from penstock.stores.programs import KEY, Key, about, asking, copied_fields, copying, key_fields, required
from penstock.telemetry import Metrics

__all__ = ["OUTCOMES", "Answer", "Found", "Lookup", "open_lookup"]

OUTCOMES: Final = ("hit", "stale", "miss", "nearest", "default", "unknown", "fallback", "unkeyed")
RETRY: Final = 1.0  # seconds
START: Final = 2.0  # seconds that the first question to a store may take
_WAITING: Final = 64  # batches to be learnt from; further ones are dropped
_THREADS: Final = 4
_IN_PLACE: Final = ("default", "unknown")  # what `on_miss` gives without scoring
_TO_SCORE: Final = ("miss", "fallback", "unkeyed")
logger = logging.getLogger(__name__)

Fields = Mapping[str, Any]


def open_lookup(
    loaded: Loaded, settings: Settings, *, bindings: Mapping[str, Binding] | None = None, metrics: Metrics | None = None
) -> Lookup | None:
    """Returns the lookup in the store that the settings name; None where they name none.

    Raises SettingsError for its address, ConfigError for its library, TopologyError for a topology without the section `precomputed`.
    """
    if not settings.store:
        return None
    required(loaded.topology)
    store = open_store(settings)
    lookup = Lookup(loaded, store, timeout=settings.store_timeout, bindings=bindings, metrics=metrics)
    lookup.ready()
    return lookup


class Answer(NamedTuple):
    """An answer and its outcome: the fields of each sink, None for one whose `when` leaves the event out."""

    outcome: str
    sinks: Mapping[str, Fields | None]


class Found(NamedTuple):
    """What became of the rows: `answers` by row, and the `rows` to score; `outcomes` of all rows, in order."""

    answers: Mapping[int, Answer]
    rows: Sequence[int]
    outcomes: Sequence[str]
    asked: _Asked
    live: Generation | None
    about: str


class _Asked(NamedTuple):
    """The rows that have a key: by row, the key, its values, and by sink what is copied from the event."""

    events: Sequence[RecordLike]
    keys: Mapping[int, str]
    values: Mapping[int, Sequence[Any]]
    copies: Mapping[str, Mapping[int, Fields]]


class Lookup:
    """The answers of a topology in a store. Threads and event loops may share it.

    `bindings` are the models that score now (None: those of the file). `timeout` is in seconds. Raises TopologyError for a topology without
    the section `precomputed`.
    """

    def __init__(
        self,
        loaded: Loaded,
        store: Store,
        *,
        timeout: float,
        bindings: Mapping[str, Binding] | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loaded, self._store, self._timeout, self._clock = loaded, store, timeout, clock
        self._wanted = required(loaded.topology)
        self._topology = loaded.topology.name
        (source,) = loaded.topology.sources
        self._asking = Answers(asking(loaded), source.name)
        whole = copying(loaded) if self._wanted.entity is not None and self._wanted.on_miss in _IN_PLACE else None
        self._copying = None if whole is None else Answers(whole, source.name)
        self._key = Key.of(loaded)
        copied = copied_fields(loaded)
        self._sinks = {sink.name: [name for name, _ in sink.fields] for sink in loaded.topology.sinks}
        self._own = self._sinks
        if self._wanted.entity is None:
            self._own = {name: [one for one in names if one not in copied[name]] or names[:1] for name, names in self._sinks.items()}
        self._about = "" if loaded.absent and bindings is None else about(loaded, bindings)
        self._metrics = metrics or Metrics()
        self._lock = threading.Lock()  # of the program that reads keys
        self._counting = threading.Lock()
        self._asks = ThreadPoolExecutor(_THREADS, thread_name_prefix="lookup")
        self._learns = ThreadPoolExecutor(1, thread_name_prefix="lookup-learn")
        self._waiting = threading.BoundedSemaphore(_WAITING)
        self._away_until = 0.0
        self._told = ""  # why events are scored
        self._space = Space(key_fields(loaded), self._wanted.decimals, self._wanted.scale) if self._wanted.on_miss == "nearest" else None
        self._nearest: Nearest | None = None
        self._indexing: Future[None] | None = None
        self.counts: Counter[str] = Counter()

    def serving(self, bindings: Mapping[str, Binding]) -> None:
        """From now on these models score: answers of others are stale."""
        self._about = about(self._loaded, bindings)

    def find(self, rows: Sequence[RecordLike], about: str = "") -> Found:
        """Looks the rows up, records with JSON values or a Table. Waits at most the timeout for the store; raises nothing for it.

        `about` is the digest of what scores in this call (`programs.about`), where a swap may be under way; "": that of `serving`.
        """
        about = about or self._about
        asked = self._ask(rows)
        began = time.perf_counter()
        reading = self._reading(asked)
        read: Read | None = None
        try:
            read = None if reading is None else reading.result(self._timeout)
        except Exception as error:  # noqa: BLE001  whatever the store's client raises, the events are scored
            self._failed(error)
        return self._judged(asked, read, about, began)

    async def search(self, rows: Sequence[RecordLike], about: str = "") -> Found:
        """Does what `find` does, and waits without holding the event loop."""
        about = about or self._about
        asked = self._ask(rows)
        began = time.perf_counter()
        reading = self._reading(asked)
        read: Read | None = None
        try:
            if reading is not None:
                read = await asyncio.wait_for(asyncio.wrap_future(reading), self._timeout)
        except Exception as error:  # noqa: BLE001  whatever the store's client raises, the events are scored
            self._failed(error)
        return self._judged(asked, read, about, began)

    def learn(self, found: Found, scored: Mapping[int, Mapping[str, Fields | None]]) -> None:
        """Writes the answers of rows that were misses back, and records misses for the next run; behind the caller's back, in a thread.

        `scored` has the fields of each sink, by row; rows that failed are not in it.
        """
        live = found.live
        missing = [row for row, outcome in enumerate(found.outcomes) if outcome in ("miss", "nearest", "default", "unknown")]
        if live is None or not missing or live.about != found.about:
            return
        entries = [(found.asked.keys[row], self._stored(found.asked, row, scored[row])) for row in missing if row in scored]
        events = {found.asked.keys[row]: event for row in missing if (event := found.asked.events[row].value) is not None}
        if not self._waiting.acquire(blocking=False):
            return  # the store is slower than the misses come: they come again
        self._learns.submit(self._write, live, entries, events)

    def close(self) -> None:
        """Waits for what is to be written, and ends the store's connections."""
        self._asks.shutdown(wait=False, cancel_futures=True)
        self._learns.shutdown(wait=True)
        self._store.close()

    # -- asking ----------------------------------------------------------------------------------------------------

    def _ask(self, rows: Sequence[RecordLike]) -> _Asked:
        with self._lock:
            answered = self._asking.run(rows)
        keys: dict[int, str] = {}
        values: dict[int, Sequence[Any]] = {}
        written = answered.answers[KEY]
        for row, value in zip(written.rows, written.values, strict=True):
            try:
                keys[row], values[row] = self._key.make(value)
            except ValueError:
                continue  # it has no key: scoring it gives the reason, if it fails
        copies = {name: _fields(one) for name, one in answered.answers.items() if name != KEY}
        return _Asked(rows, keys, values, copies)

    def _copied(self, asked: _Asked, rows: Sequence[int]) -> Mapping[str, Mapping[int, Fields]]:
        """Returns, by sink and row, what is copied of the whole events; nothing for an event that cannot be read."""
        if self._copying is None or not rows:
            return {}
        events = asked.events
        with self._lock:
            answered = self._copying.run(events.take(np.array(rows)) if isinstance(events, Table) else [events[row] for row in rows])
        return {name: {rows[at]: found for at, found in _fields(one).items()} for name, one in answered.answers.items()}

    def _reading(self, asked: _Asked) -> Future[Read] | None:
        if not asked.keys or time.monotonic() < self._away_until:
            return None
        return self._asks.submit(self._store.read, self._topology, list(asked.keys.values()))

    def _failed(self, error: BaseException) -> None:
        self._metrics.lookup_failures.inc()
        if time.monotonic() >= self._away_until:
            self._tell(f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else str(error))
        self._away_until = time.monotonic() + RETRY

    def _tell(self, why: str) -> None:
        """Logs why all events are scored ("": they are looked up), each time that it changes."""
        told, self._told = self._told, why
        if why and why != told:
            logger.warning("lookups in %s: %s; events are scored", self._store.where, why)
        elif told and not why:
            logger.info("lookups in %s: events are looked up", self._store.where)

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judged(self, asked: _Asked, read: Read | None, about: str, began: float) -> Found:
        served = None if read is None else self._served(read.live, about)
        found = dict(zip(asked.keys, read.answers, strict=True)) if read is not None and served else {}
        missing = [row for row in asked.keys if served and (found[row] is None or _decoded(found[row] or b"") is None)]
        copied = self._copied(asked, missing)
        answers: dict[int, Answer] = {}
        outcomes = []
        for row in range(len(asked.events)):
            if row not in asked.keys:
                outcomes.append("unkeyed")
            elif not served:
                outcomes.append("fallback")
            else:
                outcome, answer = self._one(asked, row, found[row], served, read.live if read else None, copied)
                if answer is not None:
                    answers[row] = Answer(outcome, answer)
                outcomes.append(outcome)
        with self._counting:
            for outcome, count in Counter(outcomes).items():
                self.counts[outcome] += count
                self._metrics.lookups.labels(outcome).inc(count)
            self._metrics.lookup_seconds.observe(time.perf_counter() - began)
        to_score = [row for row, outcome in enumerate(outcomes) if outcome in _TO_SCORE]
        return Found(answers, to_score, outcomes, asked, read.live if read is not None else None, about)

    def _served(self, live: Generation | None, about: str) -> str:
        """Returns what answers of this generation are: "hit", "stale", or "" when they may not be served."""
        if live is None:
            self._tell(f"no generation of {self._topology} is live there (`penstock precompute` computes one)")
            return ""
        if live.about == about or self._clock() - live.since < self._wanted.stale:
            self._tell("")
            return "hit" if live.about == about else "stale"
        self._tell(f"generation {live.number} is of other models, or another topology file (`penstock precompute` computes a new one)")
        return ""

    def _one(
        self,
        asked: _Asked,
        row: int,
        answer: bytes | None,
        served: str,
        live: Generation | None,
        copied: Mapping[str, Mapping[int, Fields]],
    ) -> tuple[str, Mapping[str, Fields | None] | None]:
        if answer is not None and (stored := _decoded(answer)) is not None:
            return served, self._whole(asked, row, stored.sinks)
        policy = self._wanted.on_miss
        if policy in _IN_PLACE:
            given = self._wanted.default if policy == "default" else {}
            sinks = {name: _nested({one: given.get(one) for one in names}) for name, names in self._sinks.items()}
            for name, fields in sinks.items():
                _merged(fields, copied.get(name, {}).get(row, {}))
            return policy, self._whole(asked, row, sinks)
        if policy == "nearest" and (index := self._index(live)) is not None and (near := index.find(asked.values[row])) is not None:
            return policy, self._whole(asked, row, _STORED.decode(near).sinks)
        return "miss", None

    def _whole(self, asked: _Asked, row: int, sinks: Mapping[str, dict[str, Any] | None]) -> Mapping[str, Fields | None]:
        """Returns an answer with what its sinks copy from the event that asks."""
        whole: dict[str, Fields | None] = {}
        for name in self._sinks:
            fields = sinks.get(name)
            copies = asked.copies.get(name, {}).get(row)
            whole[name] = fields if fields is None or copies is None else _picked(_merged(fields, copies), self._sinks[name])
        return whole

    def _stored(self, asked: _Asked, row: int, sinks: Mapping[str, Fields | None]) -> bytes:
        """Returns an answer as it is kept: without what its sinks copy from the event."""
        kept = {name: None if (found := sinks.get(name)) is None else _picked(found, names) for name, names in self._own.items()}
        inputs = dict(zip(self._space.names, asked.values[row], strict=True)) if self._space is not None else None
        return _ENCODE(Stored(kept, inputs))

    def _index(self, live: Generation | None) -> Nearest | None:
        """Returns the index of the live generation; None while it is made, in a thread."""
        if live is None or self._space is None:
            return None
        if self._nearest is not None and self._nearest.number == live.number:
            return self._nearest
        if self._indexing is None or self._indexing.done():
            self._indexing = self._asks.submit(self._load, live.number)
        return None

    def _load(self, number: int) -> None:
        assert self._space is not None
        try:
            self._nearest = Nearest(self._space, number, self._store.scan(self._topology, number, LIMIT + 1))
        except PenstockError as error:
            self._failed(error)

    def ready(self) -> None:
        """Logs where all events will be scored, and waits until the index of the nearest answers is made, where there is one.

        Raises nothing: without a store, events are scored.
        """
        try:
            live = self._asks.submit(self._store.live, self._topology).result(max(self._timeout, START))
        except Exception as error:  # noqa: BLE001  whatever the store's client raises, the events are scored
            self._failed(error)
            return
        if self._about or live is None:  # what scores is known
            self._served(live, self._about)
        if self._space is None:
            return
        if self._index(live) is None and self._indexing is not None:
            self._indexing.result()

    # -- learning --------------------------------------------------------------------------------------------------

    def _write(self, live: Generation, entries: Sequence[tuple[str, bytes]], events: Mapping[str, bytes]) -> None:
        try:
            if time.monotonic() < self._away_until:
                return
            if entries and self._wanted.on_miss in ("score", "nearest") and self._store.add(self._topology, live.number, entries, live.ttl):
                self._metrics.lookup_written.inc(len(entries))
            self._store.miss(self._topology, events)
        except Exception as error:  # noqa: BLE001  an error in this thread is reported nowhere else
            self._failed(error)
        finally:
            self._waiting.release()


def _fields(written: Written) -> dict[int, Fields]:
    return dict(zip(written.rows, map(_DECODE, written.values), strict=True))


_DECODE: Final = msgspec.json.Decoder(dict[str, Any]).decode
_STORED: Final = msgspec.json.Decoder(Stored)
_ENCODE: Final = msgspec.json.Encoder().encode


def _decoded(answer: bytes) -> Stored | None:
    """Returns an answer; None for what is not one: it is a miss, and is written again."""
    try:
        return _STORED.decode(answer)
    except msgspec.DecodeError:
        return None


def _merged(fields: dict[str, Any], others: Fields) -> dict[str, Any]:
    for name, value in others.items():
        inside = fields.get(name)
        fields[name] = _merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
    return fields


def _nested(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields by path as records inside records."""
    made: dict[str, Any] = {}
    for path, value in paths.items():
        *heads, last = path.split(".")
        inside = made
        for head in heads:
            inside = inside.setdefault(head, {})
        inside[last] = value
    return made


def _picked(fields: Fields, paths: Sequence[str]) -> dict[str, Any]:
    return _nested({path: _inside(fields, path) for path in paths})


def _inside(fields: Any, path: str) -> Any:
    for name in path.split("."):
        fields = fields.get(name) if isinstance(fields, Mapping) else None
    return fields
