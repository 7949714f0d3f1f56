"""A model that crashes, hangs, hungers or lies is found out in a child process, and this one goes on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import psutil
import pytest
from onnx import helper

from penstock.errors import ModelCorrupt, ModelMisdeclared, ModelMismatch, SettingsError, Stopped
from penstock.model import quarantine as module
from penstock.model import trial
from penstock.model.golden import GoldenRecord, dump
from penstock.model.intake import Intake, declared
from penstock.model.quarantine import Findings, Limits, quarantine, quarantine_once
from penstock.model.sealed import Sealed
from penstock.model.session import Session
from penstock.testing import models

T = TypeVar("T")


@pytest.mark.parametrize(
    "data",
    [models.linear([1, 2]), models.join_text(), models.identity("bool", (2, None)), models.category_number(["a"])],
    ids=["floats", "strings", "an open axis", "categories"],
)
def test_a_sound_model_passes_without_remarks(data: bytes) -> None:
    assert quarantine(data) == Findings(())


def misdeclared(*axes: int | None, width: int | None = 2) -> bytes:
    """y = x, `[N, width]`, declared with other axes. The runtime cannot infer its own: how many there are is computed."""
    nodes = [
        helper.make_node("Shape", ["x"], ["axes"]),
        helper.make_node("Compress", ["axes", "all"], ["computed"]),
        helper.make_node("Reshape", ["x", "computed"], ["y"]),
    ]
    values = {"all": np.array([True, True])}
    return models.model(nodes, [models.tensor("x", shape=(width,))], [models.tensor("y", shape=axes)], values)


@pytest.mark.parametrize(
    ("data", "golden", "axes"),
    [
        (misdeclared(), dump([GoldenRecord({"x": [1.0, 2.0]}, {"y": [1.0, 2.0]})]), (2,)),
        (misdeclared(3), None, (2,)),
        (misdeclared(7, width=None), None, (None,)),
    ],
    ids=["too few, and golden records", "another size", "as many as of an input"],
)
def test_outputs_with_other_axes_than_declared_are_refused_with_those_that_they_have(
    data: bytes, golden: str | None, axes: tuple[int | None, ...]
) -> None:
    with pytest.raises(
        ModelMisdeclared, match=r"^outputs have other axes than the file declares: y: float32\[.*\] is y: float32\["
    ) as caught:
        quarantine(data, golden=golden)
    assert caught.value.shapes == {"y": axes}
    assert quarantine(declared(Intake(data, ()), caught.value.shapes).data, golden=golden) == Findings(())


def test_a_run_that_hangs_is_stopped_at_the_deadline() -> None:
    with pytest.raises(ModelCorrupt, match=r"on 256 generated rows: the model was stopped: a run took longer than 1 s"):
        quarantine(models.endless(), limits=Limits(run=0.2))


def test_a_run_that_is_too_slow_is_told_by_its_cpu_time() -> None:
    """On a busy host the clock says little about the model."""
    session = Session.load(models.endless(500_000), deadline=None)
    feeds, began = {"x": np.ones((256, 1), np.float32)}, time.thread_time()
    session.run(["y"], feeds)
    session.deadline = (time.thread_time() - began) / 2 * trial._PATIENCE
    with pytest.raises(ModelCorrupt, match=r"on 256 slow rows: a run took .* s of CPU, the limit is .* s$"):
        trial._run(session, feeds, "slow rows", "")


def test_a_child_that_hangs_as_a_whole_is_killed() -> None:
    with pytest.raises(ModelCorrupt, match=r"did not finish within 0\.01 s in quarantine"):
        quarantine(models.linear([1]), limits=Limits(wall=0.01))


def test_too_much_cpu_is_named() -> None:
    with pytest.raises(ModelCorrupt, match=r"used more than 1 s of CPU in quarantine"):
        quarantine(models.endless(), limits=Limits(cpu=1, run=30))


def test_a_memory_hog_is_refused() -> None:
    """2^32 floats are 16 GiB, and then 50 GB; the limit is what stops it, on a host of any size."""
    with pytest.raises(ModelCorrupt, match=r"needs too much memory: 17,179,869,184 bytes at once, and all .* may hold 1,073,741,824 \("):
        quarantine(models.hungry(2**32))
    with pytest.raises(ModelCorrupt, match=r"needs too much memory: 50,000,000,000 bytes at once, and all .* may hold 100,000,000,000 \("):
        quarantine(models.hungry(12_500_000_000), limits=Limits(tensors=100_000_000_000, memory=-60_000_000_000))


def test_a_crash_of_the_child_is_reported_with_its_signal() -> None:
    """A real file that overflows the stack of the runtime when it is loaded, and one that divides as no processor can."""
    with pytest.raises(ModelCorrupt, match=r"the model killed its process \(SIGSEGV\) in quarantine"):
        quarantine(models.crashing())
    with pytest.raises(ModelCorrupt, match=r"the model killed its process \(SIGFPE\) in quarantine"):
        quarantine(models.trapping())


def test_a_child_that_exits_without_a_word_is_reported_with_its_last_line() -> None:
    with pytest.raises(ModelCorrupt, match=r"ended its process in quarantine \(exit code 1\): out of luck"):
        module._read(1, b"", b"Traceback ...\nout of luck\n", Limits())


@pytest.mark.parametrize("data", [b"", models.linear([1])[:40], b"\xff" * 100], ids=["empty", "truncated", "garbage"])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ModelCorrupt, match="not an ONNX file"):
        quarantine(data)


def test_probabilities_in_dictionaries_keep_their_error_class() -> None:
    with pytest.raises(ModelMismatch, match="convert without ZipMap"):
        quarantine(models.zip_map())


def test_rows_that_depend_on_each_other_are_found() -> None:
    with pytest.raises(
        ModelCorrupt, match=r"output 'y' of row 0 is .*, and .* for the same row in a batch of 256; .* must not depend on other"
    ):
        quarantine(models.sum_over_rows())


def test_rows_that_depend_on_those_before_them_are_found() -> None:
    """As in a recurrent model whose rows are its time: the first rows of a batch never differ."""
    node = onnx.helper.make_node("CumSum", ["x", "axis"], ["y"])
    sums = models.model([node], [models.tensor("x")], [models.tensor("y")], {"axis": np.int64(0)})
    with pytest.raises(ModelCorrupt, match=r"on 1 generated rows: output 'y' of row 128 is"):
        quarantine(sums)


@pytest.mark.parametrize("declared", [1, None], ids=["one row", "no shape"])
def test_output_whose_rows_are_not_declared_has_those_of_its_runs(declared: int | None) -> None:
    """Converters for LightGBM declare one label, and the model gives a label for each row."""
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None if declared is None else [declared, 1])
    data = models.model([onnx.helper.make_node("Identity", ["x"], ["y"])], [models.tensor("x")], [y])
    assert quarantine(data) == Findings(())
    (output,) = Session.load(data).signature.outputs
    assert (output.dtype, output.shape) == ("float32", (1,))


def test_two_outputs_of_one_name_are_refused() -> None:
    data = models.model([onnx.helper.make_node("Identity", ["x"], ["y"])], [models.tensor("x")], [models.tensor("y")] * 2)
    with pytest.raises(ModelMismatch, match="two outputs with the name 'y'"):
        quarantine(data)


def test_child_learns_no_secret_and_can_gain_no_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SASL_PASSWORD", "hunter2")
    seen: dict[str, str] = {}

    def look(child: subprocess.Popen[bytes], limits: Limits, stopped: Callable[[], bool]) -> None:
        place = Path(f"/proc/{child.pid}")
        while child.poll() is None and "NoNewPrivs:\t1" not in seen.get("status", ""):
            with contextlib.suppress(OSError):
                seen.update(status=(place / "status").read_text(), environ=(place / "environ").read_text(), cwd=os.readlink(place / "cwd"))
        child.wait()

    monkeypatch.setattr(module, "_wait", look)
    quarantine(models.linear([1.0]))
    assert "NoNewPrivs:\t1" in seen["status"]
    assert "hunter2" not in seen["environ"]
    assert "PENSTOCK" not in seen["environ"]
    assert seen["cwd"] == "/"


def test_an_output_without_a_row_for_each_row_is_found() -> None:
    node = onnx.helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    with pytest.raises(ModelCorrupt, match=r"output 'y' has the shape \[512, 1\]; its first axis must be the 256 rows"):
        quarantine(models.model([node], [models.tensor("x")], [models.tensor("y", rows="M")]))


def test_a_model_of_chance_is_found() -> None:
    node = onnx.helper.make_node("RandomNormalLike", ["x"], ["y"])
    with pytest.raises(ModelCorrupt, match=r"or on chance"):
        quarantine(models.model([node], [models.tensor("x")], [models.tensor("y")]))


def test_numbers_that_are_not_finite_are_found() -> None:
    nan = models.model(
        [onnx.helper.make_node("Mul", ["x", "nan"], ["y"])], [models.tensor("x")], [models.tensor("y")], {"nan": np.float32("nan")}
    )
    with pytest.raises(ModelCorrupt, match=r"output 'y' is not finite; if real rows pass, give some as golden records"):
        quarantine(nan)


def test_golden_rows_speak_for_a_model_that_made_up_rows_do_not_suit() -> None:
    """A table of one value refuses index 1; real events only ever have 0."""
    picky, golden = models.gather([5.0]), [GoldenRecord({"x": [0]}, {"y": [5.0]})]
    with pytest.raises(ModelCorrupt, match=r"idx=1 .*give some as golden records"):
        quarantine(picky)
    (remark,) = quarantine(picky, golden=dump(golden)).remarks
    assert remark.startswith("not a problem, because the golden rows pass: on 256 generated rows")


def test_golden_rows_that_fail_are_a_fault() -> None:
    with pytest.raises(ModelCorrupt, match=r"on 256 golden rows: output 'y' is not finite"):
        quarantine(models.ratio(), golden=dump([GoldenRecord({"a": [1.0], "b": [0.0]}, {"y": [1.0]})]))


def test_golden_rows_that_do_not_fit_are_a_mismatch() -> None:
    with pytest.raises(ModelMismatch, match=r"the golden records do not fit the model: golden.json: record 1: the input 'b' is missing"):
        quarantine(models.ratio(), golden=dump([GoldenRecord({"a": [1.0]}, {"y": [1.0]})]))


def test_the_child_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quarantine(models.linear([1]), golden=dump([GoldenRecord({"x": [1.0]}, {"y": [1.0]})]))
    assert os.listdir(tmp_path) == []


def test_who_is_told_to_stop_kills_the_child() -> None:
    before, began = set(psutil.Process().children()), time.monotonic()
    with pytest.raises(Stopped, match="stopped while the model was in quarantine"):
        quarantine(models.endless(), limits=Limits(run=30), stopped=lambda: time.monotonic() - began > 1)
    assert time.monotonic() - began < 5
    assert set(psutil.Process().children()) <= before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is dead")
def test_the_child_ends_with_a_worker_that_is_killed() -> None:
    """Also with one that has no time to kill it."""
    code = (
        "from penstock.model.quarantine import *; from penstock.testing import models; quarantine(models.endless(), limits=Limits(run=60))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        parent = psutil.Process(worker.pid)
        lower = min(parent.nice() + 10, 19)  # its priority, once it is bound to us
        child = eventually(lambda: next((one for one in parent.children() if one.nice() == lower), None))
        worker.kill()
    child.wait(5)


# --- remembered ------------------------------------------------------------------------------------------------------


def sealed(data: bytes) -> Sealed:
    return Sealed(io.BytesIO(data), limit=len(data))


GOLDEN = dump([GoldenRecord({"x": [1.0]}, {"y": [1.0]})])


def once(data: bytes, cache: Path, golden: str = GOLDEN, limits: Limits | None = None) -> float:
    """The seconds of CPU of the children that it took."""
    began = os.times().children_user
    with sealed(data) as model:
        quarantine_once(model, golden=golden, cache=cache, limits=limits, stopped=lambda: False)
    return os.times().children_user - began


def test_what_has_passed_is_not_tried_again(tmp_path: Path) -> None:
    """Unless the golden records or the limits are others."""
    assert once(models.linear([1]), tmp_path) > 0
    assert once(models.linear([1]), tmp_path) == 0
    assert once(models.linear([1]), tmp_path, golden=GOLDEN + " ") > 0
    assert once(models.linear([1]), tmp_path, limits=Limits(cpu=50)) > 0
    (file, *_) = (tmp_path / "quarantine").glob("*.json")
    assert json.loads(file.read_bytes())["remarks"] == []


def test_remarks_are_remembered_and_a_refusal_is_not(tmp_path: Path) -> None:
    picky, golden = models.gather([5.0]), dump([GoldenRecord({"x": [0]}, {"y": [5.0]})])
    with sealed(picky) as model:
        first, again = (quarantine_once(model, golden=golden, cache=tmp_path, stopped=lambda: False) for _ in range(2))
    assert first == again != Findings(())
    with sealed(models.ratio()) as model, pytest.raises(ModelMismatch):
        quarantine_once(model, golden=GOLDEN, cache=tmp_path, stopped=lambda: False)
    assert len(list((tmp_path / "quarantine").glob("*.json"))) == 1


def test_what_was_remembered_and_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    once(models.linear([1]), tmp_path)
    (file,) = (tmp_path / "quarantine").glob("*.json")
    file.write_text('{"remarks": nu')
    assert once(models.linear([1]), tmp_path) > 0


def test_of_several_workers_one_runs_the_child(tmp_path: Path) -> None:
    code = (
        "import io, os, sys, pathlib; from penstock.testing import models; from penstock.model.sealed import Sealed\n"
        "from penstock.model.quarantine import quarantine_once\n"
        "data = models.linear([1]); model = Sealed(io.BytesIO(data), limit=len(data))\n"
        f"quarantine_once(model, golden={GOLDEN!r}, cache=pathlib.Path(sys.argv[1]), stopped=lambda: False)\n"
        "print(os.times().children_user > 0)"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(worker.communicate()[0].strip() for worker in workers) == ["False", "False", "True"]


def test_a_folder_that_others_may_write_to_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine").chmod(0o777)
    with pytest.raises(SettingsError, match=r"other users may write to .*: chmod 700 it"):
        once(models.linear([1]), tmp_path)


def eventually(found: Callable[[], T | None], seconds: float = 20.0) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (value := found()) is not None:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come to be")
