"""Metrics are plain cells, declared once, each worker's own; labelled series come and go with what they are about."""

from __future__ import annotations

import typing

import pytest

from penstock.telemetry.families import Counter, Gauge, Histogram, Labelled, Scraped
from penstock.telemetry.metrics import FAMILIES, Metrics, NodeMeter, model_of


def test_every_attribute_is_what_its_annotation_says() -> None:
    """The annotation is for the type checker, the declaration for the program: they must mean the same."""
    metrics, hints = Metrics(), typing.get_type_hints(Metrics)
    assert list(hints) == list(FAMILIES)
    for name, hint in hints.items():
        assert isinstance(metrics[name], typing.get_origin(hint) or hint), name
        if typing.get_origin(hint) is Labelled:
            labels = ["x"] * len(FAMILIES[name].labels)
            assert isinstance(Metrics()[name].labels(*labels), typing.get_args(hint)), name  # type: ignore[union-attr]  # Labelled, as asserted


def test_names_follow_the_conventions_of_prometheus() -> None:
    for family in FAMILIES.values():
        assert family.exported.startswith("penstock_")
        assert (family.kind == "counter") == family.exported.endswith("_total"), family.name
        assert family.unit != "s" or "seconds" in family.name, family.name
        assert (family.unit == "bytes") == family.name.endswith("bytes"), family.name


def test_workers_of_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.records_in.inc(256)
    one.node("lr", "flight-lr@3").rows.inc(256)
    assert (one.records_in.value, other.records_in.value) == (256, 0)
    assert list(other.node_rows) == []


def test_histogram_counts_at_or_below_each_bound() -> None:
    histogram = Histogram([1, 10])
    for value in (1, 2, 10, 11):
        histogram.observe(value)
    assert histogram.snapshot() == {"count": 4, "sum": 24.0, "buckets": [(1, 1), (10, 2), (None, 1)]}


def test_snapshot_is_a_copy() -> None:
    """Whoever exports it sees one moment."""
    metrics = Metrics()
    metrics.records_in.inc(256)
    metrics.batch_rows.observe(256)
    before = metrics.snapshot()
    metrics.records_in.inc(1)
    metrics.batch_rows.observe(1)
    assert (before["records_in"], before["batch_rows"]["count"]) == (256, 1)


def test_gauge_with_a_function_is_computed_when_it_is_read() -> None:
    gauge, flying = Gauge(), [1, 2]
    gauge.set_function(lambda: len(flying))
    flying.append(3)
    assert gauge.value == 3


def test_scraped_family_has_the_series_of_the_moment() -> None:
    """A revoked partition leaves no series behind."""
    metrics = Metrics()
    assigned: dict[tuple[str, ...], float] = {("flights", "0"): 7.0, ("flights", "1"): 0.0}
    metrics.backlog_records.set_function(lambda: assigned)
    before = metrics.snapshot()["backlog_records"]
    del assigned["flights", "1"]
    assert before == {"flights,0": 7.0, "flights,1": 0.0}
    assert metrics.snapshot()["backlog_records"] == {"flights,0": 7.0}
    assert isinstance(metrics.backlog_records, Scraped)


def test_label_values_are_as_many_as_declared() -> None:
    with pytest.raises(ValueError, match="node_rows has the labels node, model, version"):
        Metrics().node_rows.labels("lr")


def test_unloaded_versions_leave_no_series_behind() -> None:
    metrics = Metrics()
    for version in ("flight-lr@1", "flight-lr@2", "flight-lr@3"):
        metrics.node("lr", version).rows.inc(10)
    kept = metrics.node("lr", "flight-lr@3")
    metrics.retain_nodes({("lr", "flight-lr@2"), ("lr", "flight-lr@3")})
    kept.rows.inc(5)
    assert metrics.snapshot()["node_rows"] == {"lr,flight-lr,2": 10, "lr,flight-lr,3": 15}
    assert len(metrics.node_seconds._cells) == len(metrics.node_failures._cells) == 2


def test_model_of_a_version() -> None:
    assert model_of("flight-lr@3") == ("flight-lr", "3")


def test_meter_counts_rows_failures_and_seconds_by_node() -> None:
    metrics, times = Metrics(), iter([1.5, 1.75])
    meter = NodeMeter({name: metrics.node(name, f"{name}@1") for name in ("scale", "score")}, clock=lambda: next(times))
    meter.start(1.0)
    meter("scale", 256, 256)
    meter("score", 256, 250)
    meter.count()
    found = metrics.snapshot()
    assert found["node_rows"] == {"scale,scale,1": 256, "score,score,1": 256}
    assert found["node_failures"] == {"scale,scale,1": 0, "score,score,1": 6}
    assert [one["sum"] for one in found["node_seconds"].values()] == [0.5, 0.25]


def test_a_chunk_that_was_given_up_is_counted_once() -> None:
    """It runs a second time, with isolation; the rows are the same rows."""
    metrics = Metrics()
    meter = NodeMeter({"scale": metrics.node("scale", "scale@1")}, clock=lambda: 2.0)
    for _ in range(2):
        meter.start(1.0)
        meter("scale", 8, 8)
    meter.count()
    assert isinstance(metrics.records_in, Counter)
    assert metrics.snapshot()["node_rows"] == {"scale,scale,1": 8}
