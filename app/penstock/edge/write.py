"""Writes a loaded topology as a folder that needs nothing else. The same versions give the same bytes.

1. The files are written to a folder beside the place, which is checked and loaded as it will be, without a registry, and renamed.
2. Nothing is overwritten: the place is a new folder, or an empty one.
3. Files keep their bytes. Models and golden records are compared with the digests of their manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from penstock import runtime
from penstock.binding import Binding
from penstock.codecs.schema import read_file
from penstock.codecs.writers import ids_folder
from penstock.edge.folder import DIGESTS, EDGE, MODELS, SCHEMAS, TRUST, Edge, check, encoded, load
from penstock.edge.plan import PLAN, RULES, plan_of
from penstock.errors import ConfigError, Problem, TopologyError
from penstock.host import read_regular
from penstock.model.artifact import BUNDLE_FILE, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Artifact, digest_of
from penstock.model.contents import MAX_BYTES
from penstock.model.trust import load_trust
from penstock.runtime import Loaded
from penstock.schema import Schema
from penstock.settings import Settings

__all__ = ["Exported", "export", "package_name"]

_READABLE: Final = 0o644
_FOLDERS: Final = 0o755
_TEMPLATE: Final = {"__init__.py": "module.py", "_wheel.py": "wheel.py"}  # what they are called in the folder


class Exported(NamedTuple):
    """What was written: the folder, the name that programs import, the files but for the list, their bytes, and the digest of the list."""

    folder: Path
    package: str
    version: str
    generation: int
    files: int
    size: int
    digest: str


def package_name(topology: str) -> str:
    """Returns the name under which programs import the export of a topology: `flights-desk` is `flights_desk_edge`."""
    return re.sub(r"\W", "_", topology, flags=re.ASCII) + "_edge"


def export(loaded: Loaded, folder: Path, settings: Settings, bindings: Mapping[str, Binding], *, generation: int, release: str) -> Exported:
    """Writes `folder`, and returns what was written. `bindings` are the versions of `loaded` with their parameters, by node.

    The topology, the policy of signatures and the trusted keys are those of `loaded` and `settings`. Raises ConfigError for a folder that
    is there, a file that cannot be read or written, and a topology that cannot be loaded from the folder alone, ModelCorrupt.
    """
    _require_empty(folder)
    package = package_name(loaded.topology.name)
    file = f"topologies/{Path(loaded.topology.file).name}"
    edge = Edge(
        topology=loaded.topology.name, file=file, penstock=version("penstock"), generation=generation, release=release,
        bindings=dict(bindings),
    )  # fmt: skip
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        written = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; next: make it writable, or give another --out") from error
    try:
        found = _fill(written, loaded, settings, edge, package)
        _try(written, settings)
        os.chmod(written, _FOLDERS)
        os.rename(written, folder)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} cannot be written: {error.strerror}; next: give another --out") from error
    finally:
        shutil.rmtree(written, ignore_errors=True)  # missing when it was renamed
    return found._replace(folder=folder)


def _fill(folder: Path, loaded: Loaded, settings: Settings, edge: Edge, package: str) -> Exported:
    contents = dict(_data(loaded, settings, edge))
    listed = f"{edge.generation}+{hashlib.sha256(_listing(contents)).hexdigest()[:12]}"  # as a version, by PEP 440
    contents["pyproject.toml"] = _project(loaded, package, listed).encode()
    listing = _listing(contents)
    for path, data in {**contents, DIGESTS: listing}.items():
        place = folder / path
        place.parent.mkdir(mode=_FOLDERS, parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(_READABLE)
    return Exported(folder, package, listed, edge.generation, len(contents), sum(map(len, contents.values())), digest_of(listing))


def _listing(contents: Mapping[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(contents[path]).hexdigest()}  {path}\n" for path in sorted(contents)).encode()


def _data(loaded: Loaded, settings: Settings, edge: Edge) -> Iterator[tuple[str, bytes]]:
    """Yields the path and the content of every file but for the list and what makes the folder a package."""
    yield EDGE, encoded(edge)
    yield edge.file, _read(Path(loaded.topology.file))
    yield from _schemas(loaded, settings.schemas)
    for artifact in {str(one): one for one in loaded.artifacts.values()}.values():
        for name, data in _version(artifact):
            yield f"{MODELS}/{artifact.name}/{artifact.version}/{name}", data
    if settings.model_trust and loaded.topology.releases.signatures != "off":
        trust = load_trust(settings.model_trust)
        yield from ((f"{TRUST}/{one.file.name}", one.data) for one in (*trust.keys, *trust.authorities))
    yield PLAN, encoded(plan_of(loaded))
    yield from ((f"{RULES}/{node.replace('?', '.when')}.onnx", graph.model) for node, graph in loaded.wiring.graphs.items())
    template = files("penstock.edge") / "template"
    yield from ((name, template.joinpath(source).read_bytes()) for name, source in _TEMPLATE.items())


def _version(artifact: Artifact) -> Iterator[tuple[str, bytes]]:
    yield MODEL_FILE, artifact.read()
    for name in (MANIFEST_FILE, GOLDEN_FILE):
        data = _read(artifact.path / name)
        if digest_of(data) != artifact.digests[name]:
            raise artifact.corrupt(name, "is not the file that was pushed")
        yield name, data
    if (bundle := artifact.bundle()) is not None:
        yield BUNDLE_FILE, bundle


def _schemas(loaded: Loaded, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the schema files that the topology names, what they import, and the writers' schemas beside them."""
    topology = loaded.topology
    names = [name for one in topology.sources for name in (one.schema, one.key_schema) if name]
    names += [one.schema for one in topology.sinks if one.schema]
    schemas: list[Schema] = [*loaded.schemas.values(), *loaded.sink_schemas.values()]
    framed = any("confluent" in form for form in (*(one.format for one in topology.sources), *(one.format for one in topology.sinks)))
    for name in dict.fromkeys(name.partition("#")[0] for name in names):
        yield f"{SCHEMAS}/{name}", read_file(folder / name, str(folder / name))
        for path in _beside(folder / name, schemas, framed=framed):
            yield f"{SCHEMAS}/{path.relative_to(folder)}", read_file(path, str(path))


