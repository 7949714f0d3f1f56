"""A topology file becomes a Topology, or a TopologyError with everything that is wrong in it.

1. `document` reads the YAML into marked values. 2. `conform` compares them with the language's table. 3. This module builds
frozen values from what conforms; `kinds` builds the nodes. `check` decides whether the values fit together: names that
lead somewhere, topics that do not clash, types that fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from penstock.errors import Problem, TopologyError
from penstock.host import read_regular
from penstock.topology.conform import conform
from penstock.topology.document import MAX_BYTES, Listed, Scalar, Value, read
from penstock.topology.kinds import KINDS
from penstock.topology.language import TOPOLOGY
from penstock.topology.spec import Format, Node, Releases, Sink, Source, Topology
from penstock.topology.values import items, keys, marks, plain, providers, refs, word, words

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
    return Topology(
        name=word(top["topology"]),
        sources=tuple(_source(key, value) for key, value in items(top["sources"])),
        nodes=tuple(_node(key, value) for key, value in items(top["nodes"])),
        sinks=tuple(_sink(key, value) for key, value in items(top["sinks"])),
        releases=_releases(top["releases"]) if "releases" in top else Releases(),
        file=file,
        providers=providers(top.get("providers")),
        marks=marks(root),
    )


def _source(name: Scalar, value: Value) -> Source:
    named = keys(value)
    given = plain(value) | ({"coerce": words(named["coerce"])} if "coerce" in named else {})
    declared = {"dead_letter": f"{given['topic']}.dead-letter", **given}
    return Source(name=name.text, mark=name.mark, marks=marks(value), **declared)


def _node(name: Scalar, value: Value) -> Node:
    kind = word(keys(value)["kind"])
    node: Node = KINDS[kind].parse(name, kind, value)
    return node


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
