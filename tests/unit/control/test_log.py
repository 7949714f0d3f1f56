"""The rules of the fold, one by one. That they hold in any order is told in tests/properties/test_control_log.py."""

from __future__ import annotations

import gc
import time

import pytest

from penstock.control.log import MAX_ENDED, MAX_PENDING, MAX_REFUSED, Kind, Log, Standing
from penstock.control.messages import MAX_BYTES, Activate, Message, encode, parse
from penstock.control.rights import Admitted
from penstock.transports.kafka.journal import Entry
from tests.unit.control.making import NOW_MS, abort, activate, binding, entry, id_of, release


def judge(given: Entry) -> Admitted:
    """Admits whatever is a message, whoever signed it."""
    return Admitted(parse(given.value or b""))


def folded(*messages: Message) -> Log:
    log = Log(judge)
    for message in messages:
        log.apply(entry(log.position, message))
    return log


def standings(log: Log) -> list[Standing]:
    return [known.standing for known in log.releases.values()]


def test_log_without_entries_leaves_the_topology_file_in_force() -> None:
    log = Log(judge)
    assert (log.generation, log.bindings, log.pending, log.position) == (0, None, [], 0)


def test_release_that_is_activated_makes_the_next_generation() -> None:
    log = Log(judge)
    assert log.apply(entry(7, release())) == (Kind.RELEASED, id_of(1), "", ())
    assert (log.generation, log.bindings, log.pending) == (0, None, [release()])
    assert log.apply(entry(8, activate(author="bob"), timestamp=NOW_MS + 5)) == (Kind.ACTIVATED, id_of(1), "", ())
    assert (log.generation, log.bindings, log.pending, log.position) == (1, {"trees": binding(1)}, [], 9)
    assert log.generations == [(1, release(), "bob", NOW_MS + 5, 8)]


def test_next_release_supersedes_the_one_in_force() -> None:
    log = folded(release(1), activate(1), release(2, base=1), activate(2))
    assert log.bindings == {"trees": binding(2)}
    assert standings(log) == [Standing.SUPERSEDED, Standing.ACTIVE]
    assert [generation.number for generation in log.generations] == [1, 2]


def test_binding_that_stays_as_it_is_is_held_once() -> None:
    """The log is kept for ever, and most of a release is what was bound before; but True is not 1, though Python calls them equal."""
    one, two, true = (binding(2, parameters={"x": value}) for value in (1, 2, True))
    log = folded(release(1, bindings={"trees": binding(1), "stack": one}), activate(1))
    first = log.bindings or {}
    for number, (stack, shared) in enumerate([(one, True), (two, False), (true, False)], 2):
        log.apply(entry(log.position, release(number, base=1, bindings={"trees": binding(1), "stack": stack})))
        held = log.pending[-1].bindings
        assert held["trees"] is first["trees"]
        assert (held["stack"] is first["stack"]) is shared
        assert encode(log.pending[-1]) == encode(release(number, base=1, bindings={"trees": binding(1), "stack": stack}))


def test_release_on_a_stale_base_is_rejected_and_told_what_is_in_force() -> None:
    log = folded(release(1), activate(1, author="bob"))
    outcome = log.apply(entry(9, release(2, base=0)))
    assert outcome.kind is Kind.REJECTED
    assert outcome.why == f"made for generation 0, but generation 1 is active: release {id_of(1)} by alice"
    assert log.releases[id_of(2)].standing is Standing.REJECTED
    assert log.apply(entry(10, activate(2))).kind is Kind.IGNORED
    assert log.generation == 1


def test_release_on_a_generation_to_come_is_rejected_for_good() -> None:
    """Else somebody could leave one behind that wakes up later."""
    log = folded(release(2, base=1), release(1), activate(1))
    assert log.apply(entry(9, release(2, base=1))).why == "this id was used before"
    assert log.apply(entry(10, activate(2))).kind is Kind.IGNORED
    assert log.generation == 1


