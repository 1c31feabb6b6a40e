from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from pipelines import pictures
from pipelines.pictures import atlas_views, fill_path, outline_path, slice_pictures
from registration.geometry import Ellipsoid, ImageGrid, affine_transform

GRID = ImageGrid((40, 30, 12), (0.7, 0.9, 3.0), (11.0, -50.0, 300.0))


def decoded(uri: str) -> NDArray[np.uint8]:
    head, _, data = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))


def path_area(path: str) -> float:
    """Area of the rectangles of a path, read back from its text."""
    found = re.findall(r"M\S+ \S+?h(-?[\d.]+)v([\d.]+)h-[\d.]+z", path)
    assert len(found) == path.count("M")
    return sum(float(width) * float(height) for width, height in found)


def feedback_with(*voxels: tuple[int, int, int], value: float = 1.0) -> NDArray[np.float32]:
    array = np.zeros(GRID.shape, np.float32)
    for voxel in voxels:
        array[voxel] = value
    return array


def test_every_contributing_slice_is_shown_with_its_position_and_its_part() -> None:
    feedback = feedback_with((2, 5, 6), (2, 5, 7), (9, 20, 30))
    shown = slice_pictures(GRID.to_image(np.zeros(GRID.shape, np.int16)), feedback)
    assert [picture.index for picture in shown] == [2, 9]
    assert [picture.agatston for picture in shown] == [2.0, 1.0]
    assert [picture.z_mm for picture in shown] == [300.0 + 2 * 3.0, 300.0 + 9 * 3.0]


def test_slices_that_cannot_move_the_printed_score_have_no_picture() -> None:
    feedback = feedback_with((2, 5, 6), (9, 20, 30))
    feedback[4, 4, 4] = 0.04
    shown = slice_pictures(GRID.to_image(np.zeros(GRID.shape, np.int16)), feedback)
    assert [picture.index for picture in shown] == [2, 9]


def test_no_contribution_gives_no_picture() -> None:
    image = GRID.to_image(np.zeros(GRID.shape, np.int16))
    assert slice_pictures(image, np.zeros(GRID.shape, np.float32)) == ()


def test_overlay_covers_exactly_the_voxels_that_count() -> None:
    feedback = feedback_with((2, 5, 6), (2, 5, 7), (2, 9, 7), value=2.0)
    feedback[2, 20, 20] = 0.5
    [picture] = slice_pictures(GRID.to_image(np.zeros(GRID.shape, np.int16)), feedback)
    pixel_mm2 = 0.7 * 0.9
    areas = [path_area(path) for path in picture.fills]
    assert areas == pytest.approx([0.0, pixel_mm2, 3 * pixel_mm2])


@pytest.mark.parametrize(
    "direction",
    [
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        (-1, 0, 0, 0, -1, 0, 0, 0, 1),
        (0, 1, 0, 1, 0, 0, 0, 0, 1),
        (0, -1, 0, 1, 0, 0, 0, 0, 1),
        (0.995, -0.0998, 0, 0.0998, 0.995, 0, 0, 0, 1),
    ],
)
def test_patients_left_is_on_the_right_and_front_on_top(direction: tuple[float, ...]) -> None:
    grid = ImageGrid((40, 40, 3), (0.7, 0.7, 3.0), (5.0, -9.0, 30.0), direction)
    points = grid.voxel_points()
    offset = points - grid.center
    is_left_front = (offset[..., 0] > 6) & (offset[..., 1] < -6)
    image = grid.to_image(np.where(is_left_front, 400, -100).astype(np.int16))
    feedback = np.zeros(grid.shape, np.float32)
    feedback[1, 20, 20] = 5.0
    [picture] = slice_pictures(image, feedback)
    gray = decoded(picture.image_uri).astype(float)
    half = gray.shape[0] // 2
    quarters = [gray[:half, :half], gray[:half, half:], gray[half:, :half], gray[half:, half:]]
    assert int(np.argmax([quarter.mean() for quarter in quarters])) == 1


def test_slices_are_cut_to_the_heart_and_to_what_counts() -> None:
    heart = Ellipsoid((0.0, 0.0, 0.0), (3.0, 2.0, 9.0))
    place = GRID.physical_points([20, 15, 6])
    matrix = np.eye(4)
    matrix[:3, 3] = place
    feedback = feedback_with((6, 15, 20))
    image = GRID.to_image(np.zeros(GRID.shape, np.int16))
    shift = affine_transform(matrix)
    margin = pictures.HEART_MARGIN_MM
    grid = ImageGrid((400, 300, 3), (0.7, 0.9, 3.0), GRID.origin)
    wide = np.zeros(grid.shape, np.float32)
    wide[1, 15, 20] = 1.0
    [cut] = slice_pictures(
        grid.to_image(np.zeros(grid.shape, np.int16)), wide, atlas_to_scan=shift, heart=heart
    )
    # the left upper corner of the grid cuts off part of the margin
    assert cut.width_mm == pytest.approx(20 * 0.7 + 3.0 + margin, abs=0.7 * 2)
    assert cut.height_mm == pytest.approx(15 * 0.9 + 2.0 + margin, abs=0.9 * 2)
    wide[1, 290, 390] = 1.0
    [grown] = slice_pictures(
        grid.to_image(np.zeros(grid.shape, np.int16)), wide, atlas_to_scan=shift, heart=heart
    )
    assert grown.width_mm == pytest.approx(391 * 0.7, abs=0.7)
    assert len(slice_pictures(image, feedback, atlas_to_scan=shift, heart=heart)) == 1


