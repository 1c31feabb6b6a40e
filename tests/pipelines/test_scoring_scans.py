import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from calcium.simulation.generator import GeneratorOptions, simulate_scan
from pipelines.discovery import find_series
from pipelines.model import update_description
from pipelines.scoring_scans import (
    BackgroundSource,
    cached_scans,
    find_backgrounds,
    phantom_tasks,
    simulated_tasks,
    unchanged_task,
)
from registration.geometry import Ellipsoid, ImageGrid
from tests.pipelines.dicom_factory import make_slices, write_files

GRID = ImageGrid((60, 55, 14), (2.0, 2.0, 5.0), (-70.0, 20.0, -100.0))
HEART = Ellipsoid((0.0, 0.0, 0.0), (40.0, 38.0, 6.0))  # few slices, to be quick
TO_SCAN = ((1.0, 0, 0, -11.0), (0, 1.0, 0, 74.0), (0, 0, 1.0, -67.0), (0, 0, 0, 1.0))


def hu():
    values = np.full(GRID.shape, -80, np.int16)
    values[3:11, 15:40, 15:45] = 40
    values[0] = -1000  # air, as in any CT
    return values


@pytest.fixture
def source(tmp_path):
    """A scan of a block of muscle with one annotated artery."""
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(GRID.to_image(hu()), str(tmp_path / "scans" / "block.nii.gz"))
    course = [[-30.0, 60, -60], [-10, 48, -70], [10, 50, -80]]
    annotation = {
        "scan": "block",
        "coronaries": {"LAD": {"points": course}},
        "components": [],
        "landmarks": {},
    }
    (tmp_path / "block.json").write_text(json.dumps(annotation))
    (candidate,) = find_series([tmp_path / "scans"])
    return BackgroundSource("block", candidate, tmp_path, TO_SCAN)


def test_simulated_scans_come_from_the_cache_on_a_second_call(source, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    tasks = simulated_tasks(source, HEART, cache, seed=7, count=2)
    first = list(cached_scans(tasks))
    stamps = {p.name: p.stat().st_mtime_ns for p in cache.iterdir()}
    again = list(cached_scans(tasks))
    assert len(stamps) == 2
    assert {p.name: p.stat().st_mtime_ns for p in cache.iterdir()} == stamps
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.hu, other.hu)
        assert one.agatston == other.agatston
        assert one.group == "block"


def test_an_unchanged_scan_is_the_scan_with_its_own_calcium(source, tmp_path):
    bright = hu()
    bright[6, 25:29, 20:24] = 500  # annotated as coronary
    bright[7, 20:24, 35:39] = 300  # nobody knows what this is
    sitk.WriteImage(GRID.to_image(bright), str(tmp_path / "scans" / "block.nii.gz"))
    annotation = json.loads((tmp_path / "block.json").read_text())
    annotation["components"] = [
        {"class": name, "bbox_ijk": [[x, y, z], [x + 3, y + 3, z]], "n_voxels": 16}
        for name, z, y, x in (("coronary", 6, 25, 20), ("unknown", 7, 20, 35))
    ]
    (tmp_path / "block.json").write_text(json.dumps(annotation))
    (scan,) = cached_scans([unchanged_task(source, HEART, tmp_path)])
    assert (scan.name, scan.group, scan.kind) == ("block-unchanged", "block", "cardiac")
    # 16 pixels of 4 mm², weights 4 and 3, slices every 5 mm
    assert scan.agatston == pytest.approx(16 * 4 * 4 * 5 / 3, rel=1e-5)
    assert float(scan.density.sum()) == pytest.approx(16 * 4 * (4 + 3) * 5 / 3, rel=1e-5)


def test_a_corrected_annotation_and_a_changed_scan_are_seen(source, tmp_path):
    def score():
        (scan,) = cached_scans([unchanged_task(source, HEART, tmp_path)])
        assert (scan.name, scan.group) == ("block-unchanged", "block")
        return scan.agatston

    def annotate(name):
        annotation = json.loads((tmp_path / "block.json").read_text())
        annotation["components"] = [
            {"class": name, "bbox_ijk": [[20, 25, 6], [23, 28, 6]], "n_voxels": 16}
        ]
        (tmp_path / "block.json").write_text(json.dumps(annotation))

    bright = hu()
    bright[6, 25:29, 20:24] = 500
    sitk.WriteImage(GRID.to_image(bright), str(tmp_path / "scans" / "block.nii.gz"))
    annotate("bone")
    assert score() == 0.0
    annotate("LAD")
    assert score() == pytest.approx(16 * 4 * 4 * 5 / 3, rel=1e-5)
    bright[6, 25:29, 20:24] = 300  # weight 3
    sitk.WriteImage(GRID.to_image(bright), str(tmp_path / "scans" / "block.nii.gz"))
    assert score() == pytest.approx(16 * 4 * 3 * 5 / 3, rel=1e-5)


