"""The declared graph: a file becomes a Topology (`parse`), and against schemas and signatures a Wiring (`wire`)."""

from penstock.topology.check import wire
from penstock.topology.parse import parse, parse_text

__all__ = ["parse", "parse_text", "wire"]
