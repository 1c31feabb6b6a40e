"""Layers and networks are written in `keras.ops`: TensorFlow is the default, not a condition."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

MODULES = (
    (
        "test_affine_from_votes.py",
        "test_affine_network.py",
        "test_bending.py",
        "test_deformable_network.py",
        "test_demons_force.py",
        "test_multi_stage.py",
        "test_pair_normalization.py",
        "test_stage_run.py",
        "test_similarity.py",
    ),
    (
        "test_affine_from_parameters.py",
        "test_affine_resampler.py",
        "test_affine_steps.py",
        "test_bspline_jacobian.py",
        "test_bsplines.py",
        "test_gradients.py",
        "test_layers.py",
        "test_masked_ncc.py",
        "test_pooled_convolution.py",
        "test_spline_steps.py",
        "test_warping.py",
    ),
)
"""Tests of two processes side by side, which take about as long: compiling is slow."""


def test_layers_losses_and_stages_also_run_on_jax() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("jax", reason="needs jax, a second backend of Keras")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # that half precision has kernels is a matter of TensorFlow, and takes long to compile
    command += ["-k", "not half_precision"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [*command, *(str(HERE / name) for name in names)],
            cwd=HERE.parent.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for names in MODULES
    ]
    told = [process.communicate()[0] for process in running]
    for process, text in zip(running, told, strict=True):
        assert process.returncode == 0, text[-4000:]
