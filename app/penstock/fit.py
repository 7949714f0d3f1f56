"""Checks whether a set of versions fits a topology: at a start, for a proposal, for a release made ready, for an explanation.

1. Exactly the topology's nodes are bound (`strays`).
2. Names, types and shapes fit, each reader together with all the others (`topology.check`).
3. The metrics in a version's manifest meet its node's requirements.
4. Parameters that replace the file's fit the tensors of the versions.

No model is loaded: the manifests are sufficient.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from penstock.errors import Problem
from penstock.model.artifact import Artifact
from penstock.schema import Schema
from penstock.topology.check import check
from penstock.topology.kinds import Bound, kind_of
from penstock.topology.spec import ModelNode, ModelRef, Topology
from penstock.topology.wiring import Wiring

__all__ = ["as_bound", "as_run", "fit", "strays"]


def fit(
    topology: Topology,
    schemas: Mapping[str, Schema],
    sink_schemas: Mapping[str, Schema],
    versions: Mapping[str, Artifact],
    parameters: Mapping[str, Mapping[str, object]] | None = None,
    *,
    judged: Collection[str] | None = None,
) -> tuple[Wiring, list[Problem]]:
    """Returns the wiring with these versions, complete when there are no problems, and the problems of steps 2 to 4.

    `versions` and `parameters` (None: those of the file) are by node. A node without a version is skipped: the caller that could not
    get it has reported that. Steps 3 and 4 apply to the nodes in `judged` (None: all): a version that serves already has passed them.
    """
    nodes = [node for node in topology.model_nodes if node.name in versions]
    wiring, problems = check(topology, schemas, {node.name: versions[node.name].signature for node in nodes}, sink_schemas)
    for node in nodes:
        if judged is None or node.name in judged:
            given = None if parameters is None else parameters.get(node.name, {})
            problems += _misfits(topology.file, node, versions[node.name], given)
    return wiring, list(dict.fromkeys(problems))


def strays(topology: Topology, bound: Collection[str], *, by: str = "the release", fix: str = "") -> list[Problem]:
    """Returns, for step 1, a problem for each name in `bound` that is not a node, and for each node that is not in it.

    `by` names what binds them, and `fix` is the advice of the problems.
    """
    nodes = {node.name: node for node in topology.model_nodes}
    fix = fix or "the topology file may have changed since"
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
    """Returns the topology with these versions instead of the file's, by node, so that problems name them."""
    return topology.with_nodes(replace(node, model=models.get(node.name, node.model)) for node in topology.model_nodes)


def as_run(topology: Topology, models: Mapping[str, ModelRef], parameters: Mapping[str, Mapping[str, Any]]) -> Topology:
    """Returns the topology with these versions and parameters, by node, and without requirements: they were met when it became active."""
    bound = as_bound(topology, models)
    return bound.with_nodes(
        replace(node, parameters={**node.parameters, **parameters.get(node.name, {})}, require=()) for node in bound.model_nodes
    )


def _misfits(file: str, node: ModelNode, version: Artifact, parameters: Mapping[str, object] | None) -> Iterator[Problem]:
    bound = Bound(str(version), version.signature, version.manifest.metrics, parameters)
    for mark, message, fix in kind_of(node).fit(node, bound):
        yield Problem(file, mark.line, mark.column, message, fix)
