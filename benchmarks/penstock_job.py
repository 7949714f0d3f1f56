"""The benchmark job on Penstock: flights in, features → logistic regression and boosted trees → their mean, out as JSON.

The command line is the same for every contender: `--bootstrap --input --output --models --group --state`. `--models` holds
feat.onnx, lr.onnx and gb.onnx, which are registered once, beside them, before anything is measured (a real deployment
does that when it ships a model). Then `penstock run` replaces this process, with the remaining options.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

from onnx import TensorProto, helper

from penstock.errors import ModelExists
from penstock.registry.directory import DirectoryRegistry

FIELDS = {
    "year": "int", "month": "int", "day": "int", "hour": "int", "minute": "int", "dep_delay": "double", "carrier": "string",
    "flight": "int", "origin": "string", "dest": "string", "distance": "int", "sched_arr_time": "int", "event_id": "string",
}  # fmt: skip

SCHEMA = """{{"type": "record", "name": "Flight", "fields": [{fields}]}}"""

TOPOLOGY = """\
topology: bench
sources:
  flights: {{topic: "{input}", format: {format}, schema: flight.avsc, id: event_id, dead_letter: "{output}.dead-letter"}}
nodes:
  feat: {{kind: feature, model: feat@1}}
  lr: {{kind: model, model: lr@1, inputs: {{X: feat}}}}
  gb: {{kind: model, model: gb@1, inputs: {{X: feat}}}}
  average: {{kind: ensemble, model: average@1, inputs: {{a: "lr.probabilities[1]", b: "gb.probabilities[1]"}}}}
sinks:
  scores:
    topic: "{output}"
    fields: {{event_id: event_id, score: average.score, lr: "lr.probabilities[1]", gb: "gb.probabilities[1]"}}
"""


def average() -> bytes:
    """The mean of two numbers, as a separate model: the job is three models and an ensemble, and none of them are fused."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "ab"]
    output = helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])
    graph = helper.make_graph([helper.make_node("Mean", ["a", "b"], ["score"])], "average", inputs, [output])
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return model


def registry(models: Path) -> Path:
    """Registers the models once, in a folder beside them that is named by their content."""
    files = {name: (models / f"{name}.onnx").read_bytes() for name in ("feat", "lr", "gb")} | {"average": average()}
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:12]
    root = models.parent / f"registry-{digest}"
    shelf = DirectoryRegistry(root)
    for name, data in files.items():
        if not (root / name / "1").exists():
            try:
                shelf.publish(name, data, version="1", description="benchmark")
            except ModelExists:
                continue  # another worker of this run was faster
    return root


def write_schema(folder: Path) -> Path:
    """Writes the events' schema to `flight.avsc` in `folder`, which it creates."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "flight.avsc"
    path.write_text(SCHEMA.format(fields=", ".join(f'{{"name": "{name}", "type": "{kind}"}}' for name, kind in FIELDS.items())))
    return path


def write_topology(folder: Path, *, input: str, output: str, format: str = "json") -> Path:
    """Writes the job to `bench.yaml` in `folder`, with its schema."""
    write_schema(folder)
    path = folder / "bench.yaml"
    path.write_text(TOPOLOGY.format(input=input, output=output, format=format))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "input", "output", "models", "group", "state"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--format", default="json", choices=["json", "avro"])
    arguments, more = parser.parse_known_args()
    state = Path(arguments.state)
    topology = write_topology(state, input=arguments.input, output=arguments.output, format=arguments.format)
    penstock = [sys.executable, "-m", "penstock"]
    common = [str(topology), "--brokers", arguments.bootstrap, "--application", arguments.group]
    create = [*penstock, "topics", "create", *common]
    if os.spawnv(os.P_WAIT, sys.executable, create):
        sys.exit("the topics could not be created")
    models = registry(Path(arguments.models))
    run = ["run", *common, "--models", str(models), "--schemas", str(state), *more]
    os.execv(sys.executable, [*penstock, *run])


if __name__ == "__main__":
    main()