def test_cached_scans_are_named_by_whatever_they_are_made_of(source, tmp_path):
    def paths(source, heart):
        tasks = simulated_tasks(source, heart, tmp_path, seed=7, count=2)
        return [task.path.name for task in (*tasks, unchanged_task(source, heart, tmp_path))]

    before = paths(source, HEART)
    assert len(set(before)) == 3
    # another place of the same files changes nothing
    (tmp_path / "scans").rename(tmp_path / "moved")
    (candidate,) = find_series([tmp_path / "moved"])
    assert paths(replace(source, candidate=candidate), HEART) == before
    moved = tuple(tuple(v + 0.01 * (k == 3) for k, v in enumerate(row)) for row in TO_SCAN)
    elsewhere = paths(replace(source, candidate=candidate, atlas_to_scan=moved), HEART)
    larger = paths(replace(source, candidate=candidate), HEART.scaled(1.1))
    write_scan(tmp_path / "scans" / "block.nii.gz", 1)
    changed = paths(source, HEART)
    everything = [*before, *elsewhere, *larger, *changed]
    assert len(set(everything)) == len(everything)


def test_cached_phantoms_are_named_by_the_alignment_alone(tmp_path):
    def path():
        (task,) = phantom_tasks(tmp_path, tmp_path / "cache", first_seed=5, count=1)
        return task.path

    (tmp_path / "atlas.nii.gz").write_bytes(b"atlas")
    (tmp_path / "alignment.weights.h5").write_bytes(b"weights")
    update_description(tmp_path, {"heart": {"radii_mm": [1]}, "alignment": {"filters": [4]}})
    first = path()
    assert path() == first
    # what a training of scoring does to a model
    (tmp_path / "scoring.weights.h5").write_bytes(b"scoring")
    update_description(tmp_path, {"scoring": {}, "training": {"scoring": {"seed": 1}}})
    assert path() == first
    found = {first}
    update_description(tmp_path, {"heart": {"radii_mm": [2]}})
    found.add(path())
    update_description(tmp_path, {"alignment": {"filters": [8]}})
    found.add(path())
    (tmp_path / "atlas.nii.gz").write_bytes(b"another atlas")
    found.add(path())
    (tmp_path / "alignment.weights.h5").write_bytes(b"other weights")
    found.add(path())
    assert len(found) == 5


