"""`penstock precompute` from the outside: a population becomes a generation, all at once or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import penstock
from penstock.settings import Settings
from penstock.stores.base import Store
from penstock.stores.open import open_store
from penstock.testing import wait_for
from tests.stores import servers
from tests.stores.conftest import INPUTS, TOPOLOGY, events, order, write
from tests.stores.servers import Server
from tests.unit.cli.done import Run

SLOWLY = ("--chunk-rows", "1", "--max-batch-rows", "4")  # so that a run takes seconds, and is ended midway
COUNT = 15_000


def opened() -> Store:
    return open_store(Settings(store="sqlite:///answers.db"), timeout=10)


def answers(keys: Sequence[str]) -> list[Any]:
    """Returns the answers of these keys in the live generation."""
    store = opened()
    try:
        return [None if one is None else json.loads(one) for one in store.read("prices", keys).answers]
    finally:
        store.close()


def test_population_is_found_by_the_id_of_the_entity(run: Run) -> None:
    events([order(10, customer=1), order(20, customer=2, discount=0.5), order(30, customer=1)])
    done = run("--in", "in.ndjson")
    assert (done.code, done.out) == (0, "3 events read, 3 answers, 0 dead letters: generation 1\n")
    first = {"sinks": {"prices": {"order_id": "o30", "price": 60, "reduced": 60, "country": "DE"}}}
    second = {"sinks": {"prices": {"order_id": "o20", "price": 40, "reduced": 20, "country": "DE"}}}
    assert answers(["1", "2", "3"]) == [first, second, None], "of two events of one entity, the later one counts"


def test_population_is_found_by_its_inputs(run: Run) -> None:
    """What a sink only copies is the asking event's, so it is not stored."""
    write(INPUTS)
    events([order(10.04), order(10.06, discount=0.125), order(9.96, order_id="later")])
    assert run("--in", "in.ndjson", "--format", "json").json | {"models": {}} == {
        "read": 3, "written": 3, "dead_letters": 0, "first": "", "complete": True, "generation": 1, "live": True, "resumed": 0,
        "models": {},
    }  # fmt: skip
    store = opened()
    found = dict(store.scan("prices", 1, 10))
    store.close()
    assert sorted(json.loads(one)["sinks"]["prices"]["price"] for one in found.values()) == pytest.approx([2 * 9.96, 2 * 10.06])
    assert all(set(json.loads(one)["sinks"]["prices"]) == {"price", "reduced"} for one in found.values())
    assert all(len(key) == 64 for key in found)


def test_what_cannot_be_scored_has_no_answer(run: Run) -> None:
    """An event that is none, one that the model refuses, one without a key: each is counted, and its neighbours have answers."""
    text = TOPOLOGY.replace("schema: order.avsc", "schema: optional.avsc")
    schema = json.loads(Path("schemas/order.avsc").read_text())
    schema["fields"][1]["type"] = ["null", "string"]
    Path("schemas/optional.avsc").write_text(json.dumps(schema))
    write(text=text)
    good, refused = [order(1, customer="a"), order(4, customer="d")], [order(2000, customer="b"), order(3, customer=None)]
    events([*good[:1], "not JSON", *refused, *good[1:], order(5, customer="x" * 600)])
    done = run("--in", "in.ndjson")
    assert (done.code, done.out) == (0, "6 events read, 2 answers, 4 dead letters: generation 1\n")
    assert "the first dead letter: JSON is malformed" in done.err
    assert [one and one["sinks"]["prices"]["price"] for one in answers(["a", "b", "d"])] == [2, None, 8]


def test_sink_that_leaves_an_event_out_stays_left_out(run: Run) -> None:
    more = '  large: {{topic: large, fields: {{order_id: order_id, price: price}}, when: "amount > 15"}}\nprecomputed'
    write(text=TOPOLOGY.replace("precomputed", more))
    events([order(10, customer=1), order(20, customer=2)])
    assert run("--in", "in.ndjson").code == 0
    small, large = answers(["1", "2"])
    assert "large" not in small["sinks"]
    assert large["sinks"]["large"] == {"order_id": "o20", "price": 40}
    with penstock.open("prices.yaml", store="sqlite:///answers.db") as stored, penstock.open("prices.yaml") as plain:
        for one in (order(10, customer=1), order(20, customer=2)):
            assert stored.score(one) == {**plain.score(one), "precomputed": "hit"}


def test_failed_run_leaves_the_live_generation(run: Run) -> None:
    events([order(10)])
    assert run("--in", "in.ndjson").code == 0
    events(["not JSON", "neither"])
    done = run("--in", "in.ndjson")
    assert (done.code, done.out) == (1, "2 events read, 0 answers, 2 dead letters: generation 2, which is not live\n")
    assert "no event could be scored: the live generation stays" in done.err
    assert answers(["1"])[0]["sinks"]["prices"]["price"] == 20