def test_of_two_releases_on_one_base_the_first_activated_wins_and_the_other_is_told() -> None:
    log = folded(release(1), release(2, author="bob"))
    assert log.apply(entry(5, activate(2, author="bob"))).lost == (id_of(1),)
    lost = log.releases[id_of(1)]
    assert (lost.standing, lost.why) == (Standing.REJECTED, f"lost: generation 1 is active: release {id_of(2)} by bob")
    late = log.apply(entry(6, activate(1)))
    assert late.kind is Kind.IGNORED
    assert late.why == f"the release is rejected ({lost.why})"
    assert log.bindings == {"trees": binding(2)}


def test_aborted_release_never_comes_back() -> None:
    log = folded(release())
    assert log.apply(entry(3, abort(reason="too slow"))) == (Kind.ABORTED, id_of(1), "by alice: too slow", ())
    assert log.apply(entry(4, release())).kind is Kind.IGNORED
    assert log.apply(entry(5, activate())).why == "the release is aborted (by alice: too slow)"
    assert (log.generation, log.pending) == (0, [])


@pytest.mark.parametrize("repeated", [release(), activate(), release(1, base=1, bindings={"trees": binding(9)})])
def test_repetition_changes_nothing(repeated: Message) -> None:
    """A release by its id, even when it says something else."""
    log = folded(release(), activate())
    assert log.apply(entry(5, repeated)).kind is Kind.IGNORED
    assert log.ignored == {"moot" if isinstance(repeated, Activate) else "repeated": 1}
    assert (log.generation, log.bindings, standings(log)) == (1, {"trees": binding(1)}, [Standing.ACTIVE])


def test_what_is_in_force_is_not_aborted() -> None:
    log = folded(release(), activate())
    assert log.apply(entry(5, abort())).why == "the release is active (by alice): roll back instead"
    assert log.generation == 1


@pytest.mark.parametrize("message", [activate(3), abort(3)])
def test_release_that_nobody_announced_is_not_spoken_of(message: Message) -> None:
    log = folded(release())
    assert log.apply(entry(5, message)) == (Kind.IGNORED, id_of(3), "there is no such release", ())
    assert log.pending == [release()]


def test_only_so_many_releases_are_pending() -> None:
    log = folded(*(release(number) for number in range(MAX_PENDING)))
    outcome = log.apply(entry(99, release(1000)))
    assert (outcome.kind, outcome.why) == (Kind.REJECTED, f"{MAX_PENDING} releases are pending: abort some, then release again")
    log.apply(entry(100, abort(0)))
    assert log.apply(entry(101, release(1001))).kind is Kind.RELEASED
    assert len(log.apply(entry(102, activate(1001))).lost) == MAX_PENDING - 1


def test_what_a_generation_binds_can_be_asked() -> None:
    """Of generation 0 only if the first release that was put in force said it."""
    baseline = {"trees": binding(7)}
    log = folded(release(1, baseline=baseline), release(2))
    assert log.bound(0) is None
    log.apply(entry(5, activate(1)))
    assert [log.bound(generation) for generation in (-1, 0, 1, 2)] == [None, baseline, {"trees": binding(1)}, None]
    assert folded(release(2), activate(2)).bound(0) is None


def test_refused_entries_are_counted_by_reason_and_the_last_are_kept() -> None:
    log = Log(judge)
    outcomes = [log.apply(Entry(offset, NOW_MS, True, None, b"junk")) for offset in range(2 * MAX_REFUSED)]
    assert {(outcome.kind, outcome.id) for outcome in outcomes} == {(Kind.REFUSED, None)}
    log.apply(Entry(2 * MAX_REFUSED, NOW_MS, True, None, b"x" * (MAX_BYTES + 1)))
    assert log.refused == {"malformed": 2 * MAX_REFUSED, "too-large": 1}
    assert [refusal.offset for refusal in log.last_refused] == [*range(MAX_REFUSED + 1, 2 * MAX_REFUSED + 1)]
    assert log.position == 2 * MAX_REFUSED + 1


