"""Settings: one frozen dataclass, read once; the only module that reads the environment.

A value comes from the first of these that has one:

1. a flag of the command line        `--commit-interval 2`
2. the environment                   `PENSTOCK_COMMIT_INTERVAL=2`
3. a file                            `commit_interval = 2` in `penstock.toml`, or in the file that `--config` or PENSTOCK_CONFIG names
4. the default declared below

All problems of all sources are reported together. A password never comes from a flag (process lists show it) nor from
the settings file (which is committed), and is never printed.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from penstock.errors import Problem, SettingsError
from penstock.host import read_regular

__all__ = [
    "DEFAULT_FILE",
    "PREFIX",
    "Described",
    "Secret",
    "Settings",
    "bare_environment",
    "describe",
    "environment_name",
    "exposed",
    "flag_name",
    "in_the_clear",
    "is_loopback",
    "keep_runtime_silent",
    "load",
    "resolve",
    "run_flags",
]

PREFIX: Final = "PENSTOCK_"
DEFAULT_FILE: Final = Path("penstock.toml")
FILE_BYTES: Final = 1 << 20  # of a file of settings or a password that are read
KIB, MIB, GIB = 1024, 1024**2, 1024**3


class Secret:
    """A text that only `reveal` returns; empty when it is not set."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***" if self._text else "(not set)"


