"""`penstock batch` over files, from the outside: what the stream would publish is written once, also when a run is ended midway."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models, wait_for
from tests.unit.cli.done import Done, Run

COUNT = 30_000
SLOWLY = ("--chunk-rows", "1", "--max-batch-rows", "1", "--part-rows", "1000")  # so that a run takes seconds, and is ended midway

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


def events(count: int, path: str = "in.ndjson") -> None:
    Path(path).write_text("".join(f'{{"x": {n}}}\n' for n in range(count)))


def lines(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_every_event_is_answered_in_its_order(run: Run) -> None:
    events(1000)
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert (done.code, done.out) == (0, "1,000 events read, 1,000 outputs, 0 dead letters\n")
    assert lines("out.ndjson") == [{"x": float(n), "y": 2.0 * n} for n in range(1000)]
    assert sorted(os.listdir()) == ["double.yaml", "in.ndjson", "models", "out.ndjson", "out.ndjson.manifest.json", "schemas"]


def test_lines_are_json_whatever_producers_write(run: Run) -> None:
    Path("double.yaml").write_text(TOPOLOGY.replace("schema: number.avsc", "schema: number.avsc, format: avro"))
    events(2)
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    assert lines("out.ndjson") == [{"x": 0.0, "y": 0.0}, {"x": 1.0, "y": 2.0}]


def test_what_is_no_event_is_a_dead_letter_with_its_reason(run: Run) -> None:
    Path("in.ndjson").write_bytes(b'{"x": 1}\n\nnot JSON\n{"x": "text"}\n\xff\n{"x": 2}')
    done = run("--in", "in.ndjson", "--out", "out.ndjson", "--format", "json")
    assert done.json == {
        "read": 5, "written": 2, "dead_letters": 3, "complete": True, "models": {"double": "double@1"},
    }  # fmt: skip
    first, second, third = lines("out.ndjson.dead-letters.ndjson")
    assert (first["id"], first["failed_at"], first["value"]) == ("numbers:0:1", "decode", "not JSON")
    assert (first["file"], first["row"], third["row"]) == ("in.ndjson", 1, 3)
    assert "x" in str(second["message"])
    assert "dead letters: out.ndjson.dead-letters.ndjson, the first: JSON is malformed" in done.err.replace("\n", " ")
    assert third["base64"] == "/w=="


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--from", "10", "--to", "13"], [10, 11, 12]),
        (["--limit", "2"], [0, 1]),
        (["--from", "98"], [98, 99]),
        (["--from", "5", "--to", "50", "--limit", "1"], [5]),
    ],
)
def test_part_of_the_input(run: Run, flags: list[str], expected: list[int]) -> None:
    events(100)
    assert run("--in", "in.ndjson", "--out", "out.ndjson", *flags).code == 0
    assert [one["x"] for one in lines("out.ndjson")] == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--in", "gone.ndjson", "--out", "o"], "gone.ndjson: cannot be read: No such file"),
        (["--in", "in.ndjson", "--out", "o", "--from", "yesterday"], "'yesterday' is neither a number nor a time"),
        (["--in", "in.ndjson", "--out", "o", "--from", "2026-11-29T08:00:00"], "has no time zone"),
        (["--in", "in.ndjson", "--out", "o", "--from", "2026-11-29T08:00:00Z"], "a file has no times"),
        (["--in", "in.ndjson", "--out", "in.ndjson"], "in.ndjson is there already"),
        (["--in", "kafka://other", "--out", "o"], "the topology reads the topic numbers, not other"),
        (["--in", "in.ndjson", "--out", "o", "--limit", "0"], "0 is not in the range"),
        (["--in", "in.ndjson", "--out", "o", "--from", "2", "--to", "2"], "--to 2 is not behind --from 2"),
        (["--in", "in.ndjson", "--out", "no/such/o.ndjson"], "no/such/o.ndjson: cannot be written"),
        (["--in", "in.ndjson", "--out", "o", "--resume"], "there is no run to resume"),
        (["--in", "in.ndjson", "--out", "-", "--as", "csv"], "standard output is NDJSON"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused_and_nothing_is_written(run: Run, flags: list[str], words: str) -> None:
    events(3)
    before = sorted(os.listdir())
    done = run(*flags)
    assert done.code == 2
    assert words in done.err
    assert sorted(os.listdir()) == before


def test_a_run_that_has_come_to_its_end_stays_as_it_is(run: Run) -> None:
    events(3)
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    before = Path("out.ndjson").read_bytes()
    done = run("--in", "in.ndjson", "--out", "out.ndjson", "--resume")
    assert (done.code, done.out) == (0, "3 events read, 3 outputs, 0 dead letters\n")
    assert "nothing is left to do" in done.err
    assert Path("out.ndjson").read_bytes() == before


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "penstock", "batch", "double.yaml", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kept() -> bool:
    """Whether a run has kept a part of its outputs."""
    manifest = Path("out.ndjson.parts/_manifest.json")
    return manifest.exists() and bool(json.loads(manifest.read_text())["parts"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_run_that_is_ended_goes_on_and_writes_each_output_once(folder: Path, run: Run, number: signal.Signals) -> None:
    events(COUNT)
    with started(["--in", "in.ndjson", "--out", "out.ndjson", *SLOWLY]) as process:
        wait_for(kept, "the first part")
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (-number if number is signal.SIGKILL else 130)
    assert not Path("out.ndjson").exists()  # it appears when it is complete
    assert run("--in", "in.ndjson", "--out", "out.ndjson", "--resume").code == 0
    assert [one["x"] for one in lines("out.ndjson")] == [float(n) for n in range(COUNT)]


def test_empty_input_is_told_so(run: Run) -> None:
    Path("in.ndjson").touch()
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert (done.code, done.err.splitlines()[-1]) == (0, "the input has no events; nothing was written")


def test_files_of_one_name_have_dead_letters_each(run: Run) -> None:
    """An output that is there is not resumed without a manifest."""
    Path("in.ndjson").write_text('{"x": 1}\n7\n')
    for out in ("out.ndjson", "out.csv"):
        assert run("--in", "in.ndjson", "--out", out).code == 0
        assert len(lines(f"{out}.dead-letters.ndjson")) == 1
    Path("out.csv.manifest.json").unlink()
    assert "out.csv is there already: remove it, or give another --out" in " ".join(
        run("--in", "in.ndjson", "--out", "out.csv").err.split()
    )


def test_csv_with_another_separator_is_told_which_one_is_read(run: Run) -> None:
    Path("in.csv").write_text("x;z\n1;2\n")
    done = run("--in", "in.csv", "--out", "out.csv")
    assert (done.code, "its header is one cell with ';' in it: cells are separated by commas" in " ".join(done.err.split())) == (2, True)


@pytest.mark.parametrize("command", ["batch", "serve"])
def test_exported_folder_is_no_topology_file(folder: Path, capfd: pytest.CaptureFixture[str], command: str) -> None:
    Path("edge").mkdir()
    Path("edge/edge.json").touch()
    flags = {"batch": ["--in", "in.ndjson", "--out", "out.ndjson"], "serve": ["--http", "127.0.0.1:0"]}[command]
    code, err = main([command, "edge", *flags]), " ".join(capfd.readouterr().err.split())
    assert (code, "edge is a folder of `penstock export edge`, which penstock.open takes" in err) == (2, True)


def test_part_that_holds_no_event_leaves_no_files(run: Run) -> None:
    events(3)
    before = sorted(os.listdir())
    done = run("--in", "in.ndjson", "--out", "out.ndjson", "--from", "500")
    assert (done.code, done.out) == (0, "0 events read, 0 outputs, 0 dead letters\n")
    assert "no event lies in the part that was asked for" in done.err
    assert sorted(os.listdir()) == before


def test_packed_input_is_read_whatever_its_name_is_and_other_packers_are_refused(run: Run) -> None:
    Path("in.ndjson").write_bytes(gzip.compress(b'{"x": 1}'))
    assert run("--in", "in.ndjson", "--out", "out.ndjson").code == 0
    assert lines("out.ndjson") == [{"x": 1.0, "y": 2.0}]
    Path("in.ndjson").write_bytes(bz2.compress(b'{"x": 1}'))
    done = run("--in", "in.ndjson", "--out", "other.ndjson")
    assert done.code == 2
    assert "is compressed (bzip2)" in done.err


@pytest.mark.parametrize("name", ["out.ndjson.gz", "OUT.NDJSON.GZ"])
def test_output_is_packed_as_its_name_says(run: Run, name: str) -> None:
    events(3)
    assert run("--in", "in.ndjson", "--out", name).code == 0
    assert gzip.decompress(Path(name).read_bytes()).count(b"\n") == 3


def test_folder_that_is_called_like_the_output_is_refused_before_anything_is_read(run: Run) -> None:
    events(3)
    Path("out.ndjson").mkdir()
    before = sorted(os.listdir())
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert (done.code, "out.ndjson is there already" in done.err.replace("\n", " ")) == (2, True)
    assert sorted(os.listdir()) == before


def test_a_run_whose_events_all_failed_has_not_succeeded(run: Run) -> None:
    Path("in.ndjson").write_text('{"y": 1}\n{"y": 2}\n')
    done = run("--in", "in.ndjson", "--out", "out.ndjson")
    assert done.code == 1
    assert "no event could be scored; dead letters: out.ndjson.dead-letters.ndjson" in done.err.replace("\n", " ")


def interrupted(arguments: Sequence[str]) -> None:
    """Starts a run and ends it after its first checkpoint."""
    with started(arguments) as process:
        wait_for(kept, "the first part")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_limit_counts_over_a_run_and_what_resumes_it(folder: Path, run: Run) -> None:
    events(COUNT)
    arguments = ["--in", "in.ndjson", "--out", "out.ndjson", "--limit", "20000"]
    interrupted([*arguments, *SLOWLY])
    assert run(*arguments, "--resume").code == 0
    assert [one["x"] for one in lines("out.ndjson")] == [float(n) for n in range(20_000)]


@pytest.mark.parametrize(("flag", "value"), [("--limit", "10"), ("--from", "5"), ("--to", "9")])
def test_run_is_resumed_only_as_it_was_started(folder: Path, run: Run, flag: str, value: str) -> None:
    events(COUNT)
    arguments = ["--in", "in.ndjson", "--out", "out.ndjson", *SLOWLY]
    interrupted(arguments)
    done = run(*arguments, flag, value, "--resume")
    assert done.code == 2
    assert f"the run to resume has another {flag}: none, not {value}" in done.err


def test_run_is_not_resumed_with_other_models(folder: Path, run: Run) -> None:
    """Half of the file would be scored by one version, half by another."""
    events(COUNT)
    Path("double.yaml").write_text(TOPOLOGY.replace("double@1", "double@live"))
    registry = DirectoryRegistry(folder / "models")
    registry.alias("double", "live", "1")
    arguments = ["--in", "in.ndjson", "--out", "out.ndjson", *SLOWLY]
    interrupted(arguments)
    registry.publish("double", models.linear([3]))
    registry.alias("double", "live", "2")
    done = run(*arguments, "--resume")
    assert done.code == 2
    assert "the run to resume has another models: double=double@1, not double=double@2" in done.err


def test_run_is_not_resumed_with_another_topology_schema_or_format(folder: Path, run: Run) -> None:
    """Half of the outputs would have other fields, other rules, or be of another format. Comments change nothing."""
    events(COUNT)
    with started(["--in", "in.ndjson", "--out", "out/", *SLOWLY]) as process:
        wait_for(lambda: "doubled/" in _text("out/_manifest.json"), "the first part")
        process.kill()
        process.communicate(timeout=60)
    resumed = ["--in", "in.ndjson", "--out", "out/", "--resume"]
    assert "the run to resume has another --as: ndjson, not csv" in run(*resumed, "--as", "csv").err
    Path("double.yaml").write_text(TOPOLOGY.replace("x: x, y: double", "y: double"))
    assert "the run to resume has another topology" in run(*resumed).err
    Path("double.yaml").write_text(TOPOLOGY)
    schema = Path("schemas/number.avsc").read_text()
    Path("schemas/number.avsc").write_text(schema.replace('"float"', '"double"'))
    assert "the run to resume has another topology" in run(*resumed).err
    Path("schemas/number.avsc").write_text(schema)
    Path("double.yaml").write_text(f"# a comment\n{TOPOLOGY}")
    assert run(*resumed).code == 0
    found = [json.loads(line)["x"] for one in sorted(Path("out/doubled").iterdir()) for line in one.read_text().splitlines()]
    assert found == [float(n) for n in range(COUNT)]


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


# Ends the process as a power cut would, at the first step of this kind on a file whose path holds these characters.
KILLS = """
import os, signal, sys
event, name = sys.argv[1:3]
def at(now, arguments):
    if now == event and name in os.fsdecode(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(at)
from penstock.cli.main import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("event", "name", "again"),
    [
        ("os.rename", "_manifest", []),  # before there is a manifest, there is nothing to resume
        ("os.rename", "part-00001-000000000000", ["--resume"]),
        ("os.rename", ".out.ndjson", ["--resume"]),
        ("os.rename", ".out.ndjson.dead-letters.ndjson", ["--resume"]),
        ("os.rename", ".out.ndjson.manifest.json", ["--resume"]),
        ("os.remove", "part-00001-000000000000", ["--resume"]),
        ("os.rmdir", "doubled", ["--resume"]),
        ("os.rmdir", "out.ndjson.parts", ["--resume"]),
    ],
)
def test_run_that_is_killed_at_any_step_is_done_again_and_leaves_nothing(run: Run, event: str, name: str, again: list[str]) -> None:
    Path("in").mkdir()
    for file in range(2):
        numbers = range(file * 250, file * 250 + 250)
        Path(f"in/{file}.ndjson").write_text("".join(f'{{"x": {n}}}\n' if n % 7 else "no event\n" for n in numbers))
    before = os.listdir()
    arguments = ["--in", "in", "--out", "out.ndjson", "--part-rows", "100"]
    command = [sys.executable, "-c", KILLS, event, name, "batch", "double.yaml", *arguments]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == -signal.SIGKILL
    done = run(*arguments, *again)
    assert done.code == 0, done.err
    assert [one["x"] for one in lines("out.ndjson")] == [float(n) for n in range(500) if n % 7]
    assert len(lines("out.ndjson.dead-letters.ndjson")) == len(range(0, 500, 7))
    assert sorted(os.listdir()) == sorted([*before, "out.ndjson", "out.ndjson.dead-letters.ndjson", "out.ndjson.manifest.json"])


