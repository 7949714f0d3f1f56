"""A topology in a program: events in, answers out, through the models and the loop of a worker, without Kafka.

    plan = penstock.open("topologies/flights.yaml")
    answer = plan.score({"flight_id": "A", "dep_delay": 413, ...})

What a program gives is what a producer would write, and what it gets is what the sinks would write.
"""

from __future__ import annotations

import math
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, overload

import numpy as np

from penstock import runtime
from penstock import settings as configuration
from penstock.batch import Array, Failure, Table
from penstock.binding import Binding
from penstock.codecs import event_reader
from penstock.codecs.raw import WHOLE
from penstock.codecs.schema_registry import open_schema_registry
from penstock.edge.folder import is_edge
from penstock.edge.folder import load as load_edge
from penstock.errors import ConfigError, DecodeError, RecordError
from penstock.given import BYTES, JSON, SAME, array_of, each, is_null, key_of, list_of, odd, text_of, ticks, to_bytes
from penstock.pipeline import Answered, Answers, Program
from penstock.record import Record, RecordLike
from penstock.runtime import Loaded
from penstock.schema import REQUIRED
from penstock.settings import Settings
from penstock.stores.lookup import Lookup, open_lookup
from penstock.stores.programs import about
from penstock.topology.find import find
from penstock.topology.names import did_you_mean
from penstock.topology.precomputed import OUTCOME

if TYPE_CHECKING:  # with the client of Kafka
    from penstock.worker.following import Followed
    from penstock.worker.reading import Reading

__all__ = ["Scored", "Scorer", "open"]

FAILURE: Final = "failure"  # the column with the reasons
_HEAD: Final = re.compile(r"(\w+)[.\[]")  # of a path: after.amount, items[0]
_UNITS: Final = {"ms": "milliseconds", "us": "microseconds"}


class _Columns(Protocol):
    @property
    def columns(self) -> Any: ...


class _Rows(Protocol):
    @property
    def schema(self) -> Any: ...
    @property
    def num_rows(self) -> int: ...


Frame = TypeVar("Frame", bound=_Columns)
Arrow = TypeVar("Arrow", bound=_Rows)
Key = str | bytes | Mapping[str, Any]
Headers = Mapping[str, str | bytes]


def open(
    topology: str | Path,
    *,
    models: str | Path | None = None,
    schemas: str | Path | None = None,
    model_trust: str | Path | None = None,
    store: str | None = None,
    config: str | Path | None = None,
    follow: str | None = None,
    on_change: Callable[[Followed], object] | None = None,
    **settings: Any,
) -> Scorer:
    """Opens a topology for scoring: `topology` is its file, its name in the folder of topologies, or a folder of `penstock export edge`.

    What is left out is as on the command line: from the environment, then from `config` or `penstock.toml`, else the default (`models`
    and `schemas` are folders here). `settings` are any others, by name, such as `trust` and `cache`. The models are those that the file
    names. They are verified and warmed up, as on a worker.

    `follow` names brokers, `localhost:9092`: then the models are those of the active release of the topology, and later releases replace
    them between two calls, made ready in a thread as on a worker. The program reads the control topic and writes nothing; no release waits
    for it. What it has read is kept in the folder `cache`, with the models: from there it starts while brokers and registry are away. A
    release that cannot be served here leaves the live one; `Scorer.followed` has the reason, and `on_change` is called with it, in the
    thread that follows. Control messages have to be signed by a key of the file `trust`, unless `unsigned_control=True`.

    An exported folder has models and schemas of its topology, and is refused where it differs from what was exported; it follows nothing.

    `store` is the address of precomputed answers, of a topology with that section: `score` looks there first.

    Raises SettingsError, TopologyError with every problem, ModelError, ConfigError for an unknown name, a changed folder and a trust file
    that cannot be used; with `follow` also ControlError when the active release cannot be served here, and TransportError when the brokers
    do not answer and nothing of the topology's releases is kept.
    """
    given = {"models": models, "schemas": schemas, "model_trust": model_trust, "brokers": follow, "store": store, **settings}
    chosen = configuration.load(given, file=None if config is None else Path(config), spelled=str)
    if is_edge(topology):
        if own := [name for name, value in (("models", models), ("schemas", schemas), ("follow", follow)) if value is not None]:
            raise ConfigError(f"{topology} is an exported folder, which has its models and schemas in it: leave out {' and '.join(own)}")
        return Scorer(*load_edge(Path(topology), chosen), store=store is not None)
    loaded = runtime.load(
        find(topology, chosen.topologies),
        models=chosen.models,
        schemas=chosen.schemas,
        absent=follow is not None,
        schema_registry=open_schema_registry(chosen),
        forgets="a program",
    )
    return Scorer(loaded, chosen, follow=follow is not None, on_change=on_change, store=store is not None)