def test_beyond_the_cap_slices_become_thumbnails_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "FULL_SIZE_SLICES", 3)
    feedback = np.zeros(GRID.shape, np.float32)
    feedback[:, 10, 10] = np.arange(1, 13)
    shown = slice_pictures(GRID.to_image(np.zeros(GRID.shape, np.int16)), feedback)
    assert [picture.index for picture in shown] == list(range(12))
    assert [picture.index for picture in shown if not picture.is_thumbnail] == [9, 10, 11]
    assert decoded(shown[0].image_uri).shape == (15, 20)
    assert decoded(shown[11].image_uri).shape == (30, 40)


def test_outline_has_the_length_of_the_border() -> None:
    mask = np.zeros((6, 7), bool)
    mask[1:3, 2:5] = True
    mask[5, 6] = True
    lengths = [float(v) for v in re.findall(r"[hv]([\d.]+)", outline_path(mask, 2.0, 0.5))]
    # 2 x 3 pixels of 2 mm by 0.5 mm, and one alone
    assert sum(lengths) == pytest.approx(2 * (4.0 + 1.5) + 2 * (2.0 + 0.5))
    assert path_area(fill_path(mask, 2.0, 0.5)) == pytest.approx(7 * 2.0 * 0.5)


def test_atlas_views_show_the_scan_where_the_transform_puts_it() -> None:
    atlas_grid = ImageGrid((50, 44, 36), (2.0, 2.5, 3.0), (-50.0, -55.0, -52.0))
    scan_grid = ImageGrid((80, 70, 40), (1.5, 1.6, 2.5), (900.0, 70.0, -400.0))
    heart = Ellipsoid((4.0, -6.0, 8.0), (30.0, 25.0, 28.0))
    matrix = np.diag([1.1, 0.9, 1.05, 1.0])
    ball_mm = np.array([960.0, 125.0, -350.0])
    matrix[:3, 3] = ball_mm - matrix[:3, :3] @ np.array(heart.center_mm)
    distance = np.linalg.norm(scan_grid.voxel_points() - ball_mm, axis=-1)
    scan = scan_grid.to_image(np.where(distance < 12.0, 400, -900).astype(np.int16))
    atlas = atlas_grid.to_image(np.zeros(atlas_grid.shape, np.float32))
    views = atlas_views(scan, atlas, affine_transform(matrix), heart, [ball_mm])
    assert [view.name for view in views] == ["axial", "coronal", "sagittal"]
    for view in views:
        gray = decoded(view.scan_uri).astype(float)
        bright = np.argwhere(gray > 128)
        down, across = (bright.mean(axis=0) + 0.5) / gray.shape
        x, y, rx, ry = view.heart
        assert across * view.width_mm == pytest.approx(x, abs=2.0)
        assert down * view.height_mm == pytest.approx(y, abs=2.0)
        assert view.lesions[0] == pytest.approx((x, y), abs=1e-6)
        assert 0 < rx < view.width_mm
        assert 0 < ry < view.height_mm
        assert len(np.unique(decoded(view.atlas_uri))) == 1


def test_views_show_the_heart_and_its_surroundings() -> None:
    grid = ImageGrid((100, 90, 80), (2.0, 2.5, 3.0), (-100.0, -110.0, -120.0))
    image = grid.to_image(np.zeros(grid.shape, np.int16))
    heart = Ellipsoid((5.0, -8.0, 110.0), (30.0, 25.0, 28.0))
    axial, coronal, sagittal = atlas_views(image, image, sitk.AffineTransform(3), heart)
    assert (axial.width_mm, axial.height_mm) == pytest.approx((102.0, 85.0), abs=3.0)
    # 28 mm times 1.7 upwards would leave the atlas, which ends 8.5 mm above the heart's center
    assert coronal.height_mm == pytest.approx(47.6 + 8.5, abs=3.0)
    assert sagittal.heart[1] == pytest.approx(8.5, abs=1.5)


def test_views_have_the_head_on_top() -> None:
    grid = ImageGrid((30, 30, 30), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    array = np.full(grid.shape, -900, np.int16)
    array[24:] = 400
    image = grid.to_image(array)
    heart = Ellipsoid((30.0, 30.0, 30.0), (20.0, 20.0, 20.0))
    views = atlas_views(image, image, sitk.AffineTransform(3), heart)
    for view in views[1:]:
        gray = decoded(view.scan_uri).astype(float)
        assert gray[:4].mean() > 200
        assert gray[10:].mean() < 20
