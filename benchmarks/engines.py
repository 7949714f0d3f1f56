"""Measures Spark and Flink with a topology: `python -m benchmarks.engines`, in the environment of `make test-engines`.

The same flights go through each engine with the topology, and without it (the columns in, one of them out): the difference is Penstock's.
Time is CPU time of the engine's processes, JVMs and Python together; the rate is by the clock, on a machine that has other work or not.
The first run of each, in which processes start and models are loaded, is not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.report import Sheet, show
from penstock.integrations import flink, spark
from tests.engines.flights import TOPOLOGY, make
from tests.engines.test_flink import FIELDS as FLINK_FIELDS
from tests.engines.test_spark import FIELDS as SPARK_FIELDS
from tests.engines.test_spark import MODELS


def spark_ways(file: Path, times: int) -> dict[str, Callable[[], object]]:
    """Runs on `local[2]`, which end in Spark's sink for nothing."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
    session = builder.config("spark.pyspark.python", sys.executable).getOrCreate()
    frame = session.read.schema(SPARK_FIELDS).json([str(file)] * times).repartition(8).cache()
    frame.count()
    scored = spark.score(frame, TOPOLOGY, **MODELS)
    through = frame.mapInArrow(lambda batches: (batch.select(["flight_id"]) for batch in batches), "flight_id string")
    return {
        "Spark": lambda: through.write.format("noop").mode("overwrite").save(),
        "Spark with the topology": lambda: scored.write.format("noop").mode("overwrite").save(),
    }


def flink_ways(file: Path, times: int) -> dict[str, Callable[[], object]]:
    """Runs with two slots, which read JSON and end in Flink's sink for nothing."""
    from pyflink.common import Configuration
    from pyflink.table import DataTypes, EnvironmentSettings, Schema, TableDescriptor, TableEnvironment
    from pyflink.table.udf import udf

    configuration = Configuration()
    executables = {"python.executable": sys.executable, "python.client.executable": sys.executable}
    for name, value in {**executables, "parallelism.default": "2"}.items():
        configuration.set_string(name, value)
    tables = TableEnvironment.create(EnvironmentSettings.new_instance().in_batch_mode().with_configuration(configuration).build())
    folder = file.parent / "flink"
    folder.mkdir()
    for number in range(times):
        (folder / f"{number}.json").symlink_to(file)
    source = f"'connector' = 'filesystem', 'format' = 'json', 'path' = '{folder.as_uri()}'"
    tables.execute_sql(f"CREATE TEMPORARY TABLE flights ({FLINK_FIELDS}) WITH ({source})")
    row = DataTypes.ROW([DataTypes.FIELD("flight_id", DataTypes.STRING())])
    through = tables.from_path("flights").map(udf(lambda frame: frame.iloc[:, :1], result_type=row, func_type="pandas"))
    scored = flink.score(tables.from_path("flights"), TOPOLOGY, **MODELS)
    for name, table in (("through", through), ("scored", scored)):
        schema = Schema.new_builder().from_resolved_schema(table.get_resolved_schema()).build()
        tables.create_temporary_table(name, TableDescriptor.for_connector("blackhole").schema(schema).build())
    return {
        "Flink": lambda: through.execute_insert("through").wait(),
        "Flink with the topology": lambda: scored.execute_insert("scored").wait(),
    }


def spent() -> float:
    """CPU seconds of this process and of all that it has started."""
    total = 0.0
    for one in (own := psutil.Process(), *own.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + (times.children_user + times.children_system if one == own else 0.0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how often the 100,000 flights are in the input")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        flights = make(Path(folder))
        rows = len(flights.values) * arguments.times
        ways = {**spark_ways(flights.file, arguments.times), **flink_ways(flights.file, arguments.times)}
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(1 + arguments.rounds):  # in turns: what else the machine does falls on all of them
            for way, run in ways.items():
                began, cpu = time.perf_counter(), spent()
                run()
                found[way].append((time.perf_counter() - began, spent() - cpu))
    for way, runs in found.items():
        seconds, cpu = (sorted(one)[len(one) // 2] for one in zip(*runs[1:], strict=True))
        lines.append((way, f"{rows / seconds:,.0f}", f"{cpu / rows * 1e6:.1f}"))
    show(Sheet(f"{rows:,} flights, medians of {arguments.rounds} rounds", ("", "rows/s", "CPU µs/row"), tuple(lines)))


if __name__ == "__main__":
    main()
