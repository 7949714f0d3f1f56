"""Who is obeyed, on a real Kafka: what others write to the control topic changes nothing, and `penstock status` counts it by reason."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, Producer
from cryptography.hazmat.primitives.asymmetric import ec

from penstock.control.messages import Abort, Activate, Message, Release, encode, new_id, parse, timestamp
from penstock.control.trust import seal
from penstock.control.trust.keys import SigningKey, from_text, to_text
from penstock.record import Record
from penstock.testing import Broker, produce, read_all, wait_for
from tests.kafka.operating import (
    Flow,
    announced,
    in_force,
    must_be_signed,
    new_key,
    penstock,
    push,
    state_of,
    status,
    told_by,
    trusted,
    wait_until,
    wait_until_ready,
    wait_until_stands,
)
from tests.kafka.running import Job, make_job
from tests.memory import peak
from tests.unit.model.issued import private_pem, public_pem

pytestmark = pytest.mark.broker

FLOOD = 20_000


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    """A job whose releases must be signed; alice may release for it, bob for another topology."""
    made = make_job(broker, tmp_path)
    must_be_signed(made)
    trusted(made, "bob", "others")
    return made


def key_of(job: Job, name: str) -> SigningKey:
    return SigningKey.load(job.folder / f"{name}.pem")


def said(job: Job) -> list[Record]:
    """What stands on the control topic."""
    return read_all(job.broker, job.releases.control)


def opened(record: Record) -> Message:
    return parse(from_text((record.value or b"").split(b".")[1]))


def write(job: Job, *values: bytes, id: str = "") -> None:
    """Writes to the control topic, past all commands."""
    produce(job.broker, [Record(job.releases.control, value, id.encode() or None) for value in values])


def say(job: Job, message: Message, key: SigningKey | None) -> None:
    write(job, seal(message, key), id=message.id)


def signed(payload: bytes, key: SigningKey, kid: SigningKey | None = None) -> bytes:
    """The payload, whatever it is, signed by `key` in the name of `kid`."""
    header = json.dumps({"alg": "EdDSA", "typ": "penstock-control+json", "kid": (kid or key).kid}).encode()
    text = to_text(header) + b"." + to_text(payload)
    return text + b"." + to_text(key.private.sign(text))


def test_what_others_say_is_refused_by_reason_and_changes_nothing(job: Job) -> None:
    alice, bob, mallory = key_of(job, "alice"), key_of(job, "bob"), SigningKey.load(Path(new_key(job, "mallory")))
    with job.run() as worker, Flow(job) as flow:
        wait_until_ready(job, worker)
        given_up = announced(job, push(job, 9.0))
        assert penstock(job, "abort", "doubles", given_up).code == 0
        in_force(job, push(job, 3.0))
        before = said(job)
        real = next(one for one in map(opened, before) if isinstance(one, Release) and one.id != given_up)

        def another(**fields: Any) -> Release:
            return msgspec.structs.replace(real, **{"id": new_id(), "base": 1, "baseline": {}, "time": timestamp(), **fields})

        old = timestamp(time.time() - 600)
        say(job, another(), None)
        say(job, another(author="mallory"), mallory)
        say(job, another(author="bob"), bob)
        say(job, another(author="bob"), alice)
        say(job, another(topology="others"), alice)
        say(job, another(cluster="another"), alice)
        say(job, another(control_topic="others.doubles.control"), alice)
        say(job, another(version=1, control_topic=""), alice)
        say(job, another(time=old), alice)
        say(job, another(time=timestamp(time.time() + 600)), alice)
        say(job, Activate(**{**opening(another()), "time": old}), alice)
        say(job, Abort(**opening(another())), alice)
        for record in before:  # the releases, the activation and the abort, byte for byte
            produce(job.broker, [Record(job.releases.control, record.value, record.key)])
        forged = another()
        write(job, signed(msgspec.json.encode(forged), mallory, alice), id=forged.id)
        for more in ({"version": 3}, {"kind": "freeze"}, {"strategy": {"kind": "canary", "share": 0.01}}, {"version": 1}):
            later = {**json.loads(encode(forged)), **more}
            write(job, signed(json.dumps(later).encode(), alice), id=forged.id)
        write(job, seal(forged, alice), id=new_id())
        write(job, b"\x00\xff" * 50, b"{", b"", b"a.b.c", b"x" * 100_000)
        refused = {
            "unsigned": 2, "unknown-key": 1, "not-allowed": 1, "author": 1, "wrong-topology": 1, "wrong-cluster": 1, "wrong-topic": 1,
            "old-version": 1, "clock": 3, "moot": 3, "repeated": 2, "bad-signature": 1, "newer": 1, "unknown-kind": 1,
            "unknown-strategy": 1, "wrong-key": 1, "malformed": 3, "empty": 1, "too-large": 1,
        }  # fmt: skip
        told = wait_until(job, worker, "all of it refused", lambda told: sum(told.get("refused", {}).values()) == sum(refused.values()))
        assert told["refused"] == refused == status(job)["refused"]
        assert (told["generation"], told["wanted"]) == (1, 1)
        assert "2 repeated" in penstock(job, "status", "doubles").out
        assert status(job)["pending"] == []
        flow.wait_for_more()
        in_force(job, push(job, 4.0))
        flow.wait_for_more()
    assert flow.scored() == {(0, 2.0), (1, 3.0), (2, 4.0)}


def opening(message: Message) -> dict[str, Any]:
    """What the message says of itself, for another one about the same release."""
    return {name: getattr(message, name) for name in ("id", "topology", "cluster", "control_topic", "time", "author")}


def test_a_flood_costs_the_reading_of_it(job: Job) -> None:
    """A fifth of it in alice's name, so that it is held against her key."""
    alice, mallory = key_of(job, "alice"), SigningKey.new("mallory")

    def junk() -> Iterator[tuple[str, bytes]]:
        lie = signed(b"{}", mallory, alice)
        for number in range(FLOOD):
            yield job.releases.control, lie if number % 5 == 0 else b"%d " % number * 30

    with job.run() as worker, Flow(job) as flow:
        wait_until_ready(job, worker)
        in_force(job, push(job, 3.0))
        flow.wait_for_more()
        before = peak(worker.process.pid)
        assert handed_over(job, junk(), **{"batch.size": 65_536}) == {None}
        flow.wait_for_more()
        refused = {"bad-signature": FLOOD // 5, "malformed": FLOOD - FLOOD // 5}
        wait_until(job, worker, "the flood", lambda told: told.get("refused") == refused)
        assert peak(worker.process.pid) - before < 50 * 1024**2
        in_force(job, push(job, 4.0))
        flow.wait_for_more()
    assert flow.scored() == {(0, 2.0), (1, 3.0), (2, 4.0)}


def test_what_unpacks_to_more_than_a_message_may_be_is_refused_by_the_broker(job: Job) -> None:
    bombs = [(topic, b"\0" * 50_000_000) for topic in job.releases]
    packed: dict[str, str | int] = {"compression.type": "gzip", "message.max.bytes": 100_000_000}
    assert handed_over(job, bombs, **packed) == {KafkaError.MSG_SIZE_TOO_LARGE}


def handed_over(job: Job, values: Iterable[tuple[str, bytes]], **options: str | int) -> set[int | None]:
    """Writes values to topics as fast as it goes; the codes of the broker's answers, None where it took one."""
    codes: set[int | None] = set()
    producer = Producer({"bootstrap.servers": job.broker.bootstrap, "retries": 0, **options})
    for topic, value in values:
        producer.produce(topic, value, b"key", on_delivery=lambda error, _: codes.add(error.code() if error else None))
        producer.poll(0)
    producer.flush()
    producer.close()
    return codes


def test_a_key_is_trusted_and_revoked_while_the_worker_runs(job: Job) -> None:
    with job.run() as worker, Flow(job) as flow:
        wait_until_ready(job, worker)
        in_force(job, push(job, 3.0))
        carol = new_key(job, "carol")
        done = penstock(job, "deploy", "doubles", f"double={push(job, 4.0)}", "--signing-key", carol)
        assert done.code == 2
        assert "workers would refuse its messages" in done.err
        flow.wait_for_more()

        public = penstock(job, "keys", "public", carol).out.strip()
        assert penstock(job, "keys", "trust", "carol", "--public", public, "--topology", "doubles").code == 0
        stolen = datetime.now(UTC).isoformat()
        in_force(job, "double@3", "--signing-key", carol)
        flow.wait_for_more()

        assert penstock(job, "keys", "revoke", "alice").code == 0
        done = penstock(job, "deploy", "doubles", f"double={push(job, 5.0)}")
        assert done.code == 8
        assert "alice was revoked at " in done.err
        assert "Nothing was written; by " in done.err
        assert ", carol may" in done.err
        past = next(one for one in map(opened, said(job)) if isinstance(one, Release))
        say(job, msgspec.structs.replace(past, id=new_id(), base=2, baseline={}, time=timestamp()), key_of(job, "alice"))
        told = wait_until(job, worker, "the refusal", lambda told: told.get("refused") == {"revoked": 1})
        assert told["generation"] == told["wanted"] == 2
        assert [one["author"] for one in history(job)] == ["alice", "carol"]
        flow.wait_for_more()

        pending = announced(job, "double@4", "--signing-key", carol)
        wait_until_stands(job, worker, pending, "ready")
        assert penstock(job, "keys", "revoke", "carol", "--at", stolen).code == 0
        told = wait_until(job, worker, "the generation before", lambda told: told["generation"] == 1)
        assert told["models"] == {"double": "double@2"}
        assert "problems" not in told
        assert told["refused"]["revoked"] == 4
        assert "no key that is trusted now has announced it" in wait_until_stands(job, worker, pending, "stale")
        flow.wait_for_more()

        (job.folder / "trust.toml").write_text("[keys.alice]\npublic = 7\n")
        wait_for(lambda: "the keys of the previous trust file stay trusted" in worker.log, "the word that the file is wrong")
        (job.folder / "trust.toml").unlink()
        wait_for(lambda: "this file of trusted keys does not exist" in worker.log, "the word that the file is gone")
        flow.wait_for_more()
        (job.folder / "trust.toml").write_text("")
        lost = ["with the keys that are trusted now, there is no release; generation 1 still scores here"]
        told = wait_until(job, worker, "the loss of trust", lambda told: told.get("problems") == lost)
        assert (told["generation"], told["wanted"]) == (1, 0)
        flow.wait_for_more()
    assert flow.scored() == {(0, 2.0), (1, 3.0), (2, 4.0)}


def history(job: Job) -> list[dict[str, str]]:
    """The releases that were put in force, the oldest first."""
    found = penstock(job, "releases", "ls", "doubles", "--format", "json")
    assert found.code == 0, found.err
    return sorted((one for one in found.json if one["generation"]), key=lambda one: int(one["generation"]))


def test_a_model_that_a_stranger_signed_is_not_loaded(job: Job, tmp_path: Path) -> None:
    job.file.write_text(f"{job.file.read_text()}releases: {{signatures: require}}\n")
    (tmp_path / "model-keys").mkdir()
    for name in ("ours", "stranger"):
        key = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / f"{name}.pem").write_bytes(private_pem(key))
        (tmp_path / f"{name}.public").write_bytes(public_pem(key))
    (tmp_path / "ours.public").rename(tmp_path / "model-keys" / "ours.pem")
    sign(job, "double@1", "ours")
    with job.run("--model-trust", str(tmp_path / "model-keys")) as worker, Flow(job) as flow:
        wait_until_ready(job, worker)
        version = push(job, 3.0)
        for reason, signer in (("it is not signed", ""), ("which is not one of the trusted keys: ours.pem", "stranger")):
            if signer:
                sign(job, version, signer)
            done = penstock(job, "deploy", "doubles", f"double={version}", "--format", "json")
            assert done.code == 8
            state, why = state_of(told_by(job, worker), done.json["release"]["id"])
            assert (state, why.split(":")[0]) == ("failed", "verifying")
            assert reason in why
            flow.wait_for_more()
        (tmp_path / "stranger.public").rename(tmp_path / "model-keys" / "stranger.pem")
        in_force(job, version)
        flow.wait_for_more()
    assert flow.scored() == {(0, 2.0), (1, 3.0)}


