from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipelines.tensorflow_start import filtered_stderr, prefer_kernels

OWN = "I0000 00:00:1795720481.9487 33 port.cc:153] oneDNN custom operations are on.\n"


def test_lines_of_the_compiled_parts_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with filtered_stderr():
        os.write(2, OWN.encode())
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\n")
        os.write(2, b"E0000 00:00:1 33 kernel.cc:9] out of memory\n")
        os.write(2, b"of another program\n")
    told = "E0000 00:00:1 33 kernel.cc:9] out of memory\nof another program\n"
    assert capfd.readouterr().err == told


def test_what_was_said_before_a_failure_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with filtered_stderr():
            os.write(2, b"libcuda.so not found\n")
            raise ImportError("no")

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "libcuda.so not found\n"


VOLUMES = {"stages": [{"kind": "affine"}, {"kind": "deformable", "downsamplings": [3, 3, 3]}]}
SLICES = {"stages": [{"kind": "deformable", "downsamplings": [4, 4]}]}


@pytest.mark.parametrize(
    ("registration", "before", "after"),
    [
        (VOLUMES, None, "1"),
        (VOLUMES, "0", "0"),
        (SLICES, None, None),
        ({"stages": []}, None, None),
        ({"stages": [{"kind": "affine", "dimension": 2}]}, None, None),
        ({"stages": ["affine"]}, None, None),
        (None, None, None),
    ],
)
def test_networks_of_volumes_get_the_kernels_that_are_fast_for_them(
    registration, before, after, monkeypatch
) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if before is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", before)
    prefer_kernels(registration)
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == after


@pytest.mark.parametrize("quiet", [True, False])
def test_tensorflow_is_imported_in_silence(quiet: bool) -> None:
    code = (
        "from pipelines.tensorflow_start import prepare_tensorflow\n"
        f"if {quiet}: prepare_tensorflow()\n"
        "import tensorflow\n"
        "assert 'Quiet' not in type(tensorflow.__loader__).__name__\n"
        "print(float(tensorflow.constant(1.0) + 1))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    environment["TF_ENABLE_ONEDNN_OPTS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "2.0\n"
    assert ("oneDNN" in done.stderr) is not quiet
    if quiet:
        assert done.stderr == ""
