"""`penstock model`, from the outside: arguments in; exit code, stdout, stderr and files out."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
from onnx import helper

from penstock.cli.main import main
from penstock.errors import ModelCorrupt
from penstock.model.artifact import Artifact, digest_of
from penstock.model.golden import GoldenRecord, dump
from penstock.model.session import Session
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.unit.cli.done import Done, Run


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `penstock model ...` in an empty folder with the registry in `models/`."""
    monkeypatch.chdir(tmp_path)
    Path("linear.onnx").write_bytes(models.linear([1, 2]))

    def call(*arguments: str) -> Done:
        code = main(["model", *arguments])
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture
def registry(run: Run) -> DirectoryRegistry:
    made = DirectoryRegistry("models")
    made.publish("score", models.constant(1), description="says one [of many]")
    made.publish("score", models.constant(2))
    made.publish("rank", models.linear([1, 2]), metrics={"auc": 0.75}, provenance={"author": "us"})
    made.alias("score", "live", "1")
    return made


def test_push_registers_checks_and_says_that_golden_records_were_made_up(run: Run) -> None:
    done = run(
        "push", "linear.onnx", "--name", "score", "--metrics", "auc=0.7", "--author", "us", "--description", "two", "--alias", "live"
    )
    assert done.code == 0
    assert done.out == "pushed score@1 to models/score/1, and score@live points at it\n"
    assert "golden records were generated: they fix today's outputs and do not show that they are correct" in done.err
    manifest = DirectoryRegistry("models").resolve("score", "live").manifest
    assert (dict(manifest.metrics), dict(manifest.provenance), manifest.description) == ({"auc": 0.7}, {"author": "us"}, "two")
    assert manifest.golden.origin == "synthetic"


