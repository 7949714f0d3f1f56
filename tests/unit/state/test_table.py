"""A table keeps bytes by key, counts a replay once, and stays within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.state import NEVER, Entry, Standing, Table


def table(**bounds: int) -> Table:
    return Table("t", **{"ttl": 10**9, "cap": 10**9, **bounds})


def kept(made: Table) -> dict[bytes, bytes | None]:
    return {key: value for key, value in made.checkpoint(whole=True) if value is not None}


def test_what_was_put_is_there_until_it_is_removed() -> None:
    made = table()
    made.put(b"a", b"1", offset=0, time=5)
    assert (made.get(b"a"), made.get(b"b"), len(made)) == (b"1", None, 1)
    made.remove(b"a")
    made.remove(b"b")
    assert (made.get(b"a"), len(made)) == (None, 0)


def test_a_replayed_row_is_known_by_its_key_or_by_the_standing() -> None:
    made = table()
    made.put(b"a", b"1", offset=7, time=0)
    assert (made.counts(b"a", 7), made.counts(b"a", 8), made.counts(b"b", 7)) == (True, False, False)
    made.advance(8, latest=0)
    assert (made.counts(b"b", 8), made.counts(b"b", 9)) == (True, False)


def test_a_checkpoint_has_what_changed_and_ends_with_the_standing() -> None:
    made = table()
    made.put(b"a", b"1", offset=0, time=0)
    made.put(b"b", b"2", offset=1, time=0)
    made.advance(1, latest=4)
    assert [key for key, _ in made.checkpoint()] == [b"\1a", b"\1b", b"\0"]
    made.remove(b"b")
    assert [(key, value is None) for key, value in made.checkpoint()] == [(b"\1b", True), (b"\0", False)]


def test_records_that_were_not_taken_come_again() -> None:
    made = table()
    made.put(b"a", b"1", offset=0, time=0)
    made.put(b"b", b"2", offset=1, time=0)
    records = made.checkpoint()
    assert [next(records)[0], next(records)[0]] == [b"\1a", b"\1b"]
    assert [key for key, _ in made.checkpoint()] == [b"\1b", b"\0"]


def test_keys_that_are_too_old_are_removed() -> None:
    made = table(ttl=10)
    for at, time in enumerate((5, 6, 16)):
        made.put(b"%d" % time, b"", offset=at, time=time)
        made.advance(at, latest=time)
    assert [key for key, value in made.checkpoint() if value is None] == [b"\x015"]
    assert len(made) == 2


def test_of_too_many_keys_the_oldest_are_removed() -> None:
    made = table(cap=64)
    for at in range(65):
        made.put(b"%02d" % at, b"", offset=at, time=at // 10)
    made.advance(64, latest=6)
    assert [key for key, value in made.checkpoint() if value is None] == [b"\x0100", b"\x0101", b"\x0102"]


def test_a_key_keeps_its_newest_time() -> None:
    made = table(ttl=10)
    made.put(b"a", b"1", offset=0, time=20)
    made.put(b"a", b"2", offset=1, time=1)
    made.advance(1, latest=30)
    list(made.checkpoint())
    assert made.get(b"a") == b"2"


OPERATIONS = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"", b"\0"]), st.none() | st.binary(max_size=3), st.booleans()), max_size=30)


@given(OPERATIONS, st.data())
def test_a_state_that_was_killed_and_replayed_is_that_of_a_run_without_faults(
    rows: list[tuple[bytes, bytes | None, bool]], data: st.DataObject
) -> None:
    def apply(made: Table, begin: int) -> list[Entry]:
        """Appends each row's value to that of its key, which is wrong if it happens twice. None changes nothing."""
        log: list[Entry] = []
        for offset, (key, value, due) in enumerate(rows[begin:], begin):
            if value is not None and not made.counts(key, offset):
                made.put(key, (made.get(key) or b"") + value, offset=offset, time=offset)
            made.advance(offset, offset)
            if due:
                log += made.checkpoint()
        return log

    never, killed = table(), table()
    log = apply(never, 0)
    killed.restore(log[: data.draw(st.integers(0, len(log)))])
    apply(killed, data.draw(st.integers(0, killed.standing.offset + 1)))
    assert kept(killed) == kept(never)
    assert killed.standing == never.standing
    list(never.checkpoint())
    loaded = table()
    loaded.load(never.columns())
    assert kept(loaded) == kept(never)


def test_a_checkpoint_that_comes_late_takes_nothing_back() -> None:
    """A frozen worker has removed `a` and counted less; its successor has removed it as well, and has it again."""
    frozen, successor = table(), table()
    for made in (frozen, successor):
        made.put(b"a", b"1", offset=0, time=0)
        made.advance(0, 0)
    log = [*frozen.checkpoint()]
    list(successor.checkpoint())
    for made in (frozen, successor):
        made.remove(b"a")
        made.put(b"b", b"1", offset=1, time=1)
        made.advance(1, 1)
    late = [*frozen.checkpoint()]
    log += successor.checkpoint()
    successor.put(b"a", b"2", offset=2, time=2)
    successor.advance(2, 2)
    log += [*successor.checkpoint(), *late]
    for cut in range(len(log) + 1):
        restored = table()
        restored.restore(log[:cut])
        restored.restore(log[cut:])
        if cut < len(log) - len(late) + 1 or cut == len(log):
            assert (restored.standing, kept(restored)) == (successor.standing, kept(successor)), cut


def test_a_source_that_begins_again_takes_everything_back() -> None:
    made = table()
    made.put(b"a", b"1", offset=7, time=7)
    made.put(b"b", b"1", offset=8, time=8)
    cut_off = [*made.checkpoint()]
    made.advance(8, 8)
    log = [*cut_off, *made.checkpoint()]
    made.reset()
    log += made.checkpoint()
    made.put(b"a", b"2", offset=0, time=9)
    made.advance(0, 9)
    log += made.checkpoint()
    restored = table()
    restored.restore(log)
    assert (restored.standing, restored.get(b"a"), restored.get(b"b")) == (Standing(0, 9), b"2", None)


def test_nothing_has_no_time() -> None:
    assert table().standing == Standing(-1, NEVER)


def test_what_another_state_wrote_is_refused() -> None:
    made = table()
    with pytest.raises(ValueError, match="too short"):
        made.restore([(b"\1a", b"1234")])
    made.put(b"a", b"1", offset=0, time=0)
    with pytest.raises(ValueError, match="a checkpoint is due"):
        made.columns()
    list(made.checkpoint())
    columns = dict(made.columns())
    with pytest.raises(ValueError, match="another state"):
        table().load({"keys": columns["keys"]})
    with pytest.raises(ValueError, match="the sizes"):
        table().load({**columns, "values": columns["keys"][:0]})
