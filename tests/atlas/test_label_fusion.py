import numpy as np
import SimpleITK as sitk

from atlas.label_fusion import NOT_SEEN, fused, moved_label
from registration.geometry import ImageGrid

GRID = ImageGrid((2, 1, 3), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))


def written(tmp_path, columns):
    """One file per subject; voxel by voxel the labels of a column."""
    paths = []
    for number, values in enumerate(np.array(columns).T):
        path = tmp_path / f"{number}.nii.gz"
        sitk.WriteImage(GRID.to_image(values.reshape(GRID.shape).astype(np.int32)), str(path))
        paths.append(path)
    return paths


def test_the_most_frequent_label_of_those_in_view_wins(tmp_path):
    columns = [
        [1, 1, NOT_SEEN, NOT_SEEN],
        [1, 1, 0, 0],  # as often: the lower
        [0, 0, 7, NOT_SEEN],
        [NOT_SEEN] * 4,
        [7, 7, 7, 1],
        [2**15 + 1, 2**15 + 1, 2**15 + 1, 1],  # in view, but too large to be fused
    ]
    labels, share, names = fused(written(tmp_path, columns), GRID)
    assert labels.ravel().tolist() == [1, 0, 0, 0, 7, 1]
    np.testing.assert_allclose(share.ravel(), [1, 0.5, 2 / 3, 0, 0.75, 0.25], rtol=1e-6)
    assert names == (1, 7)


def test_a_moved_label_is_background_beyond_its_grid_and_unknown_out_of_view():
    label = GRID.to_image(np.array([[[3, 4]], [[5, 6]], [[7, 8]]], np.uint8))
    wide = ImageGrid((3, 1, 3), GRID.spacing, GRID.origin)
    seen = np.ones(wide.shape, bool)
    seen[0] = False
    shift = sitk.TranslationTransform(3, (1.0, 0.0, 0.0))
    moved = moved_label(label, shift, wide, seen)
    assert moved.tolist() == [[[-1, -1, -1]], [[6, 0, 0]], [[8, 0, 0]]]