def sign(job: Job, version: str, name: str) -> None:
    done = penstock(job, "model", "sign", version, "--models", str(job.folder / "models"), "--key", str(job.folder / f"{name}.pem"))
    assert done.code == 0, done.err


def test_keys_do_what_they_may_and_the_command_says_at_once_who_may_do_more(job: Job) -> None:
    """Before anything is written; and a message that is written past the command is refused by every reader."""
    trust = dict.fromkeys(("promote", "rollback", "deploy"), "")
    for right in trust:
        trust[right] = trusted(job, f"{right}er", flags=("--may", right))
    trusted(job, "gone", flags=("--from", "2020-01-01T00:00:00Z", "--expires", "2020-01-02T00:00:00Z"))
    two, three = push(job, 3.0), push(job, 4.0)
    with job.run(trust=str(job.folder / "trust.toml")) as worker, Flow(job) as flow:
        wait_until_ready(job, worker)
        before = len(said(job))
        for key in (trust["promote"], trust["rollback"]):
            done = penstock(job, "deploy", "doubles", f"double={two}", "--signing-key", key, "--format", "json")
            assert (done.code, done.json["code"]) == (8, "not-allowed")
            assert "and this needs the right to deploy. Nothing was written;" in done.err
            assert "trust.toml, alice, deployer may" in done.err
        done = penstock(job, "deploy", "doubles", f"double={two}", "--signing-key", str(job.folder / "gone.pem"))
        assert done.code == 8
        assert "gone expired at 2020-01-02T00:00:00.000Z. Nothing was written;" in done.err
        assert "trust.toml, alice, deployer may" in done.err
        for key, word, change in [("gone", "expired", two), ("promoteer", "needs the right", two), ("gone", "expired", "double@1")]:
            flags = ("--signing-key", str(job.folder / f"{key}.pem"), "--dry-run")
            done = penstock(job, "deploy", "doubles", f"double={change}", *flags)
            assert (done.code, "dry run" in done.out, word in done.err) == (8, False, True), done.err
            assert "alice, deployer may" in done.err
        done = penstock(job, "deploy", "doubles", f"double={two}", "--signing-key", trust["deploy"], "--dry-run")
        assert (done.code, "requirements, tensors and the rights of the key fit" in done.out) == (0, True), done.err
        assert len(said(job)) == before

        in_force(job, two, "--signing-key", trust["deploy"])
        pending = announced(job, three, "--signing-key", trust["deploy"])
        wait_until_stands(job, worker, pending, "ready")
        done = penstock(job, "deploy", "doubles", "--resume", pending, "--signing-key", trust["rollback"])
        assert (done.code, "needs the right to promote" in done.err) == (8, True), done.err
        done = penstock(job, "deploy", "doubles", "--resume", pending, "--signing-key", trust["promote"])
        assert done.code == 0, done.err
        flow.wait_for_more()
        done = penstock(job, "rollback", "doubles", "--signing-key", trust["promote"])
        assert (done.code, "needs the right to deploy or roll back" in done.err) == (8, True), done.err
        done = penstock(job, "rollback", "doubles", "--signing-key", trust["rollback"])
        assert done.code == 0, done.err
        pending = announced(job, three, "--signing-key", trust["deploy"])
        assert penstock(job, "abort", "doubles", pending, "--signing-key", trust["rollback"]).code == 0

        past = next(one for one in map(opened, said(job)) if isinstance(one, Release) and one.restores is not None)
        own = SigningKey.load(Path(trust["rollback"]))
        false = msgspec.structs.replace(past, id=new_id(), base=3, restores=2, time=timestamp())
        say(job, false, own)
        say(job, msgspec.structs.replace(false, id=new_id(), restores=None), own)
        told = wait_until(job, worker, "both refused", lambda told: len(told.get("refused", {})) == 2)
        assert told["refused"] == {"not-restored": 1, "not-allowed": 1} == status(job)["refused"]
        assert "1 not-restored" in penstock(job, "status", "doubles").out
        assert (told["generation"], told["wanted"]) == (3, 3)
        flow.wait_for_more()
    assert flow.scored() == {(0, 2.0), (1, 3.0), (2, 4.0), (3, 3.0)}


