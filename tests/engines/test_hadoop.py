"""The flights on HDFS and in a job of Hadoop Streaming: a cluster of the real thing, with one DataNode."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import TransportError
from penstock.record import Record
from penstock.testing import maven, wait_for
from penstock.testing.driver import TopologyDriver
from penstock.transports.files.places import Place, place
from tests.engines.equal import check_same
from tests.engines.java import Java
from tests.kafka.flights import flights

ROOT = Path(__file__).parents[2]
VERSION = "3.4.2"
NAMES = ("hadoop-client-minicluster", "hadoop-client-runtime", "hadoop-streaming")
FLIGHTS = 100_000
BAD = (b"no event", b'{"flight_id": "x"}')


@pytest.fixture(scope="module")
def libs() -> Path:
    # Streaming reads its command line with a library that the jars of clients hold under another name.
    return maven.jars(f"hadoop-{VERSION}", *(f"org.apache.hadoop:{name}:{VERSION}" for name in NAMES), "commons-cli:commons-cli:1.9.0")


@pytest.fixture(scope="module")
def hdfs(libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running HDFS."""
    folder = tmp_path_factory.mktemp("hdfs")
    details = folder / "details.json"
    with Java.running(
        libs, "org.apache.hadoop.test.MiniDFSClusterManager", "-format", "-writeDetails", str(details),
        folder=folder, properties={"test.build.data": str(folder / "data"), "hadoop.log.dir": str(folder)},
    ) as running:  # fmt: skip

        def ready() -> bool:
            assert running.process.poll() is None, running.tail()
            return details.exists() and details.read_text().endswith("}")

        wait_for(ready, "an HDFS", 90, 0.2)
        yield f"hdfs://127.0.0.1:{json.loads(details.read_text())['namenode_port']}"


@pytest.fixture(scope="module")
def events() -> Sequence[bytes]:
    return [one.value for one in itertools.islice(flights(), FLIGHTS)]


@pytest.fixture(scope="module")
def expected(events: Sequence[bytes]) -> Mapping[str, dict[str, Any]]:
    """What the delivery loop of a worker answers, by flight."""
    driver = TopologyDriver(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas")
    driver.send_records("departures", [Record("", value) for value in events])
    return {one["flight_id"]: one for one in driver.events("predictions")}


def same(found: Sequence[Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Each flight is there once."""
    assert len(found) == len(expected)
    check_same(found, expected)


def lines(folder: Place, pattern: str) -> list[bytes]:
    files = [one for one in folder.files() if re.search(pattern, str(one))]
    return [line for one in files for line in (one.read() or b"").splitlines()]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock", "batch", "flights", *arguments]


def batch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_files_in_and_out_of_hdfs(hdfs: str, events: Sequence[bytes], expected: Mapping[str, dict[str, Any]]) -> None:
    """Killed once: what has its name on HDFS is whole, and the run goes on with it."""
    given, out = place(f"{hdfs}/flights"), place(f"{hdfs}/scores")
    for part in range(4):
        (given / f"{part}.ndjson").write(b"\n".join([*events[part::4], BAD[0]]))
    flags = ["--in", f"{hdfs}/flights/*.ndjson", "--out", str(out), "--part-rows", "10000"]
    with subprocess.Popen(command(*flags), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        wait_for(lambda: running.poll() is not None or len([one for one in out.files() if "part" in one.last]) > 2, "some parts", 120)
        running.send_signal(signal.SIGKILL)
    ran = batch(*flags, "--resume", "--format", "json")
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout, *map(str, out.files()), sep="\n")
    same([json.loads(one) for one in lines(out, r"predictions.*\.ndjson$")], expected)
    letters = [json.loads(one) for one in lines(out, r"dead-letter.*\.ndjson$")]
    assert len(letters) == 4
    assert {one["message"].partition(":")[0] for one in letters} == {"JSON is malformed"}


def test_parquet_of_hdfs(hdfs: str, events: Sequence[bytes], expected: Mapping[str, dict[str, Any]]) -> None:
    few = [json.loads(one) for one in events[:20_000]]
    given, out = place(f"{hdfs}/parquet/flights.parquet"), place(f"{hdfs}/parquet/scores.parquet")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(few), sink)
    given.write(sink.getvalue().to_pybytes())
    ran = batch("--in", str(given), "--out", str(out))
    assert ran.returncode == 0, ran.stderr
    same(pq.read_table(pa.BufferReader(out.read())).to_pylist(), {one["flight_id"]: expected[one["flight_id"]] for one in few})


def test_what_hdfs_refuses_is_said(hdfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place(f"{hdfs}/owned/flights.ndjson")).write(BAD[0])
    ran = batch("--in", f"{hdfs}/absent.ndjson", "--out", f"{hdfs}/x.ndjson")
    assert ran.returncode == 2
    assert f"{hdfs}/absent.ndjson" in ran.stderr
    ran = batch("--in", f"{hdfs}/owned/flights.ndjson", "--out", f"{hdfs}/owned/x.ndjson", HADOOP_USER_NAME="guest")
    print(ran.stderr)
    assert "Permission denied" in ran.stderr
    assert "\tat org.apache" not in ran.stderr


def test_hdfs_that_is_not_there() -> None:
    with pytest.raises(TransportError, match=r"^hdfs://127.0.0.1:1/x cannot be read: Connection refused"):
        place("hdfs://127.0.0.1:1/x").size()


def test_penstock_is_the_mapper_of_a_streaming_job(
    hdfs: str, libs: Path, events: Sequence[bytes], expected: Mapping[str, dict[str, Any]], tmp_path: Path
) -> None:
    """In local mode: each task is a process. Hadoop writes a tab after each line, which is white space to readers of JSON."""
    for part in range(2):
        place(f"{hdfs}/job/in/{part}.ndjson").write(b"\n".join([*events[part::2], *BAD]))
    mapper = tmp_path / "mapper.sh"
    mapper.write_text(f"#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m penstock batch flights -\n")
    mapper.chmod(0o755)
    options = {"fs.defaultFS": hdfs, "mapreduce.framework.name": "local", "mapreduce.job.reduces": "0", "hadoop.tmp.dir": str(tmp_path)}
    with Java.running(
        libs, "org.apache.hadoop.streaming.HadoopStreaming", *(f"-D{name}={value}" for name, value in options.items()),
        "-input", "/job/in", "-output", "/job/out", "-mapper", str(mapper), folder=tmp_path,
    ) as job:  # fmt: skip
        assert job.process.wait(200) == 0, job.tail()
    out = place(f"{hdfs}/job/out")
    assert (out / "_SUCCESS").size() == 0
    same([json.loads(one) for one in lines(out, r"part-\d+$")], expected)
    letters = [json.loads(line) for line in job.log.read_bytes().splitlines() if line.startswith(b'{"id":')]
    assert sorted(one["value"].encode() for one in letters) == sorted([*BAD, *BAD])
