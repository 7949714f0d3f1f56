"""Aliases that have moved: the nodes that need a release because the topology file names an alias, and the alias names another version now.

The control topic records the last version that each alias resolved to, so `penstock watch` needs no state. That version is:

1. The binding in the newest release that resolved this alias for this node, whether it was activated, is pending or was aborted. So a
   version that the workers refused is not sent to them repeatedly, and a rollback by a person is not undone. Only a release that lost
   against another one is made again.
2. Without such a release, what generation 0 bound, as the first release records it.
3. Without any release, what is bound now.

A version that is already bound needs no release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from penstock.binding import Binding
from penstock.control.log import Log, Standing
from penstock.control.proposal import Change, bind
from penstock.errors import ModelError
from penstock.registry.base import Registry
from penstock.registry.names import ALIAS
from penstock.topology.spec import ModelNode, Topology

__all__ = ["Moves", "moves"]


class Moves(NamedTuple):
    """The nodes to change, a text for each alias that has moved, and the aliases that could not be resolved, with the reason."""

    changes: Mapping[str, Change]
    words: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def reason(self) -> str:
        return "; ".join(self.words)


def moves(topology: Topology, log: Log, now: Mapping[str, Binding], registry: Registry) -> Moves:
    """Returns the changes that are due by the rules above; `now` is what is bound."""
    changes: dict[str, Change] = {}
    words, problems = [], []
    for node in topology.model_nodes:
        if not ALIAS.fullmatch(node.model.version):
            continue
        try:
            target = bind(registry, node.model)
        except ModelError as error:
            problems.append(f"{node.name}: {error}")
            continue
        last = _last(node, log, now)
        if _same_files(target, last) or _same_files(target, now[node.name]):
            continue
        changes[node.name] = Change(node.model)
        words.append(f"{node.model} moved from {last.version} to {target.version}")
    return Moves(changes, tuple(dict.fromkeys(words)), tuple(problems))


def _last(node: ModelNode, log: Log, now: Mapping[str, Binding]) -> Binding:
    answers = [
        known
        for known in log.releases.values()
        if known.release.aliases.get(node.name) == str(node.model) and known.standing is not Standing.REJECTED
    ]
    if answers:
        return max(answers, key=lambda known: known.offset).release.bindings[node.name]
    return (log.bound(0) or {}).get(node.name) or now[node.name]


def _same_files(one: Binding, other: Binding) -> bool:
    return (one.digest, one.manifest) == (other.digest, other.manifest)