def _beside(file: Path, schemas: list[Schema], *, framed: bool) -> Iterator[Path]:
    """Yields the files that a schema needs: of a Protobuf text its imports, where protoc finds them; with `framed` the folder `ids/`."""
    for schema in schemas:
        if schema.protobuf is not None and schema.path.partition("#")[0] == str(file):
            for name in filter(None, schema.protobuf.texts):
                yield from [root / name for root in file.parents if (root / name).is_file()][:1]
    if framed:
        folder = ids_folder(Schema("", (), path=str(file)))
        yield from sorted(one for one in folder.glob("*") if one.is_file() and not one.name.startswith("."))


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(Problem(str(path), 0, 0, f"cannot be read: {error.strerror}", "check the path and its permissions")) from error


def _try(folder: Path, settings: Settings) -> None:
    """Checks, loads and prepares the folder as its user will. Raises ConfigError with what it lacks."""
    check(folder)
    try:
        loaded, found = load(folder, replace(settings, model_trust=None))
    except TopologyError as error:
        raise ConfigError([replace(one, file=one.file.replace(f"{folder}/", "")) for one in error.problems]) from error
    runtime.prepare(loaded, found, warm_rows=1)
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def _project(loaded: Loaded, package: str, listed: str) -> str:
    """Returns pyproject.toml. The folder is the package, and its build backend is one of its files: pip needs no index to install it."""
    models = ", ".join(f"{node}={artifact}" for node, artifact in loaded.artifacts.items())
    return f"""[build-system]
requires = []
build-backend = "_wheel"
backend-path = ["."]

[project]
name = "{package}"
version = "{listed}"
description = "The topology {loaded.topology.name} with its models: {models}"
requires-python = ">=3.11"
# Until a release is on the index, the name may be another's there: first install Penstock from a clone,
# `pip install ./penstock` beside https://github.com/penstock-ml/penstock, then this folder.
dependencies = ["penstock{_extras(loaded)}=={version("penstock")}"]
"""


def _extras(loaded: Loaded) -> str:
    """Returns the extras of penstock that the topology needs, in brackets."""
    from penstock.model.extensions import needed

    topology = loaded.topology
    wanted = {
        "extensions": any(needed(str(one.path / MODEL_FILE)) for one in loaded.artifacts.values()),
        "protobuf": any(one.language == "PROTOBUF" for one in (*loaded.schemas.values(), *loaded.sink_schemas.values())),
        "signing": topology.releases.signatures != "off",
    }
    names = ",".join(name for name, is_needed in wanted.items() if is_needed)
    return f"[{names}]" if names else ""


def _require_empty(folder: Path) -> None:
    """Raises ConfigError for a place that holds something."""
    fix = "nothing is overwritten; next: choose another --out, or remove it"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} exists and is not a folder: {fix}")
    if folder.is_dir() and (there := sorted(path.name for path in folder.iterdir())):
        shown = ", ".join(there[:3]) + (f" and {len(there) - 3} more" if len(there) > 3 else "")
        raise ConfigError(f"{folder} exists and is not empty ({shown}): {fix}")
