"""A setting comes from flag, environment, file or default, in that order; everything wrong is said at once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.trust import Trust
from penstock.errors import ConfigError, SettingsError
from penstock.model import manifest
from penstock.settings import MIB, Secret, Settings, describe, environment_name, flag_name, load, resolve, run_flags


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "penstock.toml"
    path.write_text("workers = 3\n\ncommit_interval = 5\n")
    return path


def problems(**sources: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**{"flags": {}, "environ": {}, **sources})  # type: ignore[arg-type]  # the point is to give it wrong things
    return [str(problem) for problem in caught.value.problems]


def test_defaults_need_nothing() -> None:
    """No flag, no variable, no file."""
    assert load({}, environ={}) == Settings()


def test_flag_beats_environment_beats_file_beats_default(file: Path) -> None:
    """One value from each place, and the place is told."""
    settings, sources = resolve({"workers": 7}, environ={"PENSTOCK_WORKERS": "5", "PENSTOCK_CHUNK_ROWS": "128"}, file=file)

    assert (settings.workers, settings.chunk_rows, settings.commit_interval, settings.drain_timeout) == (7, 128, 5.0, 30.0)
    assert sources == {"workers": "--workers", "chunk_rows": "PENSTOCK_CHUNK_ROWS", "commit_interval": f"{file}:3"}


def test_flag_that_is_not_given_is_none(file: Path) -> None:
    """Click passes None for it, and the file's value stands."""
    assert load({"workers": None}, environ={}, file=file).workers == 3


def test_file_in_the_current_folder_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load({}, environ={}).workers == 3


def test_environment_names_the_file(file: Path) -> None:
    assert load({}, environ={"PENSTOCK_CONFIG": str(file)}).workers == 3


def test_named_file_must_exist(tmp_path: Path) -> None:
    """Unlike penstock.toml in the current folder, which may be missing."""
    [problem] = problems(file=tmp_path / "absent.toml")
    assert "absent.toml: cannot read the settings file: No such file" in problem


def test_every_problem_of_every_source_is_told_at_once(tmp_path: Path) -> None:
    """A person edits once. Unknown names come with the nearest known one, and the file's with their line."""
    path = tmp_path / "p.toml"
    path.write_text("# mine\nworker = 3\nmodels = 5\n[kafka]\nx = 1\n")

    told = problems(
        flags={"workres": "1", "chunk_rows": 0}, environ={"PENSTOCK_COMMIT_INTERVALL": "1", "PENSTOCK_DEBUG": "maybe"}, file=path
    )

    assert told == [
        f"{path}:2:1: there is no setting worker (did you mean workers?)",
        f"{path}:4:1: there is no setting kafka (`penstock settings` lists them)",
        "PENSTOCK_COMMIT_INTERVALL: there is no setting PENSTOCK_COMMIT_INTERVALL (did you mean PENSTOCK_COMMIT_INTERVAL?)",
        "--workres: there is no setting --workres (did you mean --workers?)",
        f"{path}:3:1: models: 5 is not a text",
        "--chunk-rows: chunk_rows: 0 is out of range; it must be at least 1 rows",
        "PENSTOCK_DEBUG: debug: 'maybe' is neither true nor false",
    ]


def test_broken_file_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("workers = 3\nmodels = \n")
    assert problems(file=path)[0].startswith(f"{path}:2:10: not a TOML file")


