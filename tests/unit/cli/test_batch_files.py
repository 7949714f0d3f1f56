"""`penstock batch` over many files, from the outside: processes that share the work, kills, samples, stores of objects and databases."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.cli.main import main
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models, wait_for
from penstock.transports.files import Place, place
from penstock.transports.files.places import without_password
from tests.stores.servers import PASSWORD, postgres
from tests.unit.cli.done import Done, Run

SLOWLY = ("--chunk-rows", "1", "--max-batch-rows", "1", "--part-rows", "300")  # so that a run takes seconds, and is ended midway
TOPOLOGY = """\
topology: double
sources: {numbers: {topic: numbers, schema: number.avsc}}
nodes: {double: {kind: model, model: double@1}}
sinks: {doubled: {topic: doubled, fields: {x: x, y: double}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    schema = {"type": "record", "name": "Number", "fields": [{"name": "x", "type": "float"}]}
    Path("schemas/number.avsc").write_text(json.dumps(schema))
    Path("double.yaml").write_text(TOPOLOGY)
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))
    return tmp_path


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Done:
        code = main(["batch", "double.yaml", *arguments])
        return Done(code, *capfd.readouterr())

    return run


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "penstock", "batch", "double.yaml", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def numbers(start: int, end: int, path: str | Path, *, groups: int = 1000) -> None:
    pq.write_table(pa.table({"x": pa.array(range(start, end), pa.float32())}), path, row_group_size=groups)


def files(folder: str = "in", count: int = 3, rows: int = 4000) -> int:
    """Writes Parquet files of different sizes. Returns the number of their rows."""
    Path(folder).mkdir()
    at = 0
    for number in range(count):
        numbers(at, at + rows * (number + 1), Path(folder) / f"{number}.parquet", groups=1500)
        at += rows * (number + 1)
    return at


def read(folder: str) -> list[float]:
    table = pq.read_table(folder)
    x: list[float] = table.column("x").to_pylist()
    assert table.column("y").to_pylist() == [2 * one for one in x]
    return x


def parts(folder: str) -> list[str]:
    """The parts that a run has kept."""
    manifest = Path(folder) / "_manifest.json"
    return [one["name"] for one in json.loads(manifest.read_text())["parts"]] if manifest.exists() else []


def children(process: int) -> list[int]:
    """The processes that this one has started."""
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


# -- many files, many processes ---------------------------------------------------------------------------------------------------


def test_files_of_a_folder_become_parts_of_a_folder_in_their_order(run: Run) -> None:
    count = files()
    assert run("--in", "in", "--out", "out", "--part-rows", "5000").code == 0
    assert read("out/doubled") == list(range(count))
    manifest = json.loads(Path("out/_manifest.json").read_text())
    assert manifest["complete"]
    assert sum(one["rows"] for one in manifest["parts"]) == count
    assert sorted(parts("out")) == sorted(f"doubled/{one.name}" for one in Path("out/doubled").iterdir())


def test_pattern_chooses_files_and_the_format_is_as_asked(run: Run) -> None:
    files()
    assert run("--in", "in/[12].parquet", "--out", "out/", "--as", "ndjson").code == 0
    lines = [json.loads(line) for one in sorted(Path("out/doubled").iterdir()) for line in one.read_text().splitlines()]
    assert [one["x"] for one in lines] == list(range(4000, 24_000))


def test_processes_share_files_and_row_groups(folder: Path) -> None:
    count = files()
    with started(["--in", "in", "--out", "out", "--workers", "2", "--format", "json"]) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out) == {"read": count, "written": count, "dead_letters": 0, "complete": True, "models": {"double": "double@1"}}
    assert read("out/doubled") == list(range(count))
    assert len(parts("out")) > 3  # more than there are files: the large ones were divided


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_run_that_is_ended_goes_on_with_any_number_of_processes(folder: Path, workers: str, number: signal.Signals) -> None:
    """Nothing is lost and nothing is doubled, whatever was being written."""
    count = files(rows=2000)
    with started(["--in", "in", "--out", "out", "--workers", workers, *SLOWLY]) as process:
        wait_for(lambda: len(parts("out")) > 2, "some parts")
        process.send_signal(number)
        process.communicate(timeout=120)
    assert process.returncode == (-number if number is signal.SIGKILL else 130)
    before = parts("out")
    Path("out/doubled/part-00009-000000000000.parquet").write_bytes(b"of a run that was ended before it could be kept")
    with started(["--in", "in", "--out", "out", "--resume", "--workers", "3" if workers == "1" else "1"]) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert read("out/doubled") == list(range(count))
    assert set(before) < set(parts("out"))


