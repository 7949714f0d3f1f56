"""`penstock demo`: half a year of real flights through a real worker, watched live."""

from penstock.cli.demo.command import demo

__all__ = ["demo"]
