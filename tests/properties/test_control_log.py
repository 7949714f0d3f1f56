"""The fold under anything that may stand on a control topic, against a model that reads the rules the slow way.

Few ids and few bases, so that messages meet; real seals and the real judge, so that what is refused is refused for cause.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.control.log import Kind, Log, Standing
from penstock.control.messages import Abort, Activate, Message, Pause, Promote, Release
from penstock.control.strategy import SINGLE, Canary, Split, shares_of
from penstock.control.trust import Judge, SigningKey
from penstock.transports.kafka.journal import Entry
from tests.unit.control.making import CONTROL, NOW_MS, abort, activate, binding, bytes_of, entry, pause, promote, release, trusting

ALICE, MALLORY = SigningKey.new("alice"), SigningKey.new("mallory")
TRUST = trusting(ALICE)
SIGNED = Judge("flights", "cluster-1", CONTROL, TRUST)
BARE = Judge("flights", "cluster-1", CONTROL, TRUST, unsigned=True)

numbers = st.integers(1, 6)
trials = st.sampled_from((SINGLE, SINGLE, Canary((0.05, 0.25, 1.0)), Split(0.5)))


def common(versions: st.SearchStrategy[int]) -> st.SearchStrategy[Message]:
    """Messages that there are in every version."""
    return st.one_of(
        st.builds(lambda number, base, version: release(number, base, version=version), numbers, st.integers(0, 3), versions),
        st.builds(lambda number, version: activate(number, version=version), numbers, versions),
        st.builds(lambda number, version: abort(number, version=version), numbers, versions),
    )


messages: st.SearchStrategy[Message] = st.one_of(
    common(st.sampled_from((1, 2))),
    st.builds(lambda number, base, strategy: release(number, base, strategy=strategy), numbers, st.integers(0, 3), trials),
    st.builds(promote, numbers, st.integers(0, 4), full=st.booleans(), resume=st.booleans()),
    st.builds(pause, numbers),
)


baselines = st.sampled_from(({"trees": binding(9)}, {"trees": binding(9)}, {}))


def changed(message: Message, **fields: Any) -> Entry:
    """A message that says more, or otherwise, than the types of this version do."""
    return entry(0, message, value=json.dumps({**json.loads(bytes_of(message)), **fields}).encode())


refused = st.one_of(
    st.builds(lambda message: entry(0, message, MALLORY), messages),
    st.builds(lambda message: entry(0, message, ALICE, stamped=False), messages),
    st.builds(lambda message, late: entry(0, message, timestamp=NOW_MS + late), messages, st.sampled_from([-300_001, 300_001, 2**62])),
    st.builds(lambda message: entry(0, message)._replace(key=b"another"), messages),
    st.builds(lambda message: entry(0, message, value=None), messages),
    st.builds(lambda message: changed(message, version=3), messages),
    st.builds(lambda message: changed(message, version=3 - message.version), messages),
    st.builds(lambda message: changed(message, strategy={"kind": "canary", "share": 0.1}), st.builds(release, numbers)),
    st.builds(lambda message: changed(message, control_topic="trial.flights.control"), messages),
    st.builds(lambda message: changed(message, topology="trains"), messages),
    st.builds(lambda message: changed(message, cluster="cluster-2"), messages),
    st.builds(lambda message: changed(message, kind="revert"), messages),
    st.builds(lambda message, cut: entry(0, message, value=bytes_of(message, ALICE)[:cut]), messages, st.integers(0, 300)),
    st.builds(Entry, st.just(0), st.integers(), st.booleans(), st.none() | st.binary(), st.none() | st.binary()),
)


@st.composite
def topics(draw: st.DrawFn) -> list[Entry]:
    """A control topic at growing offsets, not without gaps. Most of it is what operators would say next, so that generations grow."""
    log = Log(BARE)
    found: list[Entry] = []
    for what in draw(
        st.lists(
            st.sampled_from(("release", "release", "activate", "activate", "promote", "promote", "pause", "abort", "any", "refused")),
            min_size=4,
            max_size=30,
        )
    ):
        if what == "refused":
            record = draw(refused)
        else:
            signed = draw(st.booleans())
            record = entry(0, draw(messages) if what == "any" else sensible(draw, what, log), ALICE if signed else None)
        found.append(record._replace(offset=log.position + draw(st.sampled_from((0, 0, 0, 2)))))
        log.apply(found[-1])
    return found


def sensible(draw: st.DrawFn, what: str, log: Log) -> Message:
    """A release on the generation in force, more often than not; a word about one that is pending or at least known, where there is one.

    Of the version that the log is at, more often than not, so that both make generations.
    """
    version = draw(st.sampled_from((log.version, log.version, log.version, log.version, 1, 2)))
    near = max(0, log.generation + draw(st.sampled_from((0, 0, 0, -1, 1))))
    if what == "release":
        strategy = draw(trials) if version == 2 else SINGLE
        return release(draw(numbers), near, version=version, strategy=strategy, baseline={} if near else draw(baselines))
    open_now = [*log.pending, *filter(None, [log.candidate])]
    spoken_of = [one.id for one in open_now] if draw(st.booleans()) else list(log.releases)
    number = draw(st.sampled_from([int(id[-4:], 16) for id in spoken_of]) if spoken_of else numbers)
    if what == "promote":
        return promote(number, near, full=draw(st.sampled_from((False, False, True))), resume=draw(st.booleans()))
    if what == "pause":
        return pause(number)
    return activate(number, version=version) if what == "activate" else abort(number, version=version)


def fold(entries: Sequence[Entry], judge: Judge = BARE) -> Log:
    log = Log(judge)
    for each in entries:
        log.apply(each)
    return log


def state(log: Log) -> tuple[Any, ...]:
    """What is in force and what may come in force."""
    return log.generation, log.bindings, list(log.generations), dict(log.releases), log.pending, log.paused, log.version


def everything(log: Log) -> tuple[Any, ...]:
    return *state(log), log.refused, list(log.last_refused), log.position


@given(topics(), st.data())
def test_any_two_readers_agree(entries: list[Entry], data: st.DataObject) -> None:
    """One reads at once; the other again and again from anywhere before where it stands, as after a lost connection."""
    log = Log(BARE)
    while log.position < (entries[-1].offset + 1 if entries else 0):
        behind = next(index for index, each in enumerate(entries) if each.offset >= log.position)
        begin = data.draw(st.integers(0, behind))
        for each in entries[begin : data.draw(st.integers(behind + 1, len(entries)))]:
            log.apply(each)
    assert everything(log) == everything(fold(entries))


@given(topics())
def test_every_entry_does_what_its_outcome_says_and_nothing_else(entries: list[Entry]) -> None:
    log = Log(BARE)
    for each in entries:
        before, pending, count = state(log), {one.id for one in log.pending}, log.refused.total()
        trial, paused = log.candidate, log.paused
        outcome = log.apply(each)
        ended = outcome.kind is Kind.ABORTED and trial is not None
        assert log.generation == before[0] + (outcome.kind in (Kind.ACTIVATED, Kind.PROMOTED) or ended)
        assert log.paused is (outcome.kind is Kind.PAUSED or (paused and not (outcome.kind is Kind.PROMOTED or ended)))
        assert log.refused.total() == count + (outcome.kind is Kind.REFUSED)
        now = {one.id for one in log.pending}
        match outcome.kind:
            case Kind.REFUSED:
                assert state(log) == before
                assert outcome.why
            case Kind.IGNORED:
                assert state(log)[:-1] == before[:-1]
                assert outcome.why
            case Kind.RELEASED:
                assert now == pending | {outcome.id}
            case Kind.REJECTED:
                assert now == pending
            case Kind.ABORTED:
                assert now == pending - {outcome.id}
                assert (outcome.id in pending) is not (trial is not None and outcome.id == trial.id)
            case Kind.PAUSED | Kind.PROMOTED:
                assert trial is not None
                assert outcome.id == trial.id
            case Kind.ACTIVATED:
                assert now == set()
                assert set(outcome.lost) == pending - {outcome.id}
                newest = log.generations[-1]
                assert newest.release.id == (newest.candidate or newest.live).id == outcome.id
        assert log.bindings == (log.generations[-1].live.bindings if log.generations else None)


@given(topics())
def test_of_the_releases_on_one_base_at_most_one_is_ever_in_force(entries: list[Entry]) -> None:
    log = fold(entries)
    first: dict[str, int] = {}
    for one in log.generations:
        first.setdefault(one.release.id, one.number)
    assert all(one.release.base == first[one.release.id] - 1 for one in log.generations)
    now = {Standing.ACTIVE: set[str](), Standing.CANDIDATE: set[str]()}
    for id, known in log.releases.items():
        now.get(known.standing, set()).add(id)
    newest = log.generations[-1:]
    assert now[Standing.ACTIVE] == {one.live.id for one in newest if one.live.id}
    assert now[Standing.CANDIDATE] == {one.candidate.id for one in newest if one.candidate}
    assert {one.base for one in log.pending} <= {log.generation}
    assert not (log.pending and log.candidate)
    assert log.candidate or not log.paused


@given(topics())
def test_share_of_a_candidate_grows_until_it_is_live_or_gone(entries: list[Entry]) -> None:
    """And what is live changes only to what was announced: at once, or after its trial."""
    generations = fold(entries).generations
    for before, after in pairwise(generations):
        trial = before.candidate
        if trial is None:
            assert after.release.base == before.number
            assert after.live is (before.live if after.candidate else after.release)
            assert (after.candidate, after.step) == (after.release if after.candidate else None, 0)
        elif after.candidate is not None:
            assert (after.candidate, after.live) == (trial, before.live)
            assert (after.share, after.step) == (shares_of(trial.strategy)[before.step + 1], before.step + 1)
            assert after.share > before.share
        else:
            assert after.live in (trial, before.live)
            assert after.release == trial
    assert all(0 <= one.share < 1 for one in generations)
    assert all(one.candidate or (one.share, one.step) == (0.0, 0) for one in generations)


@given(topics())
def test_refused_entries_might_as_well_not_be_there(entries: list[Entry]) -> None:
    log = Log(BARE)
    kept = [each for each in entries if log.apply(each).kind is not Kind.REFUSED]
    assert state(fold(kept)) == state(log)


@given(topics(), st.data())
def test_unknown_fields_change_nothing(entries: list[Entry], data: st.DataObject) -> None:
    """A later Penstock may write more within a version."""

    def more(one: Entry) -> Entry:
        if not (one.value or b"").startswith(b"{") or data.draw(st.booleans()):
            return one
        try:
            fields = json.loads(one.value or b"")
        except ValueError:
            return one
        return one._replace(value=json.dumps({**fields, "mood": {"deep": [1, "x", None]}}).encode())

    assert state(fold([more(each) for each in entries])) == state(fold(entries))


@given(topics())
def test_what_is_not_signed_is_nothing_to_a_reader_that_wants_signatures(entries: list[Entry]) -> None:
    signed = [each for each in entries if each.value is None or not each.value.startswith(b"{")]
    assert state(fold(entries, SIGNED)) == state(fold(signed, SIGNED)) == state(fold(signed))


@given(topics(), st.integers(0, 40))
def test_key_that_is_revoked_takes_nothing_back(entries: list[Entry], revoked: int) -> None:
    """The broker's stamps grow with the offsets here; what was signed before the revocation stays as it was."""
    entries = [each._replace(timestamp=NOW_MS + 1000 * each.offset) for each in entries]
    at = f"{revoked // 60:02}:{revoked % 60:02}"  # NOW_MS is eight o'clock
    later = Judge("flights", "cluster-1", CONTROL, trusting(ALICE, revoked=f"2027-01-15T08:{at}Z"))
    kept = [each for each in entries if each.timestamp < NOW_MS + 1000 * revoked]
    assert state(fold(entries, later)) == state(fold(kept, SIGNED))