def test_new_generation_replaces_the_old_one_whole(run: Run) -> None:
    events([order(10, customer=1), order(10, customer=2)])
    run("--in", "in.ndjson")
    events([order(30, customer=2)])
    assert run("--in", "in.ndjson").code == 0
    one, two = answers(["1", "2"])
    assert (one, two["sinks"]["prices"]["price"]) == (None, 60)
    store = opened()
    assert (store.live("prices") or pytest.fail("none")).number == 2
    assert not list(store.scan("prices", 1, 10))
    store.close()


def test_part_of_the_input_and_a_dry_run(run: Run) -> None:
    events([order(n, customer=n) for n in range(100)])
    done = run("--in", "in.ndjson", "--from", "10", "--limit", "5", "--dry-run", store="")
    assert done.out == "5 events read, 5 answers, 0 dead letters: dry run, nothing is written\n"
    assert not Path("answers.db").exists()
    assert run("--in", "in.ndjson", "--from", "10", "--to", "13").out.startswith("3 events read, 3 answers")
    assert [one is not None for one in answers(["9", "10", "12", "13"])] == [False, True, True, False]


def test_population_may_be_a_table(run: Run) -> None:
    """Any input of `penstock batch`: here Parquet, whose rows are columns already."""
    rows = [order(n, customer=n, discount=0.5 if n % 2 else None) for n in range(50)]
    parquet.write_table(pa.Table.from_pylist(rows), "in.parquet")
    write(INPUTS)
    assert run("--in", "in.parquet").out.startswith("50 events read, 50 answers, 0 dead letters")
    with penstock.open("prices.yaml", store="sqlite:///answers.db") as plan:
        found = plan.score(rows)
    assert [one["precomputed"] for one in found if isinstance(one, dict)] == ["hit"] * 50
    assert [one["reduced"] for one in found if isinstance(one, dict)] == [n if n % 2 else 2 * n for n in range(50)]


def test_answers_end_after_their_time(run: Run) -> None:
    events([order(10)])
    assert run("--in", "in.ndjson", "--ttl", "1").code == 0
    wait_for(lambda: answers(["1"]) == [None], "the answer has ended")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "Missing option '--in', or '--misses'"),
        (["--in", "in.ndjson", "--misses"], "leave out --in"),
        (["--in", "in.ndjson", "--resume"], "there is no run to resume in sqlite:///answers.db"),
        (["--in", "in.ndjson", "--resume", "--dry-run"], "a dry run keeps nothing to resume"),
        (["--in", "gone.ndjson"], "gone.ndjson: cannot be read"),
        (["--in", "kafka://other"], "the topology reads the topic orders, not other"),
        (["--misses"], "nothing was computed yet in sqlite:///answers.db: run with --in first"),
        (["--in", "in.ndjson", "--store", "redis://u:hunter2@localhost"], "a URL with a password would be shown"),
        (["--in", "in.ndjson", "--store", "redis://127.0.0.1:9"], "the store redis://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_call_says_what_to_do(run: Run, flags: list[str], words: str) -> None:
    events([order()])
    done = run(*flags)
    assert done.code in (2, 4)
    assert words in " ".join(done.err.split())
    assert "hunter2" not in done.err + done.out


def test_store_and_section_have_to_be_named(run: Run) -> None:
    events([order()])
    assert "Missing option '--store'" in run("--in", "in.ndjson", store="").err
    Path("prices.yaml").write_text(TOPOLOGY.partition("precomputed")[0].format(version=1))
    done = run("--in", "in.ndjson")
    assert (done.code, "has no section precomputed" in done.err) == (2, True)


def started(
    *flags: str, url: str = "sqlite:///answers.db", store: Callable[[], Store] = opened, given: str = "in.ndjson"
) -> subprocess.Popen[str]:
    """Starts a run in a process of its own, and returns when it has made progress."""
    command = [sys.executable, "-m", "penstock", "precompute", "prices.yaml", "--in", given, "--store", url, *SLOWLY, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))

    def progressed() -> bool:
        assert process.poll() is None, process.communicate()[1]
        if url.startswith("sqlite") and not Path("answers.db").exists():
            return False
        client = store()
        try:
            building = client.building("prices")
            units = json.loads(building.progress)["units"] if building is not None and building.progress else []
            return any(one["rows"] > 0 for one in units)
        finally:
            client.close()

    wait_for(progressed, "the run makes progress", timeout=60)
    return process


