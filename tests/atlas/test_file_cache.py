import os

import numpy as np
import pytest

from atlas.atlas_mean import AtlasMean, write_mean
from atlas.file_cache import kept_per_file
from atlas.registration_methods import compared_mean, judged_mean, plain_mean
from registration.geometry import Ellipsoid, ImageGrid


def counted():
    """A function of a file that says how often it was called."""
    calls = []

    @kept_per_file(maxsize=2)
    def content(path, ending=""):
        calls.append(path)
        return path.read_text() + ending if path.is_file() else sorted(os.listdir(path))

    return content, calls


def test_a_file_that_stays_is_read_once(tmp_path):
    content, calls = counted()
    path = tmp_path / "a.txt"
    path.write_text("one")
    assert [content(path), content(path), content(path, "!")] == ["one", "one", "one!"]
    assert len(calls) == 2


def test_a_file_of_the_same_size_and_name_is_read_again(tmp_path):
    content, _ = counted()
    path = tmp_path / "a.txt"
    path.write_text("one")
    os.utime(path, ns=(0, 0))
    assert content(path) == "one"
    path.write_text("two")
    assert content(path) == "two"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        content(path)


def test_a_folder_is_what_its_files_are(tmp_path):
    content, calls = counted()
    (tmp_path / "a.txt").write_text("one")
    content(tmp_path)
    (tmp_path / "a.txt").write_text("two, longer")
    content(tmp_path)
    content(tmp_path)
    assert len(calls) == 2


def test_means_of_the_same_name_are_told_apart(tmp_path):
    shape, region = (8, 8, 8), Ellipsoid((0.0, 0.0, 0.0), (9.0, 9.0, 9.0))
    grid = ImageGrid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    path = tmp_path / "mean.npz"
    for value in (100.0, 900.0):
        values, spread = np.full(shape, value, np.float32), np.zeros(shape, np.float32)
        write_mean(AtlasMean(values, spread, spread + 3, grid, 3, "other"), path)
        assert compared_mean(path).values.max() == pytest.approx(value / 1000.0)
        assert judged_mean(path, region).values.max() == pytest.approx(value / 1000.0)
        assert plain_mean(path)[4, 4, 4] == pytest.approx(value)