def test_worker_that_is_killed_is_replaced_and_what_it_had_not_kept_is_done_again(folder: Path) -> None:
    count = files(rows=2000)
    with started(["--in", "in", "--out", "out", "--workers", "2", *SLOWLY]) as process:
        wait_for(lambda: len(parts("out")) > 2, "some parts")
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert read("out/doubled") == list(range(count))
    assert sorted(parts("out")) == sorted(f"doubled/{one.name}" for one in Path("out/doubled").iterdir())


def test_error_of_a_worker_is_the_error_of_the_run(folder: Path) -> None:
    files()
    Path("in/1.parquet").write_bytes(Path("in/1.parquet").read_bytes()[:-2000] + b"PAR1")
    with started(["--in", "in", "--out", "out", "--workers", "2"]) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "in/1.parquet: cannot be read as Parquet" in err.replace("\n", " ")
    assert err.count("cannot be read") == 1


def test_two_runs_do_not_write_to_one_folder(folder: Path, run: Run) -> None:
    files(rows=2000)
    with started(["--in", "in", "--out", "out", *SLOWLY]) as process:
        wait_for(lambda: bool(parts("out")), "a part")
        done = run("--in", "in", "--out", "out", "--resume")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert done.code == 2
    assert "another run is writing to out" in done.err


# -- which rows ---------------------------------------------------------------------------------------------------


def test_sample_is_the_same_in_each_run_whatever_shares_the_work(folder: Path) -> None:
    count = files()
    for out, workers in (("one", "1"), ("two", "2")):
        with started(["--in", "in", "--out", out, "--sample", "0.1", "--workers", workers]) as process:
            _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    found = read("one/doubled")
    assert found == read("two/doubled") == sorted(found)
    assert 0.08 * count < len(found) < 0.12 * count


def test_rows_are_numbered_over_all_files(run: Run) -> None:
    files()
    assert run("--in", "in", "--out", "out", "--from", "3998", "--to", "4003").code == 0
    assert read("out/doubled") == [3998, 3999, 4000, 4001, 4002]


def test_file_that_has_changed_is_not_resumed(folder: Path, run: Run) -> None:
    files(rows=2000)
    with started(["--in", "in", "--out", "out", *SLOWLY]) as process:
        wait_for(lambda: bool(parts("out")), "a part")
        process.kill()
        process.communicate(timeout=60)
    numbers(0, 10, "in/0.parquet")
    done = run("--in", "in", "--out", "out", "--resume")
    assert done.code == 2
    assert "in/0.parquet: has changed" in done.err.replace("\n", " ")


def test_file_that_is_repaired_is_read_by_the_run_that_it_has_ended(folder: Path, run: Run) -> None:
    files(count=2)
    whole = Path("in/1.parquet").read_bytes()
    Path("in/1.parquet").write_bytes(whole[: len(whole) // 2])
    assert run("--in", "in", "--out", "out", "--part-rows", "1000").code == 2
    assert parts("out")
    Path("in/1.parquet").write_bytes(whole)
    assert run("--in", "in", "--out", "out", "--resume").code == 0
    assert read("out/doubled") == list(range(12_000))


@pytest.mark.parametrize("out", ["out/", "out//", "./out/.", "sub/../out/"])
def test_outputs_stay_however_their_folder_is_written(run: Run, out: str) -> None:
    Path("sub").mkdir()
    numbers(0, 10, "in.parquet")
    assert run("--in", "in.parquet", "--out", out).code == 0
    assert read("out/doubled") == list(range(10))


def test_run_leaves_the_outputs_of_others_below_its_folder(folder: Path, run: Run) -> None:
    files(rows=2000)
    numbers(0, 10, "other.parquet")
    with started(["--in", "in", "--out", "out", *SLOWLY]) as process:
        wait_for(lambda: bool(parts("out")), "a part")
        process.kill()
        process.communicate(timeout=60)
    assert run("--in", "other.parquet", "--out", "out/other/").code == 0
    assert run("--in", "in", "--out", "out", "--resume").code == 0
    assert read("out/other/doubled") == list(range(10))
    assert read("out/doubled") == list(range(12_000))


def test_folders_behind_links_are_read_once_and_names_like_patterns_are_names(run: Run) -> None:
    Path("in").mkdir()
    Path("elsewhere").mkdir()
    numbers(0, 10, "in/a.parquet")
    numbers(10, 20, "elsewhere/b.parquet")
    Path("in/more").symlink_to("../elsewhere")
    Path("in/again").symlink_to("../in")
    assert run("--in", "in", "--out", "out/").code == 0
    assert sorted(read("out/doubled")) == list(range(20))
    numbers(0, 3, "we[1]rd *?.parquet")
    assert run("--in", "we[1]rd *?.parquet", "--out", "odd.parquet").code == 0
    assert read("odd.parquet") == [0, 1, 2]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", {0}), ("**/*.parquet", {0, 1, 2}), ("**", {0, 1, 2}), ("?/*.parquet", {1}), ("*/?/*.parquet", {2}),
        ("_*.parquet", {3}), ("_more/*", {4}), ("[ab].parquet", {0}), ("**/b/**/*.parquet", {1, 2}),
    ],
)  # fmt: skip
def test_pattern_means_the_same_here_and_in_a_store(run: Run, pattern: str, expected: set[float]) -> None:
    """Notes about a folder fit no wildcard, and what lies behind links is found once."""
    for number, name in enumerate(["a.parquet", "b/a.parquet", "b/b/a.parquet", "_a.parquet", "_more/a.parquet", ".a.parquet"]):
        Path("in", name).parent.mkdir(exist_ok=True, parents=True)
        numbers(number, number + 1, f"in/{name}")
    for where in ("in", Path("in").absolute(), f"file://{Path('in').absolute()}"):
        done = run("--in", f"{where}/{pattern}", "--out", "out/")
        assert done.code == 0, done.err
        assert set(read("out/doubled")) == expected, where
        shutil.rmtree("out")
    if "**" in pattern:
        Path("in/again").symlink_to("../in")
        assert run("--in", f"in/{pattern}", "--out", "out/").code == 0
        assert sorted(read("out/doubled")) == sorted(expected)


