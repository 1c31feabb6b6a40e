import numpy as np
import pytest

from calcium.mapped_arrays import mapped_array


def saved(tmp_path, **arrays):
    path = tmp_path / "arrays.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(7, np.uint8),
        np.zeros((0, 3), np.int32),
    ],
)
def test_a_mapped_array_is_the_saved_one(tmp_path, array):
    path = saved(tmp_path, first=np.arange(5), wanted=array, last=np.arange(3.0))
    mapped = mapped_array(path, "wanted")
    assert mapped.dtype == array.dtype
    assert mapped.shape == array.shape
    assert np.array_equal(mapped, array)


def test_it_stays_on_disk_and_cannot_be_written(tmp_path):
    mapped = mapped_array(saved(tmp_path, a=np.arange(9)), "a")
    assert isinstance(mapped, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_what_cannot_be_mapped_is_refused(tmp_path):
    path = saved(tmp_path, a=np.arange(9), o=np.array([{}], object))
    with pytest.raises(KeyError):
        mapped_array(path, "b")
    with pytest.raises(ValueError, match="of objects"):
        mapped_array(path, "o")
    np.savez_compressed(path, a=np.arange(9))
    with pytest.raises(ValueError, match="compressed"):
        mapped_array(path, "a")
