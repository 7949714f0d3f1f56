"""What is exported is read back by the parser of prometheus-client, for one worker and for several."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from penstock.telemetry import Metrics, export
from penstock.telemetry.metrics import FAMILIES


def page(metrics: Metrics) -> str:
    return export.encode(export.registry(metrics))[0].decode()


def samples(text: str) -> dict[str, float]:
    """Value by series, written `name{label=value,...}` with the labels in order, without the `process_*` families."""
    every: list[Sample] = [one for family in parse(text) for one in family.samples if one.name.startswith("penstock_")]
    return {f"{one.name}{{{','.join(f'{k}={v}' for k, v in sorted(one.labels.items()))}}}": one.value for one in every}


def busy() -> Metrics:
    metrics = Metrics()
    metrics.records_in.inc(256)
    metrics.batch_rows.observe(5)
    metrics.batch_rows.observe(100_000)
    metrics.node("lr", "flight-lr@3").rows.inc(256)
    metrics.backlog_records.set_function(lambda: {("flights", "0"): 12.0})
    return metrics


def test_page_has_every_family_with_its_help_and_kind() -> None:
    found = {family.name: family for family in parse(page(busy()))}
    for family in FAMILIES.values():
        shown = found[family.exported.removesuffix("_total")]
        assert (shown.documentation, shown.type) == (family.help, family.kind)
    declared = {family.exported.removesuffix("_total") for family in FAMILIES.values()}
    assert {name for name in found if not name.startswith("process_")} == declared


def test_values_and_labels_arrive() -> None:
    found = samples(page(busy()))
    assert found["penstock_records_in_total{}"] == 256
    assert found["penstock_node_rows_total{model=flight-lr,node=lr,version=3}"] == 256
    assert found["penstock_backlog_records{partition=0,topic=flights}"] == 12


def test_buckets_are_cumulative() -> None:
    found = samples(page(busy()))
    rows = [found[f"penstock_batch_rows_bucket{{le={bound}}}"] for bound in ("4.0", "16.0", "16384.0", "+Inf")]
    assert rows == [0, 1, 1, 2]
    assert (found["penstock_batch_rows_count{}"], found["penstock_batch_rows_sum{}"]) == (2, 100_005)


def test_open_metrics_on_request() -> None:
    text, kind = export.encode(export.registry(busy()), "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert any(family.name == "penstock_records_in" for family in open_metrics(text.decode()))  # type: ignore[no-untyped-call]  # the library has no types there


def test_workers_are_merged_under_a_label() -> None:
    """One is dead and one answers half a page: both are down, and the page is whole."""
    whole = page(busy())
    half = whole[: whole.index("penstock_records_in_total 256.0")] + "penstock_records_in_total{"
    merged = export.Merged({"1": whole, "2": None, "3": half, "4": page(Metrics())}, {"1": 0, "2": 4, "3": 0, "4": 0})
    text = export.encode(merged)[0].decode()
    found = samples(text)
    assert [found[f"penstock_up{{worker={number}}}"] for number in (1, 2, 3, 4)] == [1, 0, 0, 1]
    assert found["penstock_worker_restarts_total{worker=2}"] == 4
    assert {name: value for name, value in found.items() if name.startswith("penstock_records_in_total")} == {
        "penstock_records_in_total{worker=1}": 256,
        "penstock_records_in_total{worker=4}": 0,
    }
    assert found["penstock_node_rows_total{model=flight-lr,node=lr,version=3,worker=1}"] == 256
    assert text.count("# TYPE penstock_records_in_total counter") == 1
