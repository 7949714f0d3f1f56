"""What the image and a release consist of is known by hash, and is what the tests ran with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.packaging.test_floors import pinned

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASKED = {
    "image": [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]],
    "release": PYPROJECT["dependency-groups"]["release"],
}


def hashed(file: str) -> dict[str, tuple[str, int]]:
    """The version and the number of hashes of every package, by its normalized name."""
    text = (ROOT / "requirements" / f"{file}.txt").read_text(encoding="utf-8")
    found = {}
    for entry in text.replace("\\\n", " ").splitlines():
        name, version, rest = re.fullmatch(r"([a-z0-9-]+)==(\S+)(.*)", entry).groups()  # type: ignore[union-attr]  # a line that does not match fails
        found[name] = version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}(?!\S)", rest))
    return found


def normalized(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize("file", ASKED)
def test_every_package_has_hashes_and_the_version_of_the_tests(file: str) -> None:
    tested = {normalized(name): version for name, version in pinned("constraints.txt").items()}
    found = hashed(file)
    assert {name: version for name, (version, _) in found.items() if tested.get(name) != version} == {}, "run `make hashes`"
    assert [name for name, (_, hashes) in found.items() if not hashes] == []


@pytest.mark.parametrize("file", ASKED)
def test_everything_that_is_asked_for_is_there(file: str) -> None:
    """What these bring is complete too, or `pip install --require-hashes` in `make dist` refuses the file."""
    assert {normalized(requirement) for requirement in ASKED[file]} <= hashed(file).keys(), "run `make hashes`"


def test_files_name_no_index() -> None:
    for file in ASKED:
        assert not re.search(
            r"https?://|index-url|find-links|trusted-host", (ROOT / "requirements" / f"{file}.txt").read_text(encoding="utf-8")
        )


def test_image_and_release_install_by_hash() -> None:
    """A line that installs from an index without hashes would undo the others."""
    for file, requirements in (("Dockerfile", "image"), ("Makefile", "release")):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"--require-hashes -r requirements/{requirements}.txt" in text
    installs = re.findall(r"pip install ([^\\&\n]+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert len(installs) == 2
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
