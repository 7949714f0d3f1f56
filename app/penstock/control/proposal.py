"""A release before it is announced: what is bound now, the requested changes, and the result once every name is resolved.

1. What is bound now is what the active generation binds. At generation 0 it is what the topology file binds. Where the file names an
   alias, it is the version that the live workers report, if they agree: an alias may have moved since they started, and a
   release does not change a node that it does not name.
2. A reference, `name@version` or `name@alias`, is resolved to one version and its digests, once. From then on only digests are used.
3. A release records the aliases that it resolved, so that `penstock watch` knows which ones it has handled.
4. A release is proposed beside what is live, never beside a candidate: while one is on trial, nothing else can be announced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from penstock.binding import Binding, same
from penstock.control.fleet import Worker
from penstock.control.log import Known, Log
from penstock.control.messages import Release
from penstock.control.strategy import SINGLE, Strategy
from penstock.errors import ConfigError, ControlError, Problem
from penstock.registry.base import Registry
from penstock.registry.names import ALIAS
from penstock.topology.names import did_you_mean
from penstock.topology.spec import ModelNode, ModelRef, Topology

__all__ = ["Change", "Difference", "Proposal", "bind", "bound_now", "changes_of", "differences", "find", "propose", "restore"]


class Change(NamedTuple):
    """A requested change of a node: another model (None: the same), other parameters (a value of None: the topology file's value)."""

    model: ModelRef | None = None
    parameters: Mapping[str, Any] = {}

    @classmethod
    def to(cls, reference: str) -> Change:
        """Parses `name@version` or `name@alias`. Raises ConfigError."""
        name, separator, version = reference.partition("@")
        if not (name and separator and version):
            raise ConfigError(f"{reference!r} has no version: write NAME@VERSION or NAME@ALIAS, such as flight-trees@2")
        return cls(ModelRef(name, version))


class Difference(NamedTuple):
    """A node before (None: it was not bound) and after."""

    node: str
    before: Binding | None
    after: Binding

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.node}: {self.after}"
        if (self.before.digest, self.before.manifest) != (self.after.digest, self.after.manifest):
            text = f"{self.node}: {self.before} → {self.after}"
        else:
            text = f"{self.node}: {self.after}"
        names = dict.fromkeys([*self.before.parameters, *self.after.parameters])
        for name in names:
            was, will = self.before.parameters.get(name), self.after.parameters.get(name)
            if was != will:
                text += f", {name} {was} → {will}"
        return text


@dataclass(frozen=True, slots=True)
class Proposal:
    """The content of a release before it has an id and is announced."""

    base: int
    bindings: Mapping[str, Binding]
    differences: tuple[Difference, ...]
    baseline: Mapping[str, Binding] = field(default_factory=dict)
    restores: int | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    strategy: Strategy = SINGLE


def bind(registry: Registry, model: ModelRef, parameters: Mapping[str, Any] | None = None) -> Binding:
    """Returns the binding of the version, or of the one that the alias names now. Raises ModelNotFound, ModelCorrupt, ConfigError."""
    artifact = registry.resolve(model.name, model.version)
    return Binding(
        uri=f"models:/{artifact.name}/{artifact.version}",
        digest=artifact.digest,
        manifest=artifact.manifest_digest,
        parameters=dict(parameters or {}),
    )


def bound_now(topology: Topology, log: Log, workers: Iterable[Worker], registry: Registry) -> dict[str, Binding]:
    """Returns the current binding of every node, by rule 1. Raises ModelNotFound, ModelCorrupt, ConfigError."""
    if log.bindings is None:
        served = [worker.status.models for worker in workers if worker.live and worker.generation == 0]
        return {node.name: bind(registry, _taken(node, served), node.parameters) for node in topology.model_nodes}
    return {node.name: log.bindings.get(node.name) or bind(registry, node.model, node.parameters) for node in topology.model_nodes}


def propose(
    topology: Topology,
    log: Log,
    now: Mapping[str, Binding],
    changes: Mapping[str, Change],
    registry: Registry,
    strategy: Strategy = SINGLE,
) -> Proposal:
    """Returns the release that makes these changes to what is bound `now`, by this strategy.

    Raises ConfigError for a node that the topology lacks, ModelNotFound, and ControlError when nothing would change.
    """
    if unknown := [node for node in changes if topology.model_node(node) is None]:
        known = [node.name for node in topology.model_nodes]
        raise ConfigError([Problem("", 0, 0, f"{topology.name} has no node {node!r}", did_you_mean(node, known)) for node in unknown])
    bindings = dict(now)
    for node, change in changes.items():
        before, declared = now[node], topology.model_node(node)
        given = {name: value for name, value in change.parameters.items() if value is not None}
        kept = {name: value for name, value in before.parameters.items() if name not in change.parameters}
        parameters = {**(declared.parameters if declared else {}), **kept, **given}
        bindings[node] = (
            bind(registry, change.model, parameters) if change.model else msgspec.structs.replace(before, parameters=parameters)
        )
    aliases = {node: str(change.model) for node, change in changes.items() if change.model and ALIAS.fullmatch(change.model.version)}
    return _proposal(log, now, bindings, aliases=aliases, strategy=strategy)