def test_variables_that_kubernetes_sets_are_not_settings() -> None:
    """A Service named penstock puts these into every pod of its namespace."""
    links = {
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_SERVICE_PORT_HTTP": "80",
        "PENSTOCK_PORT": "tcp://10.0.0.1:80",
        "PENSTOCK_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load({}, environ=links) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_in_flight_bytes", "8MiB", 8 * MIB),
        ("max_in_flight_bytes", "1_048_576", MIB),
        ("fetch_linger_ms", "0", 0.0),
        ("insecure_plaintext", "yes", True),
        ("compression", "ZSTD", "zstd"),
        ("security_protocol", "ssl", "SSL"),
        ("ssl_cafile", "ca.pem", Path("ca.pem")),
    ],
)
def test_text_is_parsed_by_the_type_of_the_setting(name: str, text: str, value: object) -> None:
    assert getattr(load({}, environ={environment_name(name): text}), name) == value


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("workers", "two", "'two' is not a whole number"),
        ("workers", True, "True is not a whole number"),
        ("workers", 2000, "it must be at most 1024"),
        ("fetch_bytes", "8MB", "'8MB' is not a whole number of bytes, such as 1048576 or 1MiB"),
        ("commit_interval", "nan", "'nan' is not a number of s"),
        ("commit_interval", "0", "0.0 is out of range; it must be at least 0.01 s"),
        ("compression", "rar", "'rar' is not one of none, gzip, lz4, zstd, snappy"),
        ("models", "", "the path is empty"),
        ("debug", 1, "1 is neither true nor false"),
    ],
)
def test_value_that_does_not_fit_is_told_with_what_would(name: str, given: object, told: str) -> None:
    [problem] = problems(flags={name: given})
    assert told in problem
    assert problem.startswith(f"{flag_name(name)}: {name}: ")


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Settings)]), st.text(max_size=12)))
def test_any_text_is_a_setting_or_a_settings_error(values: dict[str, str]) -> None:
    """Nothing that a shell can set raises anything else."""
    values.pop("sasl_password_file", None)  # would read whatever file the text names
    with contextlib.suppress(SettingsError):
        load({}, environ={environment_name(name): value for name, value in values.items()})


def test_chunk_larger_than_a_batch_is_refused() -> None:
    assert problems(flags={"chunk_rows": 4096}) == ["--chunk-rows: chunk_rows 4096 is more than max_batch_rows 2048"]


@pytest.mark.parametrize("brokers", ["localhost:9092", "127.0.0.1:9092,127.0.0.5:1", "[::1]:9092", "localhost", ""])
def test_plaintext_is_fine_on_this_host(brokers: str) -> None:
    assert load({"brokers": brokers}, environ={}).brokers == brokers


@pytest.mark.parametrize("brokers", ["kafka:9092", "localhost:9092,10.0.0.7:9092", "127.0.0.1.example.org:9092"])
def test_plaintext_beyond_this_host_must_be_asked_for(brokers: str) -> None:
    assert "would be unencrypted" in problems(flags={"brokers": brokers})[0]
    assert load({"brokers": brokers, "insecure_plaintext": True}, environ={}).brokers == brokers
    assert load({"brokers": brokers, "security_protocol": "SSL"}, environ={}).brokers == brokers


def test_unsigned_control_is_for_brokers_of_this_host_and_without_keys(tmp_path: Path) -> None:
    far = {"brokers": "kafka:9092", "unsigned_control": True, "security_protocol": "SSL"}
    assert "could swap the models" in problems(flags=far)[0]
    assert load({**far, "security_protocol": "PLAINTEXT", "insecure_plaintext": True}, environ={}).unsigned_control
    (tmp_path / "trust.toml").write_text("[keys.alice]\n")
    assert "have not signed" in problems(flags={"unsigned_control": True, "trust": tmp_path / "trust.toml"})[0]


def test_login_needs_user_and_password() -> None:
    assert "needs a user and a password" in problems(flags={"security_protocol": "SASL_SSL", "sasl_username": "ada"})[0]


def test_certificate_needs_its_key() -> None:
    assert "need each other" in problems(flags={"ssl_certfile": "me.pem"})[0]


def test_password_comes_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    path.chmod(0o600)

    settings, sources = resolve({"sasl_password_file": str(path)}, environ={})

    assert settings.sasl_password.reveal() == "correct horse"
    assert "correct horse" not in f"{settings!r} {settings} {describe(settings, sources)}"
    assert next(one for one in describe(settings, sources) if one.name == "sasl_password")[1:3] == ("***", str(path))


def test_password_in_the_environment_beats_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("old")
    settings = load({"sasl_password_file": path}, environ={"PENSTOCK_SASL_PASSWORD": "new"})
    assert settings.sasl_password == Secret("new")


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o660, 0o602, 0o620])
def test_password_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "password"
    path.write_text("old")
    path.chmod(mode)
    (found,) = problems(flags={"sasl_password_file": path})
    assert f"(mode {mode:04o})" in found
    assert f"chmod 600 {path}" in found


