"""The order in which things can run: each after those that it reads, otherwise as in the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["order"]


def order(reads: Mapping[str, Collection[str]]) -> tuple[list[str], list[list[str]]]:
    """Returns (the names that can be ordered, the cycles). `reads` holds the names that each name reads.

    A cycle is a path in the direction of the data that ends where it begins. Names in a cycle, and those that read them,
    are not in the order.
    """
    ordered: list[str] = []
    waiting = list(reads)
    while ready := next((name for name in waiting if all(read not in waiting for read in reads[name])), None):
        ordered.append(ready)
        waiting.remove(ready)
    return ordered, _cycles({name: [read for read in reads[name] if read in waiting] for name in waiting})


def _cycles(reads: dict[str, list[str]]) -> list[list[str]]:
    """Returns one cycle per knot, found by walking upstream until a name comes again."""
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