def test_refusal_does_not_keep_or_show_what_it_quotes() -> None:
    """The reason may quote the message: of a long one little is kept, and what steers a terminal is not."""
    log = Log(judge)
    value = encode(activate()).replace(b'"activate"', b'"\\u001b[2J' + b"x" * 9000 + b'"')
    assert log.apply(Entry(0, NOW_MS, True, None, value)).kind is Kind.REFUSED
    assert "xxx" in log.last_refused[0].why
    assert len(log.last_refused[0].why) <= 300
    assert "\x1b" not in log.last_refused[0].why


def test_entries_of_version_1_fold_as_they_were_before_the_first_of_version_2() -> None:
    log = folded(release(1, version=1), activate(1, version=1), release(2, base=1, version=1))
    assert (log.generation, log.version, log.bindings) == (1, 1, {"trees": binding(1)})
    log.apply(entry(log.position, activate(2)))
    assert (log.generation, log.version, log.bindings) == (2, 2, {"trees": binding(2)})


@pytest.mark.parametrize("late", [release(2, base=1, version=1), activate(3, version=1), abort(3, version=1)])
def test_entry_of_version_1_after_one_of_version_2_is_refused(late: Message) -> None:
    log = folded(release(1), activate(1), release(3, base=1))
    outcome = log.apply(entry(log.position, late))
    assert outcome == (Kind.REFUSED, None, "a message of version 1, after one of version 2", ())
    assert (log.refused, log.generation, log.pending) == ({"old-version": 1}, 1, [release(3, base=1)])


def test_any_admitted_entry_of_version_2_is_the_end_of_version_1() -> None:
    """Also one that changes nothing: it proves that somebody trusted writes version 2."""
    log = folded(release(1, version=1), abort(7))
    assert log.ignored == {"moot": 1}
    assert log.apply(entry(log.position, activate(1, version=1))).kind is Kind.REFUSED
    assert log.apply(entry(log.position, activate(1))).kind is Kind.ACTIVATED


def test_entry_that_is_handed_over_again_is_not_folded_again() -> None:
    log = Log(judge)
    given = [entry(0, release()), Entry(1, NOW_MS, True, None, b"junk"), entry(2, activate())]
    outcomes = [log.apply(each) for each in (*given, *given[1:])]
    assert outcomes[3:] == [(Kind.IGNORED, None, "folded before", ())] * 2
    assert (log.generation, log.refused.total(), log.ignored.total(), log.position) == (1, 1, 0, 3)


def test_ended_releases_do_not_pile_up_and_do_not_come_back() -> None:
    log = Log(judge)
    for number in range(2 * MAX_ENDED):
        log.apply(entry(log.position, release(number)))
        log.apply(entry(log.position, abort(number)))
    assert len(log.releases) == MAX_ENDED
    assert log.apply(entry(log.position, release(0))).why == "this id was used before"
    assert log.apply(entry(log.position, activate(0))).why == "the release has ended"
    assert log.generation == 0


def test_an_entry_costs_the_same_at_any_length_of_the_log() -> None:
    """Quadratic folding makes the last eighth about 15 times as dear as the first. Each is the best of three, without the collector."""
    entries = [
        each
        for number in range(4000)
        for each in (entry(2 * number, release(number, base=number)), entry(2 * number + 1, activate(number)))
    ]
    spent: list[list[float]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            log, times = Log(judge), []
            for start in range(0, len(entries), 1000):
                begun = time.process_time()
                for each in entries[start : start + 1000]:
                    log.apply(each)
                times.append(time.process_time() - begun)
            spent.append(times)
            assert log.generation == 4000
    finally:
        gc.enable()
    best = [min(each) for each in zip(*spent, strict=True)]
    assert best[-1] < 3 * best[0]
