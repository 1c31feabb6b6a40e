from __future__ import annotations

import numpy as np
import pytest
from keras import ops

from registration.objective import Objective

RNG = np.random.default_rng(8)
# bright and dark pairs, so that one correlation over all voxels is another than their mean
LEVELS = np.array([0.1, 0.4, 0.7], np.float32).reshape(3, 1, 1, 1)
FIXED = (LEVELS + RNG.uniform(0, 0.2, (3, 9, 11, 1))).astype(np.float32)
MOVED = (LEVELS + RNG.uniform(0, 0.2, FIXED.shape)).astype(np.float32)


@pytest.mark.parametrize("masked", [False, True])
def test_similarity_of_a_batch_is_one_correlation_over_what_the_masks_show(masked):
    mask = RNG.uniform(size=FIXED.shape) < 0.4
    shown = mask if masked else np.ones_like(mask)
    spoiled = np.where(shown, MOVED, 7.0).astype(np.float32)
    expected = np.corrcoef(FIXED[shown], MOVED[shown])[0, 1]
    weights = mask.astype(np.float32) if masked else None
    found = Objective("ncc_batch").dissimilarity(FIXED, spoiled, weights)
    np.testing.assert_allclose(ops.convert_to_numpy(found), [-expected] * 3, atol=1e-3)
    apart = Objective("ncc").dissimilarity(FIXED, spoiled, weights)
    assert np.abs(ops.convert_to_numpy(apart) + expected).min() > 0.3


def test_similarity_of_a_batch_of_one_is_that_of_the_pair():
    values = [
        ops.convert_to_numpy(Objective(similarity).dissimilarity(FIXED[:1], MOVED[:1]))
        for similarity in ("ncc", "ncc_batch")
    ]
    np.testing.assert_allclose(*values, atol=1e-6)


def test_unknown_similarities_are_named():
    with pytest.raises(ValueError, match=r"similarity must be one of .*'ncc_batch'.*'ssd'"):
        Objective("ssd")
