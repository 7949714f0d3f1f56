"""What is tested here needs a browser and packages of npm: `make test-browser` has them. Elsewhere there is nothing to collect."""

from __future__ import annotations

from pathlib import Path

collect_ignore_glob = [] if (Path(__file__).parents[2] / "examples/browser/node_modules").is_dir() else ["test_*.py"]
