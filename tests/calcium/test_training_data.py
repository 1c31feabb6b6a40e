from dataclasses import replace

import numpy as np
import pytest

from calcium.anatomy_maps import AnatomyPoints
from calcium.density import agatston_density
from calcium.labeled_scan import LabeledScan
from calcium.lattice_scan import lattice_scan, load_lattice_scan, save_lattice_scan
from calcium.training_data import CropSampler, block_sums, shared_weights
from tests.calcium.test_training import GRID, HEART, labeled


def test_lattice_scan_keeps_the_score():
    scan = labeled()
    density = agatston_density(scan.volume_hu, GRID)
    on_lattice = lattice_scan(scan, HEART)
    assert on_lattice.agatston == pytest.approx(float(density[scan.coronary].sum()), rel=1e-5)
    assert float(on_lattice.density.sum()) == pytest.approx(float(density.sum()), rel=1e-5)


def test_unknown_calcium_takes_no_part():
    scan = labeled()
    unknown = scan.coronary.copy()
    without = LabeledScan(
        "u", "u", "chest", scan.volume_hu, GRID, scan.atlas_to_scan, ~unknown & False, unknown
    )
    assert lattice_scan(without, HEART).agatston == 0.0
    # only the right half is left
    whole = lattice_scan(scan, HEART)
    rest = float(whole.density.sum() - whole.coronary.sum())
    assert float(lattice_scan(without, HEART).density.sum()) == pytest.approx(rest, rel=1e-4)


def test_saved_lattice_scans_come_back_equal(tmp_path):
    scan = lattice_scan(labeled(), HEART)
    save_lattice_scan(tmp_path / "case.npz", scan)
    again = load_lattice_scan(tmp_path / "case.npz")
    first, second = (s.crop(3, (64, 40), 128) for s in (scan, again))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert again.field.grid == scan.field.grid


def with_anatomy(scan, seed=0):
    """The scan with a course through some of its coronary calcium."""
    z, y, x = np.nonzero(scan.coronary)
    chosen = np.random.default_rng(seed).choice(len(z), 5, replace=False)
    course = GRID.physical_points(np.stack([x, y, z], axis=1)[np.sort(chosen)])
    return replace(scan, anatomy=AnatomyPoints.of({"RCA": course}))


def test_maps_of_the_anatomy_lie_where_it_is(tmp_path):
    scan = with_anatomy(labeled())
    save_lattice_scan(tmp_path / "case.npz", lattice_scan(scan, HEART))
    on_lattice = load_lattice_scan(tmp_path / "case.npz")
    for point in scan.anatomy.points_mm:
        x, y, z = GRID.indices(point.astype(float))
        field = on_lattice.field
        number = int(np.clip(round(z), *field.slices)) - field.slices[0]
        row = (y - field.start_vox[0]) / field.step_vox[0]
        col = (x - field.start_vox[1]) / field.step_vox[1]
        corner = (int(row) // 4 * 4 - 40, int(col) // 4 * 4 - 60)
        maps, known = on_lattice.anatomy_maps(number, corner, 128)
        assert known.tolist() == [False, False, True, False, False, False]
        # half a cell and half a slice off at most
        assert maps[10, 15, 2] > 0.9
        assert maps[..., [0, 1, 3, 4, 5]].max() == 0.0


def test_batches_with_anatomy_hold_the_same_crops():
    scans = [lattice_scan(with_anatomy(labeled(k)), HEART) for k in range(2)]
    plain, drawn = (CropSampler(scans, seed=4, batch_size=3, anatomy=a) for a in (False, True))
    first, second = plain.batch(7), drawn.batch(7)
    assert np.array_equal(first.inputs, second.inputs)
    assert first.anatomy.shape == (3, 0, 0, 6)
    assert second.anatomy.shape == (3, 32, 32, 6)
    assert second.anatomy_known.tolist() == [[0, 0, 1, 0, 0, 0]] * 3
    assert second.anatomy[..., 2].max() > 0.5


def test_batches_depend_on_seed_and_step_alone():
    scans = [lattice_scan(labeled(k), HEART) for k in range(2)]
    sampler, same = (CropSampler(scans, seed=4, batch_size=3) for _ in range(2))
    assert np.array_equal(sampler.batch(7).inputs, same.batch(7).inputs)
    assert not np.array_equal(sampler.batch(7).inputs, sampler.batch(8).inputs)


def test_scans_are_drawn_as_often_as_they_weigh():
    scans = [lattice_scan(labeled(k), HEART) for k in range(2)]
    scans[1] = replace(scans[1], density=scans[1].density * 1000)

    def share_of_the_second(weights):
        sampler = CropSampler(scans, weights=weights, batch_size=100, anywhere_share=0.0)
        return (sampler.batch(0).density.max((1, 2)) > 500).mean()

    assert share_of_the_second([1.0, 3.0]) == pytest.approx(0.75, abs=0.15)
    assert share_of_the_second([0.0, 1.0]) == 1.0
    assert share_of_the_second([2.0, 0.0]) == 0.0
    with pytest.raises(ValueError, match="one weight per scan"):
        CropSampler(scans, weights=[1.0])


def test_a_part_of_the_scans_has_its_share_of_the_crops():
    assert shared_weights([False, True, True, True], 0.6) == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert shared_weights([False, True, True, True], None) is None
    # scans of one kind alone are drawn alike
    assert shared_weights([True, True], 0.6) is None
    assert shared_weights([False], 0.6) is None


def test_whole_slices_can_be_drawn_as_often_as_they_occur():
    scan = lattice_scan(labeled(), HEART)
    shares = {"coronary_share": 0.0, "anywhere_share": 1.0}
    sampler = CropSampler([scan], seed=3, crop_size=256, block_sizes=(256,), **shares)
    scores = np.concatenate([sampler.batch(step).scores[0].ravel() for step in range(20)])
    with_calcium = np.unique(scan.points[scan.coronary > 0][:, 0]).size / len(scan.hu)
    assert 0 < with_calcium < 1
    assert (scores > 0).mean() == pytest.approx(with_calcium, abs=0.1)


def test_block_scores_add_up_to_the_crop_score():
    batch = CropSampler([lattice_scan(labeled(), HEART)], seed=1, batch_size=4).batch(0)
    whole, blocks = batch.scores
    assert whole.shape == (4, 1, 1)
    assert blocks.shape == (4, 4, 4)
    assert blocks.sum((1, 2)) == pytest.approx(whole[:, 0, 0], rel=1e-5)
    assert block_sums(np.arange(16.0).reshape(1, 4, 4), 2).tolist() == [[[10, 18], [42, 50]]]


def test_lesions_of_a_batch_carry_the_scores_of_their_points():
    scans = [lattice_scan(labeled(s), HEART) for s in (0, 1)]
    batch = CropSampler(scans, seed=4, batch_size=5).batch(2)
    assert ((batch.lesions > 0) == (batch.density > 0)).all()
    # every number belongs to one crop, and plaque is not joined with its mirror image
    owner = np.broadcast_to(np.arange(5)[:, None, None], batch.lesions.shape)
    for number in range(1, len(batch.lesion_scores)):
        at = batch.lesions == number
        assert len(set(owner[at])) == 1
        share = batch.lesion_scores[number] / batch.density[at].sum()
        assert min(share, abs(1.0 - share)) < 1e-4
    assert batch.lesion_scores.sum() == pytest.approx(batch.scores[0].sum(), rel=1e-5)
    assert batch.lesion_scores[0] == 0.0
