"""The input of every contender: the same flights as numbered events, and the same three models, which also give the expected outputs.

Event number i is `f` and eight digits, its key and its `event_id`; the flights are repeated until there are enough events,
but the numbers are not, so a missing or duplicate output is detected.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.penstock_job import FIELDS, write_schema
from penstock.batch import Array
from penstock.codecs import event_writer, load_schema
from penstock.model.session import Session
from penstock.registry.directory import DirectoryRegistry

ROOT = Path(__file__).parents[1]
MODELS = {"feat": "flight-features", "lr": "flight-logistic", "gb": "flight-trees"}
ID = "event_id"

Row = Mapping[str, Any]


def key(number: int) -> bytes:
    """The key of an event."""
    return b"f%08d" % number


def number(key: bytes) -> int:
    """The number of the event with this key."""
    return int(key[1:])


class Flights:
    """Real flights, as events without end. `source` describes their origin."""

    def __init__(self, rows: Sequence[Row], source: str) -> None:
        self.rows = rows
        self.source = source

    def values(self, count: int, format: str, folder: Path) -> Iterator[bytes]:
        """The first `count` events in a format; `folder` takes the schema.

        Ids come last and have one length, so that each flight is encoded only once.
        """
        write = event_writer(format, load_schema(write_schema(folder)))
        if format == "json":
            starts = [msgspec.json.encode(row)[:-1] + b',"event_id":"' for row in self.rows[:count]]
            end = b'"}'
        else:
            starts = [write({**row, ID: key(0).decode()})[: -len(key(0))] for row in self.rows[:count]]
            end = b""
        return (start + key(at) + end for at, start in zip(range(count), itertools.cycle(starts), strict=False))

    def row(self, number: int) -> Row:
        """The flight that is event `number`."""
        return self.rows[number % len(self.rows)]


def flights(count: int) -> Flights:
    """Returns at most `count` different flights, from the data package if it is installed, else from the committed sample."""
    sys.path.insert(0, str(ROOT / "examples" / "flights"))  # scripts of an example, not a package
    try:
        import events
    finally:
        sys.path.pop(0)
    replay = events.replay(events.package())
    names = [name for name in FIELDS if name != ID]
    rows = [{name: row[name] for name in names} for row in itertools.islice(replay.rows, count)]
    return Flights(rows, replay.source)


def export_models(folder: Path) -> Path:
    """The committed models under the names that the job's command line knows; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shelf = DirectoryRegistry(ROOT / "models")
    for name, registered in MODELS.items():
        (folder / f"{name}.onnx").write_bytes(shelf.resolve(registered, "production").read())
    return folder


class Scorer:
    """The three models of a folder, run directly: the pure compute cost, and the reference for outputs."""

    def __init__(self, models: Path) -> None:
        self.feat, self.lr, self.gb = (Session.load((models / f"{name}.onnx").read_bytes(), deadline=None) for name in MODELS)

    def feeds(self, rows: Sequence[Row]) -> dict[str, Array]:
        """The input tensors `[N, 1]` of the feature model."""
        return {
            tensor.name: np.array([row[tensor.name] for row in rows], object if tensor.dtype == "string" else tensor.dtype).reshape(-1, 1)
            for tensor in self.feat.signature.inputs
        }

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, Array]:
        """The probabilities `[N]` by logistic regression and by trees."""
        (features,) = self.feat.run([self.feat.signature.outputs[0].name], feeds)
        lr, gb = (model.run(["probabilities"], {model.signature.inputs[0].name: features})[0][:, 1] for model in (self.lr, self.gb))
        return lr, gb


def check(scorer: Scorer, flights: Flights, outputs: Sequence[tuple[bytes, bytes]]) -> str:
    """Returns "ok" when every output (key, value) equals the models' output for its event, else the problem."""
    read = [msgspec.json.decode(value) for _, value in outputs]
    for (at, _), output in zip(outputs, read, strict=True):
        if output[ID].encode() != at:
            return f"key {at.decode()} has the output of {output[ID]}"
    lr, gb = scorer.run(scorer.feeds([flights.row(number(at)) for at, _ in outputs]))
    wanted = np.stack([(lr + gb) / 2, lr, gb], axis=1)
    error = float(np.abs(wanted - [[output["score"], output["lr"], output["gb"]] for output in read]).max())
    return "ok" if error < 1e-4 else f"off by {error:.3g}"
