"""Topology files by their name: `flights` is the file `flights.yaml` of the folder of topologies."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from penstock.errors import ConfigError
from penstock.topology.names import did_you_mean

__all__ = ["EDGE", "find", "known"]

EDGE: Final = "edge.json"  # of a folder that `penstock export edge` writes
_ENDINGS = (".yaml", ".yml")


def known(folder: Path) -> dict[str, Path]:
    """Returns the topology files of the folder by name, without the examples (`NAME.test.yaml`)."""
    files = (file for file in folder.glob("*.y*ml") if file.suffix in _ENDINGS and not file.stem.endswith(".test"))
    named = {file.stem: file for file in sorted(files, reverse=True)}  # of NAME.yaml and NAME.yml, the first
    return dict(sorted(named.items()))


def find(name: str | Path, folder: Path) -> Path:
    """Returns the path `name` where it is a file or ends like one, else the file with this name in the folder. Raises ConfigError."""
    path = Path(name)
    if path.suffix in _ENDINGS or "\0" in str(name) or path.is_file():
        return path
    if (path / EDGE).is_file():
        raise ConfigError(f"{name} is a folder of `penstock export edge`, which penstock.open takes; give the topology file here")
    files = known(folder)
    if str(name) in files:
        return files[str(name)]
    fix = did_you_mean(str(name), files) if folder.is_dir() else "there is no such folder here"
    raise ConfigError(f"{str(name)!r} is neither a file nor a topology in {folder}" + (f" ({fix})" if fix else ""))