class Scorer:
    """An open topology. `open` makes it; `close`, or the end of a `with` block, frees its models.

    Threads may share it: their calls wait for one another. `topology` is what it was made from. A call is answered by one generation,
    from its first row to its last. `lookup` finds precomputed answers: with `store`, or where the settings and the topology have them.
    """

    def __init__(
        self,
        loaded: Loaded,
        settings: Settings,
        *,
        follow: bool = False,
        on_change: Callable[[Followed], object] | None = None,
        store: bool = False,
    ) -> None:
        self.topology = loaded.topology
        written = {sink.topic for sink in self.topology.sinks}
        # Sources read JSON, whatever producers write there: a program gives events, not bytes.
        self._loaded = replace(loaded, json=frozenset(one.name for one in self.topology.sources if one.topic not in written))
        self._chunk_rows = settings.chunk_rows
        self._readers = {one.name: event_reader(one.format, loaded.sink_schemas.get(one.name)) for one in self.topology.sinks}
        self._lock, self._switching = threading.Lock(), threading.Lock()
        self._closed = False
        self._following: Reading | None = None
        self.lookup: Lookup | None = None
        looking = store or loaded.topology.precomputed is not None
        if not follow:
            self._take(runtime.prepare(self._loaded, settings), 0, runtime.bindings(self._loaded))
            self.lookup = open_lookup(self._loaded, settings) if looking else None
            return
        from penstock.worker.reading import Reading

        self._following = following = Reading(self._loaded, settings, on_change)
        following.switched = _weakly(self)
        following.start()
        self._end = weakref.finalize(self, following.close)  # of a program that does not close it, too
        self._switch()
        self.lookup = open_lookup(self._loaded, settings) if looking else None

    def _take(self, program: Program, generation: int, bindings: Mapping[str, Binding]) -> None:
        """Answers the calls that begin from now on with this program."""
        digest = "" if self.topology.precomputed is None else about(self._loaded, bindings)
        made = {
            name: _Entry(self._loaded, Answers(program, name, generation=generation, chunk_rows=self._chunk_rows), digest)
            for name in sorted(self._loaded.json)
        }
        self._entries, self._generation = made, generation

    def _switch(self) -> None:
        with self._switching:  # two at once could end with the earlier one
            if self._following is not None and not self._closed:
                live = self._following.deployment.primary
                self._take(live.program, live.generation, live.bindings)

    @property
    def generation(self) -> int:
        """The generation of the models that answer the next call; 0 for those of the topology file."""
        return self._generation

    @property
    def followed(self) -> Followed | None:
        """How current the models are, now: since when that is not confirmed, why, and what went wrong. None without `follow`."""
        return None if self._following is None else self._following.followed

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the models, once the calls of other threads have ended. A closed topology scores nothing more."""
        with self._lock:
            self._closed = True
            self._entries = {}
        if self._following is not None:
            self._end()
        if self.lookup is not None:
            self.lookup.close()

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

        Of a topology that was opened with a store, each answer has a field, or column, `precomputed`: its outcome (`stores.lookup`).

        Raises ValueError for a source that is not there, and for columns, keys and headers of different lengths, TypeError for anything
        else, RuntimeError when closed.
        """
        entry, looked = self._entry(source), self.lookup is not None
        if isinstance(events, Mapping):
            if (rows := entry.rows(events)) is not None:
                return entry.columns(self._answers(entry, rows, key, headers), looked=looked)
            (answer,) = self._answers(entry, [events], [key], [headers])
            if isinstance(answer, Failure):
                raise answer.error
            return answer
        if hasattr(events, "to_dicts"):  # polars
            return type(events)(entry.columns(self._answers(entry, entry.whole(events.to_dicts()), key, headers), looked=looked))
        if hasattr(events, "to_dict") and not hasattr(events, "columns"):
            raise TypeError("a Series of pandas is no event: give a frame of one row, df.iloc[[0]], or a mapping, row.to_dict()")
        if hasattr(events, "to_dict"):  # pandas
            answers = self._answers(entry, entry.whole(events.to_dict("records")), key, headers)
            return type(events)(entry.columns(answers, looked=looked), index=events.index)
        if isinstance(events, str | bytes) or not isinstance(events, Iterable):
            hint = ": score_table takes tables of Arrow" if hasattr(events, "num_rows") else ""
            raise TypeError(f"events are mappings, a list of them, columns, or a DataFrame, not {type(events).__name__}{hint}")
        return self._answers(entry, events, key, headers)

    def _entry(self, name: str | None) -> _Entry:
        entries = self._entries
        if self._closed:
            raise RuntimeError(f"{self.topology.name} is closed: open it again")
        if name is None and len(entries) == 1:
            return next(iter(entries.values()))
        if name is None:
            raise ValueError(f"{self.topology.name} has several sources: name one of them, source={' or '.join(map(repr, entries))}")
        if name not in entries:
            raise ValueError(f"{self.topology.name} has no source {name!r} to give events to; {did_you_mean(name, entries)}")
        return entries[name]

    def score_columns(self, columns: Mapping[str, Any], *, nulls: Mapping[str, Any] | None = None, source: str | None = None) -> Scored:
        """Returns the answers to rows that are columns already: arrays in, arrays out, and no row is written as text between them.

        `columns` has an array (or list) `[N, ...]` for each field, of a field inside another one by its path, `after.amount`; text is an
        array of str objects. `nulls` marks the rows of a field that are null, bool `[N]`; None in an object array, NaN and NaT are null as
        well. A null is what an absent field is where the schema has a default. A field may be left out if it has a default, or can be null.

        A row that does not fit is a Failure, and its neighbours are not affected. A topology that reads keys or headers gets null for them.
        Raises ValueError for an unknown source, for nulls of what is no column, for columns of different lengths and for a topology with
        several sinks, TypeError for what is no column, RuntimeError when closed.
        """
        entry = self._entry(source)
        answered = self._run(entry, entry.table(columns, nulls or {}), columns=True)
        answer = answered.answers[entry.only()]
        return Scored(dict(answer.columns), np.array(answer.rows, np.int64), [*answered.failures])

    def score_table(self, table: Arrow, *, source: str | None = None) -> Arrow:
        """Returns the answers to the rows of a pyarrow Table or RecordBatch, as one of the same kind with as many rows, in their order.

        Its columns are the fields of the sink (of several sinks, SINK.FIELD), null where a row has no answer, and `failure`: the reason
        why a row failed, null for the others. Columns of the table are fields by name, those of a struct by their path; text may be
        dictionary-encoded, a timestamp has any unit, and whole numbers may be floats. For the rest see `score_columns`.

        Raises ValueError for an unknown source and for a sink with a field `failure`, TypeError for anything but a table, RuntimeError when
        closed.
        """
        from penstock.codecs import arrow  # pyarrow is an extra

        entry = self._entry(source)
        if not hasattr(table, "schema") or not hasattr(table, "num_rows"):
            raise TypeError(f"a pyarrow Table or RecordBatch is scored, not {type(table).__name__}")
        answered = self._run(entry, arrow.ArrowReader(entry.schema, entry.reads).table(table, entry.source.topic), columns=True)
        fields = {entry.title(sink, field.name): (sink, field) for sink, field in entry.fields}
        if FAILURE in fields:
            raise ValueError(
                f"the sink {entry.sinks[0]} has a field {FAILURE!r}, as the column with the reasons: rename it in the topology"
            )
        made = {}
        for title, (sink, field) in fields.items():
            answer = answered.answers[sink]
            made[title] = arrow.column(answer.columns[field.name], field.dtype, field.shape, answer.rows, table.num_rows)
        reasons = {one.row: str(one.error) for one in answered.failures}
        made[FAILURE] = arrow.texts(reasons, table.num_rows)
        return type(table).from_arrays([*made.values()], names=[*made])  # type: ignore[attr-defined, no-any-return]  # both kinds have it

    def _run(self, entry: _Entry, rows: Sequence[RecordLike], *, columns: bool = False) -> Answered:
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self.topology.name} is closed: open it again")
            return entry.answers.run(rows, columns=columns)

    def _answers(self, entry: _Entry, events: Iterable[Mapping[str, Any]], keys: Any, headers: Any) -> list[dict[str, Any] | Failure]:
        given = list(events)
        beside = zip(each("keys", keys, len(given)), each("headers", headers, len(given)), strict=True)
        written = [entry.record(event, *others) for event, others in zip(given, beside, strict=True)]
        place = [row for row, one in enumerate(written) if isinstance(one, Record)]
        records = [one for one in written if isinstance(one, Record)]
        found = None if self.lookup is None else self.lookup.find(records, entry.about)
        scored = range(len(records)) if found is None else found.rows
        answered = self._run(entry, [records[at] for at in scored])
        failed: dict[int, RecordError] = {row: one for row, one in enumerate(written) if isinstance(one, RecordError)}
        failed |= {place[scored[one.row]]: one.error for one in answered.failures}
        answers: list[dict[str, Any]] = [{} for _ in written]
        for sink, answer in answered.answers.items():
            read = self._readers[sink]
            for row, value in zip(answer.rows, answer.values, strict=True):
                answers[place[scored[row]]][sink] = read(value)
        if self.lookup is not None and found is not None:
            self.lookup.learn(found, {at: answers[place[at]] for at in scored if place[at] not in failed})
            for at, stored in found.answers.items():
                answers[place[at]] = {sink: dict(fields) for sink, fields in stored.sinks.items() if fields is not None}
            for at, outcome in enumerate(found.outcomes):
                answer_of = answers[place[at]]
                (answer_of.setdefault(entry.sinks[0], {}) if len(entry.sinks) == 1 else answer_of)[OUTCOME] = outcome
        only = entry.sinks[0] if len(entry.sinks) == 1 else ""
        return [Failure(row, failed[row]) if row in failed else one.get(only, {}) if only else one for row, one in enumerate(answers)]