@pytest.mark.parametrize("end", ["--expires", "revoke"])
def test_worker_with_a_key_that_can_no_longer_roll_back_scores_and_says_so(job: Job, end: str) -> None:
    job.file.write_text(job.file.read_text() + "releases: {on_invalid: rollback}\n")
    path = str(job.folder / "trust.toml")
    key = trusted(job, "keeper", flags=("--may", "rollback"))
    with job.run("--signing-key", key, trust=path) as worker:
        wait_until_ready(job, worker)
        assert "problems" not in told_by(job, worker)
        file, text = Path(path), Path(path).read_text()
        at = "2020-01-02T00:00:00Z"
        head, section, keeper = text.partition("[keys.keeper]")
        assert section
        keeper = keeper.replace("trusted = ", "trusted = 2020-01-01T00:00:00Z  # ", 1)
        line = f"\nexpires = {at}" if end == "--expires" else f"\nrevoked = {at}"
        file.write_text(f"{head}{section}{line}{keeper}")
        word = "expired" if end == "--expires" else "was revoked"
        told = wait_until(job, worker, "its problem", lambda told: bool(told.get("problems")))
        assert told["problems"] == [f"the key of this worker cannot roll back: keeper {word} at 2020-01-02T00:00:00.000Z"]
    with job.run("--signing-key", key, trust=path) as again:
        told = wait_until(job, again, "its problem", lambda told: bool(told.get("problems")))
        assert told["problems"] == [f"the key of this worker cannot roll back: keeper {word} at 2020-01-02T00:00:00.000Z"]
        wait_until_ready(job, again)