@pytest.mark.parametrize("out", ["out.ndjson", "file://{}/out/"])
def test_reason_of_a_dead_letter_is_found_however_large_it_is(run: Run, out: str) -> None:
    Path("double.yaml").write_text(TOPOLOGY.replace("number.avsc}", "number.avsc, max_bytes: 10000000}"))
    Path("in.ndjson").write_text(f'{{"x": "{"a" * 5_000_000}"}}\n{{"x": 1}}\n')
    done = run("--in", "in.ndjson", "--out", out.format(os.getcwd()))
    assert (done.code, done.out) == (0, "2 events read, 1 output, 1 dead letter\n")
    assert "the first: Expected `float`, got `str`" in done.err.replace("\n", " ")


@pytest.mark.parametrize(("flag", "value"), [("--sample", "nan"), ("--sample", "0"), ("--limit", "0"), ("--from", "-1"), ("--to", "0")])
def test_part_that_cannot_be_meant_is_refused(run: Run, flag: str, value: str) -> None:
    events(3)
    before = sorted(os.listdir())
    assert run("--in", "in.ndjson", "--out", "out.ndjson", flag, value).code == 2
    assert sorted(os.listdir()) == before


# -- standard streams ---------------------------------------------------------------------------------------------------


def piped() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "penstock", "batch", "double.yaml", "-"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


