from collections import namedtuple

import pytest

from atlas.work_folder import WorkFolder
from pipelines import atlas_disk
from tests.atlas.blob import known_maps, prepare_all, subject

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> WorkFolder:
    images = {f"s{n}": subject(matrix, seed=n) for n, matrix in enumerate(known_maps()[:2])}
    return prepare_all(images, tmp_path_factory.mktemp("disk"))


def test_every_subject_takes_its_share(work):
    one, two = (atlas_disk.expected_bytes(work, names) for names in (["s0"], ["s0", "s1"]))
    assert atlas_disk.expected_bytes(work, []) == 0
    assert two == pytest.approx(2 * one, rel=0.1)
    # 36 x 2.4, 26 x 3.2 and 22 x 3.4 mm in voxels of 3 mm, a little more as the image is turned
    voxels = 29 * 28 * 25
    assert 54.0 * voxels < one < 1.5 * 56.0 * voxels


def test_too_little_room_is_told(work, monkeypatch):
    for free, end in ((2.5e9, "GB are free"), (1e5, "0.0001 GB are free: too little")):
        monkeypatch.setattr(atlas_disk.shutil, "disk_usage", lambda path, f=free: Usage(0, 0, f))
        assert atlas_disk.disk_line(work, ["s0", "s1"]).endswith(end)
