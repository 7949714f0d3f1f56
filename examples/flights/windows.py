"""The features of a topology's window nodes as columns, for training: computed by these nodes, over all departures in their order.

The departures go through the topology's sources, rules and windows, in the loop that a worker runs; its models are left out, as they
are what is to be trained. So a feature holds what was known when its flight departed, and it is the same number as in the stream.
A column is named NODE_FEATURE, as the tensors of the feature model are: `airport_delay_1h` is the output `delay_1h` of `airport`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import yaml

from penstock.batch import Array
from penstock.testing import TopologyDriver
from penstock.topology.parse import parse
from penstock.topology.spec import WindowNode

ROOT: Final = Path(__file__).resolve().parents[2]
TOPOLOGY: Final = ROOT / "topologies" / "flights-windows.yaml"
SCHEMAS: Final = ROOT / "schemas"
AT_ONCE: Final = 16_384
KEPT: Final = ("rule", "window")


def features(file: Path = TOPOLOGY) -> dict[str, str]:
    """Returns the outputs of a topology's windows by the names of their columns: `{"airport_delay_1h": "airport.delay_1h"}`."""
    windows = [node for node in parse(file).nodes if isinstance(node, WindowNode)]
    return {f"{node.name}_{output}": f"{node.name}.{output}" for node in windows for output, _ in node.outputs}


def columns(departures: Iterable[Mapping[str, Any]], file: Path = TOPOLOGY, *, chunk_rows: int = 4096) -> dict[str, Array]:
    """Returns the features of all departures, `[N]` float64, NaN where there is none. The order of the departures is that of the stream."""
    names = features(file)
    made: list[list[float]] = []
    with TemporaryDirectory() as folder:
        windows = Path(folder) / "windows.yaml"
        windows.write_text(json.dumps(_without_models(file, names)), encoding="utf-8")  # JSON is YAML
        driver = TopologyDriver(windows, models=folder, schemas=SCHEMAS, chunk_rows=chunk_rows)
    (source,), given = driver.topology.sources, iter(departures)
    while several := list(itertools.islice(given, AT_ONCE)):
        driver.send(source.name, *several)
    if letters := driver.dead_letters(source.name):
        raise ValueError(f"{len(letters)} of the departures are no events of {file.name}")
    made = [[event[name] for name in names] for event in driver.events("features")]
    table = np.array(made, np.float64).reshape(-1, len(names))
    return dict(zip(names, table.T, strict=True))


def _without_models(file: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the topology's sources, rules and windows, with a sink of what the windows compute."""
    whole = yaml.safe_load(file.read_text(encoding="utf-8"))
    nodes = {name: node for name, node in whole["nodes"].items() if node["kind"] in KEPT}
    sinks = {"features": {"topic": f"{whole['topology']}.features", "fields": dict(names)}}
    return {"topology": whole["topology"], "sources": whole["sources"], "nodes": nodes, "sinks": sinks}
