"""The features of a topology's window nodes as columns, for training: computed by these nodes, over all departures in their order.

It is what `penstock features` writes: the departures go through the windows in the loop that a worker runs, without the models, which are
what is to be trained. So a feature holds what was known when its flight departed, and it is the same number as in the stream.
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

from penstock import runtime
from penstock.batch import Array
from penstock.pipeline import Pace
from penstock.record import Record
from penstock.runners.features import computing
from penstock.runners.memory import InMemory
from penstock.topology.parse import parse
from penstock.topology.spec import WindowNode

ROOT: Final = Path(__file__).resolve().parents[2]
TOPOLOGY: Final = ROOT / "topologies" / "flights-windows.yaml"
SCHEMAS: Final = ROOT / "schemas"
AT_ONCE: Final = 16_384


def features(file: Path = TOPOLOGY) -> dict[str, str]:
    """Returns the outputs of a topology's windows by the names of their columns: `{"airport_delay_1h": "airport.delay_1h"}`."""
    windows = [node for node in parse(file).nodes if isinstance(node, WindowNode)]
    return {f"{node.name}_{output}": f"{node.name}.{output}" for node in windows for output, _ in node.outputs}


def columns(departures: Iterable[Mapping[str, Any]], file: Path = TOPOLOGY, *, chunk_rows: int = 4096) -> dict[str, Array]:
    """Returns the features of all departures, `[N]` float64, NaN where there is none. The order of the departures is that of the stream."""
    names = features(file)
    with TemporaryDirectory() as nothing:  # no window reads a model
        loaded = computing(runtime.load(file, models=Path(nothing), schemas=SCHEMAS, absent=True))
    (stage,) = loaded.wiring.stages
    inside = InMemory(runtime.prepare(loaded), {stage.source.topic: stage.name}, pace=Pace(chunk_rows=chunk_rows))
    given = iter(departures)
    while several := list(itertools.islice(given, AT_ONCE)):
        for departure in several:
            inside.topics.append(Record(stage.source.topic, json.dumps(departure).encode()))
        inside.run()
    if letters := inside.topics.records(stage.source.dead_letter):
        raise ValueError(f"{len(letters)} of the departures are no events of {file.name}")
    rows = (json.loads(one.value or b"") for one in inside.topics.records(stage.emits[0].sink.topic))
    table = np.array([[row[name] for name in names] for row in rows], np.float64).reshape(-1, len(names))
    return dict(zip(names, table.T, strict=True))
