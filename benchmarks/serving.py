"""`python -m benchmarks.serving --peer NAME ...`: our service beside the servers that one would pick instead, on one core.

All score one flight per request, with the models of topologies/flights.yaml and the same events; the load is on another core. The servers
take turns, and figures are medians. One answer of twenty is compared with the models run here: a wrong one ends the measurement. A peer is
installed on first use, in an environment under build/peers; what it prints is in build/peers/NAME.log.

closed   C callers, each with a connection, send the next event when they have their answer
open     RATE events per second at random times over 64 connections; latency counts from when a request was due

`CPU us` is the user and system time of the server's processes per answer; `RSS MB` is their memory, where shared pages count once for each.
`load's core` is the use of the load's core: near 1.0 the load was the limit, and requests per second are a lower bound.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import venv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
from rich.table import Table

from benchmarks.contender import Running, running
from benchmarks.results import machine
from benchmarks.serving_load import CLIENT_BOUND, Body, measured
from benchmarks.workload import ROOT
from penstock.cli.output import err, out
from penstock.errors import WorkerFailed

OURS = "penstock"
CONNECTIONS = 64  # of the open loop
PLACE = ROOT / "build/peers"

Figures = dict[str, float]

# What a peer needs, by the name of its environment. What they share has one version, unless one of them refuses it; where uvicorn serves,
# it has its fast loop and parser, which not every framework asks for.
_MODELS = ("onnxruntime==1.31.1", "numpy==2.4.6")
_UVICORN = ("pydantic==2.14.4", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
_WEB = ("starlette==1.10.0", *_UVICORN)
REQUIREMENTS = {
    "fastapi": (*_MODELS, *_WEB, "fastapi==0.165.0"),
    "flask": (*_MODELS, "orjson==3.13.0", "flask==3.1.3", "gunicorn==27.0.1"),
    "mlserver": (*_MODELS, *_UVICORN, "mlserver==1.7.1", "fastapi==0.115.14", "grpcio==1.85.3", "protobuf==6.33.6"),
    "bentoml": (*_MODELS, *_WEB, "bentoml==1.4.40"),
    "litserve": (*_MODELS, *_WEB, "fastapi==0.165.0", "litserve==0.2.19"),
    "ray": (*_MODELS, *_WEB, "orjson==3.13.0", "fastapi==0.165.0", "ray[serve]==2.60.0"),
    "pytriton": ("onnxruntime==1.31.1", "numpy==1.26.4", "nvidia-pytriton==0.7.0", "tritonclient==2.73.0", "grpcio==1.85.3"),
}


class Server(NamedTuple):
    """How a server is started and asked.

    In its command, `{bin}` is the folder of its environment's programs, `{port}` the port that is measured, and `{other}` a free one. Its
    path is a method where it is asked by gRPC. `beside` is the one of ours that is asked the same.
    """

    environment: str  # of REQUIREMENTS; empty: ours
    command: str
    path: str
    body: Body = "event"
    beside: str = OURS


def _app(name: str, arguments: str) -> str:
    return f"{{bin}}/python -m benchmarks.serving_peers.{name}_app {arguments}"


_SERVE = "{bin}/python -m penstock serve topologies/flights.yaml"
_INFER, _METHOD = "/v2/models/flights/infer", "/inference.GRPCInferenceService/ModelInfer"
_OIP, _GRPC = "penstock-oip", "penstock-grpc"
_GUNICORN = "{bin}/gunicorn -w 1 -k gthread --threads 8 --keep-alive 60 --log-level warning -b 127.0.0.1:{port}"
_BENTOML = "env BENTOML_DO_NOT_TRACK=True BENTOML_HOME=build/peers/bentoml/home {bin}/bentoml serve --host 127.0.0.1 --port {port}"
_RAY = "env RAY_USAGE_STATS_ENABLED=0 "

SERVERS = {
    OURS: Server("", f"{_SERVE} --http 127.0.0.1:{{port}}", "/v1/topologies/flights:score"),
    "fastapi": Server("fastapi", _app("fastapi", "{port}"), "/score"),
    "fastapi-batch": Server("fastapi", _app("fastapi", "{port}"), "/score-batch"),
    "flask": Server("flask", f"{_GUNICORN} benchmarks.serving_peers.flask_app:app", "/score"),
    "bentoml": Server("bentoml", f"{_BENTOML} benchmarks.serving_peers.bentoml_app:Flights", "/score", "flight"),
    "bentoml-batch": Server("bentoml", f"{_BENTOML} benchmarks.serving_peers.bentoml_app:Flights", "/score_batch", "flights"),
    "litserve": Server("litserve", _app("litserve", "{port} 1"), "/score"),
    "litserve-batch": Server("litserve", _app("litserve", "{port} 64"), "/score"),
    "ray": Server("ray", _RAY + _app("ray", "{port} 1"), "/score"),
    "ray-batch": Server("ray", _RAY + _app("ray", "{port} 64"), "/score"),
    _OIP: Server("", f"{_SERVE} --http 127.0.0.1:{{port}}", _INFER, "tensors", _OIP),
    "mlserver": Server("mlserver", _app("mlserver", "{port} {other} 1"), _INFER, "tensors", _OIP),
    "mlserver-batch": Server("mlserver", _app("mlserver", "{port} {other} 64"), _INFER, "tensors", _OIP),
    "pytriton": Server("pytriton", _app("pytriton", "{port} {other}"), _INFER, "tensors", _OIP),
    _GRPC: Server("", f"{_SERVE} --http 127.0.0.1:{{other}} --grpc 127.0.0.1:{{port}}", _METHOD, "message", _GRPC),
    "mlserver-grpc": Server("mlserver", _app("mlserver", "{other} {port} 1"), _METHOD, "message", _GRPC),
    "pytriton-grpc": Server("pytriton", _app("pytriton", "{other} {port}"), _METHOD, "message", _GRPC),
    "uvicorn": Server("", _app("uvicorn", "{port}"), "/nothing", "anything"),
    "uvicorn-models": Server("", _app("uvicorn", "{port}"), "/score"),
    "grpcio": Server("", _app("grpcio", "{port}"), _METHOD, "anything", _GRPC),
}
PEERS = [name for name, server in SERVERS.items() if server.beside != name]


def programs(environment: str) -> Path:
    """Returns the folder of an environment's programs, and makes the environment first when it is not there, or has other requirements.

    Raises CalledProcessError where something cannot be installed.
    """
    if not environment:
        return Path(sys.executable).parent
    folder, wanted = PLACE / environment, "\n".join(REQUIREMENTS[environment])
    complete = folder / "requirements.txt"  # written last
    if not complete.is_file() or complete.read_text() != wanted:
        err.print(f"installing {environment} in {folder.relative_to(ROOT)}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *REQUIREMENTS[environment]], check=True)
        complete.write_text(wanted)
    return folder / "bin"


def installed(names: Sequence[str]) -> list[str]:
    """Returns those of the servers that are installed, or can be."""
    failed = set()
    for environment in dict.fromkeys(SERVERS[name].environment for name in names):
        try:
            programs(environment)
        except subprocess.CalledProcessError:
            failed.add(environment)
            err.print(f"{environment} cannot be installed here, and is left out")
    return [name for name in names if SERVERS[name].environment not in failed]


def free_ports() -> tuple[int, int]:
    """Returns two ports on which nothing listens."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@contextmanager
