"""The demo's releases leave each generation something to score, and are told in as many lines as the screen has."""

from __future__ import annotations

import io

import pytest
from demo import view
from demo.acts import Acts
from demo.clone import MODELS, TOPOLOGIES
from demo.swaps import FEWEST, RETRAINED, SWAPPED, Act, marks
from demo.tally import Prediction, Tally
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from penstock.control.rollout import Stand
from penstock.registry.directory import DirectoryRegistry
from penstock.topology.parse import parse

FACTS = view.Facts("topologies/flights.yaml", "167,246 flights of July to December 2013", "127.0.0.1:9092 - a broker", "not signed", 5_000)


@given(st.integers(FEWEST, 1_000_000))
def test_every_generation_has_events_to_score(total: int) -> None:
    (deploy, deployed), (rollback, rolled_back) = marks(total)
    assert 1 <= deploy <= deployed < rollback <= rolled_back < total


@pytest.mark.parametrize("name", RETRAINED)
def test_a_release_of_the_demo_fits_its_topology(name: str) -> None:
    """The versions are registered, of the models that these nodes have, and are not the ones that the file names."""
    registry, topology = DirectoryRegistry(MODELS), parse(TOPOLOGIES / f"{name}.yaml")
    assert (topology.name, tuple(RETRAINED[name])) == (name, SWAPPED)
    for node, version in RETRAINED[name].items():
        named = topology.model_node(node)
        assert named is not None
        before, after = registry.resolve(named.model.name, named.model.version), registry.resolve(*version.split("@"))
        assert (before.manifest.name, before.signature) == (after.manifest.name, after.signature)
        assert before.manifest.version != after.manifest.version


def acts() -> tuple[Act, Act]:
    deploy, rollback = marks(1_000)
    return Act("penstock deploy flights trees=flight-trees@2", *deploy), Act("penstock rollback flights", *rollback)


def tally() -> Tally:
    made = Tally(1_000, 400)
    made.began(0, {"trees": "flight-trees@1", "stack": "flight-stack@1"}, 1.0)
    for number in range(400):
        made.predicted(Prediction(f"flight-{number}", "UA", "SFO", (0.2, 0.3, 0.4)), 0.01, (float(number % 40), number))
    made.land_all()
    return made


def shown(width: int, height: int, acts: Acts) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    console.print(view.frame(console, FACTS, tally(), acts, 5_000.0))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (120, 24), (120, 40), (200, 60)])
def test_frame_fits_the_screen_and_shows_where_the_release_stands_on_each_worker(width: int, height: int) -> None:
    deploy, rollback = acts()
    deploy.began = 1.0
    deploy.stands = (Stand("host-a.1", "proving", "flight-trees@2"), Stand("host-b.1", "failed", "has another digest"))
    lines = shown(width, height, (deploy, rollback))
    assert len(lines) <= height
    text = "\n".join(lines)
    assert "$ penstock deploy flights" in text
    assert "host-a.1 ▰▰▰▰▰▰▱▱▱ proving flight-trees@2" in text
    assert "host-b.1 ▱▱▱▱▱▱▱▱▱ failed  has another digest" in text
    assert "flight-trees@1" in text


def test_frame_shows_the_latest_flights_where_there_is_room() -> None:
    assert "just landed" not in "\n".join(shown(120, 30, acts()))
    assert "just landed" in "\n".join(shown(120, 50, acts()))


def test_failed_release_is_told_with_its_reason_and_what_followed_was_not_tried() -> None:
    deploy, rollback = acts()
    deploy.began, deploy.error, rollback.error = 1.0, "flight-trees@2 is not there", "there was nothing to roll back"
    console = Console(width=120, file=io.StringIO())
    console.print(view.summary(FACTS, tally(), 1.0, (deploy, rollback)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "deployed      failed: flight-trees@2 is not there" in text
    assert "rolled back   failed: there was nothing to roll back" in text