def _weakly(scorer: Scorer) -> Callable[[], None]:
    """Returns what takes the live program, if the scorer is still there: the thread that follows must not keep it."""
    seen = weakref.ref(scorer)

    def switch() -> None:
        if (there := seen()) is not None:
            there._switch()

    return switch


class Scored(NamedTuple):
    """The answers to columns: each field of the sink as an array of the rows that have an answer, `[A, ...]`; `rows` int64 `[A]`, the
    number of each of them in the columns given; and the rows that failed. A row in neither was skipped: by an envelope, or by `when`.
    """

    columns: dict[str, Array]
    rows: Array
    failures: list[Failure]

    def __repr__(self) -> str:
        return f"Scored({len(self.rows)} answers of {', '.join(self.columns)}; {len(self.failures)} failures)"


class _Entry:
    """A source that a program gives events to, what answers them, and the sinks that they reach."""

    def __init__(self, loaded: Loaded, answers: Answers, digest: str) -> None:
        self.answers = answers
        self.about = digest  # of what decides the answers; "" where none are precomputed
        self.source = answers.source
        self.schema = schema = loaded.schemas[self.source.name]
        self.sinks = answers.sinks
        self.fields = [(sink, field) for sink, output in answers.outputs.items() for field in output.emit.fields]
        self.reads = answers.reads
        self._times = [(field.name, timedelta(**{_UNITS[field.unit]: 1})) for field in schema.fields if field.kind == "timestamp"]
        self._whole = [field.name for field in schema.fields if field.kind in ("int", "long", "timestamp")]
        self._defaulted = [field.name for field in schema.fields if field.default is not REQUIRED and not field.optional]
        self._names = {name for field in schema.fields for name in (field.name, *field.aliases)}
        self._single = {field.name for field in schema.fields if field.kind not in ("array", "record", "map")}

    def only(self) -> str:
        """Returns the name of the one sink. Raises ValueError when there are several."""
        if len(self.sinks) > 1:
            raise ValueError(f"the events reach several sinks ({', '.join(self.sinks)}): use score or score_table")
        return self.sinks[0]

    def title(self, sink: str, field: str) -> str:
        """Returns the name of the column of a sink's field."""
        return field if len(self.sinks) == 1 else f"{sink}.{field}"

    def table(self, given: Any, nulls: Mapping[str, Any]) -> Table:
        """Returns the columns as rows. Raises ValueError, TypeError."""
        if not (isinstance(given, Mapping) and given):
            raise TypeError("columns are a mapping from the names of fields to arrays, and there is one at least")
        columns = {str(name): array_of(str(name), values) for name, values in given.items()}
        for name in nulls:
            if name not in columns:  # its nulls would be scored as the numbers that stand for them
                raise ValueError(f"nulls: there is no column {name!r}; {did_you_mean(str(name), columns)}")
        holes = {str(name): np.asarray(mask, bool) for name, mask in nulls.items()}
        if len({len(values) for values in (*columns.values(), *holes.values())}) > 1:
            lengths = ", ".join(f"{name} has {len(values)}" for name, values in (*columns.items(), *holes.items()))
            raise ValueError(f"columns of different lengths: {lengths}")
        for name, values in columns.items():
            if isinstance(values, np.ma.MaskedArray):
                holes[name] = np.ma.getmaskarray(values) | holes.get(name, False)
                columns[name] = values = values.data
            field = self.schema.field(name)
            if values.dtype.kind == "M" and (field is None or field.kind == "timestamp" or np.isnat(values).all()):
                holes[name] = np.isnat(values) | holes.get(name, False)
                since = np.where(holes[name], np.datetime64(0, "us"), values.astype("datetime64[us]")) - np.datetime64(0, "us")
                columns[name] = since // np.timedelta64(1, (field and field.unit) or "ms")
        return Table(self.source.topic, columns, holes)

    def record(self, event: Any, key: Any, headers: Any) -> Record | DecodeError:
        """Returns the event as a record with its value in JSON, and with this key and these headers; or why it cannot be one."""
        value = self._value(event)
        if isinstance(value, DecodeError):
            return value
        try:
            return Record(self.source.topic, value, key_of(key), [(text_of(name), to_bytes(one)) for name, one in (headers or {}).items()])
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
                    plain[name] = ticks(plain[name], unit)
            for name, value in plain.items():
                if (kind := type(value)) in SAME or (kind is float and math.isfinite(value)):
                    continue
                if isinstance(value, BYTES) and self.source.format == "bytes":
                    plain[name] = [*bytes(value)]
                elif (found := odd(value)) is not None:
                    return DecodeError(f"the field {name} {'is' if found is value else 'holds'} {found!r}, which no event holds")
            return JSON.encode(plain)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:  # ValueError: also for text that is not Unicode
            return DecodeError(f"the event cannot be written as JSON: {error}")

    def rows(self, given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Returns the events of columns; None when the mapping is an event."""
        columns = {name: listed for name, values in given.items() if (listed := list_of(values)) is not None}
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
                if isinstance(value, float | np.floating) and value.is_integer():
                    row[name] = int(value)
            for name in self._defaulted:
                if name in row and is_null(row[name]):
                    del row[name]
        return rows

    def columns(self, answers: Sequence[dict[str, Any] | Failure], *, looked: bool = False) -> dict[str, list[Any]]:
        """Returns the answers by the fields of the sinks, and the reasons of the failures; `looked` up, also where each is from."""
        made: dict[str, list[Any]] = {}
        for sink, field in self.fields:
            found = (None if isinstance(one, Failure) else one if len(self.sinks) == 1 else one.get(sink, {}) for one in answers)
            made[self.title(sink, field.name)] = [_inside(one, field.name) for one in found]
        if FAILURE in made:
            raise ValueError(f"the sink {self.sinks[0]} has a field {FAILURE!r}, as the column with the reasons: give a list of events")
        if looked:
            made[OUTCOME] = [None if isinstance(one, Failure) else one.get(OUTCOME) for one in answers]
        return {**made, FAILURE: [str(one.error) if isinstance(one, Failure) else None for one in answers]}


def _inside(answer: Any, path: str) -> Any:
    """Returns the field at the path of an answer; None where it has none."""
    for name in path.split("."):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer
