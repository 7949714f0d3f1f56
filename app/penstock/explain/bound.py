"""The versions that a record is explained with, the source that names them, and the plan that they make.

A record of a released generation: what the control log binds, by digest, folded as a worker would fold it. A record of
generation 0, or without a log: the versions that the headers name; only the result can confirm them. A dead letter, if wanted: what
would score now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from penstock import runtime
from penstock.codecs.schema_registry import open_schema_registry
from penstock.control.log import Log
from penstock.control.messages import Release
from penstock.errors import ConfigError, Problem, TopicMissing, TopologyError, Untraceable
from penstock.explain.absent import replaced, without
from penstock.explain.provenance import Origin
from penstock.fit import as_run, strays
from penstock.model.artifact import Artifact
from penstock.operate.desk import Desk
from penstock.pipeline import Program
from penstock.record import Position
from penstock.registry.open import open_cache, open_registry
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.topology.spec import ModelRef, Topology
from penstock.topology.wiring import Matched

__all__ = ["Bound", "bound_now", "bound_then", "load_bound", "load_stage"]


@dataclass(frozen=True, slots=True)
class Bound:
    """The versions that are run, by node, and the source that names them: with a `release`, its digests were checked.

    `parameters` are those of the releases, by node. Stages of one topology may have scored with different generations: `generation` and
    `release` are then those of the last stage, and `stages` has all.
    """

    generation: int
    said_by: Literal["control log", "headers", "topology file"]
    artifacts: Mapping[str, Artifact]
    release: Release | None = None
    parameters: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)


def bound_then(said: Origin, topology: Topology, position: Position, settings: Settings) -> Bound:
    """Returns what made the prediction. Raises Untraceable when its headers contradict the control log, ModelError, TopicMissing."""
    if not said.generation or not settings.releases:
        return _named_in(said, topology, settings)
    log = _fold(topology, settings)
    generations = {said.generation, *said.stages.values()}
    if (missing := next((one for one in generations if one and log.bound(one) is None), None)) is not None:
        raise Untraceable(f"{position} names generation {missing} as its origin, but {_newest(log, settings)}: a bug, or a forgery")
    known = {one: _released(one, log, topology, settings, said.candidate) for one in generations if one}
    if 0 in generations:
        known[0] = _named_in(said, topology, settings)
    bound = known[said.generation] if len(known) == 1 else _mixed(said, known, topology, settings)
    claimed, real = {node: str(model) for node, model in said.models.items()}, {node: str(one) for node, one in bound.artifacts.items()}
    if said.stages:  # a record between two stages names only the nodes before it
        real = {node: one for node, one in real.items() if node in claimed}
    if claimed != real:
        differ = [node for node in {**real, **claimed} if claimed.get(node) != real.get(node)]
        listed = ", ".join(f"{node} is {claimed.get(node)} in the headers and {real.get(node)} in the log" for node in differ)
        raise Untraceable(f"{position} contradicts the control log: in generation {said.generation}, {listed}: a bug, or a forgery")
    return replace(bound, stages=said.stages)


def _named_in(said: Origin, topology: Topology, settings: Settings) -> Bound:
    """Returns what the headers name; of a record that has not passed all stages, the file's versions for the others."""
    rest = {node.name: node.model for node in topology.model_nodes if said.stages}
    return Bound(said.generation, "headers", _resolved({**rest, **said.models}, settings), stages=said.stages)


def _mixed(said: Origin, known: Mapping[int, Bound], topology: Topology, settings: Settings) -> Bound:
    """Returns each node as its stage has run it; one that several stages run, as the last of them has."""
    last = known[said.generation]
    loaded = _loaded(topology, last, settings)
    generation: dict[str, int] = {}
    for share in runtime.shares(loaded, f"{settings.application}.{topology.name}").values():
        for stage in share.wiring.stages:
            generation |= {step.node.name: said.stages[stage.name] for step in stage.steps if stage.name in said.stages}
    chosen = {node: known[generation.get(node, said.generation)] for node in last.artifacts}
    return replace(
        last,
        artifacts={node: one.artifacts[node] for node, one in chosen.items()},
        parameters={node: one.parameters.get(node, {}) for node, one in chosen.items()},
    )


def _newest(log: Log, settings: Settings) -> str:
    """Returns a text about the newest generation of the log, and refused entries: this host may trust fewer keys than workers."""
    refused = ", ".join(f"{count} {code}" for code, count in log.refused.items())
    doubt = (
        f" with the keys that are trusted here, which refuse {refused}: set trust (here {settings.trust}) and "
        "unsigned_control as on the workers"
    )
    return f"the newest one of the control log is {log.generation}" + (doubt if refused else "")


