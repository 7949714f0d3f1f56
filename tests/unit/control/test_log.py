"""The rules of the fold, one by one. That they hold in any order is told in tests/properties/test_control_log.py."""

from __future__ import annotations

import gc
import time

import pytest

from penstock.control.log import MAX_ENDED, MAX_PENDING, MAX_REFUSED, Kind, Log, Standing
from penstock.control.messages import MAX_BYTES, Activate, Message, encode, parse
from penstock.control.rights import Admitted
from penstock.control.strategy import SINGLE, Canary, Split
from penstock.transports.kafka.journal import Entry
from tests.unit.control.making import NOW_MS, abort, activate, binding, entry, id_of, pause, promote, release


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
    assert log.generations == [(1, release(), "bob", NOW_MS + 5, 8, release(), None, 0.0, 0)]


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


RAMP = Canary((0.05, 0.25, 1.0), unit="customer")


def on_trial(*messages: Message) -> Log:
    """Generation 2: release 1 is live, and release 2 on trial beside it."""
    return folded(release(1), activate(1), release(2, base=1, strategy=RAMP), activate(2), *messages)


def story(log: Log) -> list[tuple[str, str, float, int]]:
    """What answers in each generation: the binding of what is live and of the candidate, its share and its step."""
    shown = [(one.live, one.candidate) for one in log.generations]
    bound = [(str(live.bindings["trees"]), str(trial.bindings["trees"]) if trial else "") for live, trial in shown]
    return [(*pair, one.share, one.step) for pair, one in zip(bound, log.generations, strict=True)]


def test_release_with_a_trial_leaves_live_what_is_live() -> None:
    log = on_trial()
    assert story(log) == [("trees@1", "", 0.0, 0), ("trees@1", "trees@2", 0.05, 0)]
    assert (log.generation, log.bindings, log.candidate) == (2, {"trees": binding(1)}, release(2, base=1, strategy=RAMP))
    assert log.bound(2) == {"trees": binding(1)}
    assert standings(log) == [Standing.ACTIVE, Standing.CANDIDATE]


def test_promotions_lead_through_the_steps_and_the_last_one_makes_the_candidate_live() -> None:
    log = on_trial(promote(2, base=2))
    assert story(log)[2:] == [("trees@1", "trees@2", 0.25, 1)]
    assert log.apply(entry(9, promote(2, base=3, author="bob"), timestamp=NOW_MS + 7)) == (Kind.PROMOTED, id_of(2), "", ())
    assert story(log)[3:] == [("trees@2", "", 0.0, 0)]
    assert log.generations[-1][:5] == (4, log.releases[id_of(2)].release, "bob", NOW_MS + 7, 9)
    assert (log.candidate, standings(log)) == (None, [Standing.SUPERSEDED, Standing.ACTIVE])
    assert log.releases[id_of(1)].why == f"by release {id_of(2)}"


@pytest.mark.parametrize("strategy", [Split(0.5), Canary((0.1,)), Canary((0.1, 1.0))])
def test_trial_of_one_step_is_over_with_the_first_promotion(strategy: Split | Canary) -> None:
    log = folded(release(1), activate(1), release(2, base=1, strategy=strategy), activate(2))
    assert log.generations[-1].share == (0.5 if isinstance(strategy, Split) else 0.1)
    log.apply(entry(9, promote(2, base=2)))
    assert (log.bindings, log.candidate) == ({"trees": binding(2)}, None)


def test_full_promotion_leaves_steps_out() -> None:
    assert story(on_trial(promote(2, base=2, full=True)))[2:] == [("trees@2", "", 0.0, 0)]


def test_promotion_counts_once_for_a_step() -> None:
    """Two who decide on the same step lead one step further, not two."""
    log = on_trial(promote(2, base=2))
    outcome = log.apply(entry(9, promote(2, base=2)))
    assert (outcome.kind, log.ignored) == (Kind.IGNORED, {"moot": 1})
    assert outcome.why == f"decided on generation 2, but generation 3 is active, with release {id_of(2)} by alice on trial"
    assert log.apply(entry(10, promote(2, base=4))).kind is Kind.IGNORED, "of a generation to come"
    assert log.generation == 3


def test_pause_holds_a_trial_at_its_step_until_a_promotion_resumes_it() -> None:
    log = on_trial()
    assert log.apply(entry(9, pause(2, author="bob", reason="odd"))) == (Kind.PAUSED, id_of(2), "paused by bob: odd", ())
    assert (log.paused, log.generation, log.generations[-1].share) == (True, 2, 0.05)
    refused = log.apply(entry(10, promote(2, base=2, full=True)))
    assert (refused.kind, refused.why) == (Kind.IGNORED, "the trial is paused by bob: odd; a promotion has to say that it resumes it")
    assert log.apply(entry(11, pause(2))).why == "the release is on trial (paused by bob: odd)"
    assert log.apply(entry(12, promote(2, base=2, resume=True))).kind is Kind.PROMOTED
    assert (log.paused, story(log)[2:]) == (False, [("trees@1", "trees@2", 0.25, 1)])


