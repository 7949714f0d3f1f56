"""`penstock precompute`: a population is scored once, and its answers are found by key from then on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from penstock.cli.bounded import Into, Outcome, run_bounded
from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import counted, err, format_option, out, print_json
from penstock.cli.part import Part, input_options
from penstock.errors import ConfigError
from penstock.settings import Settings
from penstock.topology.find import find

if TYPE_CHECKING:
    from penstock.pipeline import Program
    from penstock.runtime import Loaded
    from penstock.stores.base import Entry, Store
    from penstock.stores.sink import StoreSink

__all__ = ["precompute"]

INTERRUPTED: Final = 130
_PATIENCE: Final = 30.0  # seconds for one request to the store: a batch can wait


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@with_settings(
    *CONNECTION, "store", "store_password_file", "store_cafile", "models", "model_trust", "schemas", "chunk_rows", "max_batch_rows"
)
@input_options
@click.option("--misses", is_flag=True, help="Score the events that lookups did not find, and add them to the live generation.")
@click.option("--ttl", type=click.IntRange(min=1), metavar="SECONDS", help="How long each answer is found; without it, until the next run.")
@click.option("--dry-run", is_flag=True, help="Score, and write nothing.")
@format_option
def precompute(topology: Path, settings: Settings, part: Part, misses: bool, ttl: int | None, dry_run: bool, form: str) -> int:
    """Score a population of events into a store, by the keys that the topology's section `precomputed` states.

    The answers are a new generation, which lookups (`penstock.open(..., store=URL)`) find from its end on, all at once; the one before is
    removed then. A run that fails, or is ended, leaves the live generation as it is. What cannot be scored is counted, and lookups score
    it again.

    \b
      penstock precompute flights --in population.ndjson --store redis://localhost
      penstock precompute flights --in kafka://flights.departures \\
          --from 2026-11-28T00:00:00Z --store sqlite:///scores.db
      penstock precompute flights --misses --store redis://localhost

    Exit codes: 0 the answers are live, 1 no event could be scored, 130 interrupted: go on with --resume. Others: `penstock --help`.
    """
    from penstock import runtime  # with the model runtime behind it: `--help` does without
    from penstock.codecs.schema_registry import open_schema_registry
    from penstock.stores.open import open_store
    from penstock.stores.programs import computing, required

    _usable(part, misses, dry_run, settings)
    file = find(topology, settings.topologies)
    loaded = runtime.load(
        file, models=settings.models, schemas=settings.schemas, schema_registry=open_schema_registry(settings), forgets="a stored answer"
    )
    required(loaded.topology)
    store = open_store(settings, timeout=_PATIENCE) if settings.store else None
    try:
        derived = computing(loaded)
        program = runtime.prepare(derived, settings)
        run = _Run(loaded, derived, program, store, settings, ttl or 0)
        done = run.dry(part) if dry_run else run.misses() if misses else run.population(part)
    finally:
        if store is not None:
            store.close()
    return _report(done, form, {node: str(artifact) for node, artifact in loaded.artifacts.items()})


def _usable(part: Part, misses: bool, dry_run: bool, settings: Settings) -> None:
    if misses and (part.input or part.resume or dry_run or part.sample or not part.whole):
        raise click.UsageError("--misses reads from the store: leave out --in, --from, --to, --limit, --sample, --resume and --dry-run")
    if not misses and not part.input:
        raise click.UsageError("Missing option '--in', or '--misses'.")
    if dry_run and part.resume:
        raise click.UsageError("a dry run keeps nothing to resume")
    if not settings.store and not dry_run:
        raise click.UsageError("Missing option '--store': where the answers are kept, such as redis://localhost or sqlite:///scores.db")


class _Done(dict[str, Any]):
    """The result, as --format json prints it."""


class _Run:
    """One call of the command."""

    def __init__(self, loaded: Loaded, derived: Loaded, program: Program, store: Store | None, settings: Settings, ttl: int) -> None:
        from penstock.stores.programs import about

        self._loaded, self._derived, self._program, self._settings = loaded, derived, program, settings
        self._store, self._ttl = store, ttl
        self._about = about(loaded)
        self._name = loaded.topology.name

    def dry(self, part: Part) -> _Done:
        """Scores, and writes nothing."""
        from penstock.transports.checkpoint import Checkpoint

        ran, sink = self._scored(part, lambda _: None, Checkpoint())
        return _done(ran, sink, generation=None)

    def population(self, part: Part) -> _Done:
        """Scores the part into a new generation, or goes on with one, and makes it live at the end."""
        from penstock.stores.sink import Progress
        from penstock.transports.files.sql import is_database

        store = self._needed()
        about = part.about | {"--ttl": str(self._ttl or "")}
        number, kept = self._begin(part)
        progress = Progress.read(kept, about, store.where) if kept else Progress(about)
        if is_database(part.input):
            progress.units = []  # it is asked again, and may answer in another order
        checkpoint = progress.checkpoint(store, self._name, number)
        before = checkpoint.rows
        checkpoint.commit()

        def write(entries: Sequence[Entry]) -> None:
            store.write(self._name, number, entries, self._ttl)
            progress.written += len(entries)

        ran, sink = self._scored(part, write, checkpoint, progress.reads)
        if ran.complete and progress.written:
            store.activate(self._name, number, since=time.time(), ttl=self._ttl)
            return _done(ran, sink, generation=number, live=True, before=before)
        return _done(ran, sink, generation=number, before=before)

    def _begin(self, part: Part) -> tuple[int, bytes]:
        store = self._needed()
        building = store.building(self._name)
        if not part.resume:
            if building is not None:
                err.print(f"generation {building.number}, which was not finished, is discarded", style="yellow", markup=False)
            return store.begin(self._name, self._about), b""
        if building is None or not building.progress:
            raise click.UsageError(f"there is no run to resume in {store.where}")
        if building.about != self._about:
            raise ConfigError(f"generation {building.number} was begun with other models, or another topology: run without --resume")
        return building.number, building.progress

    def misses(self) -> _Done:
        """Scores the recorded events, adds their answers to the live generation, and removes them from the record."""
        from penstock.stores.base import Superseded
        from penstock.transports.checkpoint import Checkpoint

        store = self._needed()
        live = store.live(self._name)
        if live is None:
            raise ConfigError(f"nothing was computed yet in {store.where}: run with --in first")
        if live.about != self._about:
            raise ConfigError(f"generation {live.number} is of other models, or another topology: run with --in, which makes a new one")
        events = store.misses(self._name)

        def add(entries: Sequence[Entry]) -> None:
            if not store.add(self._name, live.number, entries, live.ttl):
                raise Superseded(self._name, live.number)

        with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
            lines = Path(folder) / "misses.ndjson"
            lines.write_bytes(b"".join(b"%b\n" % event.replace(b"\n", b" ") for event in events.values()))
            ran, sink = self._scored(Part(str(lines), ""), add, Checkpoint())
        if ran.complete:
            store.forget(self._name, list(events))
        return _done(ran, sink, generation=live.number, live=True)

    def _scored(
        self,
        part: Part,
        write: Callable[[Sequence[Entry]], None],
        checkpoint: Any,
        files: Callable[[list[tuple[str, int]]], None] | None = None,
    ) -> tuple[Outcome, StoreSink]:
        from penstock.stores.sink import StoreSink

        sink = StoreSink(self._loaded, write)
        checkpoint.sink = sink
        return run_bounded(self._derived, self._program, part, self._settings, into=Into(sink, checkpoint, files=files)), sink

    def _needed(self) -> Store:
        assert self._store is not None, "only a dry run has none"
        return self._store


def _done(ran: Outcome, sink: StoreSink, *, generation: int | None, live: bool = False, before: int = 0) -> _Done:
    found = {"read": ran.read, "written": sink.written, "dead_letters": ran.failed, "first": sink.first, "complete": ran.complete}
    return _Done(**found, generation=generation, live=live, resumed=before)


def _report(done: _Done, form: str, models: Mapping[str, str]) -> int:
    if form == "json":
        print_json({**done, "models": models})
    else:
        where = f"generation {done['generation']}" if done["generation"] is not None else "dry run, nothing is written"
        where += "" if done["live"] or done["generation"] is None else ", which is not live"
        read = f"{counted(done['read'], 'event')} read"
        read += f" after the {done['resumed']:,} of the run that it resumes" if done["resumed"] else ""
        made = f"{counted(done['written'], 'answer')}, {counted(done['dead_letters'], 'dead letter')}"
        out.print(f"{read}, {made}: {where}", markup=False)
    if done["dead_letters"]:
        err.print(f"the first dead letter: {done['first']}", style="yellow", markup=False)
    if not done["complete"]:
        err.print("interrupted: the live generation stays; go on with --resume", markup=False)
        return INTERRUPTED
    if done["generation"] is not None and not done["live"]:
        err.print("no event could be scored: the live generation stays", markup=False)
        return 1
    return 0