def test_folder_that_cannot_be_listed_ends_the_run(folder: Path) -> None:
    """Without its files the outputs would look complete."""
    files(count=1)
    Path("in/closed").mkdir()
    Path("in/closed").chmod(0)
    root = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []  # which may read everything
    command = [*root, sys.executable, "-m", "penstock", "batch", "double.yaml", "--in", "in", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "in: cannot be read: Permission denied" in done.stderr.replace("\n", " ")) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--in", "in", "--out", "out.txt"], "out.txt: is no file of a format that is known"),
        (["--in", "none/*.parquet", "--out", "out"], "none/*.parquet: cannot be read: No such file"),
        (["--in", "mixed", "--out", "out"], "holds files of several formats (csv, parquet)"),
        (["--in", "in", "--out", "out.csv", "--as", "parquet"], "the ending of out.csv says csv"),
        (["--in", "in", "--out", "out", "--query", "select 1"], "--query is for databases"),
        (["--in", "in", "--out", "out", "--workers", "2", "--limit", "5"], "without --from, --to and --limit"),
        (["--in", "-", "--out", "out", "--sample", "0.5"], "--sample need files"),
        (["--in", "sqlite:///numbers.db", "--out", "out"], "add #TABLE to the address, or give --query"),
        (["--in", "sqlite:///none.db#numbers", "--out", "out"], "sqlite:///none.db: cannot be read: No such file"),
        (["--in", "sqlite:///numbers.db#none", "--out", "out"], "no such table: none"),
        (["--in", "s4://bucket/x", "--out", "out"], "s4://bucket/x: "),
        (["--in", "lines.txt", "--out", "out"], "lines.txt: does not say its format by its ending"),
        (["--in", "lines.txt", "--out", "out"], "NDJSON: --in - < lines.txt"),
        (["--in", "array.json", "--out", "out"], "array.json: is JSON, but not one object per line"),
        (["--in", "long.json", "--out", "out"], "long.json: is JSON, but not one object per line"),
        (["--in", "one.json", "--out", "out.ndjson"], "one.json: is JSON, but not one object per line"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(run: Run, flags: list[str], words: str) -> None:
    files()
    files("mixed")
    Path("mixed/x.csv").touch()
    Path("lines.txt").write_text('{"x": 1}\n')
    rows: list[dict[str, float]] = [{"x": 1.0}, {"x": 2.0}]
    Path("array.json").write_text(json.dumps(rows))
    Path("long.json").write_text(json.dumps(rows, indent=2))
    Path("one.json").write_text(json.dumps(rows[0], indent=2))
    sqlite3.connect("numbers.db").execute("create table numbers (x real)").connection.close()
    before = sorted(os.listdir())
    done = run(*flags)
    assert done.code in (2, 4)
    assert words in done.err.replace("\n", " ")
    assert sorted(os.listdir()) == before


def test_parts_of_another_format_are_not_added(folder: Path, run: Run) -> None:
    """A folder would hold files of two formats, which no reader takes."""
    files()
    with started(["--in", "in", "--out", "out", "--as", "ndjson", *SLOWLY]) as process:
        wait_for(lambda: bool(parts("out")), "a part")
        process.kill()
        process.communicate(timeout=60)
    done = run("--in", "in", "--out", "out", "--resume")
    assert done.code == 2
    assert "the run to resume has another --as: ndjson, not parquet" in done.err.replace("\n", " ")
    assert run("--in", "in", "--out", "out", "--as", "ndjson", "--resume").code == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("postgresql://reader:secret@host:5432/air#a@b", "postgresql://reader@host:5432/air#a@b"),
        ("postgresql://reader:se@cr:et?@host/air", "postgresql://reader@host/air"),
        (
            "postgresql://host/air?user=reader&password=secret&sslmode=require#t",
            "postgresql://host/air?user=reader&password=***&sslmode=require#t",
        ),
        ("s3://key:secret@bucket/in?session_token=secret", "s3://key@bucket/in?session_token=***"),
        ("s3://bucket/in/?endpoint_override=localhost:9000&scheme=http", "s3://bucket/in/?endpoint_override=localhost:9000&scheme=http"),
        ("abfs://in@flights.dfs.core.windows.net/x?sp=r&se=2026-12-01&sig=a%2Bb&sv=1", "abfs://in@flights.dfs.core.windows.net/x?***"),
    ],
)
def test_address_is_kept_and_shown_without_its_password(text: str, kept: str) -> None:
    assert without_password(text) == kept


