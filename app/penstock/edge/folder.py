"""The folder that `penstock export edge` writes: what is in it, how it is checked, and how it is loaded.

1. `SHA256SUMS` lists every other file with its digest, in the form of `sha256sum --check`. The digest of the list is that of the export.
2. A folder with another file than the list has, or without one, or with other bytes, is refused as a whole, before a file of it is read.
3. `edge.json` binds each node to a version by its digests, as a release would: aliases and registries are not asked.
4. Nothing is fetched: what a topology needs is in the folder, or the export was refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from penstock import runtime
from penstock.binding import LINE, Binding
from penstock.errors import ConfigError, Problem
from penstock.fit import as_run
from penstock.host import read_regular
from penstock.model.artifact import Artifact, open_artifact
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.topology.find import EDGE
from penstock.topology.parse import parse
from penstock.topology.spec import ModelRef

__all__ = ["DIGESTS", "EDGE", "MODELS", "SCHEMAS", "TRUST", "Edge", "check", "encoded", "is_edge", "load"]

DIGESTS: Final = "SHA256SUMS"
MODELS: Final = "models"
SCHEMAS: Final = "schemas"
TRUST: Final = "trust"
_CACHES: Final = "__pycache__"  # Python writes them beside the modules that it imports
_LIMIT: Final = 16 * 1024**2  # bytes of a list that is read
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\\]+)")
_FIX: Final = "copy the exported folder again, or export it again"

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=LINE)]


class Edge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `edge.json` holds: `file` is the topology's, in the folder; `generation` is that of the release, 0 for the file's versions."""

    format: Literal[1] = 1
    topology: Text
    file: Text
    penstock: Text
    generation: int = 0
    release: str = ""
    bindings: dict[str, Binding]


def is_edge(folder: str | Path) -> bool:
    """Whether this is a folder that was exported."""
    return (Path(folder) / EDGE).is_file()


def check(folder: Path) -> str:
    """Returns the digest of the list, "sha256:...". Raises ConfigError for the first file that is missing, changed, or not listed."""
    listed, digest = _listed(folder)
    there = set(_files(folder))
    for path, expected in listed.items():
        if path not in there:
            raise _wrong(folder / path, f"is missing: {DIGESTS} lists it")
        if (found := _digest(folder / path)) != expected:
            raise _wrong(folder / path, f"is not the file that was exported: {DIGESTS} has sha256:{expected}, the file has sha256:{found}")
    if strange := sorted(there - listed.keys()):
        raise _wrong(folder / strange[0], f"is not in {DIGESTS}: it was added after the export", "remove it")
    return digest


def load(folder: Path, settings: Settings) -> tuple[Loaded, Settings]:
    """Returns the checked topology of the folder, and the settings to prepare it with: `model_trust` is the folder's unless it is set.

    Raises ConfigError for a changed folder, TopologyError, ModelError.
    """
    check(folder)
    try:
        edge = msgspec.json.decode(read_regular(folder / EDGE, _LIMIT), type=Edge)
    except (OSError, msgspec.MsgspecError) as error:
        raise _wrong(folder / EDGE, f"cannot be read by this Penstock: {error}", "install the Penstock that it was exported by") from error
    if edge.file not in _listed(folder)[0]:
        raise _wrong(folder / EDGE, f"names {edge.file!r} as the topology, which is no file of the folder")
    parsed = parse(folder / edge.file)
    if edge.bindings.keys() != {one.name for one in parsed.model_nodes}:
        raise _wrong(folder / EDGE, f"binds other nodes than the topology {edge.file} has")
    artifacts = {node: _bound(folder, node, binding) for node, binding in edge.bindings.items()}
    given = {node: binding.parameters for node, binding in edge.bindings.items()}
    named = {node: ModelRef(one.name, one.version) for node, one in artifacts.items()}
    loaded = runtime.load(
        as_run(parsed, named, given),
        models=folder / MODELS,
        schemas=folder / SCHEMAS,
        artifacts=artifacts,
    )
    trust = folder / TRUST
    return loaded, settings if settings.model_trust or not trust.is_dir() else replace(settings, model_trust=trust)


def _bound(folder: Path, node: str, binding: Binding) -> Artifact:
    artifact = open_artifact(folder / MODELS / binding.name / binding.version, binding.name, binding.version)
    if (artifact.digest, artifact.manifest_digest) != (binding.digest, binding.manifest):
        raise _wrong(artifact.path, f"is not the version that {EDGE} binds to the node {node}")
    return artifact


def _listed(folder: Path) -> tuple[Mapping[str, str], str]:
    """Returns the digest of each file by its path in the folder, and the digest of the list."""
    try:
        data = read_regular(folder / DIGESTS, _LIMIT)
        lines = data.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(folder / DIGESTS, f"cannot be read: {getattr(error, 'strerror', '') or error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        parts = _LINE.fullmatch(line)
        if parts is None or parts[2] in found or os.path.normpath(parts[2]) != parts[2] or parts[2].startswith(("/", "..")):
            raise ConfigError(Problem(str(folder / DIGESTS), number, 1, "not a digest and the path of a file", _FIX))
        found[parts[2]] = parts[1]
    return found, f"sha256:{hashlib.sha256(data).hexdigest()}"


def _files(folder: Path) -> Iterator[str]:
    """Yields the path of every file in the folder but for the list, and of what is no file."""
    for above, folders, names in os.walk(folder):
        inside = Path(above).relative_to(folder)
        links = [one for one in folders if (Path(above) / one).is_symlink()]
        folders[:] = [one for one in folders if one != _CACHES]
        yield from ((inside / one).as_posix() for one in [*names, *links] if (inside / one).as_posix() != DIGESTS)


def _digest(path: Path) -> str:
    if not path.is_file():  # a pipe would wait for its writer
        raise _wrong(path, "is not a file")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from error


def _wrong(path: Path, what: str, fix: str = _FIX) -> ConfigError:
    return ConfigError(Problem(str(path), 0, 0, what, fix))


def encoded(value: Any) -> bytes:
    """Returns a value of JSON as the text of a file, the same for the same value."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"