def test_push_with_golden_records_and_a_version(run: Run) -> None:
    Path("golden.json").write_text(dump([GoldenRecord({"x": [1.0, 1.0]}, {"y": [3.0]})]))
    done = run("push", "linear.onnx", "--name", "score", "--version", "1.2", "--golden", "golden.json", "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert done.json["version"] == "1.2"
    assert done.json["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2]}]
    assert done.json["golden"]["origin"] == "given"


def test_push_tells_of_made_up_rows_that_the_model_refuses(run: Run) -> None:
    Path("picky.onnx").write_bytes(models.gather([5.0]))
    Path("golden.json").write_text(dump([GoldenRecord({"x": [0]}, {"y": [5.0]})]))
    done = run("push", "picky.onnx", "--name", "score", "--golden", "golden.json")
    assert done.code == 0
    assert done.err.startswith("remark: not a problem, because the golden rows pass")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["linear.onnx", "--name", "Score"], 2, "'Score' is not a valid model name: use lower-case letters"),
        (["linear.onnx", "--name", "score", "--version", "v1"], 2, "'v1' is not a valid version"),
        (["linear.onnx", "--name", "score", "--metrics", "auc"], 2, "--metrics 'auc': write NAME=NUMBER, like auc=0.71"),
        (["linear.onnx", "--name", "score", "--metrics", "auc=nan"], 2, "--metrics 'auc=nan': write NAME=NUMBER"),
        (["linear.onnx", "--name", "score", "--alias", "1st"], 2, "'1st' is not a valid alias"),
        (["absent.onnx", "--name", "score"], 2, "'absent.onnx' does not exist"),
        (["wrong.json", "--name", "score"], 3, "not an ONNX file"),
        (["linear.onnx", "--name", "score", "--golden", "wrong.json"], 3, "output 'y': expected [4.0], got [3.0]"),
    ],
)
def test_push_that_cannot_be_done_registers_nothing(run: Run, arguments: list[str], code: int, said: str) -> None:
    Path("wrong.json").write_text(dump([GoldenRecord({"x": [1.0, 1.0]}, {"y": [4.0]})]))
    done = run("push", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert DirectoryRegistry("models").names() == []


def test_push_of_a_version_that_exists_is_refused(run: Run, registry: DirectoryRegistry) -> None:
    done = run("push", "linear.onnx", "--name", "score", "--version", "2")
    assert (done.code, done.err) == (3, "error: model score@2 exists, and versions never change; push it under the next version\n")


def test_ls_of_an_empty_registry_says_how_to_begin(run: Run) -> None:
    assert run("ls").out == "no models in models; push one: penstock model push FILE.onnx --name NAME\n"
    assert run("ls", "--format", "json").json == []


def test_ls(run: Run, registry: DirectoryRegistry) -> None:
    assert run("ls", "--format", "json").json == [
        {"name": "rank", "versions": ["1"], "aliases": {}},
        {"name": "score", "versions": ["1", "2"], "aliases": {"live": "1"}},
    ]
    (line,) = [line for line in run("ls").out.splitlines() if line.startswith("score")]
    assert "1, 2" in line
    assert "live → 1" in line


def test_show_of_a_name_is_its_latest_version(run: Run, registry: DirectoryRegistry) -> None:
    assert run("show", "score", "--format", "json").json["version"] == "2"


def test_show_tells_what_a_person_wants_to_know(run: Run, registry: DirectoryRegistry) -> None:
    shown = run("show", "score@live").out
    assert shown.startswith("score@1\n")
    assert "says one [of many]" in shown
    assert "8 synthetic, compared within 1e-05 + 0.0001 x expected" in shown
    assert "x: float32[N, 1]" in shown
    told = run("show", "rank@1", "--format", "json").json
    assert (told["metrics"], told["provenance"], told["aliases"]) == ({"auc": 0.75}, {"author": "us"}, [])


def test_show_of_what_is_not_there(run: Run, registry: DirectoryRegistry) -> None:
    assert run("show", "scor") == (3, "", "error: there is no model 'scor' in models; did you mean 'score'?; models: rank, score\n")
    assert run("show", "score@9").err == "error: version or alias '9' of score is not in models; versions and aliases: 1, 2, live\n"


def test_alias_moves_and_says_from_where(run: Run, registry: DirectoryRegistry) -> None:
    assert run("alias", "score", "live", "2").out == "score@live points at 2, previously at 1\n"
    assert run("alias", "score", "next", "2").out == "score@next points at 2\n"
    assert registry.aliases("score") == {"live": "2", "next": "2"}
    assert run("alias", "score", "live", "3").code == 3


def test_verify_of_everything(run: Run, registry: DirectoryRegistry) -> None:
    done = run("verify")
    assert done.code == 0
    assert done.out.splitlines() == [
        "ok     rank@1: 8 golden records passed (synthetic)",
        "ok     score@1: 8 golden records passed (synthetic)",
        "ok     score@2: 8 golden records passed (synthetic)",
        "3 of 3 versions are unchanged since they were pushed",
    ]


def test_verify_goes_on_after_a_failure_and_exits_with_3(run: Run, registry: DirectoryRegistry) -> None:
    broken = Path("models/score/1/model.onnx")
    broken.unlink()
    broken.write_bytes(models.constant(3))
    done = run("verify", "--format", "json")
    assert done.code == 3
    assert [(result["model"], result["ok"]) for result in done.json] == [("rank@1", True), ("score@1", False), ("score@2", True)]
    assert run("verify", "score@2").code == 0
    assert run("verify", "score@live").code == 3
    assert run("verify", "score").code == 3


def test_verify_of_what_is_not_there_fails(run: Run, registry: DirectoryRegistry) -> None:
    done = run("verify", "absent", "rank")
    assert done.code == 3
    assert done.out.startswith("FAILED absent: there is no model 'absent' in models; models: rank, score\nok     rank@1")


def test_the_registry_is_where_the_flag_says(run: Run) -> None:
    run("push", "linear.onnx", "--name", "score", "--models", "elsewhere")
    assert DirectoryRegistry("elsewhere").names() == ["score"]


def test_file_over_the_limit_is_refused_before_it_is_read(run: Run) -> None:
    with open("huge.onnx", "wb") as file:
        file.truncate(2**40)
    done = run("push", "huge.onnx", "--name", "huge")
    assert (done.code, done.err) == (3, "error: huge.onnx has 1,099,511,627,776 bytes, the limit is 536,870,912\n")


# --- what people have is what runs ------------------------------------------------------------------------------------------------------


CASES: Final = Path(__file__).parent.parent.parent / "cases"


@pytest.fixture
def pushed(run: Run) -> Callable[..., tuple[Done, Artifact]]:
    """Pushes one of the cases as `case`, and returns what was printed, and the version."""

    def push(case: str, *arguments: str) -> tuple[Done, Artifact]:
        done = run("push", str(CASES / case), "--name", "case", *arguments)
        assert done.code == 0, done.err
        return done, DirectoryRegistry("models").resolve("case", "1")

    return push


def test_push_of_a_text_pipeline_with_operators_of_the_runtime(pushed: Callable[..., tuple[Done, Artifact]]) -> None:
    done, artifact = pushed("text-tokenizer.onnx")
    assert done.err.startswith("changed: changes the case of text by the locale C.UTF-8")
    (label, _) = Session.load(artifact).run(
        ["label", "probabilities"], {"text": np.array([["storm again"], ["a quiet day"]], dtype=object)}
    )
    assert label[0] != label[1]


def test_push_says_how_a_model_of_a_fixed_number_of_rows_may_serve(run: Run) -> None:
    done = run("push", str(CASES / "fixed-batch-1.onnx"), "--name", "case")
    assert done.code == 3
    assert "input 'X' has a first axis of fixed size 1; export it with an open (dynamic) batch axis, or push it with --rows 1" in done.err
    done = run("push", str(CASES / "fixed-batch-1.onnx"), "--name", "case", "--rows", "4")
    assert "has a first axis of fixed size 1, and would be given 4 at a time" in done.err


def test_push_with_rows_keeps_them_in_the_manifest_and_the_version_runs_so(run: Run, pushed: Callable[..., tuple[Done, Artifact]]) -> None:
    _, artifact = pushed("fixed-batch-1.onnx", "--rows", "1")
    assert artifact.manifest.rows == 1
    x = np.linspace(-2, 2, 7, dtype=np.float32)[:, None]
    label, probabilities = Session.load(artifact).run(["label", "probabilities"], {"X": x})
    assert label.tolist() == (x[:, 0] > 0).astype(int).tolist()
    assert np.allclose(probabilities[:, 1], 1 / (1 + np.exp(-2 * x[:, 0])), atol=1e-6)
    assert "1 at a time" in run("show", "case").out
    assert run("show", "case", "--format", "json").json["rows"] == 1
    assert run("verify", "case").code == 0


def test_rows_that_depend_on_each_other_need_a_row_at_a_time(run: Run, pushed: Callable[..., tuple[Done, Artifact]]) -> None:
    """A recurrent model with its axes the other way round: right for one row, whose answer is then its own."""
    refused = run("push", str(CASES / "lstm-time-first.onnx"), "--name", "case")
    assert refused.err.endswith("; if it is right for one row at a time, push it with --rows 1\n")
    assert run("push", str(CASES / "lstm-time-first.onnx"), "--name", "case", "--rows", "2").code == 3
    _, artifact = pushed("lstm-time-first.onnx", "--rows", "1")
    rows = np.random.default_rng(1).random((9, 1, 4)).astype(np.float32)
    session = Session.load(artifact)
    (together,) = session.run(["y"], {"x": rows})
    assert np.array_equal(together, np.concatenate([session.run(["y"], {"x": rows[at : at + 1]})[0] for at in range(9)]))


def test_chance_is_refused_also_a_row_at_a_time(run: Run) -> None:
    done = run("push", str(CASES / "dropout-message.onnx"), "--name", "case", "--rows", "1")
    assert (done.code, done.err) == (3, "error: the model draws random numbers: Dropout (node ''); export it for inference\n")


def test_push_declares_the_axes_that_outputs_have(run: Run, pushed: Callable[..., tuple[Done, Artifact]]) -> None:
    """CatBoost declares [N] for a regressor, and the runtime returns [N, 1]."""
    done, artifact = pushed("frameworks/catboost-regressor.onnx")
    note = "declares 'predictions' as [N, 1], as a run showed, instead of what the file declared"
    assert done.err.startswith(f"changed: {note}\n")
    assert [str(tensor) for tensor in artifact.signature.outputs] == ["predictions: float32[N, 1]"]
    assert artifact.manifest.source is not None
    assert artifact.manifest.source.changes == (note,)
    assert run("verify", "case").code == 0
    with pytest.raises(ModelCorrupt, match=r"output predictions: float32\[N\] has the shape \[8, 1\]; `penstock model push` corrects"):
        DirectoryRegistry("others").publish("case", (CASES / "frameworks/catboost-regressor.onnx").read_bytes())


def test_push_leaves_out_an_output_that_no_topology_can_read(run: Run, pushed: Callable[..., tuple[Done, Artifact]]) -> None:
    done, artifact = pushed("extra-output-sequence.onnx")
    note = "left out the output 'probabilities', which is a sequence, not a tensor of a batch"
    assert f"changed: {note}\n" in done.err
    assert [tensor.name for tensor in artifact.signature.outputs] == ["label"]
    source = artifact.manifest.source
    assert source is not None
    assert (source.digest, source.changes) == (digest_of((CASES / "extra-output-sequence.onnx").read_bytes()), (note,))
    assert note in " ".join(run("show", "case").out.split())


def test_push_keeps_the_outputs_that_are_named(run: Run) -> None:
    """An output that spoils a model is found, and does not when nothing reads it."""
    model = onnx.ModelProto.FromString(models.linear([1, 2]))
    model.graph.node.append(helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, []))
    onnx.save(model, "two.onnx")
    done = run("push", "two.onnx", "--name", "case")
    assert done.code == 3
    assert done.err.endswith("its first axis must be the rows; if nothing reads it, push with --outputs y\n")
    done = run("push", "two.onnx", "--name", "case", "--outputs", "y")
    assert "changed: left out the output 'total'\n" in done.err
    assert [tensor.name for tensor in DirectoryRegistry("models").resolve("case", "1").signature.outputs] == ["y"]
    done = run("push", "two.onnx", "--name", "case", "--outputs", "z")
    assert (done.code, done.err) == (2, "error: --outputs: the model has no output 'z'; it has 'y', 'total'\n")


