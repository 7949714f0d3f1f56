"""What is claimed about speed, and the commands that measure it. `python -m benchmarks` (or `make bench`) runs them all."""
