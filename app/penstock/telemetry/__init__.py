"""What a worker reports about itself: log records (`logs`), metric families (`families`, `metrics`), and its health (`health`).

`export` turns metrics into the Prometheus formats. It is the only module that imports prometheus-client, so that
`penstock --help` does not load it.
"""

from penstock.telemetry.logs import NOISY, configure
from penstock.telemetry.metrics import Metrics

__all__ = ["NOISY", "Metrics", "configure"]
