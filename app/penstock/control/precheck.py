"""What can be found wrong with a proposal before anybody hears of it: the checks of a worker that need no model to be run.

1. Every file of a version that is to come in is the one that was pushed, by its digest.
2. The metrics in its manifest meet what the node requires.
3. Its tensors and parameters fit the topology, together with all the others.

A version that stays and is not in this registry, or is another one here, is passed over: it serves already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from penstock.codecs import load_schema
from penstock.control.messages import Binding
from penstock.control.proposal import Proposal
from penstock.errors import ModelError, Problem, TopologyError
from penstock.model.artifact import Artifact
from penstock.registry.base import Registry
from penstock.topology.check import check
from penstock.topology.kinds import Bound, kind_of
from penstock.topology.spec import ModelNode, ModelRef, Topology

__all__ = ["precheck"]


def precheck(topology: Topology, proposal: Proposal, registry: Registry, schemas: Path) -> None:
    """Raises ModelCorrupt for a file that is not what was pushed, SchemaError, and TopologyError with everything that does not fit."""
    changed = {one.node for one in proposal.differences}
    artifacts: dict[str, Artifact] = {}
    for name, binding in proposal.bindings.items():
        if (artifact := _same_version(registry, binding)) is not None:
            artifacts[name] = artifact
            if name in changed:
                artifact.read()
                artifact.golden_records()
    signatures = {name: artifact.signature for name, artifact in artifacts.items()}
    sources = {one.name: load_schema(schemas / one.schema) for one in topology.sources}
    sinks = {one.name: load_schema(schemas / one.schema) for one in topology.sinks if one.schema}
    problems = check(_as_bound(topology, proposal), sources, signatures, sinks)[1]
    for node in topology.model_nodes:
        if node.name in changed & artifacts.keys():
            problems += _misfits(topology.file, node, artifacts[node.name], proposal.bindings[node.name])
    if problems:
        raise TopologyError(dict.fromkeys(problems))


def _as_bound(topology: Topology, proposal: Proposal) -> Topology:
    """The topology with the versions of the proposal in place of its own, so that problems name these."""
    models = {node: ModelRef(binding.name, binding.version) for node, binding in proposal.bindings.items()}
    return topology.with_nodes(replace(node, model=models.get(node.name, node.model)) for node in topology.model_nodes)


def _same_version(registry: Registry, binding: Binding) -> Artifact | None:
    try:
        found = registry.resolve(binding.name, binding.version)
    except ModelError:
        return None
    return found if (found.digest, found.manifest_digest) == (binding.digest, binding.manifest) else None


def _misfits(file: str, node: ModelNode, artifact: Artifact, binding: Binding) -> Iterator[Problem]:
    bound = Bound(str(artifact), artifact.signature, artifact.manifest.metrics, binding.parameters)
    for mark, message, fix in kind_of(node).fit(node, bound):
        yield Problem(file, mark.line, mark.column, message, fix)
