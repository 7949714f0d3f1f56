"""`python -m benchmarks`: the main benchmark; `peers`, `micro`, `batch`, `joins`, `lookups`, `matches`, `trials`, `windows`, `letters`,
`evidence`, `profile` and `report` are others.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from confluent_kafka import KafkaException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import results
from benchmarks.report import block, markdown, sheets, show, where, write
from benchmarks.suite import RUNS, Options, run
from benchmarks.workload import ROOT
from penstock.cli.output import err, out
from penstock.errors import PenstockError

FOLDER = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "performance.md",)


@contextmanager
def progress_bar() -> Iterator[ProgressBar]:
    """Shows the current activity on one line. It refreshes rarely, because it runs on the cores that are measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, refresh_per_second=2, transient=True) as drawn:
        yield ProgressBar(drawn)


class ProgressBar:
    """Called with the activity, its progress and its total."""

    def __init__(self, drawn: Progress) -> None:
        self._drawn = drawn
        self._task = drawn.add_task("")
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what = what
            self._drawn.reset(self._task)
        self._drawn.update(self._task, description=what, completed=done, total=total)


def new_file(name: str) -> Path:
    return FOLDER / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}-{name}.jsonl"


@click.group(invoke_without_command=True)
@click.option("--n", default=900_000, show_default=True, type=click.IntRange(1000), help="Outputs of a throughput run.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Rounds; figures are medians.")
@click.option("--only", multiple=True, type=click.Choice(RUNS), help="Only these runs (may be repeated).")
@click.option("--bootstrap", help="Brokers to use (HOST:PORT). [default: Kafka in a container, or from Maven Central with Java]")
@click.option("--rate", default=2000, show_default=True, type=click.IntRange(1), help="Events/s of the paced run.")
@click.option("--seconds", default=15, show_default=True, type=click.IntRange(1), help="Seconds of measurement in the paced run.")
@click.option("--timeout", default=180.0, show_default=True, help="Seconds after which a run has failed.")
@click.option("--quick", is_flag=True, help="A check in one minute: 60,000 outputs, one round, 3 s paced.")
@click.option(
    "--out", "path", type=click.Path(path_type=Path), help="Results file to append to. [default: a new one in benchmarks/results]"
)
@click.pass_context
def main(
    context: click.Context, n: int, repeat: int, only: tuple[str, ...], bootstrap: str | None, rate: int, seconds: int, timeout: float,
    quick: bool, path: Path | None,
) -> None:  # fmt: skip
    """Measure Penstock, plain Faust and the models alone on the same job, in one session. Needs the extra `dev`."""
    if context.invoked_subcommand is not None:
        return
    path = path or new_file("own")
    n, repeat, seconds, warmup = (60_000, 1, 3, 2) if quick else (n, repeat, seconds, 10)
    with progress_bar() as progress:
        run(Options(n, repeat, only or RUNS, bootstrap, rate, seconds, warmup, timeout), path, progress)
    show(*sheets(results.load(path)))
    err.print(f"written to {path}", markup=False)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--page", "pages", multiple=True, type=click.Path(exists=True, path_type=Path), help="[default: docs/performance.md]")
def report(files: tuple[Path, ...], pages: tuple[Path, ...]) -> None:
    """Write the figures of results FILES between the benchmark markers of the pages."""
    sittings = [results.load(file) for file in files]
    for page in pages or PAGES:
        write(page, "\n\n".join(block(sitting) for sitting in sittings))
        out.print(f"{page}: written")


@main.command()
@click.option("--rows", default=100_000, show_default=True, type=click.IntRange(1000), help="Number of different events.")
@click.option(
    "--page", type=click.Path(exists=True, path_type=Path), help="Also write the table between the `stages` markers of this page."
)
def micro(rows: int, page: Path | None) -> None:
    """CPU µs per event of each stage of the pipeline, in one thread, without Kafka."""
    from benchmarks.micro import measure

    with progress_bar() as progress:
        sheet = measure(rows, progress)
    show(sheet)
    if page:
        write(page, f"{markdown(sheet, title=False)}\n\n{sheet.title}; {where(results.machine())}.", "stages")