def restore(log: Log, now: Mapping[str, Binding], to: str | int | None) -> Proposal:
    """Returns the release that binds what a generation bound: the one before (None), a number, or the one of a release id.

    The one before is that of the release that was live before. Of a rollback it is the one before the generation that it restored: a
    second rollback goes further back, never forward to what the first one took back. Raises ControlError when there is no such
    generation, or when the result is what is bound `now`.
    """
    generation = _before(log) if to is None else _number(log, str(to))
    if generation < 0 and log.generation:
        raise ControlError(
            f"generation {log.generation} has taken everything back: it binds what the topology file binds, and no generation is before "
            "that; to go forward again, name a generation (`penstock history` lists them)"
        )
    if generation < 0:
        raise ControlError("there is no release yet: the topology file's bindings are active, and no generation is before them")
    bindings = log.bound(generation)
    if bindings is None:
        raise ControlError(f"generation {generation}: its bindings are not recorded; deploy the versions that you want by name")
    return _proposal(log, now, bindings, restores=generation)


def _before(log: Log) -> int:
    """Returns the generation before the one in which the bindings that are live now were live first; -1 when nothing was live before."""
    generation = _first(log, log.generation)
    while generation:
        earlier = log.generations[generation - 1].live.restores
        if earlier is None or earlier >= generation:  # no tool of ours writes a later one, but any trusted key may
            break
        generation = _first(log, earlier)
    return _first(log, generation - 1) if generation else -1


def _first(log: Log, generation: int) -> int:
    """Returns the first generation in which the release was live that is live in this one: the steps of a trial change the other one."""
    while generation and _live(log, generation - 1) == _live(log, generation):
        generation -= 1
    return generation


def _live(log: Log, generation: int) -> str:
    return log.generations[generation - 1].live.id if generation else ""


def find(log: Log, part: str) -> Known:
    """Returns the release whose id begins with `part`. Raises ControlError when there is no such release, or several."""
    found = [known for id, known in log.releases.items() if id.startswith(part.lower())] if part else []
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(known.release.id for known in found[:5])
        raise ControlError(f"{part} is the beginning of {len(found)} release ids; write more of it: {listed}")
    raise ControlError(f"there is no release {part!r}; `penstock releases ls` lists them")


def _proposal(log: Log, now: Mapping[str, Binding], bindings: Mapping[str, Binding], **more: Any) -> Proposal:
    changed = tuple(differences(now, bindings))
    if not changed:
        listed = ", ".join(f"{node} {binding}" for node, binding in bindings.items())
        raise ControlError(f"this changes nothing: generation {log.generation} has these bindings already ({listed})", code="no-change")
    return Proposal(log.generation, bindings, changed, baseline={} if log.generation else now, **more)


def changes_of(log: Log, release: Release) -> tuple[Difference, ...]:
    """Returns what the release changes in the generation that it was made for."""
    return tuple(differences(release.baseline or log.bound(release.base), release.bindings))


def differences(before: Mapping[str, Binding] | None, after: Mapping[str, Binding]) -> Iterator[Difference]:
    """Yields the nodes whose files or parameters differ, in the order of `after`. Without `before`, yields every node."""
    for node, binding in after.items():
        was = (before or {}).get(node)
        if was is None or not same({node: was}, {node: binding}):
            yield Difference(node, was, binding)


def _taken(node: ModelNode, served: Iterable[Mapping[str, str]]) -> ModelRef:
    """Returns the version of the node that the workers took at their start, if they agree, else the one in the file."""
    versions = {models.get(node.name, "") for models in served}
    name, _, version = versions.pop().partition("@") if len(versions) == 1 else ("", "", "")
    return ModelRef(name, version) if version else node.model


def _number(log: Log, text: str) -> int:
    if text.isdecimal() and (text == "0" or text[0] != "0"):  # ids begin with a 0, for some centuries
        if int(text) > log.generation:
            raise ControlError(f"there is no generation {text}: the newest is {log.generation}")
        return int(text)
    release = find(log, text).release
    for generation in log.generations:
        if generation.live.id == release.id:
            return generation.number
    raise ControlError(f"release {release.id} was never active; `penstock history` lists the releases that were")
