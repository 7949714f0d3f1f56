"""HDFS and Hadoop Streaming: a cluster of the real thing, with one DataNode. Files there become what they become on a disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import ConfigError, TransportError
from penstock.testing import maven, wait_for
from penstock.transports.files.places import Place, place
from tests.engines.flights import ROOT, TOLERANCE, Flights
from tests.engines.java import Java

VERSION = "3.4.2"
NAMES = ("hadoop-client-minicluster", "hadoop-client-runtime", "hadoop-streaming")
PARTS = 4


@pytest.fixture(scope="module")
def libs() -> Path:
    # Streaming reads its command line with a library that the jars for clients hold under another name.
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
def given(hdfs: str, flights: Flights) -> Place:
    """The flights, in several files of a folder of HDFS."""
    folder = place(f"{hdfs}/flights")
    for part in range(PARTS):
        (folder / f"{part}.ndjson").write(b"\n".join(flights.values[part::PARTS]))
    return folder


def lines(folder: Place, beginning: str) -> list[dict[str, Any]]:
    """What the lines hold of those files below the folder whose path within it begins so."""
    files = [one for one in folder.files() if str(one).removeprefix(f"{folder}/").startswith(beginning)]
    return [json.loads(line) for one in files for line in (one.read() or b"").splitlines()]


def parts(out: Place) -> int:
    """How many parts there are; 0 when the folder is made between pyarrow's two looks at it."""
    try:
        return len([one for one in out.files() if "/part-" in str(one)])
    except ConfigError:
        return 0


def check(flights: Flights, answers: Sequence[dict[str, Any]], letters: Sequence[dict[str, Any]]) -> None:
    """Every flight has its answer or its dead letter, once."""
    assert flights.differs(answers) < TOLERANCE
    assert len(answers) == len(flights.scores)
    assert {json.loads(one["value"])["flight_id"]: one["message"] for one in letters} == flights.failed
    assert len(letters) == len(flights.failed)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock", "batch", "flights", *arguments]


def batch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_run_from_hdfs_to_hdfs_is_killed_and_goes_on(hdfs: str, given: Place, flights: Flights) -> None:
    """What has its name on HDFS is whole, and the manifest is replaced in one step."""
    out = place(f"{hdfs}/scores")
    flags = ["--in", f"{given}/*.ndjson", "--out", str(out), "--part-rows", "10000"]
    with subprocess.Popen(command(*flags), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        wait_for(lambda: running.poll() is not None or parts(out) > 2, "parts", 120)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL, "it ended before it could be killed"
    ran = batch(*flags, "--resume", "--workers", "2", "--format", "json")
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["read"], said["written"], said["dead_letters"]) == (len(flights.values), len(flights.scores), len(flights.failed))
    check(flights, lines(out, "flights.predictions/part-"), lines(out, "flights.departures.dead-letter/part-"))
    assert [str(one) for one in out.files() if ".part" in one.last] == []


def test_parquet_of_hdfs(hdfs: str, flights: Flights) -> None:
    few = [json.loads(one) for one in flights.values[:2_000]]
    source, out = place(f"{hdfs}/parquet/flights.parquet"), place(f"{hdfs}/parquet/scores.parquet")
    with source.create() as file:
        pq.write_table(pa.Table.from_pylist(few), file)
    ran = batch("--in", str(source), "--out", str(out))
    assert ran.returncode == 0, ran.stderr
    with out.open() as file:
        answers = pq.read_table(file).to_pylist()
    expected = {one["flight_id"]: flights.scores[one["flight_id"]] for one in few}
    assert Flights(flights.file, [], expected, {}).differs(answers) < TOLERANCE


def test_what_hdfs_refuses_is_reported(hdfs: str) -> None:
    place(f"{hdfs}/owned/flights.ndjson").write(b"{}")
    ran = batch("--in", f"{hdfs}/absent.ndjson", "--out", f"{hdfs}/x.ndjson")
    assert ran.returncode == 2
    assert f"{hdfs}/absent.ndjson" in ran.stderr
    ran = batch("--in", f"{hdfs}/owned/flights.ndjson", "--out", f"{hdfs}/owned/x.ndjson", HADOOP_USER_NAME="guest")
    assert ran.returncode == 7
    assert "Permission denied: user=guest" in ran.stderr
    assert "at org.apache" not in ran.stderr


def test_cluster_that_is_not_there_is_reported() -> None:
    with pytest.raises(TransportError, match=r"^hdfs://127.0.0.1:1/x cannot be read: Connection refused"):
        place("hdfs://127.0.0.1:1/x").size()


def test_penstock_is_the_mapper_of_a_streaming_job(hdfs: str, libs: Path, given: Place, flights: Flights, tmp_path: Path) -> None:
    """In local mode: each task starts the process. Hadoop writes a tab after each line, which is white space to readers of JSON."""
    mapper = tmp_path / "mapper.sh"
    mapper.write_text(f"#!/bin/sh\ncd {ROOT} && exec {' '.join(command('-'))}\n")
    mapper.chmod(0o755)
    options = {"fs.defaultFS": hdfs, "mapreduce.framework.name": "local", "mapreduce.job.reduces": "0", "hadoop.tmp.dir": str(tmp_path)}
    with Java.running(
        libs, "org.apache.hadoop.streaming.HadoopStreaming", *(f"-D{name}={value}" for name, value in options.items()),
        "-input", given.path, "-output", "/job", "-mapper", str(mapper), folder=tmp_path,
    ) as job:  # fmt: skip
        assert job.process.wait(200) == 0, job.tail()
    out = place(f"{hdfs}/job")
    assert (out / "_SUCCESS").size() == 0
    assert len([one for one in out.files() if one.last.startswith("part-")]) == PARTS
    letters = [json.loads(line) for line in job.log.read_bytes().splitlines() if line.startswith(b'{"id":')]
    check(flights, lines(out, "part-"), letters)