def bound_now(topology: Topology, settings: Settings) -> Bound:
    """Returns what would score now. Raises ModelError, TopicMissing, ConfigError for a log that only others' keys, or none, have signed."""
    if settings.releases:
        log = _fold(topology, settings)
        if log.generation:
            return _released(log.generation, log, topology, settings)
        _refuse_to_fall_back(log, settings)
    return Bound(0, "topology file", _resolved({node.name: node.model for node in topology.model_nodes}, settings))


def _refuse_to_fall_back(log: Log, settings: Settings) -> None:
    """Raises ConfigError where the versions of the file would be taken for those of a release that this host cannot check."""
    if unchecked := log.refused["unknown-key"] + log.refused["unsigned"]:
        why = "of keys that are unknown here" if log.refused["unknown-key"] else "without a signature"
        message = f"the control log holds {unchecked} messages {why}, and no release of a key that is trusted here"
        fix = "set trust and unsigned_control as on the workers; or --no-releases for the versions of the topology file"
        raise ConfigError(Problem(str(settings.trust), 0, 0, message, fix))


def _released(generation: int, log: Log, topology: Topology, settings: Settings, candidate: str = "") -> Bound:
    """Returns what answers in a generation: what is live, or the `candidate` of this id, where it is on trial."""
    found = log.generations[generation - 1]
    release = found.candidate if found.candidate is not None and found.candidate.id == candidate else found.live
    cache, signed = open_cache(settings), topology.releases.signatures != "off"
    artifacts = {node: cache.fetch(one, stopped=lambda: False, signature=signed) for node, one in release.bindings.items()}
    return Bound(generation, "control log", artifacts, release, {node: one.parameters for node, one in release.bindings.items()})


def _resolved(models: Mapping[str, ModelRef], settings: Settings) -> dict[str, Artifact]:
    registry = open_registry(settings.models)
    return {node: registry.resolve(model.name, model.version) for node, model in models.items()}


def _fold(topology: Topology, settings: Settings) -> Log:
    """Returns the control log, judged as a worker with these settings judges it."""

    async def read() -> Log:
        async with Desk(settings, topology) as desk:
            return desk.log

    try:
        return asyncio.run(read())
    except TopicMissing as error:
        raise TopicMissing(
            f"{error}; set --application as on the workers (here {settings.application}), or --no-releases without a control log"
        ) from error


def load_bound(topology: Topology, bound: Bound, settings: Settings, missing: Collection[str] = ()) -> tuple[Loaded, Program]:
    """Returns the topology with these versions and the release's parameters. Today's requirements on metrics are not checked.

    The program does without the nodes in `missing`, as a join has.

    Raises ConfigError for versions of nodes that the topology does not have, or that do not fit it; ModelCorrupt, ModelUntrusted.
    """
    loaded = _loaded(topology, bound, settings)
    if not missing:
        return loaded, runtime.prepare(loaded, settings, warm_rows=1)
    return loaded, replaced(runtime.prepare(without(loaded, missing), settings, warm_rows=1), loaded, missing)


def load_stage(topology: Topology, bound: Bound, settings: Settings, topic: str) -> tuple[Loaded, Program, str]:
    """Returns the process whose stage reads the topic, with these versions, and the name of the stage.

    Raises TopologyError for each window and lookup of that stage, ConfigError for a topic that no stage reads, and as `load_bound`.
    """
    whole = _loaded(topology, bound, settings)
    shares = runtime.shares(whole, f"{settings.application}.{topology.name}")
    stages = [(share, stage) for share in shares.values() for stage in share.wiring.stages if not isinstance(stage.gather, Matched)]
    found = {read: (share, stage) for share, stage in stages for read in stage.topics}
    if topic not in found:
        raise ConfigError(Problem(topology.file, 0, 0, f"no stage reads the topic {topic}", "explain with the file that the workers run"))
    share, stage = found[topic]
    if len(stage.topics) > 1:
        message = f"the stage {stage.name} joins {' and '.join(stage.topics)}, behind windows: one of these records does not make the row"
        raise ConfigError(Problem(topology.file, 0, 0, message, "explain the answers of its members, from the topics that it reads"))
    fix = "add materialize: true to it: what the stages behind it write can be explained"
    if problems := runtime.forgotten(topology, "a record alone", fix, nodes={step.node.name for step in stage.steps}, matches=False):
        raise TopologyError(problems)
    return share, runtime.prepare(share, settings, warm_rows=1), stage.name


def _loaded(topology: Topology, bound: Bound, settings: Settings) -> Loaded:
    if found := strays(topology, bound.artifacts, by=f"generation {bound.generation}", fix="explain with the file that the workers run"):
        raise ConfigError(found)
    models = {node: ModelRef(one.name, one.version) for node, one in bound.artifacts.items()}
    return runtime.load(
        as_run(topology, models, bound.parameters),
        models=settings.models,
        schemas=settings.schemas,
        artifacts=bound.artifacts,
        schema_registry=open_schema_registry(settings),
    )
