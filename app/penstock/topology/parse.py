"""A topology file becomes a Topology, or a TopologyError with everything that is wrong in it.

1. `document` reads the YAML into marked values. 2. `conform` compares them with the language's table. 3. This module builds
frozen values from what conforms; `kinds` builds the nodes. `check` decides whether the values fit together: names that
lead somewhere, topics that do not clash, types that fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from penstock.errors import Problem, TopologyError
from penstock.host import read_regular
from penstock.topology.conform import conform
from penstock.topology.document import MAX_BYTES, Listed, Mapped, Scalar, Value, read
from penstock.topology.kinds import KINDS
from penstock.topology.kinds.rule import condition
from penstock.topology.kinds.window import rules_of
from penstock.topology.language import TOPOLOGY
from penstock.topology.spec import (
    Format,
    Join,
    LookupNode,
    Match,
    Materialize,
    Node,
    Precomputed,
    Releases,
    Sink,
    Source,
    Table,
    Topology,
    When,
    WindowNode,
    condition_of,
)  # fmt: skip
from penstock.topology.values import constant, duration, items, keys, marks, plain, providers, refs, word, words

__all__ = ["parse", "parse_text", "text_of"]


def parse(path: str | Path) -> Topology:
    """Returns the topology in the file at `path`. Raises TopologyError, also when the file cannot be read."""
    return parse_text(text_of(path), str(path))


def text_of(path: str | Path, what: str = "a topology file") -> str:
    """Returns the text of a YAML file, at most one byte more than `document.read` accepts. Raises TopologyError; `what` names the file."""
    try:
        data = read_regular(Path(path), MAX_BYTES + 1, whole=False)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise TopologyError(Problem(str(path), 0, 0, f"cannot be read: {reason}", f"give the path of {what}")) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TopologyError(Problem(str(path), line, 1, f"not UTF-8: {error.reason}", "save the file as UTF-8")) from error


def parse_text(text: str, file: str = "<topology>") -> Topology:
    """Returns the topology in `text`; `file` is its name in messages. Raises TopologyError."""
    root, problems = read(text, file)
    if root is not None:
        problems += conform(root, TOPOLOGY, file)
    if problems or root is None:
        raise TopologyError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    return _topology(root, file)


def _topology(root: Value, file: str) -> Topology:
    top = keys(root)
    texts = {key.text: text for key, value in items(top.get("nodes")) if isinstance(text := keys(value).get("when"), Scalar)}
    conditions = [condition(name, f"nodes.{name}.when", text) for name, text in texts.items() if _condition(name, texts) in (name, None)]
    sinks = []
    for sink, text in ((_sink(key, value), keys(value).get("when")) for key, value in items(top["sinks"])):
        when = _when(text, texts, sink.name) if isinstance(text, Scalar) else None
        sinks.append(replace(sink, when=when))
        if isinstance(text, Scalar) and when is not None and when.like is None:
            conditions.append(condition(sink.name, f"sinks.{sink.name}.when", text))
    nodes = {node.name: node for node in (*conditions, *(_node(key, value, texts) for key, value in items(top.get("nodes"))))}
    declared = [(key, value, keys(value).get("match")) for key, value in items(top["sources"])]
    sources = tuple(_source(key, value) for key, value, match in declared if match is None)
    tables = tuple(_table(key, value) for key, value in items(top.get("tables")))
    return Topology(
        name=word(top["topology"]),
        sources=sources,
        nodes=tuple(_whole(node, nodes, sources, tables) for node in nodes.values()),
        sinks=tuple(sinks),
        releases=_releases(top["releases"]) if "releases" in top else Releases(),
        file=file,
        providers=providers(top.get("providers")),
        precomputed=_precomputed(top["precomputed"]) if "precomputed" in top else None,
        tables=tables,
        matches=tuple(_match(key, match) for key, _, match in declared if match is not None),
        marks=marks(root),
    )


def _whole(node: Node, nodes: Mapping[str, Node], sources: Sequence[Source], tables: Sequence[Table]) -> Node:
    """Returns the node with what depends on the rest of the file."""
    if isinstance(node, LookupNode):
        return replace(node, historical=any(one.history_ms for one in tables if one.name == node.table))
    if not isinstance(node, WindowNode):
        return node
    times = sorted({one.time for one in sources if one.time is not None})
    return replace(node, rules=tuple(rules_of(node, nodes)), clock=node.time.text if node.time is not None else " ".join(times))


def _source(name: Scalar, value: Value) -> Source:
    named = keys(value)
    given = plain(value) | {key: words(named[key]) for key in ("coerce", "types") if key in named}
    declared = {"dead_letter": f"{given['topic']}.dead-letter", **given}
    return Source(name=name.text, mark=name.mark, marks=marks(value), **declared)


def _table(name: Scalar, value: Value) -> Table:
    given = keys(value)
    declared: dict[str, Any] = {key: one for key, one in plain(value).items() if key not in ("key", "history")}
    if (key := given.get("key")) is not None:
        declared["key"] = words(key) if isinstance(key, Listed) else (word(key),)
    if "history" in given:
        declared["history_ms"] = duration(given["history"])
    if "coerce" in given:
        declared["coerce"] = words(given["coerce"])
    return Table(name=name.text, mark=name.mark, marks=marks(value), **declared)


def _match(name: Scalar, value: Value) -> Match:
    given = keys(value)
    left, right = word(given["left"]), word(given["right"])
    named = keys(given["by"]) if isinstance(given["by"], Mapped) else {left: given["by"], right: given["by"]}
    by = {source: (word(one),) if isinstance(one, Scalar) else words(one) for source, one in named.items()}
    found: dict[str, Any] = {f"{key}_ms": duration(given[key]) for key in ("before", "lateness", "ahead") if key in given}
    found |= {key: one for key, one in plain(value).items() if key in ("unmatched", "max_keys")}
    places = marks(value) | {f"by.{source}": one.mark for source, one in named.items()}
    return Match(
        name=name.text,
        left=left,
        right=right,
        by=(by.get(left, ()), by.get(right, ())),
        within_ms=duration(given["within"]),
        mark=name.mark,
        marks=places,
        **found,
    )


def _node(name: Scalar, value: Value, texts: Mapping[str, Scalar]) -> Node:
    kind = word(keys(value)["kind"])
    node: Node = KINDS[kind].parse(name, kind, value)
    if (given := keys(value).get("materialize")) is not None:
        node = replace(node, materialize=_materialize(given))
    if (given := keys(value).get("join")) is not None:
        node = replace(node, join=_join(given))
    return replace(node, when=_when(texts[name.text], texts, name.text)) if name.text in texts else node


def _join(value: Value) -> Join:
    given = keys(value)
    need = plain(value).get("need", "all")
    missing = {name.text: math.nan if word(one) == "nan" else constant(one) for name, one in items(given.get("missing"))}
    return Join(
        within_ms=duration(given["within"]),
        need=None if need == "all" else need,
        require=words(given["require"]) if "require" in given else (),
        missing=missing,
        mark=value.mark,
        marks=marks(value),
    )


def _materialize(value: Value) -> Materialize | None:
    """Returns what the key says; `true` is all defaults."""
    if isinstance(value, Scalar):
        return None if value.value is False else Materialize(mark=value.mark)
    given = keys(value)
    kept = {"retention_ms": duration(given["retention"])} if "retention" in given else {}
    named = {key: word(given[key]) for key in ("topic", "compression") if key in given}
    key = refs(given["key"])[0] if "key" in given else None
    return Materialize(mark=value.mark, key=key, **kept, **named)  # type: ignore[arg-type]  # conforming words


def _when(text: Scalar, texts: Mapping[str, Scalar], name: str) -> When:
    """Returns the `when` of a node or sink; `texts` are those of all nodes."""
    like = text.text if text.text in texts and _condition(text.text, texts) is not None else None
    owner = name if like is None else _condition(like, texts)
    return When(condition_of(owner or name), like, text.mark)


def _condition(name: str, texts: Mapping[str, Scalar]) -> str | None:
    """Returns the node whose text is the condition of this one, itself or one that it names; None where they name each other."""
    seen = {name}
    while (named := texts[name].text) in texts:
        if named in seen:
            return None
        seen.add(name := named)
    return name


def _sink(name: Scalar, value: Value) -> Sink:
    given = keys(value)
    fields = given["fields"]
    if isinstance(fields, Listed):
        named = tuple(((found.tail or found.head).rpartition(".")[2], found) for found in refs(fields))
    else:
        named = tuple((key.text, refs(item)[0]) for key, item in items(fields))
    return Sink(
        name=name.text,
        topic=word(given["topic"]),
        fields=named,
        format=cast(Format, word(given["format"])) if "format" in given else "json",
        schema=word(given["schema"]) if "schema" in given else None,
        key=refs(given["key"])[0] if "key" in given else None,
        mark=name.mark,
        marks=marks(value),
    )


def _releases(value: Value) -> Releases:
    return Releases(mark=value.mark, marks=marks(value), **plain(value))


def _precomputed(value: Value) -> Precomputed:
    given = keys(value)
    named: dict[str, Any] = {key: plain(given[key]) for key in ("decimals", "default", "scale") if key in given}
    places = {f"{key}.{name}": mark for key in named for name, mark in marks(given[key]).items()}
    inputs = words(given["inputs"]) if "inputs" in given else ()
    return Precomputed(mark=value.mark, marks=marks(value) | places, inputs=inputs, **plain(value), **named)
