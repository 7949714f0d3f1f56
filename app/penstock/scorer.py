"""A topology in a program: events in, answers out, through the models and the loop of a worker, without Kafka.

    plan = penstock.open("topologies/flights.yaml")
    answer = plan.score({"flight_id": "A", "dep_delay": 413, ...})

What a program gives is what a producer would write, and what it gets is what the sinks would write.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar, cast, overload

import msgspec
import numpy as np

from penstock import runtime
from penstock import settings as configuration
from penstock.batch import Batch, Failure
from penstock.codecs import event_reader
from penstock.codecs.raw import WHOLE
from penstock.codecs.schema_registry import open_schema_registry
from penstock.edge.folder import is_edge
from penstock.edge.folder import load as load_edge
from penstock.engine import Stage
from penstock.engine.observe import Observers
from penstock.errors import ConfigError, DecodeError, RecordError
from penstock.pipeline import Pace
from penstock.pipeline.letters import OWN
from penstock.pipeline.ports import ports
from penstock.record import Record
from penstock.runners.memory import InMemory
from penstock.runtime import Loaded
from penstock.schema import REQUIRED, Schema
from penstock.settings import Settings
from penstock.topology.find import find
from penstock.topology.names import did_you_mean
from penstock.topology.spec import Source

__all__ = ["Scorer", "open"]

FAILURE: Final = "failure"  # the column with the reasons
SOURCE: Final = f"{OWN}source"  # the header of an output with the place of its input
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD: Final = re.compile(r"(\w+)[.\[]")  # of a path: after.amount, items[0]
_NULLS: Final = frozenset(("NAType", "NaTType"))  # of pandas
_BYTES: Final = (bytes, bytearray, memoryview)
_SAME: Final = frozenset((str, int, bool, type(None)))  # what JSON holds as it is
_UNITS: Final = {"ms": "milliseconds", "us": "microseconds"}


class _Columns(Protocol):
    @property
    def columns(self) -> Any: ...


Frame = TypeVar("Frame", bound=_Columns)
Key = str | bytes | Mapping[str, Any]
Headers = Mapping[str, str | bytes]


def open(
    topology: str | Path,
    *,
    models: str | Path | None = None,
    schemas: str | Path | None = None,
    model_trust: str | Path | None = None,
    config: str | Path | None = None,
) -> Scorer:
    """Opens a topology for scoring: `topology` is its file, its name in the folder of topologies, or a folder of `penstock export edge`.

    What is left out is as on the command line: from the environment, then from `config` or `penstock.toml`, else the default (`models`
    and `schemas` are folders here). The models are those that the file names; releases are not followed. They are verified and warmed
    up, as on a worker. An exported folder has models and schemas of its topology, and is refused where it differs from what was exported.
    Raises SettingsError, TopologyError with every problem, ConfigError for an unknown name or a changed folder, ModelError.
    """
    given = {"models": models, "schemas": schemas, "model_trust": model_trust}
    flags = {name: None if value is None else Path(value) for name, value in given.items()}
    settings = configuration.load(flags, file=None if config is None else Path(config))
    if is_edge(topology):
        if named := [name for name in ("models", "schemas") if flags[name] is not None]:
            raise ConfigError(f"{topology} is an exported folder with its own {' and '.join(named)}: leave them out")
        return Scorer(*load_edge(Path(topology), settings))
    loaded = runtime.load(
        find(topology, settings.topologies),
        models=settings.models,
        schemas=settings.schemas,
        schema_registry=open_schema_registry(settings),
    )
    return Scorer(loaded, settings)


class Scorer:
    """An open topology. `open` makes it; `close`, or the end of a `with` block, frees its models.

    Threads may share it: their calls wait for one another. `topology` is what it was made from.
    """

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        program = runtime.prepare(loaded, settings)
        self.topology = loaded.topology
        written = {sink.topic for sink in self.topology.sinks}
        stages = program.plan.stages
        self._entries = {
            one.name: _Entry(one, loaded.schemas[one.name], _reached(one, stages.values()))
            for one in self.topology.sources
            if one.topic not in written
        }
        self._readers = {one.name: event_reader(one.format, loaded.sink_schemas.get(one.name)) for one in self.topology.sinks}
        self._watch = _Watch()
        self._lock = threading.Lock()
        self._inside: InMemory | None = InMemory(
            # Sources read JSON, whatever producers write there: a program gives events, not bytes.
            replace(program, ports=ports(loaded.wiring, loaded, json=self._entries)),
            {one.source.topic: one.name for one in loaded.wiring.stages},
            pace=Pace(chunk_rows=settings.chunk_rows),
            observers=Observers([self._watch]),
        )

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the models, once the calls of other threads have ended. A closed topology scores nothing more."""
        with self._lock:
            if self._inside is not None:
                self._inside.close()
                self._inside = None

    @overload
    def score(
        self,
        events: Mapping[str, Any],
        *,
        source: str | None = None,
        key: Key | Sequence[Key | None] | None = None,
        headers: Headers | Sequence[Headers | None] | None = None,
    ) -> dict[str, Any]: ...
    @overload
    def score(
        self,
        events: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]],
        *,
        source: str | None = None,
        key: Sequence[Key | None] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[dict[str, Any] | Failure]: ...
    @overload
    def score(
        self,
        events: Frame,
        *,
        source: str | None = None,
        key: Iterable[Key | None] | None = None,
        headers: Iterable[Headers | None] | None = None,
    ) -> Frame: ...
    def score(self, events: Any, *, source: str | None = None, key: Any = None, headers: Any = None) -> Any:
        """Returns the answers to events of a source, in kind and in order. `source` may be left out where there is one to choose.

        - An event, as a mapping of its fields: its answer, a dict of the sink's fields. Raises RecordError for an event without an
          answer: DecodeError when it does not fit the schema, InferenceError when a model refuses it, EncodeError.
          The answer to a change that its source's envelope skips is empty, and so is its row in columns. So are they where the `when`
          of the one sink leaves out the event; one of several sinks is not in the answer then.
        - A list of events, or an iterator over them: a list with the answer of each, or its Failure, whose `error` is the RecordError.
        - Columns, as a mapping from field to list or array, with one value per event: a dict of lists, by the sink's fields (one inside a
          record by its path). For an event without an answer they hold None. The list `failure` has the reason, and None for each event
          with an answer. A mapping is taken as columns when all of its values are lists, one of them that of a field that holds no array.
        - A DataFrame of pandas or polars: a DataFrame of the same columns; of pandas, with the same index.

        `key` and `headers` are what the record of an event has beside it: a key as text, as bytes, or as a mapping of the fields of the
        source's key schema; headers as a mapping from name to value. Of a list, columns or a frame, they are lists with one for each
        event, or None. What is not given is null.

        Where the events reach several sinks, an answer has one dict per sink, by its name, and a column is named SINK.FIELD. An event
        that reaches some of its sinks and fails for another one has failed.

        An event may hold what JSON holds, and numpy's numbers and arrays; NaN, and NA and NaT of pandas, are null; a timestamp may be
        a datetime (without a zone: UTC). In columns and frames, whole numbers may be floats, as pandas makes them beside a missing one.

        Raises ValueError for a source that is not there, and for columns, keys and headers of different lengths, TypeError for anything
        else, RuntimeError when closed.
        """
        entry = self._entry(source)
        if isinstance(events, Mapping):
            if (rows := entry.rows(events)) is not None:
                return entry.columns(self._answers(entry, rows, key, headers))
            (answer,) = self._answers(entry, [events], [key], [headers])
            if isinstance(answer, Failure):
                raise answer.error
            return answer
        if hasattr(events, "to_dicts"):  # polars
            return type(events)(entry.columns(self._answers(entry, entry.whole(events.to_dicts()), key, headers)))
        if hasattr(events, "to_dict"):  # pandas
            answers = self._answers(entry, entry.whole(events.to_dict("records")), key, headers)
            return type(events)(entry.columns(answers), index=events.index)
        if isinstance(events, str | bytes) or not isinstance(events, Iterable):
            raise TypeError(f"events are mappings, a list of them, columns, or a DataFrame, not {type(events).__name__}")
        return self._answers(entry, events, key, headers)

    def _entry(self, name: str | None) -> _Entry:
        if name is None and len(self._entries) == 1:
            return next(iter(self._entries.values()))
        if name is None:
            raise ValueError(f"{self.topology.name} has several sources: name one of them, source={' or '.join(map(repr, self._entries))}")
        if name not in self._entries:
            raise ValueError(f"{self.topology.name} has no source {name!r} to give events to; {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def _answers(self, entry: _Entry, events: Iterable[Mapping[str, Any]], keys: Any, headers: Any) -> list[dict[str, Any] | Failure]:
        given = list(events)
        beside = zip(_each("keys", keys, len(given)), _each("headers", headers, len(given)), strict=True)
        written = [entry.record(event, *others) for event, others in zip(given, beside, strict=True)]
        failed: dict[int, RecordError] = {row: one for row, one in enumerate(written) if isinstance(one, RecordError)}
        with self._lock:
            if self._inside is None:
                raise RuntimeError(f"{self.topology.name} is closed: open it again")
            topics = self._inside.topics
            try:
                appended = ((topics.append(one), row) for row, one in enumerate(written) if isinstance(one, Record))
                rows = {_place(record): row for record, row in appended}
                self._inside.run()
                answers: list[dict[str, Any]] = [{} for _ in written]
                for stage in entry.stages:
                    for topic, sinks in _by_topic(stage).items():
                        self._collect(stage, sinks, topics.records(topic), rows, answers)
                for place, error in self._watch.seen:
                    failed.setdefault(rows[place], error)
            finally:
                topics.clear()
                self._watch.clear()
        only = entry.sinks[0] if len(entry.sinks) == 1 else ""
        return [Failure(row, failed[row]) if row in failed else one.get(only, {}) if only else one for row, one in enumerate(answers)]

    def _collect(
        self, stage: Stage, sinks: Sequence[str], records: Iterable[Record], rows: dict[bytes, int], answers: Sequence[dict[str, Any]]
    ) -> None:
        """Adds what the stage wrote to the topic of these sinks to the answers; `rows` has the event of each place, and gets more."""
        origin = f"{stage.wired.source.topic}/".encode()
        turns: Counter[bytes] = Counter()
        for record in records:
            came = next(value for name, value in record.headers if name == SOURCE) or b""
            if not came.startswith(origin):
                continue  # another stage writes to the topic, too
            row = rows[_place(record)] = rows[came]
            # The sinks of one topic write one after the other. (Where one of them has failed, so has the event.)
            wrote = [one for one in sinks if (came, one) not in self._watch.left_out] or sinks
            sink = wrote[min(turns[came], len(wrote) - 1)]
            turns[came] += 1
            answers[row][sink] = self._readers[sink](record.value or b"")


class _Entry:
    """A source that a program gives events to, the stages that they go through in order, and the sinks that they reach."""

    def __init__(self, source: Source, schema: Schema, stages: Sequence[Stage]) -> None:
        self.source = source
        self.stages = stages
        self._fields = {output.emit.sink.name: [field.name for field in output.emit.fields] for stage in stages for output in stage.outputs}
        self.sinks = [*self._fields]
        self._times = [(field.name, timedelta(**{_UNITS[field.unit]: 1})) for field in schema.fields if field.kind == "timestamp"]
        self._whole = [field.name for field in schema.fields if field.kind in ("int", "long", "timestamp")]
        self._defaulted = [field.name for field in schema.fields if field.default is not REQUIRED and not field.optional]
        self._names = {name for field in schema.fields for name in (field.name, *field.aliases)}
        self._single = {field.name for field in schema.fields if field.kind not in ("array", "record", "map")}

    def record(self, event: Any, key: Any, headers: Any) -> Record | DecodeError:
        """Returns the event as a record with its value in JSON, and with this key and these headers; or why it cannot be one."""
        value = self._value(event)
        if isinstance(value, DecodeError):
            return value
        try:
            return Record(self.source.topic, value, _key(key), [(_text(name), _bytes(one)) for name, one in (headers or {}).items()])
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            return DecodeError(
                f"the key is text, bytes, or a mapping of its fields, and headers are a mapping from names to text or bytes: {error}"
            )

    def _value(self, event: Any) -> bytes | DecodeError:
        if not isinstance(event, Mapping):
            raw = f': {{"{WHOLE}": ...}}' if self.source.format == "bytes" else ""
            return DecodeError(f"an event is a mapping of its fields{raw}, not {type(event).__name__}")
        plain = dict(event)
        try:
            for name, unit in self._times:
                if isinstance(plain.get(name), datetime | np.datetime64):
                    plain[name] = _ticks(plain[name], unit)
            for name, value in plain.items():
                if (kind := type(value)) in _SAME or (kind is float and math.isfinite(value)):
                    continue
                if isinstance(value, _BYTES) and self.source.format == "bytes":
                    plain[name] = [*bytes(value)]
                elif (found := _odd(value)) is not None:
                    return DecodeError(f"the field {name} {'is' if found is value else 'holds'} {found!r}, which no event holds")
            return _JSON.encode(plain)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:  # ValueError: also for text that is not Unicode
            return DecodeError(f"the event cannot be written as JSON: {error}")

    def rows(self, given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Returns the events of columns; None when the mapping is an event."""
        columns = {name: listed for name, values in given.items() if (listed := _listed(values)) is not None}
        if len(columns) < len(given) or self._single.isdisjoint(columns):
            return None
        if len({len(values) for values in columns.values()}) > 1:
            raise ValueError("columns of different lengths: " + ", ".join(f"{name} has {len(values)}" for name, values in columns.items()))
        return self.whole([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])

    def whole(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Makes events of the rows of columns: whole numbers where a column had to hold floats, no nulls where a default replaces them.

        Raises ValueError for a column called by the path of a field inside another one: nothing would read it.
        """
        for name in rows[0] if rows else ():
            head = _HEAD.match(str(name))
            if head is not None and name not in self._names and head[1] in self._names:
                raise ValueError(f"the column {name!r} is inside the field {head[1]!r}: give a column {head[1]!r} of mappings or lists")
        for row in rows:
            for name in self._whole:
                value = row.get(name)
                if isinstance(value, float) and value.is_integer():
                    row[name] = int(value)
            for name in self._defaulted:
                if name in row and _is_null(row[name]):
                    del row[name]
        return rows

    def columns(self, answers: Sequence[dict[str, Any] | Failure]) -> dict[str, list[Any]]:
        """Returns the answers by the fields of the sinks, and the reasons of the failures."""
        made: dict[str, list[Any]] = {}
        for sink, names in self._fields.items():
            for name in names:
                found = (None if isinstance(one, Failure) else one if len(self._fields) == 1 else one.get(sink, {}) for one in answers)
                made[name if len(self._fields) == 1 else f"{sink}.{name}"] = [_inside(one, name) for one in found]
        if FAILURE in made:
            raise ValueError(f"the sink {self.sinks[0]} has a field {FAILURE!r}, as the column with the reasons: give a list of events")
        return {**made, FAILURE: [str(one.error) if isinstance(one, Failure) else None for one in answers]}


def _each(what: str, given: Any, count: int) -> Sequence[Any]:
    """Returns what was given for each event; None for each when nothing was. Raises ValueError for another number of them."""
    if given is None:
        return [None] * count
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"{what} of several events are a list with one for each of them, not {type(given).__name__}")
    listed = list(given)
    if len(listed) != count:
        raise ValueError(f"{len(listed)} {what} for {count} events: give one for each, or None")
    return listed


def _key(key: Any) -> bytes | None:
    if key is None or isinstance(key, str | bytes):
        return None if key is None else _bytes(key)
    if (found := _odd(key)) is not None:
        raise TypeError(f"no key holds {found!r}")
    written = _JSON.encode(key)
    if written != b"null" and not isinstance(key, Mapping):
        raise TypeError(f"{key!r} is something else")
    return None if written == b"null" else written  # NaN and NA too


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str | bytes):
        raise TypeError(f"{text!r} is something else")
    return text.encode() if isinstance(text, str) else bytes(text)


