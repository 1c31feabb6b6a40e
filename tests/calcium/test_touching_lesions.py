from itertools import product

import numpy as np
import pytest

from calcium.feedback import decide
from calcium.touching_lesions import _faces_mm2, divide_touching

SHAPE = (5, 16, 24)
SPACING = (2.0, 0.5, 0.5)


def candidates(*boxes):
    """Voxels of boxes of a volume with an attention each, in order, density 1."""
    attention = np.full(SHAPE, np.nan)
    for (z, y, x), value in boxes:
        attention[z, y, x] = value
    flat = np.flatnonzero(~np.isnan(attention))
    return attention.ravel()[flat], np.ones(len(flat)), flat


def counted(*boxes):
    """Score of everything, decided by lesions; 26-connected boxes are one."""
    attention, density, flat = candidates(*boxes)
    return decide(attention, density, flat, SHAPE, "lesion", spacing_mm=SPACING).sum()


LEFT = np.s_[1:4, 4:10, 4:10]
RIGHT = np.s_[1:4, 4:10, 11:17]
BRIDGE = np.s_[2:3, 6:7, 10:11]
BROAD = np.s_[1:4, 4:10, 10:16]


def test_plaque_that_touches_the_aorta_by_a_neck_counts_alone():
    size = 3 * 6 * 6
    aorta, plaque, bridge = (LEFT, 0.02), (RIGHT, 0.97), (BRIDGE, 0.97)
    assert counted(aorta, plaque, bridge) == size + 1
    assert counted(aorta, plaque) == size
    # without the aorta's certainty the mean of both decides, either way
    assert counted((LEFT, 0.3), plaque, bridge) == 2 * size + 1
    assert counted(aorta, (RIGHT, 0.8), bridge) == 0.0


def test_a_plaque_of_which_the_network_misses_a_part_stays_whole():
    size = 3 * 6 * 6
    assert counted((LEFT, 0.03), (BROAD, 0.99)) == 2 * size
    assert counted((LEFT, 0.01), (BROAD, 0.97)) == 0.0


def test_a_part_that_is_worth_no_category_stays_with_the_other():
    speck = np.s_[2:3, 6:9, 11:14]
    assert counted((LEFT, 0.02), (BRIDGE, 0.99), (speck, 0.99)) == 10.0
    smaller = np.s_[2:3, 6:8, 11:14]
    assert counted((LEFT, 0.02), (BRIDGE, 0.99), (smaller, 0.99)) == 0.0


def test_other_lesions_keep_their_labels_apart():
    attention, density, flat = candidates((LEFT, 0.02), (RIGHT, 0.97), (BRIDGE, 0.97))
    label = np.zeros(len(flat), int)
    far = np.unravel_index(flat, SHAPE)[2] > 13  # as if these were a lesion of their own
    label[far] = 1
    divided = divide_touching(label, attention, density, flat, SHAPE, SPACING)
    assert sorted(set(divided.tolist())) == [0, 1, 2]
    assert len(set(divided[far].tolist())) == 1
    assert not set(divided[far].tolist()) & set(divided[~far].tolist())
    nothing = np.zeros(0)
    none = divide_touching(nothing.astype(int), nothing, nothing, flat[:0], SHAPE, SPACING)
    assert none.shape == (0,)


@pytest.mark.parametrize("seed", range(4))
def test_faces_are_those_that_are_counted_one_by_one(seed):
    rng = np.random.default_rng(seed)
    shape, spacing = (4, 5, 6), (3.0, 0.7, 0.4)
    lesion = rng.integers(-1, 3, shape)
    side = rng.integers(0, 2, shape)
    expected = np.zeros(3)
    for place in product(*map(range, shape)):
        for axis in range(3):
            other = list(place)
            other[axis] += 1
            if other[axis] == shape[axis]:
                continue
            beside = tuple(other)
            if lesion[place] == lesion[beside] >= 0 and side[place] != side[beside]:
                expected[lesion[place]] += np.prod(spacing) / spacing[axis]
    flat = np.flatnonzero(lesion.ravel() >= 0)
    part = 2 * lesion.ravel()[flat] + side.ravel()[flat]
    np.testing.assert_allclose(_faces_mm2(part, flat, shape, spacing, 3), expected)
