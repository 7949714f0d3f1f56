"""The performance claims, and the commands that measure them. `python -m benchmarks` (or `make bench`) runs them all."""
