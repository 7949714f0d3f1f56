"""The workflow files run the make targets that a developer runs, with no more rights than each job needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[str, Any]] = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
JOBS = [(name, job, workflow["jobs"][job]) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]
# What a job may do beyond reading the sources, and why: a token for trusted publishing, a page for the release.
RIGHTS = {("release.yml", "upload"): {"id-token": "write"}, ("release.yml", "notes"): {"contents": "write"}}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

pytestmark = pytest.mark.skipif(not FILES, reason="the workflow files are not part of an sdist")


def steps() -> list[dict[str, Any]]:
    return [step for _, _, job in JOBS for step in job.get("steps", [])]


@pytest.mark.parametrize(("file", "name", "job"), JOBS, ids=[f"{file}:{name}" for file, name, _ in JOBS])
def test_job_has_the_rights_it_needs_and_an_end(file: str, name: str, job: dict[str, Any]) -> None:
    assert WORKFLOWS[file]["permissions"] == {"contents": "read"}
    assert job.get("permissions", {}) == RIGHTS.get((file, name), {})
    assert "uses" in job or job["timeout-minutes"] <= 60


def test_make_targets_exist() -> None:
    called = [step["run"].split()[1] for step in steps() if step.get("run", "").startswith("make ")]
    assert (
        {"check", "test", "test-faults", "fuzz", "floors", "frameworks", "test-browser", "test-engines", "dist", "audit", "try", "version"}
        <= set(called)
        <= TARGETS
    )


def test_local_run_has_the_same_targets() -> None:
    """`try` needs several Pythons, `version` a tag, and `audit` a network."""
    local = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"check", "test", "test-faults", "fuzz", "floors", "frameworks", "test-engines", "dist"} <= local <= TARGETS


def test_actions_are_pinned_and_leave_no_token_behind() -> None:
    for step in steps():
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+|[0-9a-f]{40})", step["uses"]), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_only_what_was_tested_is_uploaded() -> None:
    upload = WORKFLOWS["release.yml"]["jobs"]["upload"]
    assert set(upload["needs"]) == {"ci", "version"}
    assert upload["environment"] == "release"
    did = [step.get("uses", "").partition("@")[0] or step["run"] for step in upload["steps"]]
    assert did == ["actions/download-artifact", "rm dist/*.cdx.json", "pypa/gh-action-pypi-publish"]
