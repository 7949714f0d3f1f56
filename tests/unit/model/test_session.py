"""A loaded model runs rows, within a deadline, and refuses what it must."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

from penstock.batch import Array
from penstock.errors import InferenceError, ModelCorrupt, ModelMismatch, NoRoom
from penstock.model.session import MEMORY, Session, _Watchdog, _watchdog, limit_memory
from penstock.signature import DTYPES, Signature, Tensor
from penstock.testing import models


def column(*values: float) -> Array:
    return np.array(values, np.float32).reshape(-1, 1)


def test_outputs_come_in_the_order_asked() -> None:
    session = Session.load(models.mean(["a", "b"]))
    (mean,) = session.run(["y"], {"a": column(1, 2), "b": column(3, 4)})
    np.testing.assert_array_equal(mean, column(2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_in_and_out_unchanged(dtype: str) -> None:
    session = Session.load(models.identity(dtype, (2, None)))
    values = np.array([[["a", "ü"], ["", "b"]]], object) if dtype == "string" else np.array([[[0, 1], [1, 0]]], dtype)
    (given,) = session.run(["y"], {"x": values})
    assert session.signature == Signature((Tensor("x", dtype, (2, None)),), (Tensor("y", dtype, (2, None)),))
    assert given.tolist() == values.tolist()
    assert given.dtype == values.dtype


def test_the_inner_call_answers_as_the_public_one_does() -> None:
    """`run` calls a private attribute of onnxruntime for speed; this is what notices when it changes its meaning."""
    session = Session.load(models.linear([1, 2, 3], 0.5))
    rows = np.random.default_rng(0).random((257, 3), np.float32)
    (given,) = session.run(["y"], {"x": rows})
    np.testing.assert_allclose(given, rows @ column(1, 2, 3) + 0.5, rtol=1e-5)


def test_a_refused_batch_is_an_inference_error_that_names_the_model() -> None:
    session = Session.load(models.gather([1, 2, 3]))
    with pytest.raises(InferenceError, match=r"the model refused the batch: .*indices element out of data bounds, idx=3"):
        session.run(["y"], {"x": np.array([[0], [3]])})
    np.testing.assert_array_equal(session.run(["y"], {"x": np.array([[2]])})[0], column(3))


@pytest.mark.parametrize(
    "feeds", [{}, {"x": np.zeros((1, 3), np.float32)}, {"x": np.zeros((1, 2), np.float64)}, {"z": np.zeros((1, 2), np.float32)}]
)
def test_feeds_that_do_not_fit_are_an_inference_error(feeds: dict[str, Array]) -> None:
    with pytest.raises(InferenceError):
        Session.load(models.linear([1, 2])).run(["y"], feeds)


def test_an_endless_run_is_stopped_and_the_next_one_runs() -> None:
    session = Session.load(models.endless(2**62), deadline=0.05)
    for _ in range(2):
        with pytest.raises(InferenceError, match=r"the model was stopped: a run took longer than 0\.05 s"):
            session.run(["y"], {"x": column(1)})


def test_a_late_stop_does_not_touch_the_next_run() -> None:
    """The watchdog may set its flag just as a run ends: then the next run must succeed as if nothing had been."""
    session = Session.load(models.constant(7), deadline=60)
    session._options.terminate = True
    np.testing.assert_array_equal(session.run(["y"], {"x": column(1, 2)})[0], column(7, 7))
    assert not session._options.terminate


def test_only_a_run_that_is_too_old_is_stopped() -> None:
    session = Session.load(models.constant(7), deadline=10)
    session.stop_if_late(1e12)
    assert not session._options.terminate, "none is under way"
    session._began = 100.0
    session.stop_if_late(109.9)
    assert not session._options.terminate
    session.stop_if_late(110.0)
    assert not session._options.terminate, "late once: the process may have been paused"
    session._began = 105.0
    session.stop_if_late(115.0)
    assert not session._options.terminate, "another run"
    session.stop_if_late(116.0)
    assert session._options.terminate


def test_the_watchdog_ends_with_the_last_session_and_comes_back_with_the_next() -> None:
    watchdog = _Watchdog()  # one of our own: that of the process watches the sessions of other tests, too
    for _ in range(2):
        session = Session.load(models.constant(1), deadline=None)
        session.deadline = 0.02
        watchdog.watch(session)
        thread = watchdog._thread
        assert thread is not None
        del session
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_warming_up_survives_a_model_that_refuses_zeros() -> None:
    session = Session.load(models.gather([], x="x"))
    session.warm_up((1, 8))


@pytest.mark.parametrize("data", [b"", b"no model", b"\x00" * 64, models.endless()[:60]], ids=["empty", "text", "zeros", "truncated"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ModelCorrupt, match="is not an ONNX file"):
        Session.load(data)


def test_a_file_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ModelCorrupt, match=r"the model has 1,001 bytes, the limit is 1,000"):
        Session.load(b"x" * 1001, max_bytes=1000)


def test_mutated_bytes_load_or_are_refused_but_never_anything_else(capfd: pytest.CaptureFixture[str]) -> None:
    """A bit flipped anywhere gives ModelError, or a model that still loads; and nothing is printed."""
    good = models.endless(3)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        bad = bytearray(good)
        bad[random.integers(len(bad))] ^= 1 << int(random.integers(8))
        try:
            Session.load(bytes(bad), deadline=None)
        except (ModelCorrupt, ModelMismatch):
            refused += 1
    assert refused > 50
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("domain", ["com.acme", "com.microsoft"])
@pytest.mark.parametrize("nested", [False, True])
def test_operators_outside_the_standard_are_refused_wherever_they_hide(domain: str, nested: bool) -> None:
    node = onnx.helper.make_node("Trick", ["x"], ["y"], domain=domain, name="trick")
    if nested:
        branch = onnx.helper.make_graph([node], "branch", [], [models.tensor("y")])
        node = onnx.helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    data = models.model([node], [models.tensor("x")], [models.tensor("y")], {"yes": np.bool_(True)})
    with pytest.raises(ModelCorrupt, match=rf"uses the operator {domain}.Trick \(node 'trick'\); only the domains ai.onnx and ai.onnx.ml"):
        Session.load(data)


def test_functions_of_the_model_itself_are_allowed() -> None:
    inner = onnx.helper.make_node("Neg", ["a"], ["b"])
    opset = [onnx.helper.make_opsetid("", 20)]
    function = onnx.helper.make_function("own", "Flip", ["a"], ["b"], [inner], opset)
    call = onnx.helper.make_node("Flip", ["x"], ["y"], domain="own")
    graph = onnx.helper.make_graph([call], "g", [models.tensor("x")], [models.tensor("y")])
    opsets = [*opset, onnx.helper.make_opsetid("own", 1)]
    whole = onnx.helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9)
    np.testing.assert_array_equal(Session.load(whole.SerializeToString()).run(["y"], {"x": column(2)})[0], column(-2))


@pytest.mark.parametrize("kind", ["relative", "parent", "absolute", "symlink", "hard link"])
def test_a_tensor_in_another_file_is_refused_and_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes no path can be followed: not even the hard link that passes onnxruntime's own path checks."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(2, dtype=np.float32).tobytes())
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    location = {"parent": "../secret", "absolute": str(secret)}.get(kind, "weights")
    if kind == "symlink":
        (home / "weights").symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, home / "weights")
    elif kind == "relative":
        (home / "weights").write_bytes(secret.read_bytes())
    model = onnx.ModelProto.FromString(models.linear([1, 2]))
    weights = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ModelCorrupt, match=r"keeps the tensor 'weights' in another file; save the model as one file"):
        Session.load(model.SerializeToString())


def test_a_tensor_of_a_constant_node_may_not_lie_in_another_file_either() -> None:
    tensor = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    nodes = [onnx.helper.make_node("Constant", [], ["c"], value=tensor), onnx.helper.make_node("Add", ["x", "c"], ["y"])]
    with pytest.raises(ModelCorrupt, match=r"keeps the tensor 'hidden' in another file"):
        Session.load(models.model(nodes, [models.tensor("x")], [models.tensor("y")]))


def test_probabilities_in_dictionaries_are_refused_with_the_way_out() -> None:
    with pytest.raises(ModelMismatch, match=r"output 'y' is a seq\(map\(int64,tensor\(float\)\)\), not a tensor; convert without ZipMap"):
        Session.load(models.zip_map())


def test_an_unknown_dtype_is_refused_by_name() -> None:
    with pytest.raises(ModelMismatch, match=r"input 'x' is a tensor\(float16\); use one of bool, float32"):
        Session.load(models.identity("float16"))


def test_the_first_axis_must_be_open() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    fixed = models.model([node], [models.tensor("x", rows=1)], [models.tensor("y", rows=1)])
    with pytest.raises(ModelMismatch, match=r"input 'x' has a first axis of fixed size 1; export it with an open"):
        Session.load(fixed)


def test_a_scalar_input_is_refused() -> None:
    scalar = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [])
    node = onnx.helper.make_node("Add", ["x", "rows"], ["y"])
    with pytest.raises(ModelMismatch, match=r"input 'x' has no axes, or none are declared"):
        Session.load(models.model([node], [scalar, models.tensor("rows")], [models.tensor("y")]))


def test_errors_are_raised_and_not_also_written_to_stderr() -> None:
    """onnxruntime logs what it raises unless told not to; a poison record would flood the log."""
    script = (
        "import numpy as np\nfrom penstock.model.session import Session\nfrom penstock.testing import models\n"
        "from penstock.errors import InferenceError\n"
        "try: Session.load(models.gather([1.0])).run(['y'], {'x': np.array([[5]])})\n"
        "except InferenceError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_other_threads_go_on_while_a_model_runs() -> None:
    """A heartbeat thread must live through a long run: the runtime lets go of the interpreter."""
    session = Session.load(models.endless(), deadline=0.2)
    beats: list[float] = []
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.01):
            beats.append(time.monotonic())

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(InferenceError):
        session.run(["y"], {"x": column(1)})
    done.set()
    thread.join()
    assert len(beats) >= 3


def test_reason_does_not_name_the_cpp_function_that_raised_it() -> None:
    counts: dict[str, Any] = {
        "min_gram_length": 1,
        "max_gram_length": 1,
        "max_skip_count": 0,
        "ngram_counts": [0],
        "ngram_indexes": [0],
        "pool_int64s": [1],
    }
    node = onnx.helper.make_node("TfIdfVectorizer", ["x"], ["y"], mode="OFTEN", **counts)
    with pytest.raises(ModelCorrupt, match=r"^the model does not load: .* mode: OFTEN is unrecognized") as caught:
        Session.load(models.model([node], [models.tensor("x", "int64")], [models.tensor("y")]))
    assert "onnxruntime" not in str(caught.value)


def test_runtime_keeps_no_database_and_reports_to_nobody(tmp_path: Path) -> None:
    """From 1.29 on it does both on Linux, unless it is told before it is imported."""
    code = "from penstock.model.session import Session; from penstock.testing import models; Session.load(models.linear([1])).warm_up()"
    told = {name: value for name, value in os.environ.items() if name not in ("CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY")}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=told | home)
    assert list(tmp_path.iterdir()) == []


def test_twin_has_a_deadline_of_its_own() -> None:
    """One that is stopped stops no run of the other, which may be a live one at that moment."""
    session = Session.load(models.endless(2**62), deadline=None)
    twin = session.twin()
    twin.deadline = 0.05
    _watchdog.watch(twin)
    with pytest.raises(InferenceError, match=r"a run took longer than 0\.05 s"):
        twin.run([one.name for one in twin.signature.outputs], {one.name: np.ones((1, 1), np.float32) for one in twin.signature.inputs})
    assert (twin.signature, session.deadline) == (session.signature, None)
    assert not session._options.terminate


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Range", "Tile"])
def test_run_that_needs_too_much_memory_fails_before_it_has_it(operator: str) -> None:
    """4 GB at once, because an event says so. What the runs before it had taken returns to the system."""
    session, process = Session.load(models.growing(operator), deadline=None), psutil.Process()
    session.run(["y"], {"x": column(1)})
    before = process.memory_info().rss
    session.run(["y"], {"x": column(25e6)})
    assert process.memory_info().rss > before + 64 * 1024**2
    with pytest.raises(InferenceError, match=r"the model needs too much memory: 4,\d+,\d+,\d+ bytes at once, .* \(setting model_memory\)"):
        session.run(["y"], {"x": column(1.05e9)})
    assert process.memory_info().rss < before + 64 * 1024**2
    np.testing.assert_array_equal(session.run(["y"], {"x": column(1, 2)})[0], column(1, 2))


def test_limit_of_memory_is_shared_by_sessions_and_holds_for_those_that_come_after_it() -> None:
    before = Session.load(models.growing())
    limit_memory(64 * 1024**2)
    try:
        after = Session.load(models.growing())
        with pytest.raises(InferenceError, match=r"80,000,000 bytes at once, and all tensors of a worker's runs may hold 67,108,864 "):
            after.run(["y"], {"x": column(20e6)})
        before.run(["y"], {"x": column(20e6)})
    finally:
        limit_memory(MEMORY)


@contextlib.contextmanager
def small_pool() -> Iterator[None]:
    limit_memory(64 * 1024**2)
    try:
        yield
    finally:
        limit_memory(MEMORY)


@contextlib.contextmanager
def again_and_again(run: Callable[[], object]) -> Iterator[threading.Thread]:
    """Runs it in another thread, until the end of the block."""
    over = threading.Event()

    def beside() -> None:
        while not over.is_set():
            run()

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()


def twice_growing() -> bytes:
    """Returns x, and holds two tensors of four bytes for each of its largest row's units: no request alone is too large."""
    nodes = [
        onnx.helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        onnx.helper.make_node("Cast", ["most"], ["whole"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Reshape", ["whole", "single"], ["size"]),
        onnx.helper.make_node("ConstantOfShape", ["size"], ["one"]),
        onnx.helper.make_node("Expand", ["zero", "size"], ["other"]),
        onnx.helper.make_node("Concat", ["one", "other"], ["both"], axis=0),
        onnx.helper.make_node("ReduceSum", ["both"], ["nothing"], keepdims=0),
        onnx.helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    return models.model(nodes, [models.tensor("x")], [models.tensor("y")], {"single": np.array([1]), "zero": np.float32(0)})


def test_twin_takes_no_memory_that_a_live_run_needs() -> None:
    """Each takes 40 MB of the 64 that both share, again and again: where they meet, it is the twin that ends, and not as a failure."""
    with small_pool():
        session = Session.load(models.growing())
        twin, met = session.twin(), list[str]()

        def beside() -> None:
            try:
                twin.run(["y"], {"x": column(10e6)}, again=False)
            except NoRoom as error:
                met.append(str(error))

        with again_and_again(beside) as thread:
            deadline = time.monotonic() + 60
            while not any("needs too much memory" in one for one in met):
                assert thread.is_alive()
                assert time.monotonic() < deadline, "they never met, so this shows nothing"
                session.run(["y"], {"x": column(10e6)})


def test_live_run_stops_a_twin_that_holds_the_memory_it_needs() -> None:
    """It does not wait for the end of the twin's run, and the twin's model is not to blame."""
    with small_pool():
        session, twin = Session.load(models.growing()), Session.load(models.lingering(), deadline=10).twin()
        process, ended = psutil.Process(), list[Exception]()
        with pytest.raises(InferenceError):  # the pool is empty after it
            session.run(["y"], {"x": column(20e6)})
        before = process.memory_info().rss

        def beside() -> None:
            try:
                twin.run(["y"], {"x": column(10e6)}, again=False)
            except (InferenceError, NoRoom) as error:
                ended.append(error)

        thread = threading.Thread(target=beside)
        thread.start()
        while process.memory_info().rss < before + 36 * 1000**2:
            assert thread.is_alive(), ended
        np.testing.assert_array_equal(session.run(["y"], {"x": column(10e6)})[0], column(10e6))
        thread.join()
        (error,) = ended
        assert isinstance(error, NoRoom), error
        assert "the model was stopped: a run that scores needs its memory" in str(error)


def test_twin_without_room_fails_only_where_no_other_run_could_be_the_cause() -> None:
    with small_pool():
        twin, other = Session.load(twice_growing()).twin(), Session.load(models.endless(100_000))
        feeds = {"x": column(10e6)}
        with pytest.raises(InferenceError, match="the model needs too much memory"):
            twin.run(["y"], feeds)
        with again_and_again(lambda: other.run(["y"], {"x": column(1)})):
            while not other.within_deadline(time.monotonic()):
                pass
            with pytest.raises(NoRoom, match="other runs may hold it"):
                twin.run(["y"], feeds)
            with pytest.raises(InferenceError, match="80,000,000 bytes at once"):
                twin.run(["y"], {"x": column(20e6)})


def test_weights_do_not_count() -> None:
    limit_memory(16 * 1024**2)
    try:
        weights = np.ones((1, 8 * 1024**2), np.float32)
        nodes = [onnx.helper.make_node("Gather", ["weights", "place"], ["w"], axis=1), onnx.helper.make_node("Mul", ["x", "w"], ["y"])]
        data = models.model(nodes, [models.tensor("x")], [models.tensor("y")], {"weights": weights, "place": np.array([7])})
        np.testing.assert_array_equal(Session.load(data).run(["y"], {"x": column(3)})[0], column(3))
    finally:
        limit_memory(MEMORY)


# --- rows at a time ---------------------------------------------------------------------------------------------------------------------


def fixed(rows: int) -> bytes:
    """The rows of one run, and what they add up to, which is the same for each: it shows which rows ran together."""
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["y"]),
        onnx.helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
        onnx.helper.make_node("Add", ["sum", "zeros"], ["total"]),
    ]
    values = {"axis": np.array([0]), "zeros": np.zeros((rows, 1), np.float32)}
    outputs = [models.tensor("y", rows=rows), models.tensor("total", rows=rows)]
    return models.model(nodes, [models.tensor("x", rows=rows)], outputs, values)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7])
