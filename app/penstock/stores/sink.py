"""The sink of a run that computes answers: outputs become entries of a store, written behind the scoring, in order.

The outputs of one event to all sinks are one answer, by the key that the sink KEY writes. An event that fails for one of them has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from penstock.errors import ConfigError, DeliveryFailed, PenstockError, Problem
from penstock.parcel import Parcel
from penstock.runtime import Loaded
from penstock.stores.base import Entry, Store
from penstock.stores.programs import KEY, TOPIC, Key
from penstock.transports.base import Abilities, Refused, Sent
from penstock.transports.checkpoint import Checkpoint, Part, Unit
from penstock.transports.tracker import Span

__all__ = ["Progress", "StoreSink"]

_TURN: Final = 5000  # answers in one write
_AHEAD: Final = 20_000  # answers that may wait for the store
Place = tuple[int, int]  # partition and offset of the event


class StoreSink:
    """Makes answers of what `computing` writes. `write` stores them; it blocks, and runs in a thread.

    `loaded` is the topology itself. `first` is the reason of the first dead letter, and `written` counts the answers.
    """

    abilities: Final = Abilities(replay=True)

    def __init__(self, loaded: Loaded, write: Callable[[Sequence[Entry]], None]) -> None:
        self.written = 0
        self.first = ""
        self._write = write
        self._key = Key.of(loaded)
        wanted = loaded.topology.precomputed
        self._inputs = wanted.fields if wanted is not None and wanted.on_miss == "nearest" else ()
        self._sinks = {f"{TOPIC}{sink.name}": msgspec.json.encode(sink.name) for sink in loaded.topology.sinks}
        self._waiting: list[tuple[list[Entry], Sent]] = []
        self._rows = 0
        self._room = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def limit(self, topic: str) -> int:
        """See `Sink.limit`: the size of an answer is not limited here."""
        return 1 << 62

    def fits(self, parcel: Parcel) -> bool:
        """See `Sink.fits`."""
        return True

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """See `Sink.partition_for`: there is one."""
        return 0

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        """See `Sink.send`. An event whose key cannot be made is refused."""
        failed: set[Place] = set()
        for parcel in parcels:
            if parcel.dead:
                failed.update((parcel.partition, one.offset) for one in parcel.inputs)
                self._note(parcel)
        sent = Sent(1)
        entries = self._entries(parcels, failed, sent)
        self._waiting.append((entries, sent))
        self._rows += len(entries)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._drain())
        while self._rows > _AHEAD and not self._writing.done():
            self._room.clear()
            await self._room.wait()
        return sent

    def _note(self, parcel: Parcel) -> None:
        if not self.first and parcel.extra:
            said = dict(parcel.extra[0])
            self.first = (said.get("__streams.errors.message") or b"").decode(errors="replace")

    def _entries(self, parcels: Sequence[Parcel], failed: set[Place], sent: Sent) -> list[Entry]:
        keys: dict[Place, str] = {}
        inputs: dict[Place, Sequence[Any]] = {}
        answers: dict[Place, list[bytes]] = {}
        for parcel in parcels:
            if parcel.dead:
                continue
            assert parcel.identity is not None  # every output has one
            partition = int(parcel.identity[1].split(":")[1])
            for at, (one, value) in enumerate(zip(parcel.inputs, parcel.values, strict=True)):
                place = partition, one.offset
                if place in failed:
                    continue
                if parcel.topic != KEY:
                    answers.setdefault(place, []).append(b"%b:%b" % (self._sinks[parcel.topic], value or b"null"))
                    continue
                try:
                    keys[place], inputs[place] = self._key.make(value or b"")
                except ValueError as error:
                    sent.refused.append(Refused(parcel.part(at, at + 1), str(error)))
        return [(key, self._stored(answers.get(place, []), inputs[place])) for place, key in keys.items()]

    def _stored(self, written: Sequence[bytes], inputs: Sequence[Any]) -> bytes:
        """Returns an answer as `nearest.Stored` reads it; sinks whose `when` left the event out are null, and so left away."""
        made = b'{"sinks":{%b}' % b",".join(written)
        return made + (b',"inputs":%b}' % msgspec.json.encode(dict(zip(self._inputs, inputs, strict=True))) if self._inputs else b"}")

    async def _drain(self) -> None:
        while self._waiting:
            turn: list[tuple[list[Entry], Sent]] = []
            entries: list[Entry] = []
            while self._waiting and len(entries) < _TURN:
                turn.append(self._waiting.pop(0))
                entries += turn[-1][0]
            error: BaseException | None = None
            try:
                if entries:
                    await asyncio.to_thread(self._write, entries)
                self.written += len(entries)
            except PenstockError as problem:
                error = problem
            except Exception as bug:  # noqa: BLE001  the loop has to know, whatever it is
                error = DeliveryFailed(f"the answers could not be written: {bug}")
            self._rows -= len(entries)
            self._room.set()
            for _, sent in turn:
                sent.settle(error)

    def due(self) -> bool:
        """Returns True: a position is finished only when its answers are stored, so there is nothing to wait for."""
        return True

    def commit(self) -> list[Part]:
        """Returns no files."""
        return []


class Progress(msgspec.Struct):
    """The progress of a run as it is kept in the store, beside the generation that it builds: what the run is, and how far it has come.

    `files` are those of the input, with their bytes; `written` counts the answers of all runs together.
    """

    about: dict[str, str]
    units: list[Unit] = []
    files: list[tuple[str, int]] = []
    written: int = 0

    @classmethod
    def read(cls, data: bytes, about: Mapping[str, str], where: str) -> Progress:
        """Returns the progress of an earlier run. Raises ConfigError for one of a run with another `about`."""
        found = msgspec.json.decode(data, type=cls)
        for name, value in about.items():
            if (before := found.about.get(name, "")) != value:
                message = f"the run to resume has another {name}: {before or 'none'}, not {value or 'none'}"
                raise ConfigError(Problem(where, 0, 0, message, "resume it with what it was started with, or begin anew without --resume"))
        return found

    def reads(self, files: Sequence[tuple[str, int]]) -> None:
        """Notes the files that are read. Raises ConfigError where an earlier run has read others: positions are counted by them."""
        if self.units and [*files] != self.files:
            before, now = dict(self.files), dict(files)
            name = next((one for one in (*before, *now) if before.get(one) != now.get(one)), "")
            what = "is gone" if name not in now else "is new" if name not in before else "has changed"
            raise ConfigError(Problem(name, 0, 0, f"{what} since the run to resume has begun", "begin anew without --resume"))
        self.files = [*files]

    def checkpoint(self, store: Store, topology: str, number: int) -> Checkpoint:
        """Returns the checkpoint of a run from here on, which `store` keeps."""

        def keep(units: Sequence[Unit], _: Sequence[Part]) -> None:
            store.keep(topology, number, msgspec.json.encode(Progress(self.about, [*units], self.files, self.written)))

        return Checkpoint(self.units, keep)
