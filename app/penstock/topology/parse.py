"""A topology file becomes a Topology, or a TopologyError with everything that is wrong in it.

1. `document` reads the YAML into marked values. 2. `conform` holds them against the language's table. 3. What fits is
built into frozen values here. Whether the values go together (names that lead somewhere, topics that do not clash, types
that fit) is for `check.wire` to say.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from penstock.errors import Problem, TopologyError
from penstock.schema import Missing
from penstock.topology.conform import conform
from penstock.topology.document import MAX_BYTES, Listed, Mapped, Scalar, Value, read
from penstock.topology.language import TOPOLOGY
from penstock.topology.names import ref
from penstock.topology.requirements import requirement
from penstock.topology.spec import Constant, Format, Input, Mark, ModelRef, Node, Ref, Releases, Requirement, Sink, Source, Topology

__all__ = ["parse", "parse_text", "text_of"]


def parse(path: str | Path) -> Topology:
    """The topology in the file at `path`. Raises TopologyError, also when the file cannot be read."""
    return parse_text(text_of(path), str(path))


def text_of(path: str | Path, what: str = "a topology file") -> str:
    """The text of a file of YAML, at most one byte more than `document.read` takes. Raises TopologyError; `what` should be there."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise TopologyError(Problem(str(path), 0, 0, f"cannot be read: {reason}", f"give the path of {what}")) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TopologyError(Problem(str(path), line, 1, f"not UTF-8: {error.reason}", "save the file as UTF-8")) from error


def parse_text(text: str, file: str = "<topology>") -> Topology:
    """The topology in `text`; `file` is its name in messages. Raises TopologyError."""
    root, problems = read(text, file)
    if root is not None:
        problems += conform(root, TOPOLOGY, file)
    if problems or root is None:
        raise TopologyError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    return _topology(root, file)


def _topology(root: Value, file: str) -> Topology:
    top = _keys(root)
    return Topology(
        name=_word(top["topology"]),
        sources=tuple(_source(key, value) for key, value in _items(top["sources"])),
        nodes=tuple(_node(key, value) for key, value in _items(top["nodes"])),
        sinks=tuple(_sink(key, value) for key, value in _items(top["sinks"])),
        releases=_releases(top["releases"]) if "releases" in top else Releases(),
        file=file,
    )


def _source(name: Scalar, value: Value) -> Source:
    keys = _plain(value)
    given = {"dead_letter": f"{keys['topic']}.dead-letter", **keys}
    return Source(name=name.text, mark=name.mark, marks=_marks(value), **given)


def _node(name: Scalar, value: Value) -> Node:
    keys = _keys(value)
    model, version = _word(keys["model"]).split("@")
    inputs = tuple(_input(key, item) for key, item in _items(keys.get("inputs")))
    kind: Any = _word(keys["kind"])
    return Node(
        name=name.text,
        kind=kind,
        model=ModelRef(model, version),
        inputs=inputs,
        require=_requirements(keys.get("require")),
        parameters=MappingProxyType({tensor.text: _constant(item) for tensor, item in _items(keys.get("parameters"))}),
        mark=name.mark,
        marks=_marks(value) | {f"parameters.{tensor.text}": tensor.mark for tensor, _ in _items(keys.get("parameters"))},
    )


def _constant(value: Value) -> Constant:
    return tuple(map(_constant, value.items)) if isinstance(value, Listed) else cast(Constant, cast(Scalar, value).value)


def _requirements(value: Value | None) -> tuple[Requirement, ...]:
    found = (requirement(metric.text, _word(item), metric.mark) for metric, item in _items(value))
    return tuple(each for each in found if each is not None)  # none is None: their text has conformed


def _input(tensor: Scalar, value: Value) -> Input:
    if not isinstance(value, Mapped):
        return Input(tensor.text, _refs(value), isinstance(value, Listed), None, tensor.mark)
    keys = _keys(value)
    refs = _refs(keys["stack"] if "stack" in keys else keys["field"])
    return Input(tensor.text, refs, "stack" in keys, _missing(keys.get("missing")), tensor.mark)


def _missing(value: Value | None) -> Missing | None:
    match value:
        case None:
            return None
        case Scalar(value="reject"):
            return Missing("reject")
        case Scalar(value="nan"):
            return Missing("fill", math.nan)
        case _:
            return Missing("fill", cast(Scalar, value).value)


def _sink(name: Scalar, value: Value) -> Sink:
    keys = _keys(value)
    fields = keys["fields"]
    if isinstance(fields, Listed):
        named = tuple((found.tail or found.head, found) for found in _refs(fields))
    else:
        named = tuple((key.text, _refs(item)[0]) for key, item in _items(fields))
    return Sink(
        name=name.text,
        topic=_word(keys["topic"]),
        fields=named,
        format=cast(Format, _word(keys["format"])) if "format" in keys else "json",
        schema=_word(keys["schema"]) if "schema" in keys else None,
        key=_refs(keys["key"])[0] if "key" in keys else None,
        mark=name.mark,
        marks=_marks(value),
    )


def _releases(value: Value) -> Releases:
    return Releases(mark=value.mark, marks=_marks(value), **_plain(value))


def _refs(value: Value) -> tuple[Ref, ...]:
    scalars = value.items if isinstance(value, Listed) else (value,)
    found = (ref(_word(scalar), scalar.mark) for scalar in scalars)
    return tuple(each for each in found if each is not None)  # none is None: their text has conformed


def _keys(value: Value) -> dict[str, Value]:
    return {key.text: item for key, item in _items(value)}


def _plain(value: Value) -> dict[str, Any]:
    """The values of a mapping that holds nothing but scalars."""
    return {key.text: cast(Scalar, item).value for key, item in _items(value)}


def _marks(value: Value) -> dict[str, Mark]:
    return {key: item.mark for key, item in _keys(value).items()}


def _items(value: Value | None) -> tuple[tuple[Scalar, Value], ...]:
    return value.items if isinstance(value, Mapped) else ()


def _word(value: Value) -> str:
    return cast(Scalar, value).text
