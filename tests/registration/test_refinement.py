from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from scipy.ndimage import gaussian_filter

from registration.bending import control_point_bending_energy
from registration.bsplines import bspline_field
from registration.metrics import jacobian_determinant
from registration.objective import Objective
from registration.refinement import ControlPointRefiner, RefinementOptions
from registration.warping import warp


def texture(shape, seed=0) -> np.ndarray:
    image = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    image -= image.min()
    return (image / image.max()).astype(np.float32)[None, ..., None]


def known_pair(shape, spacing, amplitude=1.5, border=0):
    """A moving image, and the fixed one that known control points make of it."""
    moving = texture(shape)
    count = [int(np.ceil(n / s)) + 2 * border for n, s in zip(shape, spacing, strict=True)]
    rng = np.random.default_rng(1)
    points = rng.uniform(-amplitude, amplitude, (1, *count, len(shape))).astype(np.float32)
    field = bspline_field(points, shape, spacing=spacing, border=border)
    return ops.convert_to_numpy(warp(moving, field)), moving, points


def refiner(spacing, *, border=0, **changes):
    objective = changes.pop("objective", Objective())
    options = RefinementOptions(objective=objective, **changes)
    spacing_mm = (1.0,) * len(spacing)
    return ControlPointRefiner(options, spacing=spacing, spacing_mm=spacing_mm, border=border)


@pytest.mark.parametrize(
    ("shape", "spacing", "similarity", "shrink", "border"),
    [
        ((40, 48), (8.0, 8.0), "ncc", 1, 0),
        ((40, 48), (8.0, 8.0), "ncc", 1, 1),
        ((40, 48), (8.0, 8.0), "lncc", 1, 0),
        ((10, 24, 20), (4.0, 8.0, 8.0), "ncc", 1, 0),
        ((41, 48), (8.0, 8.0), "ncc", 2, 0),
        ((10, 25, 20), (4.0, 8.0, 8.0), "ncc", (1, 2, 2), 1),
    ],
)
def test_finds_the_known_displacement_from_zero(shape, spacing, similarity, shrink, border):
    fixed, moving, points = known_pair(shape, spacing, border=border)
    objective = Objective(similarity=similarity)
    refined = refiner(spacing, steps=80, objective=objective, shrink=shrink, border=border)
    found = refined.refine(fixed, moving, np.zeros_like(points))
    fields = [
        ops.convert_to_numpy(
            bspline_field(p.astype(np.float32), shape, spacing=spacing, border=border)
        )
        for p in (points, found)
    ]
    inner = (0, *(slice(2, -2),) * len(shape))
    error = np.linalg.norm((fields[0] - fields[1])[inner], axis=-1)
    before = np.linalg.norm(fields[0][inner], axis=-1)
    assert before.mean() > 0.4
    assert error.mean() < 0.25 * before.mean()


def test_no_steps_and_a_perfect_start_change_nothing_much():
    fixed, moving, points = known_pair((32, 40), (8.0, 8.0))
    same = refiner((8.0, 8.0), steps=0).refine(fixed, moving, points)
    np.testing.assert_array_equal(same, points)


def test_pairs_of_a_batch_are_refined_each_on_its_own():
    first, second = known_pair((32, 40), (8.0, 8.0)), known_pair((32, 40), (8.0, 8.0), 0.5)
    run = refiner((8.0, 8.0), steps=5)
    both = run.refine(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
    np.testing.assert_allclose(both[1], run.refine(*second)[0], atol=1e-4)


def test_limit_holds_for_every_control_point():
    fixed, moving, points = known_pair((32, 40), (4.0, 8.0), amplitude=3.0)
    found = refiner((4.0, 8.0), steps=30, learning_rate=1.0, displacement_limit=0.1).refine(
        fixed, moving, np.zeros_like(points)
    )
    largest = np.abs(found).max(axis=(0, 1, 2))
    assert largest[0] == pytest.approx(0.4)
    assert largest[1] == pytest.approx(0.8)


def test_what_steps_have_folded_is_unfolded_where_that_is_asked_for():
    shape, spacing = (40, 48), (8.0, 8.0)
    fixed, moving = texture(shape), texture(shape, seed=5)  # nothing corresponds
    start = np.zeros((1, 5, 6, 2), np.float32)
    folds = []
    for unfold in (False, True):
        options = RefinementOptions(steps=60, learning_rate=1.0, objective=Objective())
        steps = ControlPointRefiner(options, spacing=spacing, spacing_mm=(1, 1), unfold=unfold)
        found = steps.refine(fixed, moving, start).astype(np.float32)
        field = ops.convert_to_numpy(bspline_field(found, shape, spacing=spacing))[0]
        folds.append(jacobian_determinant(field.astype(float), spacing=(1.0, 1.0)).min())
    assert folds[0] < 0 < folds[1]


def test_bending_weight_buys_smoothness():
    fixed, moving, points = known_pair((32, 40), (8.0, 8.0))
    energies = []
    for weight in (0.0, 10.0):
        run = refiner((8.0, 8.0), steps=40, objective=Objective(bending_weight=weight))
        found = run.refine(fixed, moving, np.zeros_like(points)).astype(np.float32)
        energy = control_point_bending_energy(
            found, (32, 40), spacing=(8.0, 8.0), spacing_mm=(1.0, 1.0)
        )
        energies.append(float(energy[0]))
    assert energies[1] < 0.5 * energies[0]


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="steps must not be negative"):
        RefinementOptions(steps=-1)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        RefinementOptions(learning_rate=0.0)
    with pytest.raises(ValueError, match="displacement_limit must be positive or None"):
        RefinementOptions(displacement_limit=0.0)
    with pytest.raises(ValueError, match="similarity must be one of"):
        Objective(similarity="ssd")


def test_a_shrunk_voxel_lies_in_the_middle_of_its_block_and_displacements_keep_their_unit():
    # no steps: what comes back is what went in, and the energy of a constant shift is that of
    # images that are averaged first and shifted by as many voxels fewer
    shape, spacing = (24, 32), (8.0, 8.0)
    moving = texture(shape)
    points = np.full((1, 3, 4, 2), (2.0, 4.0), np.float32)
    fixed = np.roll(moving, (-2, -4), axis=(1, 2))
    shrinking = refiner(spacing, steps=0, shrink=2)
    assert shrinking.refine(fixed, moving, points) == pytest.approx(points)
    small = [shrinking._shrunk(image) for image in (fixed, moving)]
    assert small[0].shape == (1, 12, 16, 1)
    assert small[0][0, 1, 2, 0] == pytest.approx(fixed[0, 2:4, 4:6, 0].mean())
    inner = (slice(None), slice(0, 11), slice(0, 14))
    # 2 and 4 voxels are 1 and 2 blocks
    moved = ops.convert_to_numpy(
        warp(small[1], bspline_field(points / 2, (12, 16), spacing=shrinking.spacing))
    )
    assert moved[inner] == pytest.approx(small[0][inner], abs=1e-5)


@pytest.mark.parametrize("shrink", [(1, 2, 2), (2, 9)])
def test_shrinking_must_fit_the_lattice(shrink):
    with pytest.raises(ValueError, match="shrink"):
        refiner((8.0, 8.0), shrink=shrink)