STORED = {
    "as annotated": lambda image: image,
    "right to left and front to back": lambda image: image[::-1, ::-1, :],
    "front to back": lambda image: image[:, ::-1, :],
    "rows and columns exchanged": lambda image: sitk.PermuteAxes(image, [1, 0, 2]),
    "turned and mirrored": lambda image: sitk.PermuteAxes(image, [1, 0, 2])[::-1, :, :],
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_a_background_stored_in_another_orientation_is_the_same_background(
    source, tmp_path, stored
):
    bright = hu()
    bright[6, 25:29, 20:24] = 500
    image = GRID.to_image(bright)
    corners = [image.TransformIndexToPhysicalPoint(c) for c in ((20, 25, 6), (23, 28, 6))]
    image = stored(image)
    sitk.WriteImage(image, str(tmp_path / "scans" / "block.nii.gz"))
    found = np.array([image.TransformPhysicalPointToIndex(c) for c in corners])
    annotation = json.loads((tmp_path / "block.json").read_text())
    box = [found.min(0).tolist(), found.max(0).tolist()]
    annotation["components"] = [{"class": "LAD", "bbox_ijk": box, "n_voxels": 16}]
    (tmp_path / "block.json").write_text(json.dumps(annotation))
    background = source.read()
    assert np.array_equal(background.volume_hu, bright)
    assert np.array_equal(background.coronary, bright == 500)
    assert background.ignored is not None
    assert background.ignored.shape == background.volume_hu.shape
    assert background.grid.size == GRID.size
    assert background.grid.spacing == pytest.approx(GRID.spacing)
    assert background.grid.origin == pytest.approx(GRID.origin)
    assert background.grid.direction == pytest.approx(GRID.direction)
    # voxels shown as they are: the muscle lies where the heart is sought
    options = GeneratorOptions(native_share=1.0, zero_share=1.0)
    made = simulate_scan(background, HEART, (1, 2, 3), options)
    assert (made.volume_hu > -40).mean() > 0.2


@pytest.mark.slow
def test_workers_make_the_same_scans_as_one_process(source, tmp_path):
    made = []
    for workers in (1, 2):
        cache = tmp_path / f"cache-{workers}"
        cache.mkdir()
        tasks = simulated_tasks(source, HEART, cache, seed=7, count=2)
        made.append(list(cached_scans(tasks, workers=workers)))
    for one, other in zip(*made, strict=True):
        assert np.array_equal(one.hu, other.hu)
        assert np.array_equal(one.density, other.density)


def test_a_scan_that_cannot_be_made_is_named(source, tmp_path):
    tasks = simulated_tasks(source, HEART, tmp_path, seed=3, count=1)
    (tmp_path / "block.json").unlink()
    with pytest.raises(KeyError, match="block"):
        list(cached_scans(tasks))


def test_scans_without_annotation_are_left_out(tmp_path):
    sitk.WriteImage(GRID.to_image(hu()), str(tmp_path / "stranger.nii.gz"))
    assert list(find_backgrounds([tmp_path], tmp_path, aligner=None)) == []


class Unmoved:
    """An aligner to which every scan lies in the atlas already."""

    def align(self, image):
        return SimpleNamespace(atlas_to_scan=sitk.AffineTransform(3))


def write_scan(path, number):
    """A scan unlike the others: copies of one count once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = hu()
    values[5, 20, 20] = 41 + number
    sitk.WriteImage(GRID.to_image(values), str(path))


@pytest.fixture
def annotations(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in ("lung1", "lung10", "lidc-0002"):
        whole = {"scan": name, "coronaries": {}, "components": []}
        (folder / f"{name}.json").write_text(json.dumps(whole))
    return folder


def found_names(folders, annotations):
    found = find_backgrounds(folders, annotations, Unmoved())
    return {source.candidate.source: source.name for source in found}


def test_scans_are_found_by_whole_names_of_files_and_folders(tmp_path, annotations):
    cohort = tmp_path / "lung1 of everybody" / "chest-ct"
    write_scan(cohort / "lung1.nrrd", 0)
    write_scan(cohort / "lung10.nii.gz", 1)
    write_scan(cohort / "lung12.nii.gz", 2)
    write_scan(cohort / "lidc-0002" / "series" / "ct.nii.gz", 3)
    names = {
        "chest-ct/lung1.nrrd": "lung1",
        "chest-ct/lung10.nii.gz": "lung10",
        "chest-ct/lidc-0002/series/ct.nii.gz": "lidc-0002",
    }
    assert found_names([cohort], annotations) == names
    # the folder or file of one scan
    assert found_names([cohort / "lidc-0002"], annotations) == {
        "lidc-0002/series/ct.nii.gz": "lidc-0002"
    }
    assert found_names([cohort / "lung10.nii.gz"], annotations) == {"lung10.nii.gz": "lung10"}
    # what lies above the given folder names nobody
    write_scan(tmp_path / "lung10" / "others" / "ct.nii.gz", 4)
    assert found_names([tmp_path / "lung10" / "others"], annotations) == {}


def test_slices_are_found_by_the_name_of_their_folder(tmp_path, annotations, monkeypatch):
    write_files(make_slices(12), tmp_path / "cohort" / "lung1")
    write_scan(tmp_path / "cohort" / "lung10.nii.gz", 0)
    names = {"cohort/lung1": "lung1", "cohort/lung10.nii.gz": "lung10"}
    assert found_names([tmp_path / "cohort"], annotations) == names
    assert found_names([tmp_path / "cohort" / "lung1"], annotations) == {"lung1": "lung1"}
    monkeypatch.chdir(tmp_path / "cohort" / "lung1")
    assert found_names(["."], annotations) == {"lung1": "lung1"}


def test_one_annotation_is_not_of_two_scans(tmp_path, annotations):
    write_scan(tmp_path / "cohort" / "lung1.nii.gz", 0)
    write_scan(tmp_path / "cohort" / "lung1" / "ct.nii.gz", 1)
    with pytest.raises(ValueError, match=r"2 series that are named as lung1$"):
        found_names([tmp_path / "cohort"], annotations)


def test_one_scan_does_not_have_two_annotations(tmp_path, annotations):
    write_scan(tmp_path / "cohort" / "lung1" / "lung10.nii.gz", 0)
    with pytest.raises(ValueError, match=r"a scan that is named as lung1 and lung10$"):
        found_names([tmp_path / "cohort"], annotations)


def test_phantoms_are_of_both_kinds_and_populations(tmp_path):
    tasks = phantom_tasks(tmp_path, tmp_path, first_seed=1_000_000, count=4)
    found = [(task.kind, task.settings.name) for task in tasks]
    assert sorted(found) == [
        ("cardiac", "standard"),
        ("cardiac", "varied"),
        ("chest", "standard"),
        ("chest", "varied"),
    ]
