"""What keys may do, under anything that holders of keys with fewer rights may write: real seals, the real judge, and the fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from penstock.control.log import Kind, Log, Standing
from penstock.control.messages import Message, Release
from penstock.control.rights import ALL, DEPLOY, PROMOTE, ROLLBACK
from penstock.control.strategy import SINGLE, Canary, Split, shares_of
from penstock.control.trust import Judge, SigningKey, Trust
from penstock.transports.kafka.journal import Entry
from tests.unit.control.making import CONTROL, NOW_MS, abort, activate, binding, entry, pause, promote, release, trusting

MAY = {
    "alice": ALL,
    "deployer": frozenset({DEPLOY}),
    "promoter": frozenset({PROMOTE}),
    "worker": frozenset({ROLLBACK}),
    "second": frozenset({PROMOTE, ROLLBACK}),
}
KEYS = {name: SigningKey.new(name) for name in MAY}
TRUST = Trust(
    {kid: dataclasses.replace(key, may=MAY[key.name]) for kid, key in trusting(*KEYS.values()).keys.items()},
)
JUDGE = Judge("flights", "cluster-1", CONTROL, TRUST)

RAMP = Canary((0.05, 0.25))
WHAT = ("release", "release", "restore", "activate", "activate", "promote", "promote", "pause", "abort")


@st.composite
def topics(draw: st.DrawFn, *, authors: Sequence[str] = tuple(MAY), begun: Sequence[Entry] = ()) -> list[Entry]:
    """What the holders of these keys write, after what was written before."""
    log = fold(begun)
    found = list(begun)
    for what in draw(st.lists(st.sampled_from(WHAT), max_size=25)):
        author = draw(st.sampled_from(authors))
        message = said(draw, what, log, author)
        found.append(entry(log.position, message, KEYS[author]))
        log.apply(found[-1])
    return found


def said(draw: st.DrawFn, what: str, log: Log, author: str) -> Message:
    """One message: mostly one that could have an effect, whoever writes it; claims to restore are now and then false."""
    number, version = draw(st.integers(1, 12)), draw(st.sampled_from((2, 2, 2, 1)))
    fields: dict[str, Any] = {"author": author, "version": version}
    if what in ("release", "restore"):
        if what == "release" and version == 2:
            fields["strategy"] = draw(st.sampled_from((SINGLE, RAMP, Split(0.5))))
        if log.generation == 0:
            fields["baseline"] = {"trees": binding(99)}
        if what == "restore" and log.generation:
            claimed = draw(st.integers(0, log.generation))
            fields["restores"] = claimed
            fields["bindings"] = dict(log.bound(claimed) or {}) if draw(st.booleans()) else {"trees": draw(others)}
        return release(number, log.generation, **fields)
    spoken_of = [int(one.id[-4:], 16) for one in (*log.pending, log.candidate) if one is not None] or [number]
    about = draw(st.sampled_from(spoken_of))
    if what in ("promote", "pause"):
        fields["version"] = 2
        more = {"full": draw(st.booleans()), "resume": draw(st.booleans())}
        return promote(about, log.generation, **more, **fields) if what == "promote" else pause(about, **fields)
    return (activate if what == "activate" else abort)(about, **fields)


# Close to what was bound before: other parameters of equal value to Python, and another place to look.
others = st.sampled_from(
    [binding(1, parameters={"x": 1}), binding(1, parameters={"x": True}), binding(1, uri="models:/trees/2"), binding(2), binding(50)]
)


def fold(entries: Sequence[Entry], judge: Judge = JUDGE) -> Log:
    log = Log(judge)
    for each in entries:
        log.apply(each)
    return log


def bound_before(log: Log) -> list[Any]:
    return [log.bound(number) for number in range(log.generation + 1)]


def written(bindings: Any) -> str:
    """Bindings as text, in which 1, 1.0 and true differ."""
    return repr(sorted((bindings or {}).items()))


@given(topics())
def test_every_generation_was_made_by_keys_with_the_right_to_it(entries: list[Entry]) -> None:
    log = Log(JUDGE)
    for each in entries:
        known = {one.id: one for one in (*log.pending, log.candidate) if one is not None}
        before = [written(one) for one in bound_before(log)]
        outcome = log.apply(each)
        if outcome.kind is Kind.REFUSED:
            event("refused")
            continue
        author = next(name for name, key in KEYS.items() if (each.value or b"").startswith(head(key)))
        may = MAY[author]
        if outcome.kind is Kind.RELEASED:
            made: Release = log.releases[outcome.id or ""].release
            assert DEPLOY in may or (ROLLBACK in may and written(made.bindings) in before[:-1])
            if made.restores is not None and made.version > 1:
                assert written(made.bindings) == before[made.restores], "a claim to restore is true"
        if outcome.kind is Kind.ACTIVATED:
            event(f"activated by {author}")
            made = known[outcome.id or ""]
            restores = made.restores is not None and written(made.bindings) == before[made.restores]
            assert author == made.author or PROMOTE in may or (ROLLBACK in may and restores)
        if outcome.kind is Kind.ABORTED:
            assert author == known[outcome.id or ""].author or {PROMOTE, ROLLBACK} & may
        if outcome.kind in (Kind.PROMOTED, Kind.PAUSED):
            event(f"{outcome.kind} by {author}")
            assert author == known[outcome.id or ""].author or PROMOTE in may


def head(key: SigningKey) -> bytes:
    return bytes_until_dot(entry(0, activate(), key).value or b"")


def bytes_until_dot(value: bytes) -> bytes:
    return value.partition(b".")[0] + b"."


@given(topics(), st.data())
def test_worker_key_only_ever_brings_back_what_was_active_before(entries: list[Entry], data: st.DataObject) -> None:
    """Whatever its holder writes, and however often: after it, what is active was active before, or is the same."""
    begun = fold(entries)
    known = {written(one) for one in bound_before(begun)}
    log = fold(data.draw(topics(authors=["worker"], begun=entries)))
    assert {written(one) for one in bound_before(log)} <= known
    assert all(one.candidate is None for one in log.generations[begun.generation :]), "a trial goes on by others, or ends"
    assert log.paused <= begun.paused


@given(topics(), st.data())
def test_promoter_only_ever_activates_what_others_have_announced(entries: list[Entry], data: st.DataObject) -> None:
    begun = fold(entries)
    log = fold(data.draw(topics(authors=["promoter"], begun=entries)))
    announced = {one.id for one in (*begun.pending, begun.candidate) if one is not None}
    assert {one.release.id for one in log.generations[begun.generation :]} <= announced
    assert log.generation <= begun.generation + 1 + len(shares_of(RAMP))
    assert {id for id, known in log.releases.items() if known.release.author == "promoter"} == set()


@given(topics(), st.data())
def test_deployer_does_not_touch_what_others_have_announced(entries: list[Entry], data: st.DataObject) -> None:
    begun = fold(entries)
    log = fold(data.draw(topics(authors=["deployer"], begun=entries)))
    for one in begun.pending:
        if one.author != "deployer":
            assert log.releases[one.id].standing in (Standing.PENDING, Standing.REJECTED)
    if begun.candidate is not None and begun.candidate.author != "deployer":
        assert (log.generation, log.paused) == (begun.generation, begun.paused)
    assert all(one.release.author == "deployer" for one in log.generations[begun.generation :])


@given(topics())
def test_refused_messages_might_as_well_not_be_there(entries: list[Entry]) -> None:
    log = Log(JUDGE)
    kept = [each for each in entries if log.apply(each).kind is not Kind.REFUSED]
    again = fold(kept)
    assert (log.generations, log.releases, log.pending, log.version) == (again.generations, again.releases, again.pending, again.version)


@given(topics(), st.integers(0, 30))
def test_key_that_expires_takes_nothing_back(entries: list[Entry], expires: int) -> None:
    """As for a revocation: by the broker's stamps, which grow with the offsets here."""
    entries = [each._replace(timestamp=NOW_MS + 1000 * each.offset) for each in entries]
    later = {kid: dataclasses.replace(key, expires_ms=NOW_MS + 1000 * expires) for kid, key in TRUST.keys.items()}
    kept = [each for each in entries if each.timestamp < NOW_MS + 1000 * expires]
    log, plain = fold(entries, dataclasses.replace(JUDGE, trust=Trust(later))), fold(kept)
    assert (log.generations, log.releases, log.pending) == (plain.generations, plain.releases, plain.pending)
    assert set(log.refused) - set(plain.refused) <= {"expired"}


LIMITED = Judge(
    "flights",
    "cluster-1",
    CONTROL,
    Trust({kid: key if key.name == "second" else dataclasses.replace(key, max_share=0.25) for kid, key in TRUST.keys.items()}),
)


@given(topics())
def test_limited_key_lets_no_release_answer_more_than_its_share_but_what_was_live_before(entries: list[Entry]) -> None:
    log = Log(LIMITED)
    for each in entries:
        before, known = [written(one) for one in bound_before(log)], dict(log.releases)
        outcome = log.apply(each)
        author = next(name for name, key in KEYS.items() if (each.value or b"").startswith(head(key)))
        if author == "second" or outcome.kind not in (Kind.ACTIVATED, Kind.PROMOTED):
            continue
        newest = log.generations[-1]
        event(f"{outcome.kind} by {author}: {newest.share:g}")
        assert newest.share <= 0.25
        made = known[outcome.id or ""].release
        back = made.restores is not None and written(made.bindings) == before[made.restores]
        assert back or newest.candidate is not None, "a new version is live by a key that may not"