def test_abort_ends_a_trial_and_what_is_live_stays_alone() -> None:
    log = on_trial(promote(2, base=2), pause(2))
    assert log.apply(entry(9, abort(2, reason="too slow"))) == (Kind.ABORTED, id_of(2), "by alice: too slow", ())
    assert story(log)[3:] == [("trees@1", "", 0.0, 0)]
    assert (log.paused, standings(log)) == (False, [Standing.ACTIVE, Standing.ABORTED])
    for late in (promote(2, base=4), pause(2), activate(2), abort(2)):
        assert log.apply(entry(log.position, late)).why == "the release is aborted (by alice: too slow)"
    assert log.apply(entry(log.position, release(3, base=4))).kind is Kind.RELEASED


def test_release_beside_a_trial_is_rejected_with_what_to_do() -> None:
    for base in (1, 2):
        outcome = on_trial().apply(entry(9, release(3, base=base)))
        assert (outcome.kind, outcome.why) == (Kind.REJECTED, f"release {id_of(2)} by alice is on trial: promote or abort it first")


def test_begin_of_a_trial_rejects_what_is_pending() -> None:
    log = folded(release(1), activate(1), release(2, base=1, strategy=RAMP), release(3, base=1))
    assert log.apply(entry(9, activate(2))).lost == (id_of(3),)
    assert log.releases[id_of(3)].why == f"lost: generation 2 is active, with release {id_of(2)} by alice on trial"


@pytest.mark.parametrize("message", [promote(1, base=1), pause(1), promote(2, base=1), pause(2), promote(3, base=1), pause(3)])
def test_what_is_not_on_trial_is_neither_promoted_nor_paused(message: Message) -> None:
    """Neither what is live, nor what is pending, nor what nobody has announced."""
    log = folded(release(1), activate(1), release(2, base=1, strategy=RAMP))
    assert log.apply(entry(9, message)).kind is Kind.IGNORED
    assert (log.generation, log.paused, log.ignored) == (1, False, {"moot": 1})


@pytest.mark.parametrize("message", [activate(2), activate(1), promote(1, base=2), pause(1), abort(1)])
def test_beside_a_trial_only_the_trial_moves(message: Message) -> None:
    log = on_trial()
    outcome = log.apply(entry(9, message))
    assert outcome.kind is Kind.IGNORED
    assert outcome.why.startswith("the release is on trial" if message.id == id_of(2) else "the release is active (by alice)")
    assert log.generation == 2


def test_trial_after_generation_0_is_beside_what_its_baseline_says() -> None:
    log = folded(release(1, strategy=RAMP, baseline={"trees": binding(9)}, reason="try it"), activate(1))
    (first,) = log.generations
    assert (first.live.id, first.live.base, first.live.strategy, first.live.reason) == ("", 0, SINGLE, "")
    assert log.bindings == log.bound(0) == log.bound(1) == {"trees": binding(9)}
    log.apply(entry(8, abort(1)))
    assert (log.generations[-1].live, log.candidate) == (first.live, None)
    outcome = log.apply(entry(9, release(2, base=2)))
    assert outcome.kind is Kind.RELEASED
    log.apply(entry(10, activate(2)))
    assert log.bindings == {"trees": binding(2)}
    stale = log.apply(entry(11, release(3, base=1)))
    assert stale.why == f"made for generation 1, but generation 3 is active: release {id_of(2)} by alice"


def test_trial_after_generation_0_that_does_not_say_what_that_is_is_rejected() -> None:
    """Workers would have to guess beside what it is tried."""
    outcome = Log(judge).apply(entry(0, release(1, strategy=Split(0.5))))
    assert outcome.kind is Kind.REJECTED
    assert "has no baseline" in outcome.why


def test_ended_trials_do_not_pile_up_and_do_not_come_back() -> None:
    log = folded(release(1), activate(1))
    for number in range(2, 2 * MAX_ENDED):
        for message in (release(number, base=log.generation, strategy=RAMP), activate(number), abort(number)):
            log.apply(entry(log.position, message))
    assert len(log.releases) == MAX_ENDED + 1
    assert log.generation == 1 + 2 * (2 * MAX_ENDED - 2)
    assert log.apply(entry(log.position, release(2, base=log.generation))).why == "this id was used before"


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