@given(topics())
def test_fold_is_what_the_rules_say(entries: list[Entry]) -> None:
    """The rules once more, read the slow way: for each activation by looking again at all that was admitted before."""
    log = fold(entries)
    past: list[tuple[Message, int]] = []  # with the generation that a release could be made for then; -1 during a trial
    made: list[tuple[str, str, float]] = []  # what is live, what is on trial, and its share
    on_trial: dict[str, Release] = {}
    paused = False
    for message in admitted(entries):
        live, trial, share = made[-1] if made else ("", "", 0.0)
        at = -1 if trial else len(made)
        if isinstance(message, Activate):
            for one in waiting(past, at):
                if one.id == message.id:
                    on_trial[one.id] = one
                    shares = shares_of(one.strategy)
                    made.append((live, one.id, shares[0]) if shares else (one.id, "", 0.0))
        elif message.id == trial and isinstance(message, Promote):
            if message.base == len(made) and (message.resume or not paused):
                further = [one for one in shares_of(on_trial[trial].strategy) if one > share]
                made.append((trial, "", 0.0) if message.full or not further else (live, trial, further[0]))
                paused = False
        elif message.id == trial and isinstance(message, Pause):
            paused = True
        elif message.id == trial and isinstance(message, Abort):
            made.append((live, "", 0.0))
            paused = False
        past.append((message, at))
    assert [(one.live.id, one.candidate.id if one.candidate else "", one.share) for one in log.generations] == made
    assert (log.pending, log.paused) == ([] if made and made[-1][1] else waiting(past, len(made)), paused)


