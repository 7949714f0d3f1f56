"""A topology as one value for other processes: its files, and the digests of its models. A process that opens it runs these bytes or none.

The driver of an engine pins a topology, and its tasks get the value with their code. A process opens it once, and keeps it: models are
fetched by digest into the cache of the host (`registry.cache`), verified, and compared with their golden records, as on a worker.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec

from penstock import runtime
from penstock import settings as configuration
from penstock.binding import Binding
from penstock.codecs.schema_registry import open_schema_registry
from penstock.errors import ConfigError, TopologyError
from penstock.explain.bound import bound_now
from penstock.fit import as_bound, as_run
from penstock.pipeline import Program
from penstock.pipeline.answers import begun
from penstock.pipeline.score import Pipeline
from penstock.record import Record
from penstock.registry.open import open_cache
from penstock.runtime import Loaded
from penstock.scorer import Scorer
from penstock.topology.find import find
from penstock.topology.parse import parse
from penstock.topology.spec import ModelRef
from penstock.transports.memory import Memory, MemorySink
from penstock.worker.reading import Reading

__all__ = ["ANYWHERE", "Control", "Live", "Opened", "Pinned", "opened", "pin"]

logger = logging.getLogger(__name__)

LIMIT: Final = 16 * 1024**2  # bytes of the files beside the models: they travel with the code of every task
KEPT: Final = 2  # topologies that a process keeps open: the newest, and the one before: its tasks may be tried again
ANYWHERE: Final = -1  # a partition that the engine's client chooses by the key


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """Where a control log is, and by which settings it is read; the keys that are trusted there are the file `trust.toml`."""

    brokers: str
    application: str
    unsigned: bool = False


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """A topology: the path of its file where it was pinned, `files` by their path here, what each node is bound to, and the `roots` to
    fetch models from. `generation` is its place in the control log `control`; 0 without one.
    """

    topology: str
    files: dict[str, bytes]
    bindings: dict[str, Binding]
    roots: list[str]
    generation: int = 0
    control: Control | None = None

    def pack(self) -> bytes:
        """Returns the value as bytes, equal for equal values."""
        return msgspec.msgpack.encode(self, order="deterministic")


def pin(
    topology: str | Path,
    *,
    models: str | Path | None = None,
    schemas: str | Path | None = None,
    model_trust: str | Path | None = None,
    config: str | Path | None = None,
    follow: str | None = None,
) -> Pinned:
    """Returns the topology with the models that it names now, or with `follow`, brokers, those that its control log binds now.

    The arguments are those of `penstock.open`. The control log is read by the settings of the operator's commands (application, trust).
    Models are fetched from the registry `models` and from the setting `roots`: folders that every process of the engine sees, or https
    URLs. Opens the topology here first. Raises what `penstock.open` raises, TransportError when the control log cannot be read, and
    ConfigError for more than 16 MB of schemas.
    """
    given = {"models": models, "schemas": schemas, "model_trust": model_trust}
    flags = {name: None if value is None else Path(value) for name, value in given.items()}
    settings = configuration.load({**flags, "brokers": follow}, file=None if config is None else Path(config), spelled=str)
    path = find(topology, settings.topologies)
    parsed = parse(path)
    if problems := runtime.forgotten(parsed, "a task of an engine"):
        raise TopologyError(problems)
    bound = bound_now(parsed, replace(settings, releases=follow is not None))
    names = {node: f"models:/{one.name}/{one.version}" for node, one in bound.artifacts.items()}
    file = {node: Binding(uri=names[node], digest=one.digest, manifest=one.manifest_digest) for node, one in bound.artifacts.items()}
    files = {path.name: path.read_bytes(), **_files("schemas", settings.schemas), **_files("keys", settings.model_trust)}
    if follow is not None and settings.trust.is_file():
        files["trust.toml"] = settings.trust.read_bytes()
    pinned = Pinned(
        topology=str(path),
        files=files,
        bindings=dict(bound.release.bindings) if bound.release else file,
        roots=[str(settings.models.expanduser().absolute()), *(one.strip() for one in settings.roots.split(",") if one.strip())],
        generation=bound.generation,
        control=None if follow is None else Control(brokers=follow, application=settings.application, unsigned=settings.unsigned_control),
    )
    versions = opened(pinned.pack()).loaded.artifacts
    logger.info("%s is pinned: %s", path, ", ".join(f"{node}={one}" for node, one in versions.items()))
    return pinned


def _files(name: str, folder: Path | None) -> dict[str, bytes]:
    if folder is None:
        return {}
    found = sorted(one for one in folder.rglob("*") if one.is_file())
    if sum(one.stat().st_size for one in found) > LIMIT:
        raise ConfigError(f"{folder} has more than {LIMIT // 1024**2} MB, which every task would get: keep {name} in a folder of their own")
    return {f"{name}/{one.relative_to(folder).as_posix()}": one.read_bytes() for one in found}


_kept: OrderedDict[str, Opened] = OrderedDict()
_lock = threading.Lock()


def opened(packed: bytes) -> Opened:
    """Returns the pinned topology, open in this process. Raises as `Opened`."""
    digest = hashlib.sha256(packed).hexdigest()
    with _lock:
        if digest not in _kept:
            _kept[digest] = Opened(msgspec.msgpack.decode(packed, type=Pinned))
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        _kept.move_to_end(digest)
        return _kept[digest]


class Opened:
    """A pinned topology in this process: models are fetched, checked and loaded at their first use. Threads may share it.

    Raises ConfigError for a topology file that this version of Penstock cannot read; where models are used, TopologyError and ModelError.
    """

    def __init__(self, pinned: Pinned) -> None:
        self.generation = pinned.generation
        self._pinned = pinned
        place = Path(tempfile.mkdtemp(prefix="penstock-"))
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        for name, content in pinned.files.items():
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        first, *others = pinned.roots
        given: dict[str, object] = {"models": Path(first), "schemas": place / "schemas", "roots": ",".join(others) or None}
        if pinned.control is not None:
            control = pinned.control
            given |= {"brokers": control.brokers, "application": control.application, "trust": place / "trust.toml"}
            given |= {"unsigned_control": control.unsigned}
        trust = place / "keys" if (place / "keys").is_dir() else None
        self.settings = replace(configuration.load(given, spelled=str), model_trust=trust, releases=pinned.control is not None)
        self.topology = replace(parse(place / Path(pinned.topology).name), file=pinned.topology)  # problems name what was pinned

    @cached_property
    def loaded(self) -> Loaded:
        """The topology with its models, fetched by their digests; they fit. Raises TopologyError, ModelError."""
        settings, bindings = self.settings, self._pinned.bindings
        cache, signed = open_cache(settings), self.topology.releases.signatures != "off"
        artifacts = {node: cache.fetch(one, stopped=lambda: False, signature=signed) for node, one in bindings.items()}
        models = {node: ModelRef(one.name, one.version) for node, one in artifacts.items()}
        bound = as_bound(self.topology, models)
        if self.generation:
            bound = as_run(self.topology, models, {node: one.parameters for node, one in bindings.items()})
        return runtime.load(
            bound,
            models=settings.models,
            schemas=settings.schemas,
            artifacts=artifacts,
            schema_registry=open_schema_registry(settings),
        )

    @cached_property
    def scorer(self) -> Scorer:
        """The topology for columns. It follows nothing: all processes have the models that were pinned."""
        return Scorer(self.loaded, self.settings)

    @cached_property
    def _pipelines(self) -> Pipelines:
        return Pipelines(runtime.prepare(self.loaded, self.settings), self.generation, self.settings.chunk_rows)

    def answers(self, records: Sequence[Record]) -> list[Record]:
        """See `Pipelines.answers`."""
        return self._pipelines.answers(records)


class Live:
    """What a process runs that lives as long as its job: a pinned topology, which with a control log follows it in a thread (`Reading`).

    Threads may share it. A call is answered by one generation. Raises TopologyError, ModelError, and what `Reading.start` raises.
    """

    def __init__(self, packed: bytes) -> None:
        self._pinned = msgspec.msgpack.decode(packed, type=Pinned)
        self._opened = opened(packed)
        self._reading: Reading | None = None
        self._served: tuple[int, Pipelines] | None = None
        if self._pinned.control is not None:
            self._reading = Reading(self._opened.loaded, self._opened.settings)
            self._reading.start()
            weakref.finalize(self, self._reading.close)

    @property
    def now(self) -> Pinned:
        """The topology with the models that are live here now: made ready, as on a worker."""
        if self._reading is None:
            return self._pinned
        live = self._reading.deployment.primary
        return msgspec.structs.replace(self._pinned, bindings=dict(live.bindings), generation=live.generation)

    @cached_property
    def scorer(self) -> Scorer:
        """The topology for columns, which follows the control log itself."""
        return Scorer(self._opened.loaded, self._opened.settings, follow=self._reading is not None)

    def answers(self, records: Sequence[Record]) -> list[Record]:
        """See `Pipelines.answers`."""
        if self._reading is None:
            return self._opened.answers(records)
        live = self._reading.deployment.primary
        served = self._served
        if served is None or served[0] != live.generation:
            served = live.generation, Pipelines(live.program, live.generation, self._opened.settings.chunk_rows)
            self._served = served
        return served[1].answers(records)


class Pipelines:
    """The stages of a program, by the topic of their source, for an engine that writes what they answer. Threads may share them."""

    def __init__(self, program: Program, generation: int, rows: int) -> None:
        self._lock = threading.Lock()
        self._by_topic = {
            stage.wired.source.topic: Pipeline(program, name, sink=_ELSEWHERE, generation=generation, chunk_rows=rows)
            for name, stage in program.plan.stages.items()
        }

    def answers(self, records: Sequence[Record]) -> list[Record]:
        """Returns what a worker would write for these records of the sources' topics: outputs, and dead letters. Blocks.

        Those to one partition are in the order of their records. Of dead letters, and where a sink sets the key, the partition is ANYWHERE:
        the engine's client chooses it.
        """
        made = []
        with self._lock:
            for (topic, partition), run in groupby(records, lambda one: (one.topic, one.partition)):
                pipeline = self._by_topic[topic]
                for chunk in pipeline.chunks([((topic, partition), list(run))]):
                    for parcel in pipeline.complete(begun(pipeline, chunk)):
                        place = ANYWHERE if parcel.dead else parcel.partition
                        made += [Record(parcel.topic, value, key, headers, stamp, place) for stamp, key, value, headers in parcel.records]
        return made


class _Elsewhere(MemorySink):
    """The engine writes: its client chooses the partition of a key."""

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """See `Sink.partition_for`."""
        return ANYWHERE


_ELSEWHERE: Final = _Elsewhere(Memory(1))
