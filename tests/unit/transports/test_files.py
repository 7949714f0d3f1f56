"""What a resumed run makes of its output files."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.files import FileSink


def resumed(folder: Path) -> Checkpoint:
    """The checkpoint of a run that has written 4 bytes to the topic `prices`."""
    before = Checkpoint(folder / "checkpoint", {"input": "in"})
    before.outputs = {"prices": 4}
    before.save({("items", 0): 8})
    return Checkpoint(folder / "checkpoint", {"input": "in"}, resume=True)


def test_what_was_written_behind_the_checkpoint_is_cut(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"one\nhalf of tw")
    FileSink({"prices": tmp_path / "out"}, checkpoint=resumed(tmp_path)).close()
    assert (tmp_path / "out").read_bytes() == b"one\n"


@pytest.mark.parametrize("left", [None, b"on"], ids=["gone", "shorter"])
def test_output_file_that_has_lost_outputs_is_not_filled_up(tmp_path: Path, left: bytes | None) -> None:
    if left is not None:
        (tmp_path / "out").write_bytes(left)
    with pytest.raises(ConfigError, match="has lost outputs"):
        FileSink({"prices": tmp_path / "out"}, checkpoint=resumed(tmp_path))
