"""A snapshot gives back what was saved, or a reason and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from penstock import state
from penstock.batch import Array
from penstock.state import Refused, Table
from penstock.state.snapshot import path


def table(name: str = "t") -> Table:
    return Table(name, ttl=10**9, cap=10**9)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made = table()
    made.put(b"a", b"1" * 10, offset=3, time=5)
    made.put(b"", b"", offset=4, time=6)
    made.advance(4, latest=6)
    list(made.checkpoint())
    return state.save(tmp_path, made, 2, 17)


def test_a_snapshot_gives_back_the_state_and_the_place_in_the_changelog(saved: Path) -> None:
    made = table()
    assert state.load(saved.parent, made, 2) == 17
    assert (made.get(b"a"), made.get(b""), made.counts(b"a", 3), made.standing) == (b"1" * 10, b"", True, (4, 6))


def test_no_snapshot_is_a_reason(tmp_path: Path) -> None:
    found = state.load(tmp_path, table(), 2)
    assert isinstance(found, Refused)
    assert "No such file" in found.reason


def test_an_old_snapshot_is_not_used(saved: Path) -> None:
    """A key that was removed since may have no tombstone any more."""
    then = time.time() - state.snapshot.OLDEST
    os.utime(saved, (then + 60, then + 60))
    assert state.load(saved.parent, table(), 2) == 17
    os.utime(saved, (then - 60, then - 60))
    found = state.load(saved.parent, table(), 2)
    assert isinstance(found, Refused)
    assert "is 12 hours old: keys that were removed since might come back" in found.reason


def test_damage_is_found_wherever_it_is(saved: Path) -> None:
    """Also where a file ends early, or goes on after its end."""
    whole = saved.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in (*damaged, *(whole[:at] for at in range(len(whole))), whole + b"\0"):
        saved.write_bytes(data)
        made = table()
        made.put(b"old", b"1", offset=0, time=0)
        assert isinstance(state.load(saved.parent, made, 2), Refused)
        assert (len(made), made.get(b"old")) == (1, b"1")


def test_reasons_say_what_is_wrong(saved: Path) -> None:
    whole = saved.read_bytes()
    for data, reason in (
        (whole.replace(b"state 1", b"state 2"), "another version wrote it"),
        (whole[:-1] + b"\xff", "standing has another checksum"),
        (whole[:-1], "not as long as its first line says"),
    ):
        saved.write_bytes(data)
        found = state.load(saved.parent, table(), 2)
        assert isinstance(found, Refused)
        assert reason in found.reason
        assert str(saved) in found.reason


def test_a_snapshot_of_another_state_or_partition_is_refused(saved: Path) -> None:
    for name, partition in (("other", 2), ("t", 3)):
        saved.rename(path(saved.parent, name, partition))
        found = state.load(saved.parent, table(name), partition)
        assert isinstance(found, Refused)
        assert "is of partition 2 of the state t" in found.reason
        path(saved.parent, name, partition).rename(saved)


def test_a_snapshot_that_cannot_be_written_leaves_the_one_before(saved: Path) -> None:
    class Broken(Table):
        def columns(self) -> Mapping[str, Array]:
            return {"keys": np.zeros(3, object)}

    before = saved.read_bytes()
    with pytest.raises(TypeError):
        state.save(saved.parent, Broken("t", ttl=1, cap=1), 2, 18)
    assert saved.read_bytes() == before
    assert [*saved.parent.iterdir()] == [saved]


def test_arrays_that_the_state_refuses_are_a_reason(saved: Path) -> None:
    class Other(Table):
        def load(self, columns: Mapping[str, Array]) -> None:
            raise ValueError("other columns")

    found = state.load(saved.parent, Other("t", ttl=1, cap=1), 2)
    assert found == Refused(f"{saved} is not used: other columns")