def _is_null(value: Any) -> bool:
    return value is None or type(value).__name__ in _NULLS or (isinstance(value, float) and value != value)


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is something else")
    name.encode()
    return name


def _odd(value: Any) -> Any:
    """Returns what the value holds, or is, and JSON would change: infinity to null, and bytes to base64; None for nothing.

    Raises RecursionError for a value inside itself.
    """
    if type(value) is list and (kinds := {*map(type, value)}) == {float}:
        return None if math.isfinite(sum(value)) else next(filter(math.isinf, value), None)
    if type(value) is list and kinds <= _SAME:
        return None
    if isinstance(value, Mapping):
        return next((found for one in value.values() if (found := _odd(one)) is not None), None)
    if isinstance(value, list | tuple | set | frozenset):
        return next((found for one in value if (found := _odd(one)) is not None), None)
    return value if isinstance(value, _BYTES) or (isinstance(value, float) and math.isinf(value)) else None


def _inside(answer: Any, path: str) -> Any:
    """Returns the field at the path of an answer; None where it has none."""
    for name in path.split("."):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


class _Watch:
    """Notes the place of each record that failed, and why; and each that a sink's `when` leaves out, with the sink."""

    name = "scorer"

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, RecordError]] = []
        self.left_out: set[tuple[bytes, str]] = set()

    def clear(self) -> None:
        self.seen.clear()
        self.left_out.clear()

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        """See `Observer.saw`."""
        chosen = [(output.emit.sink.name, output.emit.when) for output in stage.outputs if output.emit.when is not None]
        if not (failures or chosen) or batch.origin is None:
            return
        places = [one.replace(":", "/").encode() for one in batch.origin.positions]
        self.seen += [(places[one.row], one.error) for one in failures]
        numbers = np.arange(batch.size) if batch.rows is None else batch.rows
        for sink, when in chosen if batch.size else ():
            self.left_out.update((places[row], sink) for row in numbers[~batch.columns[when]].tolist())