def admitted(entries: Sequence[Entry]) -> list[Message]:
    """What the judge admits, but for version 1 wherever version 2 stands before it."""
    good = [BARE(each).message for each in entries if fold([each]).refused.total() == 0]
    return [one for at, one in enumerate(good) if not any(before.version > one.version for before in good[:at])]


@given(topics(), st.data())
def test_version_1_after_an_admitted_version_2_never_changes_anything(entries: list[Entry], data: st.DataObject) -> None:
    """Whatever of version 1 is put in behind the first of version 2, in any place and as often as somebody likes."""
    begins = next((at for at, each in enumerate(entries) if fold(entries[: at + 1]).version == 2), len(entries))
    old = st.builds(lambda message: entry(0, message), common(st.just(1)))
    mixed: list[Entry] = []
    for at, each in enumerate(entries):
        if at > begins:
            mixed += data.draw(st.lists(old, max_size=3))
        mixed.append(each)
    mixed = [each._replace(offset=at) for at, each in enumerate(mixed)]
    plain = [each._replace(offset=at) for at, each in enumerate(entries)]
    assert story(fold(mixed)) == story(fold(plain))


def story(log: Log) -> tuple[Any, ...]:
    """The state without the offsets, which differ when something is put in between."""
    releases = [(known.release, known.standing, known.why) for known in log.releases.values()]
    return log.generation, log.bindings, [(one.number, one.release) for one in log.generations], releases, log.pending, log.version


@given(topics(), st.data())
def test_fold_of_a_beginning_is_the_beginning_of_the_fold(entries: list[Entry], data: st.DataObject) -> None:
    """What came later changes nothing of what was in force before; folding the rest onto it, or all of it anew, comes to the same."""
    cut = data.draw(st.integers(0, len(entries)))
    begun = fold(entries[:cut])
    generations, version = list(begun.generations), begun.version
    for each in entries[cut:]:
        begun.apply(each)
    assert begun.generations[: len(generations)] == generations
    assert begun.version >= version
    assert everything(begun) == everything(fold(entries))


def waiting(past: Sequence[tuple[Message, int]], generation: int) -> list[Release]:
    """The releases that could be activated now: each the first of its id, made for this generation while it was in force, not aborted."""
    found = []
    for index, (one, then) in enumerate(past):
        first = not any(other.id == one.id for other, _ in past[:index] if isinstance(other, Release))
        aborted = any(later.id == one.id for later, _ in past[index:] if isinstance(later, Abort))
        beside_unknown = generation == 0 and isinstance(one, Release) and not one.baseline and shares_of(one.strategy)
        if isinstance(one, Release) and first and not aborted and not beside_unknown and one.base == then == generation:
            found.append(one)
    return found
