"""The tutorial and the page of doors are run from top to bottom, and print what they show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.broker import Broker, open_broker
from tests.docs.page import check_page

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with open_broker(os.environ.get("PENSTOCK_BROKERS")) as opened:
        yield opened


def test_tutorial_prints_what_it_shows(broker: Broker, tmp_path: Path) -> None:
    """In an empty folder."""
    check_page(ROOT / "docs/tutorial/first-model.md", tmp_path, broker, blocks=7)


def test_every_door_prints_the_answer_of_the_same_event(broker: Broker, tmp_path: Path) -> None:
    """In a folder with the topologies, models and schemas of the repository."""
    for name in ("topologies", "models", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    check_page(ROOT / "docs/doors.md", tmp_path, broker, blocks=6)
