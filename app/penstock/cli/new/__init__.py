"""`penstock new`: a small working project to begin from."""

from penstock.cli.new.command import new

__all__ = ["new"]