def test_push_turns_dictionaries_of_probabilities_into_an_array(run: Run) -> None:
    Path("zip.onnx").write_bytes(models.zip_map())
    done = run("push", "zip.onnx", "--name", "case", "--format", "json")
    assert done.json["outputs"] == [{"name": "y", "dtype": "float32", "shape": [2]}]
    assert "skl2onnx.to_onnx(model, X, options={'zipmap': False}) does the same" in done.err


def test_push_merges_the_weights_that_torch_puts_beside_a_model(run: Run) -> None:
    model = onnx.ModelProto.FromString(models.linear([1, 2]))
    onnx.save(model, "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    done = run("push", "net.onnx", "--name", "case")
    assert "changed: merged 2 tensors (12 bytes) of net.onnx.data into the model\n" in done.err
    Path("net.onnx.data").unlink()
    assert run("verify", "case").code == 0
    done = run("push", "net.onnx", "--name", "case")
    assert (done.code, "which cannot be read: No such file or directory; put it beside the model" in done.err) == (3, True)


def test_push_keeps_the_tolerance_of_the_golden_records(run: Run) -> None:
    Path("golden.json").write_text(dump([GoldenRecord({"x": [1.0, 1.0]}, {"y": [3.02]})]))
    done = run("push", "linear.onnx", "--name", "score", "--golden", "golden.json")
    assert (done.code, "if that is near enough, push it with a wider --atol or --rtol" in done.err) == (3, True)
    assert run("push", "linear.onnx", "--name", "score", "--golden", "golden.json", "--atol", "0.01", "--rtol", "0").code == 3
    assert run("push", "linear.onnx", "--name", "score", "--golden", "golden.json", "--atol", "0", "--rtol", "0.01").code == 0
    golden = DirectoryRegistry("models").resolve("score", "1").manifest.golden
    assert (golden.atol, golden.rtol) == (0.0, 0.01)
    assert run("verify", "score").code == 0
    assert run("push", "linear.onnx", "--name", "score", "--atol", "-1").code == 2


def test_limits_of_the_quarantine_are_settings(run: Run) -> None:
    Path("hungry.onnx").write_bytes(models.hungry(2**26))
    done = run("push", "hungry.onnx", "--name", "score", "--model-memory", "100000000")
    assert (done.code, "all tensors of a worker's runs may hold 100,000,000 (setting model_memory)" in done.err) == (3, True)
    Path("endless.onnx").write_bytes(models.endless())
    done = run("push", "endless.onnx", "--name", "score", "--quarantine-seconds", "1")
    assert done.code == 3
    assert re.search(
        r"used more than 1 s of CPU in quarantine \(setting quarantine_seconds\)|did not finish within 2 s in quarantine", done.err
    )


def test_push_of_what_is_no_onnx_file_says_how_it_becomes_one(run: Run) -> None:
    Path("model.pkl").write_bytes(pickle.dumps(Path("x"), protocol=4))
    done = run("push", "model.pkl", "--name", "score")
    assert done.code == 3
    assert done.err.startswith(
        "error: model.pkl is a pickle (joblib writes them too), which may run any code, not an ONNX file; load it in"
    )
    Path("saved").mkdir()
    Path("saved/saved_model.pb").write_bytes(b"")
    done = run("push", "saved", "--name", "score")
    assert "saved is a TensorFlow SavedModel, not an ONNX file; convert it: python -m tf2onnx.convert --saved-model saved" in done.err
