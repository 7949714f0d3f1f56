"""The order in which nodes can run: each after those it reads, otherwise as in the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["order"]


def order(reads: Mapping[str, Collection[str]]) -> tuple[list[str], list[list[str]]]:
    """(the nodes that can be ordered, the cycles). `reads` says which nodes each node reads.

    A cycle is a path that ends where it begins. Nodes in a cycle, and those that read them, are not in the order.
    """
    ordered: list[str] = []
    waiting = list(reads)
    while ready := next((name for name in waiting if all(read not in waiting for read in reads[name])), None):
        ordered.append(ready)
        waiting.remove(ready)
    return ordered, _cycles({name: [read for read in reads[name] if read in waiting] for name in waiting})


def _cycles(reads: dict[str, list[str]]) -> list[list[str]]:
    """One cycle of each knot, found by walking against the stream until a node comes again."""
    cycles: list[list[str]] = []
    seen: set[str] = set()
    for start in reads:
        path: list[str] = []
        name = start
        while name not in path and name not in seen:
            path.append(name)
            name = reads[name][0]
        if name not in seen:
            cycle = path[path.index(name) :]
            cycles.append([*cycle[::-1], cycle[-1]])
        seen.update(path)
    return cycles
