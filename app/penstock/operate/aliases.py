"""Aliases that have moved: for which nodes a release is due because the topology file follows an alias, and the alias points elsewhere now.

What an alias was held against last is on the control topic, so one who follows aliases remembers nothing and misses nothing:

1. The newest release that says it answers this alias of this node, whether it came to be in force, is pending or was aborted. So a
   version that the workers refused is not sent to them again and again, and a person who rolled it back is not overruled. Only a
   release that lost against another is made again.
2. Without one, what generation 0 was bound to, as the first release says.
3. Without any release, what is bound now.

A version that is bound already is nothing to release, whoever brought it.
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
    """The nodes to change, in words what has moved, and what could not be resolved."""

    changes: Mapping[str, Change]
    words: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def reason(self) -> str:
        return "; ".join(self.words)


def moves(topology: Topology, log: Log, now: Mapping[str, Binding], registry: Registry) -> Moves:
    """What is due by the rules above; `now` is what is bound."""
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
