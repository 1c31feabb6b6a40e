import numpy as np
import pytest
import SimpleITK as sitk

from registration.geometry import ImageGrid


def test_two_hundred_cases_are_split_140_20_40_whatever_their_order():
    from hippocampus import split

    names = [f"case_{n:03d}" for n in range(200)]
    parts = split(names)
    assert [len(part) for part in parts] == [140, 20, 40]
    assert sorted([*parts[0], *parts[1], *parts[2]]) == names
    assert split(names[::-1]) == parts


def test_every_case_is_fixed_once_and_moving_once_and_centered(tmp_path):
    from hippocampus import ring_pairs

    names = ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    for number, name in enumerate(names):
        grid = ImageGrid((5 + number, 6, 7), (1.0, 1.0, 2.0), (10.0, -20.0, 5.0 * number))
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(grid.empty_image(sitk.sitkUInt8), str(tmp_path / folder / name))
    pairs = ring_pairs(tmp_path, names)
    assert [p.name for p in pairs] == ["b to a", "c to b", "a to c"]
    for pair in pairs:
        for image in (pair.fixed, pair.moving, pair.moving_labels):
            center = ImageGrid.from_image(image).center
            np.testing.assert_allclose(center, 0.0, atol=1e-6)


def breath():
    from breathing import Breath

    return Breath(
        top_mm=80.0, depth_mm=160.0, descent_mm=25.0, forward_mm=5.0,
        center=(0.0, 0.0), radii=(100.0, 70.0),
    )  # fmt: skip


def test_the_breath_moves_the_diaphragm_and_neither_apex_nor_skin():
    points = np.array([[0.0, 0.0, -80.0], [0.0, 0.0, 80.0], [140.0, 0.0, -80.0]])
    moved = breath().inhaled(points) - points
    # at the front half-way point: smooth step of 0.5 is 0.5
    np.testing.assert_allclose(moved[0], (0.0, -2.5, -25.0), atol=1e-9)
    np.testing.assert_allclose(moved[1], (0.0, -2.5, 0.0), atol=1e-9)
    np.testing.assert_allclose(moved[2], 0.0, atol=1e-9)


def test_the_moving_image_is_the_fixed_one_after_the_breath():
    from breathing import _exhaled_field

    grid = ImageGrid((40, 30, 44), (6.0, 6.0, 5.0), (-117.0, -87.0, -107.5))
    back = _exhaled_field(breath(), grid)
    points = np.random.default_rng(0).uniform((-80, -50, -60), (80, 50, 70), (50, 3))
    there = breath().inhaled(points)
    returned = np.array([back.TransformPoint(p) for p in there.tolist()])
    # linear interpolation of the field on voxels of 6 mm
    assert np.linalg.norm(returned - points, axis=1).max() < 0.3


def test_landmarks_are_read_by_their_columns(tmp_path):
    pytest.importorskip("surface_distance")
    from lung_measurement import read_points

    path = tmp_path / "points.csv"
    path.write_text("name,z,y,x\na,3,2,1\nb,6,5,4\n", encoding="utf-8")
    assert read_points(path).tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert read_points(None) is None


def test_digits_are_split_by_a_fixed_seed():
    from digits import split

    images = np.arange(50.0)[:, None, None] * np.ones((1, 2, 2))
    training, test = split(images)
    assert (len(training), len(test)) == (40, 10)
    again = split(images)
    assert np.array_equal(test, again[1])
    values = sorted(np.concatenate([training, test])[:, 0, 0].tolist())
    assert values == list(range(50))


@pytest.mark.parametrize("right", [True, False])
def test_a_lung_is_cut_out_of_both_breaths_with_margins_of_their_own(right):
    from lung_recipe import CROP_MARGIN_MM, _one_lung
    from registration_pairs import LabeledPair

    grid = ImageGrid((60, 40, 30), (3.0, 3.0, 4.0), (-88.5, -58.5, -58.0))
    labels = []
    for low in (6, 4):  # breathed in, the lungs reach lower
        array = np.zeros(grid.shape, np.uint8)
        array[low:24, 12:30, 10:25] = 1
        array[low:24, 12:30, 34:50] = 1
        labels.append(grid.to_image(array))
    image = grid.to_image(np.zeros(grid.shape, np.float32))
    pair = LabeledPair("case", image, image, *labels)
    boxes = list(_one_lung(pair, np.random.default_rng(5), right=right))
    for box, low in zip(boxes, (6, 4), strict=True):
        found = ImageGrid.from_image(box)
        columns = (10, 24) if right else (34, 49)
        lung = grid.physical_points([[columns[0], 12, low], [columns[1], 29, 23]])
        ends = found.physical_points([[0, 0, 0], [n - 1 for n in found.size]])
        margins = np.concatenate([lung[0] - ends[0], ends[1] - lung[1]])
        assert (margins >= 0.0).all()
        assert (margins <= CROP_MARGIN_MM[1] + 4.0).all()
    assert boxes[0].GetSize() != boxes[1].GetSize()
