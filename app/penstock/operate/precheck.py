"""The checks of a proposal before it is announced: those checks of a worker that need not run a model.

1. Every file of a new version is the one that was pushed, by its digest.
2. The metrics in its manifest meet the node's requirements.
3. Its tensors and parameters fit the topology, together with all the others.

An unchanged version that is missing in this registry, or differs there, is skipped: it serves already.
"""

from __future__ import annotations

from pathlib import Path

from penstock.binding import Binding
from penstock.codecs import load_schema
from penstock.control.proposal import Proposal
from penstock.errors import ModelError, TopologyError
from penstock.fit import as_bound, fit
from penstock.model.artifact import Artifact
from penstock.registry.base import Registry
from penstock.topology.envelopes import read_by
from penstock.topology.spec import ModelRef, Topology

__all__ = ["precheck", "same_version"]


def precheck(topology: Topology, proposal: Proposal, registry: Registry, schemas: Path) -> None:
    """Raises ModelCorrupt for a file that is not the one pushed, SchemaError, and TopologyError with every incompatibility."""
    changed = {one.node for one in proposal.differences}
    artifacts: dict[str, Artifact] = {}
    for name, binding in proposal.bindings.items():
        if (artifact := same_version(registry, binding)) is not None:
            artifacts[name] = artifact
            if name in changed:
                artifact.read()
                artifact.golden_records()
    keys = {one.name: load_schema(schemas / one.key_schema) for one in topology.sources if one.key_schema}
    read = [
        (one.name, read_by(one, load_schema(schemas / one.schema) if one.schema else None, keys.get(one.name))) for one in topology.sources
    ]
    sources = {name: schema for name, schema in read if schema is not None}
    sinks = {one.name: load_schema(schemas / one.schema) for one in topology.sinks if one.schema}
    bound = as_bound(topology, {node: ModelRef(one.name, one.version) for node, one in proposal.bindings.items()})
    parameters = {node: one.parameters for node, one in proposal.bindings.items()}
    problems = fit(bound, sources, sinks, artifacts, parameters, judged=changed)[1]
    if problems:
        raise TopologyError(problems)


def same_version(registry: Registry, binding: Binding) -> Artifact | None:
    """Returns the version that is bound, by its digests; None when this registry does not have it."""
    try:
        found = registry.resolve(binding.name, binding.version)
    except ModelError:
        return None
    return found if (found.digest, found.manifest_digest) == (binding.digest, binding.manifest) else None