def test_each_line_is_answered_before_the_next_one_comes(folder: Path) -> None:
    with piped() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(3):
            process.stdin.write(b'{"x": %d}\n' % n)
            assert json.loads(process.stdout.readline()) == {"x": n, "y": 2.0 * n}
        out, err = process.communicate(b'no event\n\n{"x": 7}', timeout=60)
    assert (process.returncode, out) == (0, b'{"x":7.0,"y":14.0}\n')
    letter = json.loads(next(line for line in err.splitlines() if line.startswith(b"{")))
    assert (letter["id"], letter["value"], letter["failed_at"]) == ("numbers:0:3", "no event", "decode")
    assert b"5 events read, 4 outputs, 1 dead letter\n" in err


def test_pipe_that_is_silent_does_not_keep_a_run_from_ending(folder: Path) -> None:
    with piped() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"x": 1}\n')
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_lines_of_a_file_on_standard_input_in_their_order(folder: Path) -> None:
    events(COUNT)
    command = [sys.executable, "-m", "penstock", "batch", "double.yaml", "-"]
    with Path("in.ndjson").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0
    assert [json.loads(line)["x"] for line in done.stdout.splitlines()] == [float(n) for n in range(COUNT)]


def test_standard_input_becomes_a_file_in_parts(folder: Path) -> None:
    """Lines count as those of files do: blank ones have no number, and what says that it is UTF-8 is no part of the first one."""
    given = b"\xef\xbb\xbf" + b"".join(b'{"x": %d}\n   \n\r\n' % n for n in range(COUNT)) + b'{"x":'
    Path("in.ndjson").write_bytes(given)
    for arguments in (["--in", "-", "--out", "piped/"], ["--in", "in.ndjson", "--out", "read/"]):
        command = [sys.executable, "-m", "penstock", "batch", "double.yaml", *arguments, "--part-rows", "10000"]
        done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == f"{COUNT + 1:,} events read, {COUNT:,} outputs, 1 dead letter\n"
    piped, read = (sorted(Path(one, "doubled").iterdir()) for one in ("piped", "read"))
    assert b"".join(one.read_bytes() for one in piped) == b"".join(one.read_bytes() for one in read)
    assert len(piped) > 1