# -- databases ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--in", "sqlite:///num%2541b%3Fers.db#a table"], [0.0, 1.0, 2.0, 3.0]),
        (["--in", "sqlite:///num%2541b%3Fers.db", "--query", 'select x from "a table" where x > 1 order by x desc'], [3.0, 2.0]),
    ],
)
def test_table_or_query_of_a_database(run: Run, flags: list[str], expected: list[float]) -> None:
    connection = sqlite3.connect("num%41b?ers.db")
    connection.execute('create table "a table" (x real, other text)')
    connection.executemany('insert into "a table" values (?, ?)', [(float(n), "text") for n in range(4)])
    connection.commit()
    connection.close()
    done = run(*flags, "--out", "out.parquet")
    assert (done.code, done.err.count("error")) == (0, 0)
    assert read("out.parquet") == expected


def test_rows_of_postgresql_with_nulls_and_types_that_are_no_events(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of 64 bits and exact ones feed a float; the rest of the table is not read."""
    from adbc_driver_postgresql import dbapi

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    server = postgres()
    try:
        server.start()
        with dbapi.connect(server.url) as connection, connection.cursor() as cursor:
            cursor.execute("create schema air")
            cursor.execute("create table air.numbers (x double precision, at timestamptz, more jsonb)")
            cursor.execute("insert into air.numbers select n, now(), '{}' from generate_series(0, 2999) n")
            cursor.execute("insert into air.numbers values (null, null, null)")
            cursor.execute("create table air.decimals (x numeric)")
            cursor.execute("insert into air.decimals values (1), (2.5), (null), ('NaN')")
            connection.commit()
        done = run("--in", f"{server.url}#air.numbers", "--out", "out.parquet")
        assert (done.code, done.out) == (0, "3,001 events read, 3,000 outputs, 1 dead letter\n")
        assert sorted(read("out.parquet")) == list(range(3000))
        done = run("--in", server.url, "--query", "select x from air.numbers where x < 2 order by x", "--out", "few.parquet")
        assert (done.code, read("few.parquet")) == (0, [0, 1])
        done = run("--in", server.url, "--query", "select y from air.numbers", "--out", "none.parquet")
        assert (done.code, 'column "y" does not exist' in done.err.replace("\n", " ")) == (2, True)
        done = run("--in", f"{server.url}#air.decimals", "--out", "decimals.ndjson")
        assert (done.code, done.out) == (0, "4 events read, 2 outputs, 2 dead letters\n")
        address = server.url.replace("@", f":{PASSWORD}@")
        done = run("--in", f"{address}#air.numbers", "--out", "kept", "--as", "ndjson")
        assert (done.code, PASSWORD in Path("kept/_manifest.json").read_text() + done.err) == (0, False)
        done = run("--in", f"{server.url}#air.numbers", "--out", "kept", "--as", "ndjson", "--resume")  # the password is elsewhere now
        assert (done.code, "nothing is left to do" in done.err) == (0, True)
        monkeypatch.setenv("PGPASSWORD", "wrong")
        done = run("--in", f"{server.url}#air.numbers", "--out", "none.parquet")
        assert (done.code, "password authentication failed" in done.err.replace("\n", " ")) == (7, True)
    finally:
        server.stop()
    done = run("--in", f"{server.url}#air.numbers", "--out", "none.parquet")
    assert (done.code, "cannot be read" in done.err) == (4, True)
    assert sorted(os.listdir()) == [
        "decimals.ndjson", "decimals.ndjson.dead-letters.ndjson", "decimals.ndjson.manifest.json", "double.yaml",
        "few.parquet", "few.parquet.manifest.json", "kept", "models", "out.parquet", "out.parquet.dead-letters.ndjson",
        "out.parquet.manifest.json", "schemas",
    ]  # fmt: skip


# -- a store of objects ---------------------------------------------------------------------------------------------------


class Store(NamedTuple):
    """A store of objects: what stands before a path in its URLs, and what follows it."""

    before: str
    behind: str

    def url(self, path: str) -> str:
        return f"{self.before}{path}{self.behind}"

    def place(self, path: str) -> Place:
        return place(self.url(path))

    def read(self, folder: str) -> list[float]:
        found: list[float] = pq.read_table(folder, filesystem=self.place("x").system).column("x").to_pylist()
        return found


@contextmanager
def s3() -> Iterator[Store]:
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield Store("s3://", f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true")
        server.stop()


@contextmanager
def gs() -> Iterator[Store]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def answers() -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", port)) == 0

    # In a process of its own: in this one, it would wait for pyarrow, and pyarrow for it.
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port), "--no-store-on-disk"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(answers, "the server of GCS")
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("GOOGLE_CLOUD_PROJECT", "test")  # that of a new bucket
                yield Store("gs://anonymous@", f"?endpoint_override=127.0.0.1:{port}&scheme=http")
        finally:
            server.kill()


@pytest.fixture(scope="module", params=[s3, gs], ids=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with request.param() as store:
        yield store


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a server
def test_objects_in_and_out(folder: Path, run: Run, store: Store) -> None:
    store.place("bucket").system.create_dir("bucket")
    at = 0
    for number in range(3):
        numbers(at, at + 1000, f"{number}.parquet")
        store.place(f"bucket/in/{number}.parquet").write(Path(f"{number}.parquet").read_bytes())
        at += 1000
    store.place("bucket/in/_note").write(b"note")
    done = run("--in", store.url("bucket/in/*.parquet"), "--out", store.url("bucket/out/"), "--part-rows", "700")
    assert (done.code, done.out) == (0, "3,000 events read, 3,000 outputs, 0 dead letters\n")
    assert store.read("bucket/out/doubled") == list(range(3000))
    assert json.loads(store.place("bucket/out/_manifest.json").read() or b"")["complete"]
    for name, more in (("joined", ("--part-rows", "700")), ("renamed", ("--limit", "900"))):
        done = run("--in", store.url("bucket/in/"), "--out", store.url(f"bucket/{name}.parquet"), *more)
        assert done.code == 0, done.err
    assert (store.read("bucket/joined.parquet"), store.read("bucket/renamed.parquet")) == (list(range(3000)), list(range(900)))
    assert [one.path for one in store.place("bucket").files() if ".part" in one.path.replace(".parquet", "")] == []
    done = run("--in", store.url("bucket/in/"), "--out", store.url("bucket/joined.parquet"))
    assert (done.code, "is there already" in done.err) == (2, True)
    done = run("--in", store.url("bucket/in/"), "--out", store.url("nobucket/out/"))
    assert (done.code, "cannot be written" in done.err) == (2, True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_run_over_objects_that_is_killed_goes_on(folder: Path, store: Store) -> None:
    store.place("kills").system.create_dir("kills")
    numbers(0, 6000, "in.parquet")
    store.place("kills/in.parquet").write(Path("in.parquet").read_bytes())
    arguments = ["--in", store.url("kills/in.parquet"), "--out", store.url("kills/out/")]

    def kept() -> list[str]:
        data = store.place("kills/out/_manifest.json").read()
        try:
            return [one["name"] for one in json.loads(data)["parts"]] if data else []
        except ValueError:  # it was replaced by a longer one between the question for its size and that for its bytes
            return []

    with started([*arguments, *SLOWLY]) as process:
        wait_for(lambda: len(kept()) > 1, "some parts")
        process.kill()
        process.communicate(timeout=60)
    with started([*arguments, "--resume"]) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert store.read("kills/out/doubled") == list(range(6000))