def interrupted(number: int) -> subprocess.Popen[str]:
    """Starts a run, and ends it midway."""
    process = started()
    process.send_signal(number)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_run_that_is_ended_goes_on(run: Run, number: int) -> None:
    """The live generation answers in between, and in the end every event has its answer."""
    events([order(1000, customer=0), order(5, customer=1)])
    run("--in", "in.ndjson")
    events([order(n % 500, customer=n) for n in range(COUNT)])
    process = interrupted(number)
    out, err = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert (process.returncode, "go on with --resume" in err) == (130, True), out + err
    assert answers(["1"])[0]["sinks"]["prices"]["price"] == 10
    done = run("--in", "in.ndjson", "--resume", "--format", "json").json
    assert (done["complete"], done["generation"], done["live"]) == (True, 2, True)
    assert 0 < done["read"] < COUNT, "what was finished is not computed again"
    assert done["read"] + done["resumed"] == COUNT
    assert [one and one["sinks"]["prices"]["price"] for one in answers([str(n) for n in range(COUNT)])] == [
        2 * (n % 500) for n in range(COUNT)
    ]


def test_store_that_dies_midway_ends_the_run_and_it_goes_on(run: Run, redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_PASSWORD", servers.PASSWORD)
    events([order(n % 500, customer=n) for n in range(COUNT)])
    process = started(url=redis.url, store=redis.client)
    redis.kill()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, f"the store {redis.url} does not answer" in err) == (4, True), err
    redis.start()
    done = run("--in", "in.ndjson", "--resume", "--format", "json", store=redis.url).json
    assert (done["complete"], done["live"]) == (True, True)
    assert 0 < done["read"] < COUNT
    client = redis.client()
    found = client.read("prices", [str(n) for n in range(COUNT)]).answers
    client.close()
    assert [one and json.loads(one)["sinks"]["prices"]["price"] for one in found] == [2 * (n % 500) for n in range(COUNT)]


def test_resumed_run_has_the_same_models_and_flags(run: Run) -> None:
    events([order(n % 500, customer=n) for n in range(COUNT)])
    interrupted(signal.SIGKILL).communicate(timeout=60)
    assert "another --limit" in run("--in", "in.ndjson", "--resume", "--limit", "7").err
    write(version=2)
    done = run("--in", "in.ndjson", "--resume")
    assert (done.code, "was begun with other models" in done.err) == (2, True)
    done = run("--in", "in.ndjson", "--limit", "3")
    assert "generation 1, which was not finished, is discarded" in done.err
    assert [one["sinks"]["prices"]["price"] for one in answers(["1", "2"])] == [3, 6]


def test_run_is_not_resumed_over_other_files(run: Run) -> None:
    """Positions are counted by the files in the order of their names: of a new one, rows would be taken for those that are done."""
    Path("in").mkdir()
    for name in "bc":
        events([order(n % 500, customer=n, order_id=name) for n in range(COUNT)], f"in/{name}.ndjson")
    process = started(given="in")
    process.kill()
    process.communicate(timeout=60)
    events([order(1, customer=-1)], "in/a.ndjson")
    done = run("--in", "in", "--resume")
    assert (done.code, "in/a.ndjson: is new since the run to resume has begun" in done.err.replace("\n", " ")) == (2, True)
    Path("in/a.ndjson").unlink()
    assert run("--in", "in", "--resume").code == 0
    assert None not in answers([str(n) for n in range(COUNT)])


def test_resumed_run_without_an_answer_leaves_the_live_generation(run: Run) -> None:
    events([order(10, customer=1)])
    run("--in", "in.ndjson")
    events(["no event"] * COUNT)
    interrupted(signal.SIGINT).communicate(timeout=60)
    done = run("--in", "in.ndjson", "--resume")
    assert (done.code, "no event could be scored: the live generation stays" in done.err) == (1, True)
    assert answers(["1"])[0]["sinks"]["prices"]["price"] == 20


def test_run_over_a_part_goes_on_where_it_was(run: Run) -> None:
    events([order(n % 500, customer=n) for n in range(COUNT)])
    arguments = ["--from", "100"]
    process = started(*arguments)
    process.kill()
    process.communicate(timeout=60)
    assert run("--in", "in.ndjson", *arguments, "--resume").code == 0
    found = answers([str(n) for n in range(COUNT)])
    assert [at for at, one in enumerate(found) if one is None] == [*range(100)]


def test_misses_are_scored_for_the_live_generation(run: Run) -> None:
    events([order(10, customer=1)])
    run("--in", "in.ndjson")
    store = opened()
    store.miss("prices", {"7": json.dumps(order(70, customer=7)).encode(), "8": b'{"customer":8}', "9": b"{\n}"})
    store.close()
    done = run("--misses")
    assert (done.code, done.out) == (0, "3 events read, 1 answer, 2 dead letters: generation 1\n")
    assert [one and one["sinks"]["prices"]["price"] for one in answers(["1", "7", "8"])] == [20, 140, None]
    store = opened()
    assert store.misses("prices") == {}
    store.close()
    write(version=2)
    assert "generation 1 is of other models" in run("--misses").err


def test_nothing_recorded_is_no_error(run: Run) -> None:
    events([order(10, customer=1)])
    run("--in", "in.ndjson")
    assert run("--misses").out == "0 events read, 0 answers, 0 dead letters: generation 1\n"