def _reached(source: Source, stages: Iterable[Stage]) -> list[Stage]:
    """Returns the stages that events of the source go through; `stages` stand after those that feed them."""
    topics, reached = {source.topic}, []
    for stage in stages:
        if stage.wired.source.topic in topics:
            reached.append(stage)
            topics |= _by_topic(stage).keys()
    return reached


def _by_topic(stage: Stage) -> dict[str, list[str]]:
    """Returns the names of the stage's sinks by their topic, in the order in which they are written."""
    topics: dict[str, list[str]] = {}
    for output in stage.outputs:
        topics.setdefault(output.emit.sink.topic, []).append(output.emit.sink.name)
    return topics


def _place(record: Record) -> bytes:
    """Returns the place of a record, as the header of its outputs names it."""
    return f"{record.topic}/{record.partition}/{record.offset}".encode()


def _listed(values: Any) -> Sequence[Any] | None:
    """Returns a column as a list: of a list, a tuple, an array, a series; None for one value."""
    if isinstance(values, list | tuple):
        return values
    if getattr(values, "ndim", 0) and hasattr(values, "tolist"):
        return cast(list[Any], values.tolist())
    return cast(list[Any], values.to_list()) if hasattr(values, "to_list") else None


def _ticks(value: Any, unit: timedelta) -> int | None:
    """Returns the time in units since the epoch; None for none."""
    if value != value:  # NaT
        return None
    moment: Any = value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value
    if not isinstance(moment, datetime):
        raise ValueError(f"{value!r} is no time between the years 1 and 9999")
    since = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment) - _EPOCH
    return int(since // unit)


def _plain(value: Any) -> Any:
    """Returns what JSON can hold instead of what it cannot. Raises TypeError."""
    if isinstance(value, np.ndarray | np.generic):
        made = value.tolist()
        if (found := _odd(made)) is not None:
            raise TypeError(f"no event holds {found!r}")
        return made
    if isinstance(value, Mapping):
        return dict(value)
    if type(value).__name__ in _NULLS:
        return None
    raise TypeError(f"it holds a {type(value).__name__}")


_JSON: Final = msgspec.json.Encoder(enc_hook=_plain)
