"""Static members: two workers with one `group_instance_id`, and one that is started again with its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.testing import Broker, wait_for
from tests.kafka.operating import configure, wait_until
from tests.kafka.running import make_job

pytestmark = pytest.mark.broker


def test_of_two_workers_with_one_identity_the_earlier_one_ends(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    with job.run(group_instance_id="twin") as first:
        first.wait_until_assigned()
        job.send(range(50))
        job.wait_for_answers(50)
        with job.run(group_instance_id="twin") as second:
            assert first.wait(30) == 2, first.log
            second.wait_until_assigned()
            job.send(range(50, 100))
            job.wait_for_answers(100)
            assert second.stop() == 0, second.log
    (error,) = first.errors
    assert "another worker runs with the group_instance_id 'twin'" in error
    assert "Traceback" not in first.log + second.log
    assert len(job.answers()) <= 150, "what the earlier one had not committed is scored once more, at the most"


def test_worker_that_is_started_again_in_time_gets_its_partitions_without_a_rebalance(broker: Broker, tmp_path: Path) -> None:
    """And its reports count: the group shows the key of the new process."""
    job = make_job(broker, tmp_path)
    configure(job)
    with job.run(group_instance_id="other", session_timeout="30") as other:
        other.wait_until_assigned()
        with job.run(group_instance_id="one", session_timeout="30") as one:
            one.wait_until_assigned()
            wait_for(lambda: other.log.count("assigned ") == 2, lambda: f"the partitions to be shared\n{other.log}")
            assert one.stop() == 0, one.log
        with job.run(group_instance_id="one", session_timeout="30") as again:
            again.wait_until_assigned()
            wait_until(job, again, "a report that counts", lambda told: told["member"] and told["live"])
            job.send(range(40))
            job.wait_for_answers(40)
            assert again.stop() == 0, again.log
        assert other.log.count("assigned ") == 2, other.log
        assert other.stop() == 0, other.log
    assert len(job.answers()) == 40
