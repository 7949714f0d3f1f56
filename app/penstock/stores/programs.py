"""The two programs of stored answers, both made of the topology: what computes them, and what reads the key of an event that asks.

- `computing` has the topology's nodes, and beside its sinks one that writes the key's fields. In answers by inputs, fields that a sink
  copies from the event are left out: they are the asking event's.
- `asking` has no nodes: its sinks write the key's fields, and the copied fields of each sink. Where an entity has no answer, and no
  score is wanted, `copying` writes what a sink copies of an event that may be whole, or the id alone.

So a key is made of what the event holds by the source's schema (defaults, aliases, coercions), the same way on both sides, and
an event that scoring refuses has no key by its inputs. By an entity, an event may hold the id alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from penstock import runtime
from penstock.binding import Binding
from penstock.errors import ConfigError, Problem, TopologyError
from penstock.pipeline.ports import Program
from penstock.runtime import Loaded
from penstock.schema import Field, Schema, steps
from penstock.stores.keys import canonical, entity_key, input_key
from penstock.topology.names import ref
from penstock.topology.spec import Precomputed, Ref, Sink, Topology

__all__ = ["KEY", "TOPIC", "Key", "about", "asking", "computing", "copied_fields", "copying", "key_fields", "required"]

KEY: Final = "precomputed.key"  # the topic, and the name, of the sink of the key's fields
TOPIC: Final = "precomputed."  # of the topics of the others, before their names


def required(topology: Topology) -> Precomputed:
    """Returns the section `precomputed`. Raises TopologyError for a topology without it."""
    if topology.precomputed is None:
        fix = "add precomputed: {entity: FIELD}, or {inputs: [FIELD, ...]}"
        raise TopologyError(Problem(topology.file, 0, 0, f"the topology {topology.name} has no section precomputed", fix))
    return topology.precomputed


def about(loaded: Loaded, bindings: Mapping[str, Binding] | None = None) -> str:
    """Returns what decides the answers, as text to compare: a digest of the topology, and of each node's model and parameters.

    `bindings` are those of a release (None: those of the file). Comments, topics and the order of keys change nothing.
    """
    wanted = required(loaded.topology)
    return runtime.digest(loaded, bindings, wanted.entity, sorted(wanted.inputs), wanted.decimals)


def computing(loaded: Loaded) -> Loaded:
    """Returns the topology whose sinks write what is stored, and the key."""
    wanted = required(loaded.topology)
    copied = copied_fields(loaded) if wanted.entity is None else {}
    sinks = []
    for sink in loaded.topology.sinks:
        own = tuple((name, one) for name, one in sink.fields if name not in copied.get(sink.name, ()))
        sinks.append(_json(sink, own or sink.fields[:1]))
    return runtime.derived(loaded, replace(loaded.topology, sinks=(_key_sink(loaded.topology), *sinks), precomputed=None))


def asking(loaded: Loaded) -> Program:
    """Returns the program that reads the key of an event, and what the sinks copy from it: of an answer by entity, its id."""
    wanted = required(loaded.topology)
    (source,) = loaded.topology.sources
    sinks, schemas = [_key_sink(loaded.topology), *_copies(loaded, copied_fields(loaded))], loaded.schemas
    if wanted.entity is not None and source.envelope is None and not schemas[source.name].is_beside(wanted.entity):
        head = str(steps(wanted.entity)[0])
        schema = schemas[source.name]
        schemas = {source.name: replace(schema, fields=tuple(one for one in schema.fields if one.name == head))}
    return _without_nodes(loaded, sinks, schemas)


def copying(loaded: Loaded) -> Program | None:
    """Returns the program that reads what the sinks copy of an event that lacks fields, as null; None where they copy nothing."""
    (source,) = loaded.topology.sources
    sinks = _copies(loaded, _copied(loaded.topology, None))
    schema = loaded.schemas[source.name]
    # Arrays stay as they are: a sink cannot write null for one.
    fields = tuple(one if one.items is not None else replace(one, optional=True, default=None) for one in schema.fields)
    return _without_nodes(loaded, sinks, {source.name: replace(schema, fields=fields)}) if sinks else None


def _copies(loaded: Loaded, copied: Mapping[str, Sequence[str]]) -> list[Sink]:
    """Returns the sinks with those fields alone, as JSON."""
    cut = [(sink, tuple((name, one) for name, one in sink.fields if name in copied[sink.name])) for sink in loaded.topology.sinks]
    return [replace(_json(sink, own), when=None) for sink, own in cut if own]


def _without_nodes(loaded: Loaded, sinks: Sequence[Sink], schemas: Mapping[str, Schema]) -> Program:
    (source,) = loaded.topology.sources
    form = source.format if source.format == "bytes" else "json"  # a program gives events, whatever producers write
    entry = replace(source, id=None, time=None, format=form)
    derived = runtime.derived(loaded, replace(loaded.topology, nodes=(), sources=(entry,), sinks=tuple(sinks), precomputed=None), schemas)
    return runtime.program(derived, {}, {})


def copied_fields(loaded: Loaded) -> dict[str, tuple[str, ...]]:
    """Returns, by sink, its fields that an answer takes from the event that asks: all that the event has, or the id of an entity."""
    return _copied(loaded.topology, required(loaded.topology).entity)


def _copied(topology: Topology, entity: str | None) -> dict[str, tuple[str, ...]]:

    def copied(one: Ref) -> bool:
        if topology.node(one.head) is not None:
            return False
        path = one.tail if topology.source(one.head) is not None and one.tail is not None else one.path
        return entity is None or (path == entity and one.index is None)

    return {sink.name: tuple(name for name, one in sink.fields if copied(one)) for sink in topology.sinks}


def _json(sink: Sink, own: tuple[tuple[str, Any], ...]) -> Sink:
    return replace(sink, topic=f"{TOPIC}{sink.name}", fields=own, format="json", schema=None, key=None)


def _key_sink(topology: Topology) -> Sink:
    wanted = required(topology)
    named = []
    for at, path in enumerate(wanted.fields):
        found = ref(f"{topology.sources[0].name}.{path}", wanted.at("entity", "inputs"))
        if found is None:
            raise ConfigError(Problem(topology.file, 0, 0, f"precomputed: {path!r} cannot be part of a key"))
        named.append((f"k{at}", found))
    return Sink(name=KEY, topic=KEY, fields=tuple(named))


@dataclass(frozen=True, slots=True)
class Key:
    """Makes keys of what the sink KEY writes."""

    make: Callable[[bytes], tuple[str, Sequence[Any]]]

    @classmethod
    def of(cls, loaded: Loaded) -> Key:
        wanted = required(loaded.topology)
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        if wanted.entity is not None:
            return cls(lambda value: (entity_key(one := decode(value)["k0"]), (one,)))
        form = canonical(key_fields(loaded), wanted.decimals)

        def keyed(value: bytes) -> tuple[str, Sequence[Any]]:
            values = list(decode(value).values())
            return input_key(form(values)), values

        return cls(keyed)


def key_fields(loaded: Loaded) -> list[Field]:
    """Returns the fields of the key, in its order."""
    schema = loaded.schemas[loaded.topology.sources[0].name]
    return [replace(one, name=name) for name in required(loaded.topology).fields if (one := schema.field(name)) is not None]