def serving(name: str, core: int) -> Iterator[tuple[Running, int]]:
    """Runs a server on its core; yields it, and the port to measure."""
    server = SERVERS[name]
    port, other = free_ports()
    words = server.command.format(bin=programs(server.environment), port=port, other=other).split(" ")
    found = ["env", f"PYTHONPATH={ROOT}"] if server.environment else []  # the programs of others do not look here for modules
    PLACE.mkdir(parents=True, exist_ok=True)
    with running(["taskset", "-c", str(core), *found, *words], PLACE / f"{name}.log") as started:
        yield started, port


def run(
    names: Sequence[str], callers: Sequence[int], rate: int, seconds: float, repeat: int, cores: tuple[int, int]
) -> dict[tuple[str, str], list[Figures]]:  # fmt: skip
    """Returns the figures of every run, by load and server."""
    os.sched_setaffinity(0, {cores[1]})
    loads = [*((f"{count} caller{'s' * (count > 1)}", count, 0) for count in callers), (f"{rate} req/s", CONNECTIONS, rate)]
    figures: dict[tuple[str, str], list[Figures]] = {(load, name): [] for load, *_ in loads for name in names}
    for turn in range(repeat):
        for name in names:
            err.print(f"round {turn + 1} of {repeat}: {name}")
            with serving(name, cores[0]) as (started, port):
                for load, count, paced in loads if rate else loads[:-1]:
                    given = (port, SERVERS[name].path, started, count, paced, seconds, SERVERS[name].body)
                    try:
                        figures[load, name].append(asyncio.run(measured(*given)))
                    except (AssertionError, TimeoutError, WorkerFailed) as error:
                        sys.exit(f"{name}, {load}: {error}; next: read {PLACE.relative_to(ROOT) / name}.log")
    return {key: runs for key, runs in figures.items() if runs}