@main.command()
@click.option("--rows", default=200_000, show_default=True, type=click.IntRange(1000), help="Rows of the file.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Rounds in turns; figures are medians.")
def batch(rows: int, rounds: int) -> None:
    """CPU µs per row of a batch over Parquet, beside the same by hand with pyarrow and onnxruntime."""
    from benchmarks.batch import measure

    with progress_bar() as progress:
        sheet = measure(rows, rounds, progress)
    show(sheet)


@main.command()
@click.option("--rows", default=20_000, show_default=True, type=click.IntRange(1000), help="Records of each kind.")
def letters(rows: int) -> None:
    """CPU µs of a dead letter, and how many bytes it adds to its record, without Kafka."""
    from benchmarks.letters import measure

    with progress_bar() as progress:
        sheet = measure(rows, progress)
    show(sheet)


@main.command()
@click.option("--ids", default=100_000, show_default=True, type=click.IntRange(10_000), help="Events of a round; each is new.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Rounds in turns; figures are medians.")
def joins(ids: int, rounds: int) -> None:
    """Event ids per second that a join of 2, 3 and 5 members answers, in one thread, without Kafka."""
    from benchmarks.joins import measure

    with progress_bar() as progress:
        sheet = measure(ids, rounds, progress)
    show(sheet)
    out.print(where(results.machine()), markup=False, highlight=False)


@main.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1000), help="Rows of the table.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds; figures are medians.")
def lookups(rows: int, rounds: int) -> None:
    """Events per second that are looked up on one core, the memory of a table, and how fast it is read, without Kafka."""
    from benchmarks.lookups import measure

    with progress_bar() as progress:
        sheet = measure(rows, rounds, progress)
    show(sheet)
    out.print(where(results.machine()), markup=False, highlight=False)


@main.command()
@click.option("--rows", default=20_000, show_default=True, type=click.IntRange(1000), help="Events of a round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Rounds; figures are medians.")
@click.option("--kafka", is_flag=True, help="Also a worker on Kafka, under backlog, with and without a candidate by turns.")
@click.option("--bootstrap", help="Brokers to use (HOST:PORT). [default: Kafka in a container, or from Maven Central with Java]")
def trials(rows: int, rounds: int, kafka: bool, bootstrap: str | None) -> None:
    """CPU time per event while a release is on trial, against the live plan alone, in one thread."""
    from benchmarks.trials import measure, on_kafka

    with progress_bar() as progress:
        sheets_made = [measure(rows, rounds, progress)]
        sheets_made += [on_kafka(2_000_000, share, bootstrap, progress) for share in (0.01, 0.5) if kafka]
    show(*sheets_made)
    out.print(where(results.machine()), markup=False, highlight=False)


@main.command()
@click.option("--pairs", default=100_000, show_default=True, type=click.IntRange(10_000), help="Orders of a round; 95% are paid.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds; figures are medians.")
def matches(pairs: int, rounds: int) -> None:
    """Pairs per second that a match of two streams makes, in one thread, from bytes to bytes, without Kafka."""
    from benchmarks.matches import measure

    with progress_bar() as progress:
        sheet = measure(pairs, rounds, progress)
    show(sheet)
    out.print(where(results.machine()), markup=False, highlight=False)


@main.command()
@click.option("--keys", default=1_000_000, show_default=True, type=click.IntRange(1000), help="Number of keys.")
@click.option("--kafka", is_flag=True, help="Also restarts from changelogs on Kafka: a million keys take 4 GB of disk and of memory.")
@click.option("--bootstrap", help="Brokers for that (HOST:PORT). [default: Kafka in a container, or from Maven Central with Java]")
def windows(keys: int, kafka: bool, bootstrap: str | None) -> None:
    """Updates per second of keyed windows on one core, memory, restart, and the errors of sketches."""
    from benchmarks.windows import errors, measure

    with progress_bar() as progress:
        sheet = measure(keys, progress, kafka=kafka, bootstrap=bootstrap)
    show(sheet, errors())
    out.print(where(results.machine()), markup=False)


@main.command()
@click.option("--share", default=1.0, show_default=True, type=click.FloatRange(0.001, 1.0), help="Of the runs; at least 60 of each.")
def evidence(share: float) -> None:
    """How often the statistics of rollouts are wrong, and how long they take, in simulations. Exit code 1 when a bar is not kept."""
    from benchmarks.evidence import measure

    with progress_bar() as progress:
        sheet, holds = measure(share, progress)
    show(sheet)
    out.print(where(results.machine()), markup=False, highlight=False)
    if not holds:
        sys.exit(1)