def test_password_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("old")
    path.chmod(0o600)
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)
    assert "belongs to another user" in problems(flags={"sasl_password_file": path})[0]


def test_password_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert "cannot read the password" in problems(flags={"sasl_password_file": tmp_path / "absent"})[0]


def test_password_in_the_settings_file_is_refused_unseen(tmp_path: Path) -> None:
    """The file is committed; the message must not repeat the password either."""
    path = tmp_path / "p.toml"
    path.write_text('sasl_password = "hunter2"\n')
    [problem] = problems(file=path)
    assert "does not belong in a settings file" in problem
    assert "hunter2" not in problem


def test_secret_hides_itself() -> None:
    assert (repr(Secret("x")), str(Secret("x")), repr(Secret()), bool(Secret())) == ("***", "***", "(not set)", False)
    assert {Secret("x"): 1}[Secret("x")] == 1


def test_every_setting_is_described() -> None:
    described = describe(*resolve({}, environ={}))
    assert [one.name for one in described] == [field.name for field in dataclasses.fields(Settings)]
    assert all(one.help.endswith(".") and one.source == "default" for one in described)


def test_run_has_a_flag_for_every_setting_but_a_password_and_what_comes_before_the_command() -> None:
    """A new setting gets its flag where it is declared."""
    assert not {"sasl_password", "log_level", "debug"} & set(run_flags())
    assert {"brokers", "workers", "max_batch_rows", "prepare_timeout"} <= set(run_flags())


HOSTILE_TOML = {"a long number": "n = " + "1" * 5000, "deep nesting": "n = " + "[" * 50_000}


@pytest.mark.parametrize("text", HOSTILE_TOML.values(), ids=HOSTILE_TOML)
def test_every_file_in_toml_that_cannot_be_parsed_is_one_error(text: str, tmp_path: Path) -> None:
    """Whatever the parser raises. A worker keeps the keys that it trusts when its trust file becomes one of these."""
    path = tmp_path / "some.toml"
    path.write_text(text)
    for read in (lambda: load({}, environ={}, file=path), lambda: Trust.load(path), lambda: manifest.parse(text, file="some.toml")):
        with pytest.raises(ConfigError, match=r"some\.toml.*(not TOML|not a TOML file)"):
            read()


@pytest.mark.parametrize("setting", [None, "sasl_password_file"])
def test_a_pipe_is_refused_at_once(setting: str | None, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(SettingsError, match="pipe"):
        load({setting: pipe} if setting else {}, environ={}, file=None if setting else pipe)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"schema_registry_url": "registry:8081"}, "'registry:8081' is not a URL such as https://registry:8081"),
        ({"schema_registry_url": "https://a, https://b:x"}, "'https://b:x' is not a URL"),
        ({"schema_registry_url": "https://ada:secret@registry"}, "a URL with a user would be shown"),
        ({"schema_registry_url": "http://registry:8081"}, "the connection to registry would be unencrypted"),
        ({"schema_registry_username": "ada"}, "the schema registry needs a user and a password"),
        ({"schema_registry_certfile": "a.pem"}, "schema_registry_certfile and schema_registry_keyfile need each other"),
    ],
)
def test_settings_of_the_schema_registry_that_do_not_go_together(flags: dict[str, str], problem: str) -> None:
    (found,) = problems(flags=flags)
    assert problem in found
    assert "secret" not in found


def test_settings_of_the_schema_registry_have_secrets_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("t0ken\n")
    path.chmod(0o600)
    flags = {"schema_registry_url": "https://a,http://localhost:8081", "schema_registry_token_file": path}
    settings, sources = resolve(flags, environ={})
    assert settings.schema_registry_token.reveal() == "t0ken"
    assert sources["schema_registry_token"] == str(path)
    with pytest.raises(SettingsError, match="a user and a token for the schema registry exclude each other"):
        resolve({**flags, "schema_registry_username": "ada"}, environ={"PENSTOCK_SCHEMA_REGISTRY_PASSWORD": "p"})
    path.chmod(0o644)
    assert "schema_registry_token_file" in problems(flags={"schema_registry_token_file": path})[0]