def _setting(
    default: Any, help: str, *, unit: str = "", kind: type | None = None, low: float = -math.inf, high: float = math.inf,
    choices: tuple[str, ...] = (), secret: bool = False, run: bool = True,
) -> Any:  # fmt: skip
    """A field of Settings. `kind` is the default's type unless given; `low` and `high` are allowed values.

    `run` gives `penstock run` a flag for it.
    """
    kind = kind or (Path if isinstance(default, Path) else type(default))
    declared = {"help": help, "unit": unit, "kind": kind, "low": low, "high": high, "choices": choices, "secret": secret, "run": run}
    return field(default=default, metadata=declared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, with its default."""

    brokers: str = _setting("", "Kafka bootstrap servers, host:port separated by commas; empty: not set.")
    application: str = _setting("penstock", "First part of the consumer group's name; workers of one application share the partitions.")
    models: Path = _setting(Path("models"), "Folder of the model registry.")
    model_trust: Path | None = _setting(
        None, "Folder of the public keys (*.pem) and certificate authorities (*.crt) whose models are trusted.", kind=Path
    )
    schemas: Path = _setting(Path("schemas"), "Folder of the event schemas (*.avsc, *.proto).")
    topologies: Path = _setting(Path("topologies"), "Folder to look in for a topology that is given by its name.", run=False)
    workers: int = _setting(1, "Worker processes on this host; one per core is a good number.", low=1, high=1024)

    commit_interval: float = _setting(1.0, "Longest time between two commits of offsets.", unit="s", low=0.01, high=3600)
    chunk_rows: int = _setting(256, "Rows of one pass through the models; small enough for the processor's cache.", unit="rows", low=1)
    max_batch_rows: int = _setting(2048, "Most rows in one unit of work between two turns of the network.", unit="rows", low=1)
    max_in_flight_batches: int = _setting(16, "Batches taken from Kafka whose outputs are not acknowledged yet.", low=1, run=False)
    max_in_flight_bytes: int = _setting(32 * MIB, "Bytes of the batches in flight.", unit="bytes", low=64 * KIB, run=False)
    max_uncommitted_rows: int = _setting(
        1_000_000, "Records taken whose offsets are not committed yet; beyond, nothing is taken until a commit succeeds.", low=1, run=False
    )
    offload_after_ms: float = _setting(50.0, "A batch that takes longer than this runs beside the event loop.", unit="ms", low=1, run=False)

    max_unpacked_bytes: int = _setting(
        64 * MIB, "Bytes that one compressed batch may unpack to; a larger one is passed over, with a dead letter.", unit="bytes",
        low=1 * MIB, high=1 * GIB, run=False,
    )  # fmt: skip
    dead_letter_rate: float = _setting(
        0.0, "Dead letters per second and partition; a partition with more of them is slowed to it, the others are not. 0: no limit.",
        unit="1/s", low=0,
    )  # fmt: skip
    fetch_bytes: int = _setting(1 * MIB, "Bytes requested per partition in one fetch.", unit="bytes", low=1 * KIB, high=1 * GIB, run=False)
    fetch_wait_ms: int = _setting(500, "How long brokers hold a fetch open until an event arrives.", unit="ms", low=1, high=30_000)
    fetch_linger_ms: float = _setting(2.0, "How long a small batch waits for more events at low rates.", unit="ms", low=0, high=1000)
    start_from: str = _setting("earliest", "Where a group without a committed offset begins.", choices=("earliest", "latest"))
    drain_timeout: float = _setting(30.0, "How long a stopping worker may take to finish batches in flight.", unit="s", low=0, high=3600)
    session_timeout: float = _setting(10.0, "Silence after which Kafka gives a worker's partitions to others.", unit="s", low=1, high=1800)
    broker_timeout: float = _setting(60.0, "How long a worker retries unreachable brokers before it exits.", unit="s", low=0)
    stall_timeout: float = _setting(
        60.0, "How long events may wait without progress or a reason for it before the worker ends; 0: no limit.", unit="s", low=0
    )
    metadata_age: float = _setting(
        5.0, "Time between two looks of a worker at its topics: by then it notices new partitions, and a topic that was deleted.",
        unit="s", low=0.1, high=300, run=False,
    )  # fmt: skip
    compression: str = _setting("none", "Compression of the produced records.", choices=("none", "gzip", "lz4", "zstd", "snappy"))
    client_id: str = _setting("penstock", "Name under which brokers log this client.", run=False)
    group_instance_id: str = _setting("", "Static membership: a restart within the session timeout moves no partitions; empty: none.")

    releases: bool = _setting(True, "Follow the control topic: models are swapped while the stream runs.")
    trust: Path = _setting(Path("trust.toml"), "File of the keys whose control messages are accepted (`penstock keys`).")
    from_file: bool = _setting(
        False, "Start with the topology file's versions although the control log has messages of keys that are not trusted here."
    )
    unsigned_control: bool = _setting(False, "Accept control messages without a signature: for development only.")
    signing_key: Path | None = _setting(
        None, "The private key that signs control messages: a file (PEM), or its name in ~/.config/penstock/keys.", kind=Path
    )
    roots: str = _setting("", "More registry roots to fetch models from, separated by commas: folders, or https URLs.")
    cache: Path = _setting(Path("~/.cache/penstock"), "Folder of fetched models, by digest; shared by the workers of a host.")
    model_bytes: int = _setting(512 * MIB, "Largest model file that is fetched.", unit="bytes", low=1 * KIB, run=False)
    model_memory: int = _setting(
        1 * GIB, "Memory of the tensors that a worker's models compute; a row that needs more is a dead letter. Weights are not in it.",
        unit="bytes", low=16 * MIB, run=False,
    )  # fmt: skip
    model_threads: int = _setting(
        1, "Threads of the processor that compute one run of a model, beside the worker itself; more help only large models.", low=1,
        high=1024, run=False,
    )  # fmt: skip
    model_providers: str = _setting(
        "", "Execution providers in place of those of the topology, separated by commas, for a host without them: CPUExecutionProvider.",
        run=False,
    )  # fmt: skip
    quarantine_seconds: int = _setting(
        60, "CPU time that trying a model in its own process may take; `penstock model push` waits for it twice as long.",
        unit="s", low=1, high=86_400, run=False,
    )  # fmt: skip
    quarantine_memory: int = _setting(
        3 * GIB, "Memory of the process that tries a model, beside the tensors of runs: the runtime, and twice the weights.",
        unit="bytes", low=1 * GIB, run=False,
    )  # fmt: skip
    prepare_timeout: float = _setting(120.0, "How long a worker may take to make a release ready.", unit="s", low=1, high=86_400)
    proof_rows: int = _setting(
        1000, "The last real rows per source that a worker keeps, to try new models on; 0: golden records only.", unit="rows",
        low=0, high=100_000, run=False,
    )  # fmt: skip
    failing_share: float = _setting(
        0.01, "Share of rows that may fail in a new generation alone, before it is refused or counts as bad; 1: any.", low=0, high=1
    )
    guard_rows: int = _setting(1000, "Rows that a new generation is guarded for, at the least.", unit="rows", low=1, run=False)
    guard_seconds: float = _setting(
        60.0, "Time that a new generation is guarded for, at the least; 0: no guard.", unit="s", low=0, high=86_400, run=False
    )
    status_interval: float = _setting(2.0, "Time between two status reports of a worker.", unit="s", low=0.1, high=60)

    security_protocol: str = _setting(
        "PLAINTEXT", "Protocol of the connections to the brokers.", choices=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    )
    insecure_plaintext: bool = _setting(False, "Allow unencrypted connections to brokers and schema registries on other hosts.")
    ssl_cafile: Path | None = _setting(None, "Certificates of the trusted authorities (PEM); not set: those of the system.", kind=Path)
    ssl_certfile: Path | None = _setting(None, "This client's certificate (PEM).", kind=Path)
    ssl_keyfile: Path | None = _setting(None, "The key of this client's certificate (PEM).", kind=Path)
    sasl_mechanism: str = _setting("SCRAM-SHA-512", "Login mechanism.", choices=("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"))
    sasl_username: str = _setting("", "User to log in as.")
    sasl_password: Secret = _setting(Secret(), "Password to log in with; from the environment only.", secret=True, run=False)
    sasl_password_file: Path | None = _setting(None, "File whose content is the password, line end removed.", kind=Path)

    schema_registry_url: str = _setting(
        "", "URLs of one schema registry with Confluent's API, separated by commas; empty: schemas come from files only."
    )
    schema_registry_username: str = _setting("", "User of the schema registry (basic authentication).")
    schema_registry_password: Secret = _setting(
        Secret(), "Password of that user; from the environment only.", secret=True, run=False
    )  # fmt: skip
    schema_registry_password_file: Path | None = _setting(None, "File whose content is that password, line end removed.", kind=Path)
    schema_registry_token: Secret = _setting(
        Secret(), "Bearer token for the schema registry; from the environment only.", secret=True, run=False
    )  # fmt: skip
    schema_registry_token_file: Path | None = _setting(None, "File whose content is that token, line end removed.", kind=Path)
    schema_registry_cafile: Path | None = _setting(
        None, "Certificates of the authorities that the schema registry is trusted by (PEM); not set: those of the system.", kind=Path
    )
    schema_registry_certfile: Path | None = _setting(None, "This client's certificate for the schema registry (PEM).", kind=Path)
    schema_registry_keyfile: Path | None = _setting(None, "The key of that certificate (PEM).", kind=Path)
    schema_registry_timeout: float = _setting(
        2.0, "How long one request to the schema registry may take.", unit="s", low=0.05, high=60, run=False
    )
    schema_registry_register: bool = _setting(True, "Register the schemas of sinks at start; if not, they must be registered already.")
    schema_registry_subjects: str = _setting(
        "topic", "How subjects are named: TOPIC-value, RECORD or TOPIC-RECORD.", choices=("topic", "record", "topic-record")
    )

    store: str = _setting(
        "", "Where precomputed answers are: redis://HOST, sqlite:///FILE, postgresql://USER@HOST/DATABASE, cassandra://USER@HOST/KEYSPACE.",
        run=False,
    )  # fmt: skip
    store_password: Secret = _setting(Secret(), "Password of the store's user; from the environment only.", secret=True, run=False)
    store_password_file: Path | None = _setting(None, "File whose content is that password, line end removed.", kind=Path, run=False)
    store_cafile: Path | None = _setting(
        None, "Certificates of the authorities that the store is trusted by (PEM); PostgreSQL and Cassandra are then encrypted.", kind=Path,
        run=False,
    )  # fmt: skip
    store_timeout: float = _setting(
        0.1, "How long a lookup waits for the store before the events are scored.", unit="s", low=0.001, high=60, run=False
    )

    http: str = _setting(
        "", "Where /healthz, /readyz and /metrics are served: HOST:PORT (port 0: any free one) or unix:PATH; empty: not served."
    )
    grpc: str = _setting("", "Where `penstock serve` answers gRPC: HOST:PORT (port 0: any free one); empty: not served.", run=False)
    request_timeout: float = _setting(
        10.0, "How long a request to the service may take; a request may ask for less.", unit="s", low=0.001, high=3600, run=False
    )
    max_body_bytes: int = _setting(
        8 * MIB, "Largest body of a request to the service; of a stream of events, the largest event.", unit="bytes",
        low=1 * KIB, high=1 * GIB, run=False,
    )  # fmt: skip
    max_connections: int = _setting(
        1024, "HTTP connections to the service at a time; beyond, those that have been silent for longest are closed.", low=1, run=False
    )
    idle_timeout: float = _setting(
        30.0, "How long a client of the service may take to send a request or to read an answer.", unit="s", low=0.1, high=3600, run=False
    )
    access: Path | None = _setting(
        None, "File of those who may call the service (`penstock access`); not set: everyone who reaches it.", kind=Path, run=False
    )
    audit: Path | None = _setting(None, "File that the service's calls are written to, one JSON object per line.", kind=Path, run=False)
    serve_certfile: Path | None = _setting(
        None, "The service's certificate, with those that lead to its authority (PEM).", kind=Path, run=False
    )
    serve_keyfile: Path | None = _setting(None, "The key of the service's certificate (PEM).", kind=Path, run=False)
    serve_cafile: Path | None = _setting(None, "Certificates of the authorities of client certificates (PEM).", kind=Path, run=False)
    insecure_serve: bool = _setting(
        False, "Let other hosts call the service without TLS, or without an access file: behind a proxy that does both.", run=False
    )
    log_level: str = _setting("info", "Least severe log record that is written.", choices=("debug", "info", "warning", "error"), run=False)
    log_format: str = _setting("text", "Log records as text, or as one JSON object per line.", choices=("text", "json"), run=False)
    debug: bool = _setting(False, "Show the traceback of an error.", run=False)


def run_flags() -> tuple[str, ...]:
    """Returns the settings that `penstock run` has a flag for, in declared order."""
    return tuple(declared.name for declared in fields(Settings) if declared.metadata["run"])


class Described(NamedTuple):
    """One setting as `penstock settings` shows it."""

    name: str
    value: str
    source: str
    unit: str
    default: str
    choices: tuple[str, ...]
    flag: str
    environment: str
    help: str


class _Given(NamedTuple):
    """The value of a setting from one source, and the place that a problem names."""

    value: Any
    place: str
    line: int = 0

    def problem(self, message: str, fix: str = "") -> Problem:
        return Problem(self.place, self.line, 1 if self.line else 0, message, fix)

    def __str__(self) -> str:
        return f"{self.place}:{self.line}" if self.line else self.place


def flag_name(name: str) -> str:
    """`commit_interval` -> `--commit-interval`."""
    return "--" + name.replace("_", "-")


def bare_environment() -> dict[str, str]:
    """Returns the environment for a child that must learn no secret: what Python needs to find its modules and libraries, and no more."""
    return {
        name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV") if name in os.environ
    }


def keep_runtime_silent() -> None:
    """Switches off, for this process and its children, what onnxruntime from 1.29 on otherwise reports to its maker from its import on.

    It would keep a database and a device's identity in the user's cache, run threads, and connect to the internet.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def environment_name(name: str) -> str:
    """`commit_interval` -> `PENSTOCK_COMMIT_INTERVAL`."""
    return PREFIX + name.upper()


def load(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
    spelled: Callable[[str], str] = flag_name,
) -> Settings:
    """Returns the active settings. Raises SettingsError with every problem; see `resolve` for the arguments."""
    return resolve(flags, environ=environ, file=file, spelled=spelled)[0]


def resolve(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
    spelled: Callable[[str], str] = flag_name,
) -> tuple[Settings, dict[str, str]]:
    """Returns the active settings, and the source of each one that is not a default.

    `flags` maps field names to values; None means not given. `environ` is the process environment unless given. `file`
    must exist when given; without it PENSTOCK_CONFIG names the file, else `penstock.toml` is read if it exists.
    `spelled` is how the caller gives a setting: on the command line as a flag, in Python (`str`) by its name.
    Raises SettingsError with every problem of every source.
    """
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    given: dict[str, _Given] = {}
    for source in (_from_file(file, environ, problems), _from_environment(environ, problems), _from_flags(flags, problems, spelled)):
        given.update(source)
    values = {}
    for declared in fields(Settings):
        if declared.name in given:
            try:
                values[declared.name] = _convert(declared, given[declared.name].value)
            except ValueError as error:
                problems.append(given[declared.name].problem(f"{declared.name}: {error}"))
    sources = {name: str(found) for name, found in given.items()}
    for declared in fields(Settings):
        if declared.metadata["secret"]:
            _read_secret(declared.name, values, given, sources, problems)
    settings = Settings(**values)
    problems.extend(_conflicts(settings, given))
    if problems:
        raise SettingsError(problems)
    return settings, sources


def describe(settings: Settings, sources: Mapping[str, str]) -> list[Described]:
    """Returns every setting in declared order: its value as text, its source, and its help. Secrets stay hidden."""
    return [
        Described(
            name=declared.name,
            value=_shown(getattr(settings, declared.name)),
            source=sources.get(declared.name, "default"),
            unit=declared.metadata["unit"],
            default=_shown(declared.default),
            choices=declared.metadata["choices"],
            flag="" if declared.metadata["secret"] else flag_name(declared.name),
            environment=environment_name(declared.name),
            help=declared.metadata["help"],
        )
        for declared in fields(Settings)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


# --- where values come from -------------------------------------------------------------------------------------------


def _names() -> dict[str, Field[Any]]:
    return {declared.name: declared for declared in fields(Settings)}


def _unknown(place: _Given, name: str, spelled: Callable[[str], str]) -> Problem:
    close = difflib.get_close_matches(name, _names(), n=1)
    return place.problem(
        f"there is no setting {spelled(name)}", f"did you mean {spelled(close[0])}?" if close else "`penstock settings` lists them"
    )


def _from_flags(flags: Mapping[str, Any], problems: list[Problem], spelled: Callable[[str], str]) -> Iterator[tuple[str, _Given]]:
    for name, value in flags.items():
        found = _Given(value, spelled(name))
        if name not in _names():
            problems.append(_unknown(found, name, spelled))
        elif value is not None:
            yield name, found


# Kubernetes sets these for a Service named "penstock"; they are not typing errors.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT(_.*)?)|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?")


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> Iterator[tuple[str, _Given]]:
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == f"{PREFIX}CONFIG" or _SERVICE_LINK.fullmatch(variable.removeprefix(PREFIX)):
            continue
        name, found = variable.removeprefix(PREFIX).lower(), _Given(value, variable)
        if name in _names():
            yield name, found
        else:
            problems.append(_unknown(found, name, environment_name))


def _from_file(file: Path | None, environ: Mapping[str, str], problems: list[Problem]) -> Iterator[tuple[str, _Given]]:
    named = file or (Path(environ[f"{PREFIX}CONFIG"]) if environ.get(f"{PREFIX}CONFIG") else None)
    path = named or DEFAULT_FILE
    if named is None and not path.exists():
        return
    try:
        text = read_regular(path, FILE_BYTES).decode()
        document = tomllib.loads(text)
    except OSError as error:
        problems.append(Problem(str(path), 0, 0, f"cannot read the settings file: {error.strerror}", "name another one with --config"))
        return
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML
        place = re.search(r"at line (\d+), column (\d+)", str(error))
        line, column = (int(place[1]), int(place[2])) if place else (0, 0)
        problems.append(Problem(str(path), line, column, f"not a TOML file: {error}"))
        return
    for name, value in document.items():
        found = _Given(value, str(path), _line_of(name, text))
        if name not in _names():
            problems.append(_unknown(found, name, str))
        elif _names()[name].metadata["secret"]:
            problems.append(found.problem(f"{name} does not belong in a settings file", f"set {name}_file, or {environment_name(name)}"))
        else:
            yield name, found


def _line_of(name: str, text: str) -> int:
    """Returns the line of a top-level key, 0 when not found: tomllib does not report it."""
    pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(name)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 0)


def _read_secret(name: str, values: dict[str, Any], given: Mapping[str, _Given], sources: dict[str, str], problems: list[Problem]) -> None:
    """Fills a secret from the file that the setting NAME_file names, unless the environment has set it."""
    from_file = f"{name}_file"
    path = values.get(from_file)
    if path is None or name in values:
        return
    try:
        if found := exposed(path.stat()):
            problems.append(given[from_file].problem(f"{from_file}: {path} {found}", f"chmod 600 {path}"))
        values[name] = Secret(read_regular(path, FILE_BYTES).decode().rstrip("\r\n"))
        sources[name] = str(path)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte in the path
        what = "token" if name.endswith("token") else "password"
        problems.append(given[from_file].problem(f"cannot read the {what} from {path}: {error}"))


def exposed(found: os.stat_result) -> str:
    """Returns who else can use a file with a secret, "" without such users.

    It belongs to this user or to root, and others have no access. Its group may read it only where it is root's: so Kubernetes mounts
    secrets for a process that is not root.
    """
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    if found.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    if mode & 0o007:
        return f"can be used by every user of this host (mode {mode:04o})"
    if mode & 0o030 or (mode & 0o040 and found.st_uid):
        return f"can be used by its group (mode {mode:04o})"
    return ""


# --- allowed values -------------------------------------------------------------------------------------------------


def _convert(declared: Field[Any], value: Any) -> Any:
    """Returns the value in the field's type: text is parsed, any other value must have the type. Raises ValueError."""
    metadata, kind = declared.metadata, declared.metadata["kind"]
    parsed = _PARSERS[kind](value, metadata["unit"])
    if metadata["choices"]:
        return _chosen(parsed, metadata["choices"])
    if kind in (int, float) and not metadata["low"] <= parsed <= metadata["high"]:
        bounds = f"at least {metadata['low']:g}" if parsed < metadata["low"] else f"at most {metadata['high']:g}"
        raise ValueError(f"{parsed} is out of range; it must be {bounds} {metadata['unit']}".rstrip())
    return parsed


def _chosen(value: str, choices: tuple[str, ...]) -> str:
    for choice in choices:
        if choice.lower() == value.lower():
            return choice
    raise ValueError(f"{value!r} is not one of {', '.join(choices)}")


def _parse_bool(value: Any, _unit: str) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str) and value.strip().lower() in known:
        return known[value.strip().lower()]
    raise ValueError(f"{value!r} is neither true nor false")