def test_deploy_says_within_seconds_which_worker_has_refused_it_and_why(job: Job) -> None:
    other = job.folder / "other.toml"
    other.write_text((job.folder / "trust.toml").read_text().split("[keys.bob]")[0].replace("[keys.alice]", "[keys.anna]"))
    empty = job.folder / "empty.toml"
    empty.write_text("")
    model = push(job, 3.0)
    with job.run(trust=str(job.folder / "trust.toml")) as good:
        wait_until_ready(job, good)
        with job.run(trust=str(other)) as bad:
            wait_until_ready(job, bad)
            name = told_by(job, bad)["worker"]
            done = penstock(job, "deploy", "doubles", f"double={model}", "--timeout", "1000", "--format", "json")
            assert (done.code, done.json["code"]) == (8, "not-ready")
            assert f"\n  {name}: refused: author: anna signed as alice; give the key the same name in every trust file" in done.err
            assert bad.stop() == 0, bad.log
        with job.run("--from-file", trust=str(empty)) as bad:
            wait_until_ready(job, bad)
            assert "no key is trusted" in bad.log
            name = told_by(job, bad)["worker"]
            done = penstock(job, "status", "doubles")
            assert f"no key is trusted by {name}, which refuse every release" in " ".join(done.out.split())
            done = penstock(job, "deploy", "doubles", f"double={model}", "--timeout", "1000")
            assert done.code == 8
            assert f"{name}: refused: unknown-key: key {key_of(job, 'alice').kid} is not in the trust file; add the key" in done.err