def test_a_fixed_number_of_rows_runs_at_a_time(size: int) -> None:
    """The last row fills the last piece, and each row gets its own answer."""
    session = Session.load(fixed(3), rows=3)
    assert [str(one) for one in session.signature.outputs] == ["y: float32[N, 1]", "total: float32[N, 1]"]
    x = np.arange(1, size + 1, dtype=np.float32)[:, None]
    y, total = session.run(["y", "total"], {"x": x})
    assert y.tolist() == x.tolist()
    filled = np.concatenate([x, *[x[-1:]] * (-size % 3)]).reshape(-1, 3).sum(axis=1)
    assert total[:, 0].tolist() == np.repeat(filled, 3)[:size].tolist()


def test_no_rows_have_no_answers() -> None:
    (y,) = Session.load(fixed(3), rows=3).run(["y"], {"x": np.empty((0, 1), np.float32)})
    assert y.shape == (0, 1)


def test_text_runs_a_row_at_a_time() -> None:
    session = Session.load(models.join_text(), rows=2)
    a, b = (np.array([[text] for text in words], dtype=object) for words in ("abc", "xyz"))
    assert session.run(["y"], {"a": a, "b": b})[0].tolist() == [["ax"], ["by"], ["cz"]]


def test_a_twin_runs_as_many_rows_at_a_time() -> None:
    session = Session.load(fixed(2), rows=2)
    x = np.ones((3, 1), np.float32)
    assert session.twin().run(["total"], {"x": x})[0].tolist() == session.run(["total"], {"x": x})[0].tolist() == [[2.0]] * 3