def test_what_standard_output_cannot_be_is_refused(run: Run) -> None:
    events(3)
    done = run("--in", "in.ndjson", "--out", "-", "--as", "csv")
    assert (done.code, done.out) == (2, "")
    assert "standard output is NDJSON" in done.err.replace("\n", " ")


@pytest.mark.parametrize("out", ["out.ndjson", "out.parquet", "out.csv", "out/"])
def test_lines_of_standard_input_are_written_to_files(folder: Path, out: str) -> None:
    """Also the line that is no event; nothing that was read may be lost."""
    command = [sys.executable, "-m", "penstock", "batch", "double.yaml", "--in", "-", "--out", out]
    given = b"".join(b'{"x": %d}\n' % n for n in range(3000)) + b"no event\n"
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"3,001 events read, 3,000 outputs, 1 dead letter\n"), done.stderr
    letters = "out/numbers.dead-letter" if out == "out/" else f"{out}.dead-letters.ndjson"
    assert f"dead letters: {letters}, the first: JSON is malformed" in " ".join(done.stderr.decode().split())
    letters = next((str(one) for one in Path(letters).glob("part-*")), letters)
    assert [(one["value"], one["offset"]) for one in lines(letters)] == [("no event", 3000)]
    if out.endswith("/"):
        assert [one["x"] for one in lines(next(str(one) for one in Path("out/doubled").iterdir()))] == list(range(3000))
    else:
        assert Path(out).stat().st_size > 10_000
        assert json.loads(Path(f"{out}.manifest.json").read_text())["complete"]


def test_reader_that_leaves_ends_the_run_without_a_word(folder: Path) -> None:
    """As `| head` ends any other filter."""
    with piped() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b'{"x": 1}\n')
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b'{"x": 2}\n')
        assert process.wait(30) == 1
        assert [line for line in process.stderr.read().splitlines() if not line.startswith(b"models of ")] == []


def test_dead_letters_beside_standard_output_are_on_standard_error(run: Run) -> None:
    Path("in.ndjson").write_text("no event\n")
    done = run("--in", "in.ndjson", "--out", "-")
    assert "dead letters: above, on standard error" in done.err
