"""Layers and networks are written in `keras.ops`: TensorFlow is the default, not a condition."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

MODULES = (
    "test_affine_from_parameters.py",
    "test_affine_from_votes.py",
    "test_affine_network.py",
    "test_affine_resampler.py",
    "test_affine_steps.py",
    "test_bending.py",
    "test_bspline_jacobian.py",
    "test_bsplines.py",
    "test_deformable_network.py",
    "test_demons_force.py",
    "test_gradients.py",
    "test_layers.py",
    "test_masked_ncc.py",
    "test_multi_stage.py",
    "test_pair_normalization.py",
    "test_pooled_convolution.py",
    "test_spline_steps.py",
    "test_stage_run.py",
    "test_similarity.py",
    "test_warping.py",
)


def test_layers_losses_and_stages_also_run_on_jax() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("jax", reason="needs jax, a second backend of Keras")
    tests = [str(HERE / name) for name in MODULES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=HERE.parent.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
