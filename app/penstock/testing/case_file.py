"""`NAME.test.yaml`: examples beside a topology. Each case has events for sources, rows for tables, and expected outputs of sinks and
dead-letter topics.

    topology: flights.yaml        # the default: the file of the same name without `.test`
    cases:
      - name: an early flight is on time
        given:
          departures:
            - {flight_id: A, dep_delay: -5, ...}               # an event
            - {event: {flight_id: B, ...}, key: k, headers: {x-request-id: r1}, timestamp: 1372675320000}
            - {raw: "not JSON"}                                # or {base64: ...}, or null for a tombstone
        expect:
          predictions:
            - {flight_id: A, score: {below: 0.2}}              # {above, below}, {near, within}, a value, a list of these
            - {flight_id: B}
          dead_letters:
            departures:
              - {message: malformed, stage: decode}            # a part of the message; the stage, or the node's name

Expectations are strict: the outputs must have this number and this order, and a sink or dead-letter topic that a case does
not name must stay empty. Fields that are not named may have any value. A number in place of a list checks only the count:
`predictions: 2`. The whole file is checked before any case runs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from penstock.codecs.writers import Registry
from penstock.errors import ConfigError, Problem
from penstock.record import Header, Record
from penstock.testing.cases import Case, Expected
from penstock.testing.driver import TopologyDriver
from penstock.testing.expect import Rule, contains, plain, rule
from penstock.topology.document import Listed, Mapped, Scalar, Value, read
from penstock.topology.names import did_you_mean
from penstock.topology.parse import text_of
from penstock.topology.spec import Mark, Source

__all__ = ["SUFFIX", "CaseFile", "read_cases"]

SUFFIX: Final = ".test.yaml"

_FORMS: Final = ("event", "raw", "base64")
_RECORD: Final = (*_FORMS, "key", "headers", "timestamp")
_LETTER: Final = ("message", "stage")


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A checked file of cases, and the driver of its topology, which runs them one after the other."""

    file: str
    driver: TopologyDriver
    cases: tuple[Case, ...]


def read_cases(
    path: str | Path, *, models: str | Path = "models", schemas: str | Path = "schemas", schema_registry: Registry | None = None
) -> CaseFile:
    """Reads the cases of the file, and creates the driver of its topology (see `TopologyDriver`).

    Raises ConfigError with every problem of the file; TopologyError and ModelError when the topology cannot be run.
    """
    file = str(path)
    root, problems = read(text_of(path, f"a file of cases (NAME{SUFFIX})"), file)
    if root is None or problems:
        raise ConfigError(problems)
    reader = _Reader(file)
    top = reader.keys(root, "the file", ("cases",), ("topology",))
    topology = reader.topology(Path(path), top.get("topology"))
    if topology is None or not top:
        raise ConfigError(sorted(reader.problems))
    driver = TopologyDriver(topology, models=models, schemas=schemas, schema_registry=schema_registry)
    cases = _Cases(file, driver, reader.problems).read(top.get("cases"))
    if reader.problems:
        raise ConfigError(sorted(reader.problems))
    return CaseFile(file, driver, cases)


class _Reader:
    """Unpacks marked values, and collects problems in `problems`."""

    def __init__(self, file: str, problems: list[Problem] | None = None) -> None:
        self.file = file
        self.problems: list[Problem] = [] if problems is None else problems

    def report(self, mark: Mark, message: str, fix: str = "") -> None:
        self.problems.append(Problem(self.file, mark.line, mark.column, message, fix))

    def unknown(self, key: Scalar, what: str, known: Iterable[str]) -> None:
        self.report(key.mark, f"unknown {what} {key.text!r}", did_you_mean(key.text, known))

    def mapping(self, value: Value | None, what: str, fix: str = "") -> tuple[tuple[Scalar, Value], ...]:
        """Returns the pairs of a non-empty mapping. For any other value, returns no pairs and reports a problem."""
        if isinstance(value, Mapped) and value.items:
            return value.items
        if value is not None:
            self.report(value.mark, f"{what} must be a mapping of at least one key", fix)
        return ()

    def keys(self, value: Value, what: str, required: Iterable[str], optional: Iterable[str]) -> dict[str, Value]:
        """Returns a mapping with fixed keys. Unknown keys are reported and omitted."""
        required, known = tuple(required), (*required, *optional)
        pairs = self.mapping(value, what, f"with the keys {', '.join(known)}")
        for key, _ in pairs:
            if key.text not in known:
                self.unknown(key, "key", known)
        found = {key.text: item for key, item in pairs if key.text in known}
        for name in required:
            if pairs and name not in found:
                self.report(value.mark, f"{what}: the key {name!r} is missing", f"add {name}:")
        return found

    def text(self, value: Value, what: str) -> str | None:
        if isinstance(value, Scalar) and isinstance(value.value, str) and value.value:
            return value.value
        self.report(value.mark, f"{what} must be text", f'quote it: "{value.text}"' if isinstance(value, Scalar) and value.text else "")
        return None

    def topology(self, path: Path, named: Value | None) -> Path | None:
        """Returns the topology's file: the given one, else the one with the same name without `.test`."""
        if named is not None:
            name = self.text(named, "topology")
            mark = named.mark
        else:
            name = path.name.removesuffix(SUFFIX) + ".yaml" if path.name.endswith(SUFFIX) else None
            mark = Mark(1, 1)
        if name is None:
            if named is None:
                self.report(mark, "the topology is missing", f"add topology: NAME.yaml, or name the file NAME{SUFFIX}")
            return None
        found = path.parent / name
        if not found.is_file():
            self.report(mark, f"there is no topology {found}", "add or correct topology: FILE, relative to this file")
            return None
        return found


