"""Files as a transport: samples, skipped rows, parts that are kept, and what a run that was ended has left."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as fs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import AccessRefused, ConfigError, TransportError
from penstock.parcel import Parcel
from penstock.record import Record
from penstock.transports.checkpoint import Checkpoint, Part, Unit
from penstock.transports.files import FORMATS, FileSink, FileSource, Input, Output, Shape, place
from penstock.transports.files.formats import format_of
from penstock.transports.files.manifest import Manifest
from penstock.transports.files.places import Place
from penstock.transports.files.source import hive, sampled


def test_sample_has_its_share_and_is_part_of_every_larger_one() -> None:
    small, large = sampled(3, 0, 100_000, 0.1), sampled(3, 0, 100_000, 0.4)
    assert abs(small.mean() - 0.1) < 0.01
    assert not (small & ~large).any()
    assert sampled(3, 0, 1000, 1.0).all()


@given(st.integers(0, 5), st.integers(0, 200), st.integers(0, 200))
def test_sample_of_a_row_does_not_depend_on_where_reading_begins(number: int, start: int, more: int) -> None:
    whole = sampled(number, 0, start + more, 0.3)
    np.testing.assert_array_equal(sampled(number, start, start + more, 0.3), whole[start:])


def test_files_have_samples_of_their_own() -> None:
    assert not np.array_equal(sampled(0, 0, 1000, 0.5), sampled(1, 0, 1000, 0.5))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.parquet", ("parquet", ".parquet")),
        ("a.JSONL.GZ", ("ndjson", ".JSONL.GZ")),
        ("a.csv.zst", ("csv", ".csv.zst")),
        ("a.parquet.gz", None),
        ("a.txt", None),
        ("a", None),
    ],
)
def test_format_is_that_of_the_ending(name: str, expected: tuple[str, str] | None) -> None:
    found = format_of(name)
    assert (found and (found[0].name, found[1])) == expected


def test_folders_that_name_columns() -> None:
    assert hive("s3/in/year=2013/at=a%2Fb/month=__HIVE_DEFAULT_PARTITION__/x=1.parquet") == {"year": "2013", "at": "a/b", "month": None}


def lines(folder: Path, **files: int) -> list[Input]:
    made = []
    for number, (name, rows) in enumerate(files.items()):
        path = folder / f"{name}.ndjson"
        path.write_text("".join(f"{name}{row}\n" for row in range(rows)))
        made.append(Input(number, place(str(path)), path.stat().st_size))
    return made


def taken(source: FileSource, rows: int = 3) -> list[tuple[int, int, bytes | None]]:
    async def all_of() -> list[tuple[int, int, bytes | None]]:
        found = []
        while spans := await source.take(rows):
            for span in spans:
                assert 0 < len(span.records) <= rows
                found += [(span.partition[1], one.offset, one.value) for one in span.records]
                span.begin()
                span.finish()
        return found

    try:
        return asyncio.run(all_of())
    finally:
        source.close()


def test_rows_of_all_files_in_their_order_with_their_numbers(tmp_path: Path) -> None:
    source = FileSource(lines(tmp_path, a=4, b=0, c=2), "in", FORMATS["ndjson"])
    assert taken(source) == [(0, 0, b"a0"), (0, 1, b"a1"), (0, 2, b"a2"), (0, 3, b"a3"), (2, 0, b"c0"), (2, 1, b"c1")]
    assert source.done == source.total


@pytest.mark.parametrize(
    ("start", "limit", "expected"), [(3, 2, [b"a3", b"b0"]), (4, None, [b"b0", b"b1"]), (9, None, []), (0, 1, [b"a0"])]
)
def test_part_of_the_rows_over_all_files(tmp_path: Path, start: int, limit: int | None, expected: list[bytes]) -> None:
    source = FileSource(lines(tmp_path, a=4, b=2), "in", FORMATS["ndjson"], start=start, limit=limit)
    assert [value for _, _, value in taken(source)] == expected


@pytest.mark.parametrize("at", range(8))
def test_a_run_goes_on_at_any_row(tmp_path: Path, at: int) -> None:
    """Of files that were finished nothing is read again, also without knowing how many rows they have."""
    inputs = lines(tmp_path, a=5, b=3)
    whole = taken(FileSource(inputs, "in", FORMATS["ndjson"]))
    units = [Unit("in", 0, at=min(at, 5)), Unit("in", 1, at=max(at - 5, 0))]
    assert taken(FileSource(inputs, "in", FORMATS["ndjson"], checkpoint=Checkpoint(units))) == whole[at:]
    assert [unit.end for unit in units] == [5, 3]


def sink(folder: Path, kept: list[Part] | None = None, *, rows: int = 10) -> tuple[FileSink, Checkpoint]:
    parts = kept if kept is not None else []
    checkpoint = Checkpoint(keep=lambda _, more: parts.extend(more))
    output = Output(place(str(folder / "out")), FORMATS["ndjson"], ".ndjson", Shape(()))
    return FileSink({"out": output}, checkpoint=checkpoint, rows=rows), checkpoint


def send(one: FileSink, values: Sequence[bytes], at: int = 0) -> None:
    inputs = [Record("in", b"", offset=at + row) for row in range(len(values))]
    asyncio.run(one.send([Parcel("out", 0, inputs, values)]))


def test_part_appears_when_it_is_complete_and_is_named_by_its_first_row(tmp_path: Path) -> None:
    kept: list[Part] = []
    files, checkpoint = sink(tmp_path, kept, rows=3)
    send(files, [b"1", b"2"])
    checkpoint.save({("in", 0): 2})
    assert (kept, [one.name for one in (tmp_path / "out").glob("[!.]*")]) == ([], [])
    send(files, [b"3"], 2)
    checkpoint.save({("in", 0): 3})
    send(files, [b"4"], 3)
    files.close()  # drops what is not kept
    assert [(one.name, one.rows) for one in kept] == [("out/part-00000-000000000000.ndjson", 3)]
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["part-00000-000000000000.ndjson"]
    assert (tmp_path / "out/part-00000-000000000000.ndjson").read_bytes() == b"1\n2\n3\n"


def test_manifest_takes_up_the_progress_of_a_unit_once(tmp_path: Path) -> None:
    at = place(str(tmp_path / "_manifest.json"))
    manifest = Manifest({"input": "x"}, [("x", 100)], [Unit("in", 0, 0, 50), Unit("in", 0, 50, 100, 50)])
    manifest.keep([Unit("in", 0, 50, 100, 80, 30)], [Part("out", "out/a", 29, 1), Part("dead", "dead/a", 1, 1, dead=True)])
    manifest.save(at)
    again = Manifest.load(at)
    assert again == manifest
    assert (manifest.read, manifest.written, manifest.failed, [unit.at for unit in manifest.units]) == (30, 29, 1, [0, 80])
    with pytest.raises(ConfigError, match="the run to resume has another input: x, not y"):
        manifest.check(at, {"input": "y"})


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a manifest"):
        Manifest.load(place(str(tmp_path / "_manifest.json")))


def test_file_that_fails_while_it_is_written_is_not_there(tmp_path: Path) -> None:
    at = Place("x", str(tmp_path / "folder" / "x"))
    with contextlib.suppress(RuntimeError), at.create() as file:
        file.write(b"half")
        raise RuntimeError
    assert [*(tmp_path / "folder").iterdir()] == []


def test_notes_about_a_folder_are_no_input(tmp_path: Path) -> None:
    for name in ("b.ndjson", "a.ndjson", "_manifest.json", ".hidden.ndjson", "_temporary/c.ndjson"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [one.place.last for one in place(str(tmp_path)).find()] == ["a.ndjson", "b.ndjson"]
    assert [one.place.last for one in place(f"{tmp_path}/*.ndjson").find()] == ["a.ndjson", "b.ndjson"]


@pytest.mark.parametrize("name", ["ftpx://host/file.csv", "s3://"])
def test_url_that_nothing_opens_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        place(name)


class FlatStore:
    """Azure without a hierarchical namespace, as pyarrow has it: an object that is being written is there, empty, and has no other name."""

    type_name = "abfs"

    def __init__(self) -> None:
        self._files = fs.LocalFileSystem()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def move(self, path: str, to: str) -> None:
        raise pa.ArrowNotImplementedError("FileSystem::Move() is not implemented")


def test_object_of_azure_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    """A manifest that a kill has left empty could not be resumed."""
    path = tmp_path / "_manifest.json"
    path.write_text("old")
    whole = Place("abfs://x/_manifest.json", str(path), FlatStore())
    with whole.create() as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["_manifest.json"])


class RefusingStore:
    """A store that answers everything with an error."""

    type_name = "s3"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get_file_info(self, path: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (
            OSError("When getting information: AWS Error ACCESS_DENIED during HeadObject operation: No response body."),
            AccessRefused,
            "DENIED",
        ),
        (OSError("AWS Error NO_SUCH_BUCKET during X operation: none"), ConfigError, "name a bucket or container that is there"),
        (OSError("AWS Error NETWORK_CONNECTION during X operation: refused"), TransportError, "NETWORK_CONNECTION"),
        (
            OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of no server error_info={reason=})"),
            TransportError,
            "cannot be read: UNAVAILABLE: no server",
        ),
        (
            FileNotFoundError("google::cloud::Status(NOT_FOUND: Permanent error, with a last message of 404 error_info={})"),
            ConfigError,
            "cannot be read: NOT_FOUND: 404 (name a bucket",
        ),
        (OSError("google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 access token"), AccessRefused, "check the credentials"),
        (
            OSError("Failed for 'https://x/y?sig=secret&sv=1'. Azure Error: [AuthorizationFailure] 403 No.\nNo.\nRequestId: 1"),
            AccessRefused,
            "cannot be read: [AuthorizationFailure] 403 No.; check the credentials, and what they may do",
        ),
        (OSError("GET 'https://x/y?sv=1&sig=secret' failed. Azure Error: [ContainerNotFound] 404 None."), ConfigError, "404 None. (name a"),
        (OSError("GET 'https://x/y?sv=1&sig=secret' failed"), TransportError, "cannot be read: GET 'https://x/y?***' failed"),
        (
            pa.ArrowException("Unknown error: Check on 'https://x' failed: N5Azure4Core11Credentials23AuthenticationExceptionE: No token."),
            AccessRefused,
            "cannot be read: No token.; check the credentials",
        ),
    ],
)
def test_answer_of_a_store_is_an_error_that_says_what_to_do(error: Exception, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind) as caught:
        Place("s3://bucket/x", "bucket/x", RefusingStore(error)).size()
    assert (type(caught.value), expected in str(caught.value), "secret" in str(caught.value)) == (kind, True, False), str(caught.value)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("s3://bucket/201?/x=?.csv?endpoint_override=localhost:1&scheme=http&region=x", "bucket/201?/x=?.csv"),
        ("s3://bucket/year=201?/x=1.csv?region=x", "bucket/year=201?/x=1.csv"),
        ("gs://anonymous@bucket/in/a?.csv", "bucket/in/a?.csv"),
        ("gcs://anonymous@bucket/in/*.csv?retry_limit_seconds=1", "bucket/in/*.csv"),
        ("abfs://in@flights.dfs.core.windows.net/2013/**/*.parquet", "in/2013/**/*.parquet"),
        ("az://flights@in/x.csv?sv=1&sig=a", "in/x.csv"),
        ("abfs://flights@127.0.0.1:10000/in/x@y.csv?enable_tls=false", "in/x@y.csv"),
    ],
)
def test_path_of_a_url_within_its_store(name: str, path: str) -> None:
    assert place(name).path == path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abfs://flights:ab/c+d==@in/x.csv", "abfs://flights@in/x.csv: the key of an account in an address is not used (give a token"),
        ("abfs://in/x.csv", "write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"),
        ("gs://bucket/x.csv?endpoint=a", "Unexpected query parameter in GCS URI: 'endpoint'"),
    ],
)
def test_url_that_a_store_does_not_have_is_refused(name: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        place(name)
    assert expected in str(caught.value)
