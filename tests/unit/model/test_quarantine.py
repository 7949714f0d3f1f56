"""A model that crashes, hangs, hungers or lies is found out in a child process, and this one goes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from penstock.errors import ModelCorrupt, ModelMismatch
from penstock.model import quarantine as module
from penstock.model.golden import GoldenRecord, dump
from penstock.model.quarantine import Findings, Limits, quarantine
from penstock.testing import models


@pytest.mark.parametrize(
    "data",
    [models.linear([1, 2]), models.join_text(), models.identity("bool", (2, None)), models.category_number(["a"])],
    ids=["floats", "strings", "an open axis", "categories"],
)
def test_a_sound_model_passes_without_remarks(data: bytes) -> None:
    assert quarantine(data) == Findings(())


def test_a_run_that_hangs_is_stopped_at_the_deadline() -> None:
    with pytest.raises(ModelCorrupt, match=r"on 256 made-up rows: the model was stopped: a run took longer than 0\.2 s"):
        quarantine(models.endless(), limits=Limits(run=0.2))


def test_a_child_that_hangs_as_a_whole_is_killed() -> None:
    with pytest.raises(ModelCorrupt, match=r"did not finish within 0\.01 s in quarantine"):
        quarantine(models.linear([1]), limits=Limits(wall=0.01))


def test_too_much_cpu_is_named() -> None:
    with pytest.raises(ModelCorrupt, match=r"used more than 1 s of CPU in quarantine"):
        quarantine(models.endless(), limits=Limits(cpu=1, run=30))


def test_a_memory_hog_is_refused() -> None:
    """2^32 floats are 16 GiB; the limit is what stops it, on a host of any size."""
    with pytest.raises(ModelCorrupt, match=r"Failed to allocate memory for requested buffer of size 17179869184"):
        quarantine(models.hungry(2**32))


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
        ModelCorrupt, match=r"output 'y' is .* for a row by itself and .* in a batch of 256; .* must not depend on its neighbours"
    ):
        quarantine(models.sum_over_rows())


def test_an_output_without_a_row_for_each_row_is_found() -> None:
    node = onnx.helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    with pytest.raises(ModelCorrupt, match=r"output 'y' has the shape \[512, 1\]; its first axis must be the 256 rows"):
        quarantine(models.model([node], [models.tensor("x")], [models.tensor("y", rows="M")]))


def test_a_model_of_chance_is_found() -> None:
    node = onnx.helper.make_node("RandomNormalLike", ["x"], ["y"])
    with pytest.raises(ModelCorrupt, match=r"nor on chance"):
        quarantine(models.model([node], [models.tensor("x")], [models.tensor("y")]))


def test_numbers_that_are_not_finite_are_found() -> None:
    nan = models.model(
        [onnx.helper.make_node("Mul", ["x", "nan"], ["y"])], [models.tensor("x")], [models.tensor("y")], {"nan": np.float32("nan")}
    )
    with pytest.raises(ModelCorrupt, match=r"output 'y' is not finite; if real rows do not do this, give some as golden records"):
        quarantine(nan)


def test_golden_rows_speak_for_a_model_that_made_up_rows_do_not_suit() -> None:
    """A table of one value refuses index 1; real events only ever have 0."""
    picky, golden = models.gather([5.0]), [GoldenRecord({"x": [0]}, {"y": [5.0]})]
    with pytest.raises(ModelCorrupt, match=r"idx=1 .*give some as golden records"):
        quarantine(picky)
    (remark,) = quarantine(picky, golden=dump(golden)).remarks
    assert remark.startswith("not a fault, since the golden rows pass: on 256 made-up rows")


def test_golden_rows_that_fail_are_a_fault() -> None:
    with pytest.raises(ModelCorrupt, match=r"on 256 golden rows: output 'y' is not finite"):
        quarantine(models.ratio(), golden=dump([GoldenRecord({"a": [1.0], "b": [0.0]}, {"y": [1.0]})]))


def test_golden_rows_that_do_not_fit_are_a_mismatch() -> None:
    with pytest.raises(ModelMismatch, match=r"the golden records do not fit the model: golden.json: record 1: the input 'b' is missing"):
        quarantine(models.ratio(), golden=dump([GoldenRecord({"a": [1.0]}, {"y": [1.0]})]))


def test_the_child_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quarantine(models.linear([1]))
    assert os.listdir(tmp_path) == []