class _Cases(_Reader):
    """Reads the cases of a file, by its topology and schemas."""

    def __init__(self, file: str, driver: TopologyDriver, problems: list[Problem]) -> None:
        super().__init__(file, problems)
        self.driver = driver
        topology = driver.topology
        self.sources = {source.name: source for source in topology.sources}
        self.given = {**self.sources, **{table.name: table for table in topology.tables}}
        self.sinks = {sink.name: sink for sink in topology.sinks}
        self.stages = ("decode", *(node.name for node in topology.nodes), "encode")

    def read(self, value: Value | None) -> tuple[Case, ...]:
        if not isinstance(value, Listed) or not value.items:
            if value is not None:
                self.report(value.mark, "cases must be a list", "- name: ...")
            return ()
        cases = [self.case(item) for item in value.items]
        first: dict[str, Mark] = {}
        for case in cases:
            if case.name in first:
                self.report(case.mark, f"two cases are called {case.name!r}, the first on line {first[case.name].line}", "rename one")
            first.setdefault(case.name, case.mark)
        return tuple(cases)

    def case(self, value: Value) -> Case:
        keys = self.keys(value, "a case", ("name", "given", "expect"), ())
        name = self.text(keys["name"], "name") if "name" in keys else None
        given = self.mapping(keys.get("given"), "given", "the name of a source, with its events as a list")
        expect = self.mapping(keys.get("expect"), "expect", "the name of a sink, with its events as a list")
        return Case(
            # Cases without a name have been reported; their lines distinguish them.
            name or f"line {value.mark.line}",
            tuple((key.text, self.records(key, item)) for key, item in given),
            tuple(one for key, item in expect for one in self.expected(key, item)),
            value.mark,
        )

    # -- given -----------------------------------------------------------------------------------------------------

    def records(self, source: Scalar, value: Value) -> tuple[Record, ...]:
        if source.text not in self.given:
            self.unknown(source, "source or table" if len(self.given) > len(self.sources) else "source", self.given)
            return ()
        if not isinstance(value, Listed):
            self.report(value.mark, f"given.{source.text} must be a list of events", "begin each with a dash")
            return ()
        return tuple(self.record(source.text, item) for item in value.items)

    def record(self, source: str, value: Value) -> Record:
        if isinstance(value, Scalar) and value.value is None:
            return Record("", None, timestamp=self.driver.now)
        names = {key.text for key, _ in value.items} if isinstance(value, Mapped) else set()
        wrapped = len(names.intersection(_FORMS)) == 1 and names.issubset(_RECORD)
        if not wrapped:
            return Record("", self.event(source, value), timestamp=self.driver.now)
        keys = self.keys(value, "a record", (), _RECORD)
        form = next(name for name in _FORMS if name in keys)
        body = self.event(source, keys[form]) if form == "event" else self.body(keys[form], form)
        key = self.text(keys["key"], "key") if "key" in keys else None
        headers, timestamp = self.headers(keys.get("headers")), self.timestamp(keys.get("timestamp"))
        return Record("", body, None if key is None else key.encode(), headers, timestamp)

    def event(self, source: str, value: Value) -> bytes | None:
        if isinstance(value, Scalar) and value.value is None:
            return None
        if not isinstance(value, Mapped):
            self.report(value.mark, f"an event of {source} must be a mapping", 'or {raw: "text"}, {base64: ...}, null')
            return None
        self.names(self.given[source], value)
        try:
            return self.driver.write(source, plain(value))
        except (ValueError, TypeError) as error:  # TypeError: the Avro library on a value of another type
            self.report(value.mark, f"cannot be written in the format of {source}: {error}", "correct it, or give the bytes: {base64: ...}")
            return None

    def names(self, source: Source, event: Mapped) -> None:
        """Reports fields that the schema does not have: of a structured CloudEvent those of its `data`, if its type is read."""
        if source.envelope == "cloudevents" and event.get("specversion") is not None:
            kind, data = event.get("type"), event.get("data")
            if not isinstance(data, Mapped) or (source.types and isinstance(kind, Scalar) and kind.text not in source.types):
                return
            event = data
        schema = self.driver.schemas[source.name]
        written = source.format.startswith("json")  # as it stands, so by the aliases too
        known = [name for field in schema.fields for name in (field.name, *(field.aliases if written else ()))]
        for key, _ in event.items:
            if key.text not in known:
                self.report(key.mark, f"{schema.path or schema.name} has no field {key.text!r}", did_you_mean(key.text, known))

    def body(self, value: Value, form: str) -> bytes | None:
        if not isinstance(value, Scalar):
            self.report(value.mark, f"{form} must be text", "")
            return None
        if form == "raw":
            return value.text.encode()
        try:
            return base64.b64decode(value.text, validate=True)
        except (binascii.Error, ValueError) as error:
            self.report(value.mark, f"not base64: {error}", "")
            return None

    def headers(self, value: Value | None) -> tuple[Header, ...]:
        pairs = self.mapping(value, "headers", "{name: text}")
        return tuple((key.text, None if plain(item) is None else (self.text(item, key.text) or "").encode()) for key, item in pairs)

    def timestamp(self, value: Value | None) -> int:
        number = self.driver.now if value is None else plain(value)
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63:
            return number
        self.report(value.mark if value else Mark(), "timestamp must be a whole number of ms since the epoch", "")
        return 0

    # -- expect ----------------------------------------------------------------------------------------------------

    def expected(self, key: Scalar, value: Value) -> Iterable[Expected]:
        if key.text == "dead_letters":
            for source, letters in self.mapping(value, "dead_letters", "the name of a source, with its dead letters as a list"):
                if source.text in self.sources:
                    topic = self.sources[source.text].dead_letter
                    yield self.outputs(f"dead_letters.{source.text}", topic, letters, source.mark, _LETTER)
                else:
                    self.unknown(source, "source", self.sources)
        elif key.text in self.sinks:
            topic = self.sinks[key.text].topic
            fields = [name for sink in self.sinks.values() if sink.topic == topic for name, _ in sink.fields]
            yield self.outputs(key.text, topic, value, key.mark, fields)
        else:
            self.unknown(key, "sink", [*self.sinks, "dead_letters"])

    def outputs(self, where: str, topic: str, value: Value, mark: Mark, fields: Iterable[str]) -> Expected:
        count = plain(value)
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            return Expected(where, topic, count, (), mark)
        if not isinstance(value, Listed):
            self.report(value.mark, f"{where} must be a list of expected outputs, or their number", "")
            return Expected(where, topic, 0, (), mark)
        return Expected(where, topic, len(value.items), tuple(self.rules(item, where, fields) for item in value.items), mark)

    def rules(self, value: Value, where: str, fields: Iterable[str]) -> dict[str, Rule]:
        if isinstance(value, Mapped) and not value.items:
            return {}
        letter, known = fields is _LETTER, tuple(fields)
        found = self.keys(_flat(value, known), f"what {where} holds", (), known)
        rules = {name: self.letter(name, item) if letter else rule(item, self.report) for name, item in found.items()}
        return {name: one for name, one in rules.items() if one is not None}

    def letter(self, name: str, value: Value) -> Rule | None:
        if self.text(value, name) is None or not isinstance(value, Scalar):
            return None
        if name == "stage" and value.text not in self.stages:
            self.unknown(value, "stage", self.stages)
        return contains(value) if name == "message" else rule(value, self.report)


def _flat(value: Value, fields: Collection[str]) -> Value:
    """Returns the mapping with `a.b` for the keys of a mapping under `a`, where such a field is written: answers are written either way."""
    if not isinstance(value, Mapped):
        return value
    items: list[tuple[Scalar, Value]] = []
    for key, item in value.items:
        if isinstance(item, Mapped) and key.text not in fields and any(name.startswith(f"{key.text}.") for name in fields):
            named = [(replace(inner, text=f"{key.text}.{inner.text}"), one) for inner, one in item.items]
            flat = _flat(Mapped(tuple(named), item.mark, item.weight), fields)
            items += flat.items if isinstance(flat, Mapped) else ()
        else:
            items.append((key, item))
    return Mapped(tuple(items), value.mark, value.weight)
