import numpy as np
import pytest

from atlas import averaging
from atlas.averaging import UNCOVERED, average, write_moved
from registration.geometry import ImageGrid

GRID = ImageGrid((2, 1, 3), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))


def written(tmp_path, columns):
    """One file per image; voxel by voxel the values of a column."""
    paths = []
    for number, values in enumerate(np.array(columns).T):
        path = tmp_path / f"{number}.npy"
        write_moved(values.reshape(GRID.shape).astype(np.int16), path)
        paths.append(path)
    return paths


COLUMNS = [
    [1, 2, 3, 10],
    [4, 4, 4, 4],
    [UNCOVERED, 6, UNCOVERED, 8],
    [UNCOVERED] * 4,
    [0, -2, 2, 100],
    [5, UNCOVERED, 7, 9],
]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mean", [4, 4, 7, 0, 25, 7]), ("median", [2.5, 4, 7, 0, 1, 7])],
)
def test_every_voxel_is_averaged_over_those_that_cover_it(tmp_path, kind, expected):
    mean = average(written(tmp_path, COLUMNS), GRID, kind=kind, modality="other")
    assert mean.values.ravel().tolist() == expected
    assert mean.coverage.ravel().tolist() == [4, 4, 2, 0, 4, 3]
    assert mean.deviation.ravel()[2] == pytest.approx(1.0)  # 6 and 8 about 7


def test_the_trimmed_mean_leaves_out_a_tenth_at_either_end(tmp_path):
    values = [[*range(1, 10), 1000]] * 6  # 1 and 1000 go, 2 to 9 stay
    mean = average(written(tmp_path, values), GRID, kind="trimmed", modality="other")
    assert mean.values.ravel().tolist() == [sum(range(2, 10)) / 8] * 6


def test_slabs_do_not_change_the_average(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    paths = written(tmp_path, rng.integers(-500, 500, (6, 7)))
    whole = average(paths, GRID, kind="trimmed", modality="ct")
    monkeypatch.setattr(averaging, "SLAB_BYTES", 1)
    assert len(list(averaging.slabs(paths, GRID.shape))) == 3
    np.testing.assert_array_equal(
        average(paths, GRID, kind="trimmed", modality="ct").values, whole.values
    )


def test_a_cohort_may_have_more_images_than_a_process_may_have_files_open(tmp_path):
    resource = pytest.importorskip("resource")
    paths = written(tmp_path, np.tile(np.arange(40), (6, 1)))
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "next").open("wb") as stream:
        next_free = stream.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free + 10, most))
    try:
        mean = average(paths, GRID, kind="mean", modality="other")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
    assert mean.values.ravel().tolist() == [19.5] * 6


def test_nothing_has_no_average():
    with pytest.raises(ValueError, match="at least one image"):
        average([], GRID, kind="mean", modality="ct")