@main.command()
@click.option("--seconds", default=8, show_default=True, type=click.IntRange(1), help="Seconds of sampling.")
@click.option(
    "--n", default=2_000_000, show_default=True, type=click.IntRange(1000), help="Events in the backlog; it must outlast the sampling."
)
@click.option("--bootstrap", help="Brokers to use (HOST:PORT).")
def profile(seconds: int, n: int, bootstrap: str | None) -> None:
    """Show where a worker spends its time under backlog, by function (needs py-spy)."""
    from benchmarks.profile import profile as look

    with progress_bar() as progress:
        found = look(seconds, n, bootstrap, progress)
    show(*found)


@main.command()
@click.option("--n", default=3_000_000, show_default=True, type=click.IntRange(1000), help="Outputs of a throughput run.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Rounds; figures are medians.")
@click.option("--rate", default=2000, show_default=True, type=click.IntRange(1), help="Events/s of the paced runs.")
@click.option("--seconds", default=15, show_default=True, type=click.IntRange(1), help="Seconds of measurement in a paced run.")
@click.option("--bootstrap", help="Brokers to use (HOST:PORT).")
@click.option("--timeout", default=180.0, show_default=True, help="Seconds after which a run has failed.")
@click.option("--out", "path", type=click.Path(path_type=Path), help="Results file to append to.")
def releases(n: int, repeat: int, rate: int, seconds: int, bootstrap: str | None, timeout: float, path: Path | None) -> None:
    """Measure the cost of model swaps: the same stream with and without swaps, in turns."""
    from benchmarks.releases import run as measure

    path = path or new_file("releases")
    with progress_bar() as progress:
        measure(Options(n, repeat, (), bootstrap, rate, seconds, 6, timeout), path, progress)
    show(*sheets(results.load(path)))
    err.print(f"written to {path}", markup=False)


@main.command()
@click.option(
    "--peers", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: shared/peers beside the checkout]"
)
@click.option(
    "--peer", "names", multiple=True, default=("flink-batch", "faust"), show_default=True, help="A peer to compare with (may be repeated)."
)
@click.option("--copies", default=2, show_default=True, type=click.IntRange(1), help="Also measure Penstock with this many workers.")
@click.option(
    "--n", default=900_000, show_default=True, type=click.IntRange(1000), help="Outputs of a run; at most 200,000 for plain Faust."
)
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Rounds; figures are medians.")
@click.option("--only", type=click.Choice(["throughput", "paced"]), help="Under backlog, or at a steady rate. [default: both]")
@click.option("--bootstrap", help="A running broker of that harness with a filled topic `flights`. [default: start and stop one]")
@click.option("--work", type=click.Path(path_type=Path), default=ROOT / "build" / "peers", help="Its build folder. [default: build/peers]")
@click.option("--no-setup", is_flag=True, help="Skip the builds, which are in --work already.")
@click.option("--out", "path", type=click.Path(path_type=Path), help="Results file to append to.")
def peers(
    folder: Path | None, names: tuple[str, ...], copies: int, n: int, repeat: int, only: str | None, bootstrap: str | None, work: Path,
    no_setup: bool, path: Path | None,
) -> None:  # fmt: skip
    """Compare with other systems, with the reference harness beside the checkout, in turns with Penstock."""
    from benchmarks.peers import MODES, Harness, compare

    path = path or new_file("peers")
    with progress_bar() as progress, Harness.prepared(folder, work, names, bootstrap, setup=not no_setup, progress=progress) as harness:
        compare(harness, names, copies=copies, n=n, repeat=repeat, modes=[only] if only else list(MODES), path=path, progress=progress)
    show(*sheets(results.load(path)))
    err.print(f"written to {path}", markup=False)


def _ended(number: int, frame: object) -> None:
    raise KeyboardInterrupt  # like Ctrl-C: every started process is stopped before the exit


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _ended)
    try:
        main(standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        sys.exit("interrupted; everything that was started has been stopped")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (PenstockError, KafkaException) as error:
        sys.exit(f"benchmarks: {error}")
