"""What a program keeps of the control log: folded again, by whatever keys are trusted by then, it gives what the whole log gives."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from penstock.control.log import Log
from penstock.control.rights import Admitted
from penstock.control.trust import Judge, SigningKey
from penstock.transports.kafka.journal import Entry
from penstock.worker.kept import Keeper, Kept
from tests.properties.test_control_log import ALICE, MALLORY, fold, state, topics
from tests.unit.control.making import CONTROL, trusting

BOTH = trusting(ALICE, MALLORY)


@given(topics(), st.sampled_from(((ALICE, MALLORY), (ALICE,), (MALLORY,), ())), st.booleans())
def test_kept_entries_give_the_state_of_the_log_by_the_same_or_fewer_keys(
    entries: list[Entry], keys: tuple[SigningKey, ...], unsigned: bool
) -> None:
    judge, kept = Judge("flights", "cluster-1", CONTROL, BOTH, unsigned=True), list[Entry]()

    def noting(entry: Entry) -> Admitted:
        found = judge(entry)
        kept.append(entry)
        return found

    log = Log(noting)
    for each in entries:
        log.apply(each)
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(Path(folder), "localhost:9092", CONTROL)
        keeper.save(Kept(cluster="cluster-1", topic=CONTROL, position=log.position, entries=tuple(kept)))
        found = keeper.load()
    assert found is not None
    later = Judge("flights", "cluster-1", CONTROL, trusting(*keys), unsigned=unsigned)
    assert state(fold(found.entries, later)) == state(fold(entries, later))
