"""`model.toml`: the description of a model version, written once by the push. People read this file first.

It holds the digests of `model.onnx` and `golden.json`, the signature, and where the model came from. The writer below writes
exactly what the reader accepts. A person may edit the prose; digests and signature are compared with the model at every start.
"""

from __future__ import annotations

import contextlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from penstock.errors import ConfigError, Problem
from penstock.signature import DTYPES, Signature, Tensor

__all__ = ["MAX_ROWS", "PROVENANCE", "Golden", "Manifest", "Source", "parse", "render"]

MAX_ROWS: Final = 65_536  # at a time: what a worker fills for a single event
PROVENANCE: Final = ("training_data", "code", "framework", "author")
_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden records of a version: the digest of their file, and the tolerance.

    `origin` is "given" when a person supplied them, "synthetic" when the push generated them from the model's outputs.
    """

    digest: str
    atol: float
    rtol: float
    origin: str = "given"


@dataclass(frozen=True, slots=True)
class Source:
    """The file that was pushed, when model.onnx differs from it: the digest of that file, and a line per change (`intake`)."""

    digest: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of one `model.toml`. `created` is an RFC 3339 time in UTC, `size` counts the bytes of model.onnx.

    `rows` is the number of rows that the model takes at a time; None: any number.
    """

    name: str
    version: str
    created: str
    digest: str
    size: int
    signature: Signature
    golden: Golden
    description: str = ""
    metrics: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    provenance: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    rows: int | None = None
    source: Source | None = None


def render(manifest: Manifest) -> str:
    """Returns the text of model.toml."""
    m = manifest
    lines = [
        f"name = {_toml(m.name)}",
        f"version = {_toml(m.version)}",
        f"created = {_toml(m.created)}",
        f"description = {_toml(m.description)}",
        f"digest = {_toml(m.digest)}  # of model.onnx",
        f"size = {m.size}",
        *([] if m.rows is None else [f"rows = {m.rows}  # at a time"]),
    ]
    for kind, tensors in (("inputs", m.signature.inputs), ("outputs", m.signature.outputs)):
        for t in tensors:
            axes = ", ".join('"?"' if axis is None else str(axis) for axis in t.shape)
            lines += ["", f"[[{kind}]]", f"name = {_toml(t.name)}", f"dtype = {_toml(t.dtype)}", f"shape = [{axes}]  # of one row"]
    g = m.golden
    lines += [
        "",
        "[golden]  # golden.json",
        f"digest = {_toml(g.digest)}",
        f"origin = {_toml(g.origin)}",
        f"atol = {g.atol!r}",
        f"rtol = {g.rtol!r}",
    ]
    if m.source is not None:
        lines += ["", "[source]  # the file that was pushed", f"digest = {_toml(m.source.digest)}"]
        lines += ["changes = [", *(f"  {_toml(change)}," for change in m.source.changes), "]"]
    lines += ["", "[metrics]", *(f"{_toml(name)} = {float(value)!r}" for name, value in m.metrics.items())]
    lines += ["", "[provenance]", *(f"{name} = {_toml(text)}" for name, text in m.provenance.items())]
    return "\n".join(lines) + "\n"


def parse(text: str, *, file: str) -> Manifest:
    """Parses a model.toml. Raises ConfigError with all problems; each names the file and the key."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
        raise ConfigError(Problem(file, 0, 0, f"not TOML: {error}")) from error
    read = _Reader(document, file)
    golden = read.table("golden")
    metrics, provenance = read.table("metrics", required=False), read.table("provenance", required=False)
    manifest = Manifest(
        name=read.value("name", str, ""),
        version=read.value("version", str, ""),
        created=read.value("created", str, ""),
        digest=read.value("digest", str, ""),
        size=read.value("size", int, 0),
        signature=Signature(read.tensors("inputs"), read.tensors("outputs")),
        golden=Golden(
            digest=golden.value("digest", str, ""),
            atol=golden.value("atol", float, 0.0),
            rtol=golden.value("rtol", float, 0.0),
            origin=golden.value("origin", str, ""),
        ),
        description=read.value("description", str, ""),
        metrics=MappingProxyType({name: metrics.value(name, float, 0.0) for name in metrics.document}),
        provenance=MappingProxyType({name: provenance.value(name, str, "") for name in provenance.document}),
        rows=read.rows(),
        source=read.source() if "source" in read.document else None,
    )
    if read.problems:
        raise ConfigError(read.problems)
    return manifest


class _Reader:
    """Takes typed values from a TOML table and collects every problem."""

    def __init__(self, document: Mapping[str, Any], file: str, prefix: str = "", problems: list[Problem] | None = None) -> None:
        self.document = document
        self.file = file
        self.prefix = prefix
        self.problems: list[Problem] = [] if problems is None else problems

    def value(self, key: str, kind: type, default: Any) -> Any:
        found = self.document.get(key)
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            with contextlib.suppress(OverflowError):
                found = float(found)
        if isinstance(found, kind) and not isinstance(found, bool) and not (isinstance(found, float) and not math.isfinite(found)):
            return found
        problem = "is missing" if found is None else f"is {found!r}, which is not {_KINDS[kind]}"
        self.problem(f"{self.prefix}{key} {problem}")
        return default

    def table(self, key: str, *, required: bool = True) -> _Reader:
        found = self.document.get(key, None if required else {})
        if not isinstance(found, dict):
            self.problem(f"the table [{key}] is missing")
            found = {}
        return _Reader(found, self.file, f"{key}.", self.problems)

    def rows(self) -> int | None:
        found = self.value("rows", int, 1) if "rows" in self.document else None
        if found is not None and not 1 <= found <= MAX_ROWS:
            self.problem(f"rows is {found}; it is from 1 to {MAX_ROWS:,}")
        return found

    def source(self) -> Source:
        table = self.table("source")
        changes = table.value("changes", list, [])
        if not all(isinstance(change, str) for change in changes):
            self.problem(f"source.changes is {changes!r}; it is a list of strings")
        return Source(table.value("digest", str, ""), tuple(str(change) for change in changes))

    def tensors(self, key: str) -> tuple[Tensor, ...]:
        found = self.document.get(key)
        if not isinstance(found, list) or not found or not all(isinstance(table, dict) for table in found):
            self.problem(f"{key} must be one or more tables [[{key}]]")
            return ()
        return tuple(self._tensor(_Reader(table, self.file, f"{key}[{i}].", self.problems)) for i, table in enumerate(found, 1))

    def _tensor(self, table: _Reader) -> Tensor:
        name, dtype = table.value("name", str, ""), table.value("dtype", str, DTYPES[0])
        if dtype not in DTYPES:
            self.problem(f"{table.prefix}dtype is {dtype!r}; it is one of {', '.join(DTYPES)}")
        shape = table.value("shape", list, [])
        if not all(axis == "?" or (isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0) for axis in shape):
            self.problem(f'{table.prefix}shape is {shape!r}; each axis is a size or "?"')
        return Tensor(name, dtype, tuple(axis if isinstance(axis, int) else None for axis in shape))

    def problem(self, message: str) -> None:
        self.problems.append(Problem(self.file, 0, 0, message, "push the model again; do not edit this part by hand"))


_KINDS: Final[Mapping[type, str]] = {str: "a string", int: "an integer", float: "a finite number", list: "a list"}


def _toml(text: str) -> str:
    """Returns a TOML basic string. The escapes are those of JSON, but TOML also requires DEL to be escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
