"""The page of examples/browser, in a headless Chromium: it scores exported flights as Penstock does, and refuses what Penstock refuses."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest

import penstock
from penstock.batch import Failure
from penstock.cli.main import main

ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "examples/browser"
CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")
ROWS: Final = 1000

with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
    FLIGHTS: Final = [json.loads(line) for line in islice(lines, ROWS)]
FLIGHT: Final = FLIGHTS[0]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in FLIGHT.items() if key != name}


REFUSED: Final[list[Any]] = [
    without("hour"), without("year"), {**FLIGHT, "hour": "x"}, {**FLIGHT, "hour": 1.5}, {**FLIGHT, "hour": None}, {**FLIGHT, "hour": 2**31},
    {**FLIGHT, "hour": -(2**31) - 1}, {**FLIGHT, "origin": "BOS"}, {**FLIGHT, "origin": 5}, {**FLIGHT, "carrier": None},
    {**FLIGHT, "dep_delay": "late"}, {**FLIGHT, "dep_delay": True}, {**FLIGHT, "dep_delay": 1e300}, {**FLIGHT, "year": []},
    {**FLIGHT, "departed_at": {}}, {**FLIGHT, "tailnum": 7},
]  # fmt: skip
UNUSUAL: Final = [
    without("dep_delay"),
    {**FLIGHT, "dep_delay": None},
    {**FLIGHT, "carrier": "??"},
    {**FLIGHT, "more": 1},
    without("tailnum"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


@contextmanager
def serving(topology: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """The example's files and an export beside them, on a web server of this host."""
    for name in ("index.html", "page.js", "plan.js", "node_modules"):
        (folder / name).symlink_to(EXAMPLE / name)
    made = main(
        [
            "export", "edge", str(topology), "--out", str(folder / "edge"), "--models", str(ROOT / "models"),
            "--schemas", str(ROOT / "schemas"),
        ]
    )  # fmt: skip
    assert made == 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield folder, f"http://127.0.0.1:{server.server_port}/index.html"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    with serving(ROOT / "topologies/flights.yaml", tmp_path_factory.mktemp("site")) as found:
        yield found


def shown(url: str, texts: list[str]) -> Mapping[str, list[str]]:
    """What the page shows once it is open, and for each text; and what it has asked servers for."""
    command = ["node", str(Path(__file__).with_name("drive.mjs")), url, CHROMIUM, str(EXAMPLE)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    found: Mapping[str, list[str]] = json.loads(done.stdout)
    return found


def test_page_answers_as_penstock_does(site: tuple[Path, str]) -> None:
    """With equal numbers for a thousand flights, equal reasons for what is refused, and no request to another host."""
    folder, url = site
    events = [*FLIGHTS, *UNUSUAL, *REFUSED]
    found = shown(url, ["\n".join(map(json.dumps, events)), json.dumps(FLIGHT)])
    opened, many, one = found["shown"]
    assert opened == "ready"
    assert same(folder, events, many) == len(REFUSED)
    assert many.startswith(one)
    assert all(asked.startswith(url.removesuffix("index.html")) for asked in found["asked"] if not asked.startswith(("blob:", "data:")))


RULE = """\
topology: ruled
sources: {departures: {topic: flights.departures, schema: flight.avsc}}
nodes:
  r:
    kind: rule
    outputs:
      inverse: 60 / minute
      root: sqrt(hour - 10)
      high: "coalesce(dep_delay, 0.0) > 30 and origin in ['JFK', 'LGA']"
sinks: {out: {topic: out, fields: [flight_id, r.inverse, r.root, r.high, minute]}}
"""


@pytest.mark.parametrize("name", ["flights-desk", "ruled"])
def test_page_computes_rules(name: str, tmp_path: Path) -> None:
    """Their graphs are models; an event for which an expression has no value is refused with the reason."""
    topology = ROOT / f"topologies/{name}.yaml"
    if name == "ruled":
        topology = tmp_path / "ruled.yaml"
        topology.write_text(RULE)
    with serving(topology, tmp_path) as (folder, url):
        found = shown(url, ["\n".join(map(json.dumps, FLIGHTS))])
    assert found["shown"][0] == "ready"
    assert (same(folder, FLIGHTS, found["shown"][1]) > 0) is (name == "ruled")


def test_page_names_what_it_does_not_compute(tmp_path: Path) -> None:
    with serving(ROOT / "topologies/flights-cascade.yaml", tmp_path) as (_, url):
        assert shown(url, [])["shown"] == ["error: this page does not compute conditions"]


def same(folder: Path, events: list[Any], text: str) -> int:
    """Compares what the page shows with the answers of Penstock. Returns how many of them are refusals."""
    answers = [json.loads(line) for line in text.splitlines()]
    with penstock.open(folder / "edge") as plan:
        expected = plan.score(events)
    assert len(answers) == len(expected)
    for event, answer, right in zip(events, answers, expected, strict=True):
        if isinstance(right, Failure):
            assert answer == {"failure": str(right.error)}, event
        else:
            near = {key: pytest.approx(value, rel=1e-6, abs=1e-6) if type(value) is float else value for key, value in right.items()}
            assert answer == near, event
    return sum(isinstance(right, Failure) for right in expected)


def test_page_refuses_a_changed_byte(site: tuple[Path, str]) -> None:
    folder, url = site
    model = folder / "edge/models/flight-trees/1/model.onnx"
    data = model.read_bytes()
    try:
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        found = shown(url, [json.dumps(FLIGHT)])
    finally:
        model.write_bytes(data)
    assert found["shown"] == ["error: models/flight-trees/1/model.onnx is not the file that was exported"]