_SIZE = re.compile(r"(\d[\d_]*)\s*(KiB|MiB|GiB|)", re.IGNORECASE)
_SIZES = {"": 1, "kib": KIB, "mib": MIB, "gib": GIB}


def _parse_int(value: Any, unit: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        if unit == "bytes" and (size := _SIZE.fullmatch(value.strip())):
            return int(size[1]) * _SIZES[size[2].lower()]
        try:
            return int(value)
        except ValueError:
            pass  # reported below, with a better message
    raise ValueError(f"{value!r} is not a whole number" + (" of bytes, such as 1048576 or 1MiB" if unit == "bytes" else ""))


def _parse_float(value: Any, unit: str) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(f"{value!r} is not a number" + (f" of {unit}" if unit else ""))


def _parse_text(value: Any, _unit: str) -> str:
    if isinstance(value, str):
        return value.strip()
    raise ValueError(f"{value!r} is not a text")


def _parse_path(value: Any, _unit: str) -> Path:
    if isinstance(value, Path):
        return value
    if text := _parse_text(value, _unit):
        return Path(text)
    raise ValueError("the path is empty")


_PARSERS: Final[Mapping[type, Callable[[Any, str], Any]]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: _parse_text,
    Path: _parse_path,
    Secret: lambda value, _unit: value if isinstance(value, Secret) else Secret(value),
}


def _conflicts(settings: Settings, given: Mapping[str, _Given]) -> Iterator[Problem]:
    """Yields the problems of combinations: values that exclude each other."""

    def at(name: str) -> _Given:
        return given.get(name, _Given(None, name))

    if settings.chunk_rows > settings.max_batch_rows:
        yield at("chunk_rows").problem(f"chunk_rows {settings.chunk_rows} is more than max_batch_rows {settings.max_batch_rows}")
    if settings.security_protocol.startswith("SASL") and not (settings.sasl_username and settings.sasl_password):
        yield at("security_protocol").problem(
            f"{settings.security_protocol} needs a user and a password",
            "set sasl_username, and sasl_password_file or PENSTOCK_SASL_PASSWORD",
        )
    if (settings.ssl_certfile is None) != (settings.ssl_keyfile is None):
        yield at("ssl_certfile").problem("ssl_certfile and ssl_keyfile need each other", "set both or neither")
    if far := in_the_clear(settings):
        yield at("brokers").problem(
            f"the connection to {', '.join(far)} would be unencrypted",
            "set security_protocol to SSL or SASL_SSL, or allow it with insecure_plaintext",
        )
    if (settings.serve_certfile is None) != (settings.serve_keyfile is None):
        yield at("serve_certfile").problem("serve_certfile and serve_keyfile need each other", "set both or neither")
    if settings.serve_cafile and not settings.serve_certfile:
        yield at("serve_cafile").problem("client certificates are shown over TLS only", "set serve_certfile and serve_keyfile")
    yield from _registry_conflicts(settings, at)
    if _holds_password(settings.store):
        yield at("store").problem("a URL with a password would be shown", "set store_password_file, or PENSTOCK_STORE_PASSWORD")
    if settings.unsigned_control:
        if far := _far(settings.brokers) if not settings.insecure_plaintext else []:
            yield at("unsigned_control").problem(
                f"every client that can write to the control topic at {', '.join(far)} could swap the models",
                "sign the messages (`penstock keys new`); unsigned ones are for brokers on this host",
            )
        if (trust := settings.trust.expanduser()).is_file() and trust.stat().st_size:
            yield at("unsigned_control").problem(
                f"it accepts what the keys in {settings.trust} have not signed", "leave it out, or remove the trust file"
            )


def _registry_conflicts(settings: Settings, at: Callable[[str], _Given]) -> Iterator[Problem]:
    """Yields what is wrong with the settings of the schema registry."""
    for text in filter(None, map(str.strip, settings.schema_registry_url.split(","))):
        place = at("schema_registry_url")
        try:
            url = urlsplit(text)
            wrong = url.scheme not in ("http", "https") or not url.hostname or url.port == 0 or bool(url.query or url.fragment)
        except ValueError:  # a port that is not a number
            url, wrong = urlsplit(""), True
        if wrong:
            yield place.problem(f"{text!r} is not a URL such as https://registry:8081")
        elif url.username is not None or url.password is not None:
            yield place.problem("a URL with a user would be shown", "set schema_registry_username and schema_registry_password_file")
        elif url.scheme == "http" and not is_loopback(url.hostname or "") and not settings.insecure_plaintext:
            yield place.problem(f"the connection to {url.hostname} would be unencrypted", "use https, or allow it with insecure_plaintext")
    if bool(settings.schema_registry_username) != bool(settings.schema_registry_password):
        fix = "set schema_registry_username, and schema_registry_password_file or PENSTOCK_SCHEMA_REGISTRY_PASSWORD"
        yield at("schema_registry_username").problem("the schema registry needs a user and a password", fix)
    if settings.schema_registry_username and settings.schema_registry_token:
        yield at("schema_registry_token").problem("a user and a token for the schema registry exclude each other", "set one of them")
    if (settings.schema_registry_certfile is None) != (settings.schema_registry_keyfile is None):
        yield at("schema_registry_certfile").problem("schema_registry_certfile and schema_registry_keyfile need each other", "set both")


def _holds_password(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.password is not None or "password" in parse_qs(url.query, keep_blank_values=True)
    except ValueError:  # not a URL: what opens it reports that, without showing it
        return "@" in text


def in_the_clear(settings: Settings) -> list[str]:
    """Returns the brokers on other hosts whose connection would be unencrypted, although the settings do not allow it."""
    if settings.insecure_plaintext or not settings.security_protocol.endswith("PLAINTEXT"):
        return []
    return _far(settings.brokers)


def _far(brokers: str) -> list[str]:
    """Returns the brokers on other hosts."""
    return [broker for one in brokers.split(",") if (broker := one.strip()) and not is_loopback(_host(broker))]


def _host(broker: str) -> str:
    return broker.rpartition(":")[0].strip("[]") or broker


def is_loopback(host: str) -> bool:
    """Returns whether the host, a name or an address, is this one."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
