"""Loops that drive a plan."""