def show(figures: dict[tuple[str, str], list[Figures]]) -> None:
    """Prints the medians as a table, and where the load was the limit."""
    table = Table("load", "server", "req/s", "p50 ms", "p99 ms", "CPU us", "RSS MB", "load's core")
    bound = defaultdict(list)
    last = ""
    for (load, name), runs in figures.items():
        if load != last:
            table.add_section()
        median = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        if median["client"] >= CLIENT_BOUND:
            bound[load].append(name)
        table.add_row(
            load if load != last else "", name, f"{median['req_s']:,.0f}", f"{median['p50_ms']:.2f}", f"{median['p99_ms']:.2f}",
            f"{median['cpu_us']:,.0f}", f"{median['rss_mb']:,.0f}", f"{median['client']:.2f}",
        )  # fmt: skip
        last = load
    out.print(table)
    for load, names in bound.items():
        out.print(f"{load}: the load's core was the limit of {', '.join(names)}; their requests per second are a lower bound")


@click.command()
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=click.Choice((*PEERS, "all")),
    metavar="NAME",
    help=f"Measure it, and ours that is asked the same; may be repeated: all, {', '.join(PEERS)}.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(SERVERS)),
    metavar="NAME",
    help="Measure this one, a peer or one of ours; may be repeated, and replaces --peer.",
)
@click.option("--callers", multiple=True, type=click.IntRange(1), default=(1, 8, 64), show_default=True)
@click.option("--rate", default=500, show_default=True, help="Requests per second of the open loop; 0: no open loop.")
@click.option("--seconds", default=5.0, show_default=True, help="Seconds of a run.")
@click.option("--repeat", default=3, show_default=True, help="Rounds; figures are medians.")
@click.option("--cores", nargs=2, type=int, default=(0, 1), show_default=True, help="Of the servers and of the load.")
def main(
    peers: tuple[str, ...], only: tuple[str, ...], callers: tuple[int, ...], rate: int, seconds: float, repeat: int, cores: tuple[int, int]
) -> None:
    """Measure our service, and others beside it, in turns."""
    asked = set(only) or {one for name in (PEERS if "all" in peers else peers) for one in (name, SERVERS[name].beside)} or {OURS}
    names = installed([name for name in SERVERS if name in asked])
    facts = machine(requirements={name: REQUIREMENTS[name] for name in sorted({SERVERS[name].environment for name in names} - {""})})
    figures = run(names, callers, rate, seconds, repeat, cores)
    show(figures)
    print(json.dumps({**facts, "figures": [{"load": load, "server": name, "runs": runs} for (load, name), runs in figures.items()]}))


if __name__ == "__main__":
    main()
