"""Does this set of versions fit this topology? The one check: at a start, of a proposal, of a release made ready, of an explanation.

1. What is bound are the topology's nodes, all of them and nothing else (`strays`).
2. Names, types and shapes fit, each reader together with all the others (`topology.check`).
3. The metrics in a version's manifest meet what its node requires.
4. Parameters in place of the file's fit the tensors of the versions.

Nothing is loaded: manifests say enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from penstock.errors import Problem
from penstock.model.artifact import Artifact
from penstock.schema import Schema
from penstock.topology.check import check
from penstock.topology.kinds import Bound, kind_of
from penstock.topology.spec import ModelNode, ModelRef, Topology
from penstock.topology.wiring import Wiring

__all__ = ["as_bound", "fit", "strays"]


def fit(
    topology: Topology,
    schemas: Mapping[str, Schema],
    sink_schemas: Mapping[str, Schema],
    versions: Mapping[str, Artifact],
    parameters: Mapping[str, Mapping[str, object]] | None = None,
    *,
    judged: Collection[str] | None = None,
) -> tuple[Wiring, list[Problem]]:
    """The wiring with these versions, whole when there are no problems, and the problems of steps 2 to 4.

    `versions` and `parameters` (None: the file's own) are by node. A node without a version is passed over: whoever could not get it has
    reported that. `judged` are the nodes of which steps 3 and 4 are asked (None: all): a version that serves already has been asked.
    """
    nodes = [node for node in topology.model_nodes if node.name in versions]
    wiring, problems = check(topology, schemas, {node.name: versions[node.name].signature for node in nodes}, sink_schemas)
    for node in nodes:
        if judged is None or node.name in judged:
            given = None if parameters is None else parameters.get(node.name, {})
            problems += _misfits(topology.file, node, versions[node.name], given)
    return wiring, list(dict.fromkeys(problems))


def strays(topology: Topology, bound: Collection[str], *, by: str = "the release", fix: str = "") -> list[Problem]:
    """Step 1: a problem for each name in `bound` that is no node, and for each node that is not in it. `by` is who binds them."""
    nodes = {node.name: node for node in topology.model_nodes}
    fix = fix or "was the topology file changed since?"
    unknown = [
        Problem(topology.file, 0, 0, f"the topology {topology.name} has no node {name!r}, which {by} binds", fix)
        for name in bound
        if name not in nodes
    ]
    missing = [
        Problem(topology.file, node.mark.line, node.mark.column, f"nodes.{name}: {by} does not bind it, and it has to bind every node", fix)
        for name, node in nodes.items()
        if name not in bound
    ]
    return unknown + missing


def as_bound(topology: Topology, models: Mapping[str, ModelRef]) -> Topology:
    """The topology with these versions in place of its own, by node, so that problems name them."""
    return topology.with_nodes(replace(node, model=models.get(node.name, node.model)) for node in topology.model_nodes)


def _misfits(file: str, node: ModelNode, version: Artifact, parameters: Mapping[str, object] | None) -> Iterator[Problem]:
    bound = Bound(str(version), version.signature, version.manifest.metrics, parameters)
    for mark, message, fix in kind_of(node).fit(node, bound):
        yield Problem(file, mark.line, mark.column, message, fix)
