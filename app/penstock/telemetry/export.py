"""Metrics in the Prometheus formats, through prometheus-client: a registry per worker, and one page for several workers.

The numbers are read at the scrape. Nothing is registered globally.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from penstock.telemetry.families import PREFIX, Counter, Family, Gauge, Histogram, Labels
from penstock.telemetry.metrics import FAMILIES, SUPERVISOR, Metrics

__all__ = ["WORKER", "Exporter", "Merged", "Registry", "encode", "registry", "samples"]

Registry = CollectorRegistry

WORKER: Final = "worker"  # the label that a supervisor adds


class Exporter(Collector):
    """Collects everything in a worker's `Metrics` at the moment of the scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES.values():
            held = self._metrics[family.name]
            yield _exported(family, [((), held)] if isinstance(held, Counter | Gauge | Histogram) else held)


def _exported(family: Family, cells: Iterable[tuple[Labels, Counter | Gauge | Histogram | float]]) -> Metric:
    made: Any = _KINDS[family.kind](family.exported.removesuffix("_total"), family.help, labels=family.labels)
    for labels, cell in cells:
        if isinstance(cell, Histogram):
            made.add_metric(labels, _cumulative(cell), cell.sum)
        else:
            made.add_metric(labels, cell if isinstance(cell, int | float) else cell.value)
    whole: Metric = made
    return whole


_KINDS: Final[Mapping[str, Any]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


def _cumulative(cell: Histogram) -> list[tuple[str, float]]:
    """Returns cumulative counts: Prometheus counts all values at or below a bound, our histogram those between two bounds."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, map(float, cell.bounds)), "+Inf"), cell.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def registry(metrics: Metrics) -> CollectorRegistry:
    """Returns a registry with the worker's metrics and the standard `process_*` families of its process."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Exporter(metrics))
    ProcessCollector(registry=made)
    return made


def encode(collector: Collector, accept: str = "") -> tuple[bytes, str]:
    """Returns the page in the format of the `Accept` header, and its content type. The default is plain text; OpenMetrics on request."""
    encoder, content_type = choose_encoder(accept)
    return encoder(collector), content_type


class Merged(Collector):
    """Joins the pages of several workers; each series gets the label `worker`. A page that cannot be read is omitted, and its `up` is 0.

    `pages` holds each worker's page in the plain text format, None where the worker did not answer. `restarts` is by worker.
    """

    def __init__(self, pages: Mapping[str, str | None], restarts: Mapping[str, int]) -> None:
        self._pages = pages
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        up: dict[Labels, float] = {}
        for worker, page in self._pages.items():
            families = _parse(page)
            up[worker,] = float(families is not None)
            for family in families or ():
                whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.samples.append(sample._replace(labels={WORKER: worker, **sample.labels}))
        numbers: Sequence[Mapping[Labels, float]] = (up, {(worker,): count for worker, count in self._restarts.items()})
        for declared, values in zip(SUPERVISOR, numbers, strict=True):
            yield _exported(declared, values.items())
        yield from merged.values()


def _parse(page: str | None) -> list[Metric] | None:
    """Returns None for an invalid page: a worker with an incomplete page must not count as up."""
    try:
        return None if page is None else list(text_string_to_metric_families(page))
    except ValueError:
        return None


def samples(page: str) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    """Returns the numbers of a page in the plain text format, each with its labels, by the sample's name without `penstock_`.

    Raises ValueError for an invalid page.
    """
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            found.setdefault(one.name.removeprefix(PREFIX), []).append((one.labels, one.value))
    return found
