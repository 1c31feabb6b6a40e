import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from pipelines.atlas_cohort import (
    CT_SPACING_MM,
    MOST_VOXELS,
    find_modality,
    find_spacing_mm,
    read_entries,
)
from pipelines.cli import main
from pipelines.phantoms.phantom import make_phantom
from pipelines.phantoms.settings import STANDARD
from pipelines.phantoms.writing import write_phantom
from tests.atlas.blob import cohort, known_maps, oblique_grid, subject
from tests.pipelines.dicom_factory import make_slices, write_files

TINY = replace(STANDARD, matrix=64, render_spacing_mm=4.0, heart_crop_mm=150.0)
QUICK = ("--only", "affine", "--rounds", "1", "--spacing", "6")


def run(*words):
    return CliRunner().invoke(main, ["atlas", *map(str, words)])


def write_volume(path, values, spacing=(1.0, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(values, np.float32))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def write_mr(image, folder):
    """A volume as a series of MR slices, one file each, without a rescale."""
    values = np.rint(sitk.GetArrayFromImage(image)).clip(0, 4095)
    row, column, normal = np.reshape(image.GetDirection(), (3, 3)).T
    slices = make_slices(
        len(values),
        shape=values.shape[1:],
        orientation=(*row, *column),
        origin=image.GetOrigin(),
        spacing_mm=image.GetSpacing()[2],
        Modality="MR",
        SOPClassUID=MRImageStorage,
        PixelSpacing=[f"{s:.9g}" for s in image.GetSpacing()[1::-1]],
    )
    assert np.allclose(np.cross(row, column), normal)
    for ds, plane in zip(slices, values, strict=True):
        del ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType
        ds.PixelData = plane.astype("<u2").tobytes()
    write_files(slices, folder)


def test_image_files_are_ct_if_there_is_air_in_the_first_that_can_be_read(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"torn")
    write_volume(tmp_path / "b.nii.gz", np.full((4, 4, 4), -1000.0))
    write_volume(tmp_path / "c.nii.gz", np.full((4, 4, 4), 50.0))
    assert find_modality(read_entries(tmp_path)) == "ct"
    (tmp_path / "b.nii.gz").unlink()
    assert find_modality(read_entries(tmp_path)) == "other"
    (tmp_path / "c.nii.gz").unlink()
    assert find_modality(read_entries(tmp_path)) == "other"


def test_dicom_is_what_its_headers_say(tmp_path):
    write_mr(subject(known_maps()[0]), tmp_path / "mr")
    assert find_modality(read_entries(tmp_path)) == "other"
    write_files(make_slices(5, Modality="SR"), tmp_path / "reports")
    write_volume(tmp_path / "z.nii.gz", np.full((4, 4, 4), -1000.0))
    assert find_modality(read_entries(tmp_path)) == "other"
    write_files(make_slices(5), tmp_path / "ct")
    assert find_modality(read_entries(tmp_path)) == "ct"


def test_the_voxel_of_ct_is_fixed_and_of_others_that_of_the_median_image(tmp_path):
    for number, spacing in enumerate([(1.0, 1.0, 8.0), (2.0, 2.0, 2.0), (1.0, 1.0, 3.0)]):
        write_volume(tmp_path / f"{number}.nii.gz", np.zeros((4, 5, 6)), spacing)
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    entries = read_entries(tmp_path)
    assert find_spacing_mm(entries, "ct") == CT_SPACING_MM
    assert find_spacing_mm(entries, "other") == 2.0  # 3, 8 and 8 mm³


def test_voxels_grow_where_there_would_be_too_many(tmp_path):
    fine = sitk.Image(400, 400, 400, sitk.sitkUInt8)
    fine.SetSpacing((0.5, 0.5, 0.5))
    sitk.WriteImage(fine, str(tmp_path / "fine.nrrd"), True)
    edge = find_spacing_mm(read_entries(tmp_path), "other")
    assert edge == pytest.approx(200.0 / MOST_VOXELS ** (1 / 3), rel=5e-3)


def test_the_voxel_of_dicom_is_that_of_its_slices(tmp_path):
    write_mr(subject(known_maps()[0]), tmp_path / "mr")
    spacing = oblique_grid(known_maps()[0]).spacing
    edge = find_spacing_mm(read_entries(tmp_path), "other")
    assert edge == pytest.approx(float(np.prod(spacing)) ** (1 / 3), rel=5e-3)


def test_nothing_that_can_be_read_is_told(tmp_path):
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    with pytest.raises(ValueError, match="none of the images can be read"):
        find_spacing_mm(read_entries(tmp_path), "other")


def test_masks_and_labels_lie_beside_images_of_the_same_name(tmp_path):
    for folder, names in (("images", "ab"), ("labels", "a"), ("masks", "b")):
        for name in names:  # copies of one another would count once
            write_volume(tmp_path / folder / f"{name}.nii.gz", np.full((3, 3, 3), ord(name)))
    a, b = (entry.subject for entry in read_entries(tmp_path))
    assert (a.label, a.mask) == (tmp_path / "labels" / "a.nii.gz", None)
    assert (b.label, b.mask) == (None, tmp_path / "masks" / "b.nii.gz")


def test_a_table_names_labels_and_masks_hide_what_is_not_compared(tmp_path):
    """Bright bars beside every subject, each elsewhere: masks leave them out."""
    rows = ["id;path;mask;label"]
    for number, (name, image) in enumerate(list(cohort().items())[:4]):
        values, grid = sitk.GetArrayFromImage(image), oblique_grid(known_maps()[number])
        mask, label = np.ones(values.shape, np.uint8), (values > 300).astype(np.uint8)
        values[:, 3 * number : 3 * number + 3, :4] = 5000.0
        mask[:, :, :4] = 0
        for kind, array in (("path", values), ("mask", mask), ("label", label)):
            sitk.WriteImage(grid.to_image(array), str(tmp_path / f"{name}-{kind}.nrrd"))
        rows.append(f"{name};{name}-path.nrrd;{name}-mask.nrrd;{name}-label.nrrd")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    result = run("build", tmp_path / "cohort.csv", "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "history.csv").open() as stream:
        assert float(list(csv.DictReader(stream))[-1]["similarity"]) > 0.99
    labels = sitk.ReadImage(str(tmp_path / "out" / "labels.nii.gz"))
    for point, expected in (((0.0, 0.0, 0.0), 1), ((0.0, 34.0, 0.0), 0)):
        assert labels[labels.TransformPhysicalPointToIndex(point)] == expected


@pytest.fixture(scope="module")
def ct_atlas(tmp_path_factory):
    """Four phantoms: one with its slices exchanged, one with a contrast agent in its header."""
    base = tmp_path_factory.mktemp("ct")
    for number in range(4):
        phantom = make_phantom("cardiac", 500 + number, settings=TINY)
        series = write_phantom(phantom, base / "cohort" / f"p{number}")
        for order, path in enumerate(files := sorted(series.iterdir())):
            ds = dcmread(path)
            if number == 1:
                ds.ContrastBolusAgent, ds.KVP = "Iohexol", 100
            if number == 2:
                other = dcmread(files[-1 - order]) if order % 3 else ds
                ds.PixelData = other.PixelData
            ds.save_as(series / f"changed-{path.name}")
        for path in files:
            path.unlink()
    result = run("build", base / "cohort", "--out", base / "out", *QUICK)
    return result, base / "out"


def test_a_folder_of_dicom_becomes_an_atlas_in_hu(ct_atlas):
    result, out = ct_atlas
    assert result.exit_code == 3, result.output
    assert "4 subjects, CT" in result.output
    record = json.loads((out / "atlas.json").read_text())
    assert record["subjects_averaged"] == 3
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "atlas.nii.gz")))
    coverage = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "coverage.nii.gz")))
    assert values[coverage == 0].max(initial=-2048) == -2048
    middle = tuple(n // 2 for n in values.shape)
    assert 0 < values[middle] < 100  # the heart, without contrast
    assert -1000 <= values[coverage == 3].min() < -700  # lungs


def test_guards_of_run_that_need_no_model_refuse_and_note(ct_atlas):
    result, out = ct_atlas
    (left_out,) = json.loads((out / "atlas.json").read_text())["left_out"]
    assert left_out["reason"].startswith("SLICE_ORDER: ")
    with (out / "subjects.csv").open() as stream:
        reviews = {row["id"]: row["review"] for row in csv.DictReader(stream)}
    assert len(reviews) == 3
    (noted,) = (name for name, codes in reviews.items() if "CONTRAST" in codes)
    assert reviews[noted] == "CONTRAST;KVP"
    assert f"{noted} should be looked at: CONTRAST, KVP" in result.output
    page = (out / "qc.html").read_text()
    assert page.count("CONTRAST: The scan seems to be made with intravenous contrast") == 1


def test_mr_in_dicom_becomes_an_atlas(tmp_path):
    for name, image in list(cohort().items())[:3]:
        write_mr(image, tmp_path / "cohort" / name)
    result = run("build", tmp_path / "cohort", "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.output
    assert "3 subjects, not CT" in result.output
    with (tmp_path / "out" / "history.csv").open() as stream:
        assert float(list(csv.DictReader(stream))[-1]["similarity"]) > 0.99
