"""What is tested here needs the frameworks: `make frameworks` has an environment with them. Elsewhere there is nothing to collect."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]