def test_the_deadline_is_of_the_whole_run() -> None:
    """Each piece takes a part of it."""
    session = Session.load(models.endless(400_000), deadline=0.2, rows=1)
    with pytest.raises(InferenceError, match=r"was stopped: a run took longer than 0\.2 s"):
        session.run(["y"], {"x": np.ones((1000, 1), np.float32)})


def test_an_answer_of_another_number_of_rows_is_refused() -> None:
    node = onnx.helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    session = Session.load(models.model([node], [models.tensor("x")], [models.tensor("y", rows="M")]), rows=2)
    with pytest.raises(InferenceError, match=r"output 'y' has the shape \[4, 1\]; its first axis must be the 2 rows of a run"):
        session.run(["y"], {"x": np.ones((3, 1), np.float32)})


def test_a_locale_that_the_host_does_not_have_is_named() -> None:
    node = onnx.helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="xx_XX.UTF-8")
    with pytest.raises(
        ModelCorrupt, match=r"^the model changes the case of text by the locale xx_XX\.UTF-8, which this host does not have: "
    ):
        Session.load(models.model([node], [models.tensor("x", "string", ())], [models.tensor("y", "string", ())]))


# --- versions ---------------------------------------------------------------------------------------------------------------------------


def versioned(ir: int = 9, **opsets: int) -> bytes:
    model = onnx.ModelProto.FromString(models.linear([1]))
    model.ir_version = ir
    for opset in model.opset_import:
        opset.version = opsets.get(opset.domain.replace(".", "_") or "onnx", opset.version)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (versioned(99), r"has the IR version 99, and onnxruntime [\d.]+ reads up to (\d+): .* model\.ir_version = \1$"),
        (versioned(onnx=99), r"uses opset 99 of ai\.onnx, and onnxruntime [\d.]+ reads up to (\d+): .* opset_version=\1\)$"),
        (versioned(ai_onnx_ml=99), r"uses opset 99 of ai\.onnx\.ml, .* reads up to \d+: .* \(target_opset of the converter\)$"),
        (versioned(ir=3, onnx=1), r"Could not find an implementation for Gemm\(1\) .*: onnxruntime [\d.]+ does not compute it"),
    ],
    ids=["IR", "ai.onnx", "ai.onnx.ml", "old"],
)  # fmt: skip
def test_a_version_that_the_runtime_does_not_read_is_named_with_those_that_it_does(data: bytes, said: str) -> None:
    with pytest.raises(ModelCorrupt, match=said):
        Session.load(data)


def test_threads_compute_a_run() -> None:
    """Each beyond the first is a thread of the session."""
    script = (
        "import psutil; from penstock.model.session import Session, smallest; count = psutil.Process().num_threads;"
        "kept = [Session.load(smallest(), deadline=None)]; before = count();"
        "kept.append(Session.load(smallest(), deadline=None, threads=4)); print(count() - before)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "3\n"