def test_worker_without_its_trust_file_does_not_go_back_to_older_models(job: Job) -> None:
    """A restart whose folder of keys was not mounted, and one with a file of other keys: each would be a rollback in silence."""
    model = push(job, 3.0)
    with job.run(trust=str(job.folder / "trust.toml")) as worker:
        worker.wait_until_assigned()
        in_force(job, model)
        assert worker.stop() == 0, worker.log
    with job.run(trust=str(job.folder / "away" / "trust.toml")) as worker:
        assert worker.wait() == 2, worker.log
        assert "does not exist" in worker.log
        assert "mounted" in worker.log
    other = job.folder / "other.toml"
    other.write_text("")
    with job.run(trust=str(other)) as worker:
        assert worker.wait() == 2, worker.log
        assert "signed with keys that this file does not have" in worker.log
        assert "--from-file" in worker.log
    done = penstock(job, "history", "doubles", "--trust", str(other))
    told = " ".join(done.out.split())
    assert "no release of a key that is trusted here was activated" in told
    assert "control messages without effect: 2 unknown-key; the last refused, at offset" in told
    assert penstock(job, "history", "doubles", "--trust", str(other), "--format", "json").json["refused"] == {"unknown-key": 2}
    with job.run("--from-file", trust=str(other)) as worker:
        worker.wait_until_assigned()
        assert "generation 0 is live" in worker.log
        assert "refused here: 2 unknown-key" in worker.log
        assert "no key is trusted" in worker.log
        assert worker.stop() == 0, worker.log
