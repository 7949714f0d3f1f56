"""When a release is put in force, and when it is given up: the table at the top of `rollout`, row by row."""

from __future__ import annotations

import msgspec
import pytest

from penstock.control.fleet import Worker
from penstock.control.rollout import Stand, Verdict, outdated, stands, verdict
from penstock.control.status import Progress, Refused
from tests.unit.control.fleets import status, worker

READY, FAILED, AT_WORK, UNHEARD = (Stand("w", state) for state in ("ready", "failed", "proving", ""))
LOST = Stand("w", "ready", live=False)
WAIT, ACTIVATE, GIVE_UP = Verdict.WAIT, Verdict.ACTIVATE, Verdict.GIVE_UP


@pytest.mark.parametrize(
    ("live", "min_ready", "expected"),
    [
        ([READY, READY], None, ACTIVATE),
        ([READY, Stand("w", "live")], None, ACTIVATE),
        ([READY, AT_WORK], None, WAIT),
        ([READY, UNHEARD], None, WAIT),
        ([READY, FAILED], None, GIVE_UP),
        ([AT_WORK, FAILED], None, GIVE_UP),
        ([], None, WAIT),
        ([READY, LOST], None, ACTIVATE),
        ([LOST], None, WAIT),
        ([READY, AT_WORK], 1, ACTIVATE),
        ([READY, FAILED], 1, ACTIVATE),
        ([AT_WORK, FAILED], 1, WAIT),
        ([READY, READY, FAILED], 3, GIVE_UP),
        ([READY, READY], 3, WAIT),
        ([READY, LOST], 2, WAIT),
        ([], 0, ACTIVATE),
        ([FAILED], 0, ACTIVATE),
    ],
)
def test_verdict(live: list[Stand], min_ready: int | None, expected: Verdict) -> None:
    assert verdict(live, min_ready) is expected


@pytest.mark.parametrize("state", ["failed", "stale", "aborted"])
def test_worker_that_cannot_come_to_it_ends_the_wait(state: str) -> None:
    assert verdict([READY, Stand("w", state)], None) is GIVE_UP


def test_state_of_a_newer_worker_is_neither_ready_nor_failed() -> None:
    assert verdict([READY, Stand("w", "polishing")], None) is WAIT


def test_stand_is_what_the_worker_says_of_this_release() -> None:
    told = [Progress(id="one", state="live"), Progress(id="two", state="failed", detail="no such digest", since="now")]
    silent = worker("b", live=False)
    assert stands([worker("a", releases=told), silent], "two") == [
        Stand("a", "failed", "no such digest", "now"),
        Stand("b", "", live=False),
    ]


def test_live_worker_that_reads_an_older_version_is_outdated_and_a_lost_one_has_no_vote() -> None:
    old = Worker(msgspec.structs.replace(status("old", reads=1), refused={"newer": 3}), 0, 0)
    lost = Worker(status("lost", reads=1), 0, 0, live=False)
    (found,) = outdated([worker("a"), old, lost])
    assert found.failed
    assert str(found) == (
        "old: failed: it reads control messages up to version 1 and has refused 3 of a newer version; this Penstock writes version 2"
    )


def test_worker_of_a_later_penstock_is_not_outdated() -> None:
    """A later version reads this one, as this one reads version 1."""
    assert outdated([Worker(status("later", reads=9), 0, 0)]) == []


def test_stand_in_words() -> None:
    assert str(Stand("a", "failed", "no such digest")) == "a: failed: no such digest"
    assert str(Stand("a", "")) == "a: no report yet"
    assert str(Stand("a", "proving", live=False)) == "a: lost while proving"
    assert str(Stand("a", "", live=False)) == "a: lost"


def test_worker_that_has_refused_the_release_counts_as_failed_with_the_reason_and_what_to_do() -> None:
    told = Refused(offset=7, code="unknown-key", why="key abc is not in the trust file")
    refusing = worker("a")._replace(status=msgspec.structs.replace(worker("a").status, refusals=[told]))
    assert stands([refusing._replace(said_ms=3999)], "one", {7: 0})[0].state == "", "it may not have read its trust file again"
    (stand,) = stands([refusing._replace(said_ms=4000)], "one", {7: 0})
    assert (stand.state, stand.failed) == ("refused", True)
    assert stand.detail.startswith("unknown-key: key abc is not in the trust file; add the key to the trust file of this reader")
    assert verdict([stand], None) is GIVE_UP
    assert stands([refusing], "one", {8: 0})[0].state == "", "what it refused is another message"
