"""`penstock export edge --brokers`: what is active there is written, with the digests that its release binds."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker
from penstock.testing.models import linear
from tests.kafka import operating
from tests.kafka.running import make_job

pytestmark = pytest.mark.broker


def test_active_versions_are_exported(broker: Broker, tmp_path: Path) -> None:
    """The file names the first version; a release has made the second one active. Without releases, the file's is exported."""
    job = make_job(broker, tmp_path, partitions=1)
    DirectoryRegistry(tmp_path / "models").publish("double", linear([3.0]))
    operating.configure(job, unsigned_control=True)
    with job.run("--unsigned-control") as worker:
        operating.wait_until_ready(job, worker)
        assert operating.penstock(job, "deploy", job.topology, "double=double@2").code == 0
    made = operating.penstock(job, "export", "edge", str(job.file), "--out", str(tmp_path / "active"), "--format", "json")
    assert made.code == 0, made.err
    assert (made.json["generation"], made.json["models"]) == (1, {"double": "double@2"})
    of_file = operating.penstock(job, "export", "edge", str(job.file), "--out", str(tmp_path / "file"), "--no-releases", "--format", "json")
    assert (of_file.json["generation"], of_file.json["models"]) == (0, {"double": "double@1"})
    for folder, expected in (("active", 3.0), ("file", 2.0)):
        with penstock.open(tmp_path / folder) as plan:
            assert plan.score({"id": "a", "x": 1.0})["y"] == expected


@pytest.mark.parametrize("signed", [True, False])
def test_release_that_cannot_be_checked_here_is_not_replaced_by_the_versions_of_the_file(
    broker: Broker, tmp_path: Path, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever exports without the trust file of the workers would ship other versions than those that are active."""
    job = make_job(broker, tmp_path, partitions=1)
    DirectoryRegistry(tmp_path / "models").publish("double", linear([3.0]))
    if signed:
        operating.must_be_signed(job)
    else:
        operating.configure(job, unsigned_control=True)
    with job.run(*([] if signed else ["--unsigned-control"])) as worker:
        operating.wait_until_ready(job, worker)
        assert operating.penstock(job, "deploy", job.topology, "double=double@2").code == 0
    operating.configure(job)
    monkeypatch.chdir(tmp_path / "models")  # no trust file is here
    made = operating.penstock(job, "export", "edge", str(job.file), "--out", str(tmp_path / "active"))
    assert made.code == 2
    assert "no release of a key that is trusted here" in " ".join(made.err.split())
    assert "--no-releases" in made.err
    assert not (tmp_path / "active").exists()
    assert operating.penstock(job, "export", "edge", str(job.file), "--out", str(tmp_path / "file"), "--no-releases").code == 0
