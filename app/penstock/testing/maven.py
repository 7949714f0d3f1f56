"""Jars from Maven Central for tests that start a server or an engine in Java, fetched once per machine."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from penstock.errors import TransportUnavailable

__all__ = ["folder", "jars", "require"]

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>penstock</groupId><artifactId>fetched</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""
_DEPENDENCY = "    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>{}</dependency>"
_ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"


def folder(name: str) -> Path:
    """Returns where the jars of this name are kept. The name holds their version: what was fetched is not fetched again."""
    return Path.home() / ".cache" / "penstock" / name


def require(name: str) -> None:
    """Raises TransportUnavailable with the reason when they cannot run: no Java, or neither jars nor Maven to fetch them."""
    if shutil.which("java") is None:
        raise TransportUnavailable("there is no java command")
    if not (folder(name) / "fetched").exists() and shutil.which("mvn") is None:
        raise TransportUnavailable(f"there is no mvn command to fetch jars into {folder(name)}")


def jars(name: str, *artifacts: str, alone: bool = False) -> Path:
    """Returns the folder with the jars of the `artifacts`, GROUP:ARTIFACT:VERSION, and of what they require, or with `alone` without that.

    The first call fetches them; concurrent processes wait for it. Raises TransportUnavailable when Maven cannot.
    """
    cache = folder(name)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / "fetched").exists():
            _fetch(name, artifacts, _ALONE if alone else "")
    return cache / "libs"


def _fetch(name: str, artifacts: tuple[str, ...], exclusions: str) -> None:
    cache = folder(name)
    pom = cache / "pom.xml"
    pom.write_text(_POM.format(dependencies="\n".join(_DEPENDENCY.format(*one.split(":"), exclusions) for one in artifacts)))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={cache / 'libs'}"]
    done = subprocess.run(["mvn", "-q", "-B", "-f", str(pom), *goal], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TransportUnavailable(f"mvn could not fetch {name}: {(done.stdout + done.stderr).strip()[-500:]}")
    (cache / "fetched").touch()
