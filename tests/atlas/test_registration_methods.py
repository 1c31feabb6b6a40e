import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from atlas import registration_methods
from atlas.member import prepare_member
from atlas.registration_methods import (
    ComparedMean,
    Regions,
    register_by_elastix,
    register_by_steps,
)
from atlas.settings import Stage
from atlas.subject_transform import SubjectTransform
from registration.geometry import Ellipsoid, ImageGrid
from tests.atlas.blob import SPACING_MM, known_maps, subject

HEART = Ellipsoid((10.0, 0.0, 0.0), (30.0, 30.0, 30.0))
WHOLE = Ellipsoid((0.0, 0.0, 0.0), (90.0, 80.0, 70.0))


def test_rounds_that_go_on_from_the_last_one_take_fewer_steps(monkeypatch):
    asked = []

    def compiled(spacing, weight):
        def take(fixed, moving, fixed_mask, moving_mask, points, steps):
            asked.append(int(steps))
            return points

        return take

    monkeypatch.setattr(registration_methods, "_compiled_steps", compiled)
    member = prepare_member(subject(known_maps()[0]), modality="other", spacing_mm=SPACING_MM)
    shape = member.grid.shape
    mean = ComparedMean(
        np.ones(shape, np.float32), np.ones(shape, np.float32), member.grid, "other"
    )
    before = SubjectTransform(np.eye(4))
    stage = Stage("deformable", 2, control_point_spacing_vox=8.0, steps=6, warm_steps=2)
    first = register_by_steps(mean, member, before, None, stage, bending_weight=0.1)
    register_by_steps(mean, member, before, first, stage, bending_weight=0.1)
    same = Stage("deformable", 2, control_point_spacing_vox=8.0, steps=6)
    register_by_steps(mean, member, before, first, same, bending_weight=0.1)
    assert asked == [6, 2, 6]


def test_focused_rounds_are_judged_where_they_look():
    mixed, alike = Regions(WHOLE, HEART), Regions(WHOLE)
    focused, affine = Stage("affine", 2, focused=True), Stage("affine", 2)
    assert mixed.judged(focused) == HEART
    assert mixed.judged(affine) is None
    assert alike.judged(focused) is None


def stretched(n, stretch):
    """A textured cube as a mean, and a member that is it stretched along z about the middle."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=(n, n, n)), 3.0)
    texture = (texture - texture.min()) / np.ptp(texture)
    middle = (n - 1) / 2
    z, y, x = np.meshgrid(*(np.arange(n),) * 3, indexing="ij")
    # the fixed image shows at z what the moving one has `stretch` times as far from the middle
    fixed = map_coordinates(texture, [middle + (z - middle) * stretch, y, x], mode="nearest")
    grid = ImageGrid((n, n, n), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    member = prepare_member(
        grid.to_image(texture.astype(np.float32)), modality="other", spacing_mm=1.0
    )
    mean = ComparedMean(fixed.astype(np.float32), np.ones((n, n, n), np.float32), grid, "other")
    return mean, member


def test_what_lies_at_the_border_is_registered_as_what_lies_inside():
    """A subject stretched along one axis: the displacement is largest at the border."""
    n, stretch = 40, 1.1
    mean, member = stretched(n, stretch)
    stage = Stage("deformable", 1, control_point_spacing_vox=16.0, steps=12)
    before = SubjectTransform(np.eye(4))
    found = register_by_steps(mean, member, before, None, stage, bending_weight=0.0)
    transform = found.to_transform()
    for index in (1, 4, 19, 34, 37):
        moved = transform.TransformPoint((20.0, 20.0, float(index)))[2]
        assert moved - index == pytest.approx((index - (n - 1) / 2) * (stretch - 1.0), abs=0.15)


def test_elastix_finds_what_steps_find():
    pytest.importorskip("itk", reason="needs itk-elastix, the extra baselines")
    n, stretch = 32, 1.1
    mean, member = stretched(n, stretch)
    stage = Stage("deformable", 1, control_point_spacing_vox=16.0, steps=4)
    found = register_by_elastix(mean, member, SubjectTransform(np.eye(4)), stage, 0.0)
    transform = found.to_transform()
    for index in (6, 15, 25):
        moved = transform.TransformPoint((16.0, 16.0, float(index)))[2]
        assert moved - index == pytest.approx((index - (n - 1) / 2) * (stretch - 1.0), abs=0.3)
