"""Topology files by their name: `flights` is the file `flights.yaml` of the folder of topologies."""

from __future__ import annotations

from pathlib import Path

from penstock.errors import ConfigError
from penstock.topology.names import did_you_mean

__all__ = ["find", "known"]

_ENDINGS = (".yaml", ".yml")


def known(folder: Path) -> dict[str, Path]:
    """Returns the topology files of the folder by name, without the examples (`NAME.test.yaml`)."""
    files = (file for file in folder.glob("*.y*ml") if file.suffix in _ENDINGS and not file.stem.endswith(".test"))
    return {file.stem: file for file in sorted(files, reverse=True)}  # of NAME.yaml and NAME.yml, the first


def find(name: str | Path, folder: Path) -> Path:
    """Returns the path `name` where it is a file or ends like one, else the file with this name in the folder. Raises ConfigError."""
    path = Path(name)
    if path.suffix in _ENDINGS or "\0" in str(name) or path.is_file():
        return path
    files = known(folder)
    if str(name) in files:
        return files[str(name)]
    there = f"a topology in {folder}" if folder.is_dir() else f"a topology: there is no folder {folder} here"
    fix = did_you_mean(str(name), sorted(files))
    raise ConfigError(f"{str(name)!r} is neither a file nor {there}" + (f" ({fix})" if fix else ""))
