"""`penstock new NAME`: writes the files of `project/` under the new name and registers a model, so that the project works at once.

The files in `project/` are a project themselves, called `newproject`: linted, typed and tested like the rest of the code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

import click

from penstock.cli.output import out
from penstock.errors import ConfigError
from penstock.topology.names import NAME

__all__ = ["FILES", "new"]

# The placeholder for the project's name, in the content and the names of the files.
_NAME: Final = "newproject"

FILES: Final = (
    "README.md",
    "events.ndjson",
    "penstock.toml",
    "requirements.txt",
    "schemas/payment.avsc",
    "send.py",
    "topologies/newproject.test.yaml",
    "topologies/newproject.yaml",
    "train.py",
)


@click.command()
@click.argument("name")
@click.option(
    "--into", "folder", type=click.Path(path_type=Path), metavar="FOLDER", help="Folder for the files. [default: a new folder NAME here]"
)
def new(name: str, folder: Path | None) -> None:
    """Write a small working project called NAME: topology, schema, test cases, training script, and a registered model.

    \b
      penstock new payments
      cd payments
      penstock test

    The model scores card payments with hand-written weights; `python train.py` trains its next version with scikit-learn.
    NAME begins with a letter, followed by letters, digits, '_' and '-'. Existing files are never overwritten.
    """
    from penstock.cli.new.ready import register  # imported here because it loads the model runtime, which `--help` does not need

    texts = _texts(name)
    folder = folder or Path(name)
    _require_empty(folder)
    try:
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / path, "x", encoding="utf-8") as file:
                file.write(text)
        register(folder / "models")
    except OSError as error:
        raise ConfigError(
            f"cannot write the project to {folder}: {error.strerror or error}; next: make it writable, or give another --into"
        ) from error
    out.print(f"made {folder}: {len(texts)} files, and a model in {folder / 'models'}", markup=False)
    out.print("next:", markup=False)
    steps = [f"cd {folder}"] * (folder.resolve() != Path.cwd()) + [f"penstock validate topologies/{name}.yaml", "penstock test"]
    for step in steps:
        out.print(f"  {step}", markup=False)
    out.print("README.md continues with Kafka, with training, and with swapping the model while the stream runs", markup=False)


def _texts(name: str) -> Mapping[str, str]:
    """Returns the text of every file, by its path in the project."""
    if not re.fullmatch(NAME, name):
        rule = "begin with a letter or '_', and use letters, digits, '_' and '-' (100 characters at most)"
        raise ConfigError(f"{name!r} cannot name a topology: {rule}")
    root = files("penstock.cli.new") / "project"
    return {path.replace(_NAME, name): root.joinpath(path).read_text(encoding="utf-8").replace(_NAME, name) for path in FILES}


def _require_empty(folder: Path) -> None:
    if folder.is_dir():
        there = sorted(path.name for path in folder.iterdir())
        if there:
            shown = ", ".join(there[:3]) + (f" and {len(there) - 3} more" if len(there) > 3 else "")
            raise ConfigError(f"{folder} exists and is not empty ({shown}); next: choose another name, or give an empty folder with --into")
    elif folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists and is not a folder; next: choose another name, or give an empty folder with --into")
