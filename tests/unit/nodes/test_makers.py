"""Every kind of node that a topology can declare has something that computes it."""

from __future__ import annotations

from penstock.nodes import MAKERS
from penstock.topology import spec
from penstock.topology.kinds import KINDS


def test_every_kind_of_the_language_can_be_compiled() -> None:
    declared = {one.__name__ for one in spec.Node.__subclasses__() if one.__module__.startswith("penstock.")}
    assert declared == {one.__name__ for one in MAKERS}
    assert KINDS
