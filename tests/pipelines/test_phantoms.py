"""Whole phantoms: anatomy in its place, truth, DICOM files and cohorts."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from calcium.agatston import score_image
from pipelines.cli_phantom import phantom as phantom_command
from pipelines.discovery import find_series
from pipelines.phantoms.mediastinum import LABELS
from pipelines.phantoms.phantom import Phantom, make_phantom
from pipelines.phantoms.settings import SHIFTED, STANDARD, PhantomSettings
from pipelines.phantoms.writing import spread_targets, write_cohort, write_phantom

SMALL = replace(STANDARD, matrix=160, render_spacing_mm=2.4)
CROPPED = replace(SMALL, heart_crop_mm=150.0)
TINY = replace(STANDARD, matrix=64, render_spacing_mm=4.0, heart_crop_mm=150.0)
TINY_SHIFTED = replace(SHIFTED, matrix=64, render_spacing_mm=4.0, heart_crop_mm=150.0)


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return make_phantom("chest", 11, settings=SMALL, target_agatston=250.0)


@pytest.fixture(scope="module")
def cardiac() -> Phantom:
    return make_phantom("cardiac", 5, settings=SMALL, target_agatston=600.0)


def label_near(phantom: Phantom, landmark: str, reach_mm: float) -> set[int]:
    """Labels within a distance of a landmark."""
    gap = np.linalg.norm(phantom.grid.voxel_points() - phantom.landmarks[landmark], axis=-1)
    return set(np.unique(sitk.GetArrayViewFromImage(phantom.labels)[gap <= reach_mm]).tolist())


@pytest.mark.parametrize(
    ("landmark", "organ", "reach_mm"),
    [
        ("carina", "airway", 4.0),
        ("left_main_bronchus", "airway", 4.0),
        ("aortic_root", "aortic_root", 4.0),
        ("lm_ostium", "aortic_root", 6.0),
        ("rca_ostium", "aortic_root", 6.0),
        ("apex", "left_ventricle", 16.0),
        ("apex", "pericardial_fat", 8.0),
        ("vertebra", "vertebra", 6.0),
    ],
)
def test_landmarks_lie_in_their_organs(
    chest: Phantom, landmark: str, organ: str, reach_mm: float
) -> None:
    assert LABELS[organ] in label_near(chest, landmark, reach_mm)


@pytest.mark.parametrize("seed", [21, 22, 23])
@pytest.mark.parametrize("settings", [TINY, TINY_SHIFTED])
def test_heart_is_the_right_way_round(seed: int, settings: PhantomSettings) -> None:
    phantom = make_phantom("cardiac", seed, settings=settings)
    marks = {name: np.array(point) for name, point in phantom.landmarks.items()}
    left, back, up = marks["apex"] - marks["aortic_root"]
    assert left > 20
    assert back < -3
    assert up < -30
    lad, rca = phantom.centerlines["LAD"], phantom.centerlines["RCA"]
    assert lad[:, 0].mean() > rca[:, 0].mean() + 30
    assert marks["left_heart_border"][0] > marks["right_heart_border"][0] + 80
    assert phantom.centerlines["LCX"][:, 1].mean() > lad[:, 1].mean()
    assert marks["carina"][2] > marks["lm_ostium"][2]


def test_organs_have_the_attenuation_of_real_scans(chest: Phantom) -> None:
    hu = sitk.GetArrayViewFromImage(chest.image)
    labels = sitk.GetArrayViewFromImage(chest.labels)
    names = ("lung", "aorta", "liver", "pericardial_fat", "muscle", "vertebra")
    means = {name: hu[labels == LABELS[name]].mean() for name in names}
    assert -900 < means["lung"] < -740
    assert 25 < means["aorta"] < 60
    assert 40 < means["liver"] < 70
    assert -110 < means["pericardial_fat"] < -30
    assert 35 < means["muscle"] < 60
    assert 100 < means["vertebra"] < 350


def test_plaques_lie_on_their_arteries(cardiac: Phantom) -> None:
    assert cardiac.plaques
    for plaque in cardiac.plaques:
        gap = np.linalg.norm(cardiac.centerlines[plaque.branch] - plaque.center_mm, axis=1).min()
        assert gap < 4.0
        assert plaque.mass_mg == pytest.approx(plaque.density_mg_cm3 * plaque.volume_mm3 / 1000)
    assert cardiac.truth.mass_mg == pytest.approx(sum(p.mass_mg for p in cardiac.plaques))


def test_truth_agrees_with_a_plain_recount_of_the_mask(cardiac: Phantom) -> None:
    mask = sitk.GetArrayFromImage(cardiac.calcium_mask).astype(bool)
    hu = sitk.GetArrayFromImage(cardiac.image)
    x, y, z = cardiac.image.GetSpacing()
    score = 0.0
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        plane = sitk.GetImageFromArray(mask[k].astype(np.uint8))
        pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(plane, True))
        for number in range(1, int(pieces.max()) + 1):
            inside = pieces == number
            if inside.sum() * x * y >= 1.0:
                steps = np.searchsorted([130, 200, 300, 400], hu[k][inside].max(), side="right")
                score += inside.sum() * x * y * int(steps) * z / 3.0
    assert cardiac.truth.agatston["agatston-1990"] == pytest.approx(score)
    assert mask.sum() * x * y * z == pytest.approx(cardiac.truth.volume_mm3)
    assert sum(cardiac.truth.by_vessel.values()) == pytest.approx(score)
    assert hu[mask].min() >= 130


def test_calcium_outside_the_coronaries_scores_zero() -> None:
    always = replace(
        CROPPED.calcium, aortic_wall=1.0, aortic_valve=1.0, mitral_annulus=1.0, pericardium=1.0
    )
    phantom = make_phantom(
        "cardiac", 31, settings=replace(CROPPED, calcium=always), target_agatston=0.0
    )
    assert {d.kind for d in phantom.distractors} >= {"aortic_wall", "aortic_valve"}
    assert sitk.GetArrayViewFromImage(phantom.image).max() > 300
    assert phantom.truth.agatston == {"agatston-1990": 0.0, "agatston-4conn": 0.0}
    assert phantom.truth.category == "0"
    assert not sitk.GetArrayViewFromImage(phantom.calcium_mask).any()


def test_the_same_seed_gives_the_same_phantom_and_another_does_not() -> None:
    first, again, other = (make_phantom("cardiac", s, settings=TINY) for s in (1, 1, 2))
    pixels = [sitk.GetArrayFromImage(p.image) for p in (first, again, other)]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert first.truth == again.truth
    assert first.landmarks == again.landmarks
    assert first.landmarks != other.landmarks


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of cardiac, chest"):
        make_phantom("abdomen", 1)


def test_series_reads_back_with_the_same_pixels_and_geometry(
    cardiac: Phantom, tmp_path: Path
) -> None:
    series = write_phantom(cardiac, tmp_path / "one")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    image = sitk.ReadImage(names)
    np.testing.assert_array_equal(
        sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(cardiac.image)
    )
    np.testing.assert_allclose(image.GetOrigin(), cardiac.image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), cardiac.image.GetSpacing(), atol=1e-5)
    truth = json.loads((tmp_path / "one" / "truth.json").read_text(encoding="utf-8"))
    assert truth["truth"]["agatston"] == cardiac.truth.agatston
    assert truth["landmarks_lps_mm"]["carina"] == list(cardiac.landmarks["carina"])


def test_the_same_phantom_gives_the_same_bytes(cardiac: Phantom, tmp_path: Path) -> None:
    first = write_phantom(cardiac, tmp_path / "a")
    second = write_phantom(cardiac, tmp_path / "b")
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert (tmp_path / "a/truth.json").read_bytes() == (tmp_path / "b/truth.json").read_bytes()


def test_a_run_finds_the_series_and_nothing_of_the_truth(cardiac: Phantom, tmp_path: Path) -> None:
    write_phantom(cardiac, tmp_path / "one")
    (candidate,) = find_series([tmp_path])
    assert candidate.kind == "dicom"
    assert len(candidate.files) == cardiac.grid.size[2]
    mask = sitk.ReadImage(tmp_path / "one/truth/calcium.seg.nrrd")
    np.testing.assert_array_equal(
        sitk.GetArrayViewFromImage(mask), sitk.GetArrayViewFromImage(cardiac.calcium_mask)
    )


def test_truth_agrees_with_the_scoring_code(cardiac: Phantom) -> None:
    result = score_image(cardiac.image, cardiac.calcium_mask, "agatston-1990")
    assert result.agatston == pytest.approx(cardiac.truth.agatston["agatston-1990"])


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (dicom3tools)")
@pytest.mark.parametrize("padding_hu", [None, -2000])
def test_files_are_valid_ct_images(
    cardiac: Phantom, tmp_path: Path, padding_hu: int | None
) -> None:
    series = write_phantom(replace(cardiac, padding_hu=padding_hu), tmp_path)
    report = subprocess.run(
        ["dciodvfy", str(series / "IM0003.dcm")], capture_output=True, text=True, check=False
    )
    assert report.stderr.strip().splitlines()[0] == "CTImage"
    assert "Error" not in report.stderr


def test_a_small_mixed_cohort_holds_every_category(tmp_path: Path) -> None:
    tiny = replace(TINY, matrix=128)
    rows = write_cohort(tmp_path, subjects=6, seed=4, settings=tiny)
    assert {row.category for row in rows} == {"0", "1-10", "11-100", "101-400", ">400"}
    assert [row.kind for row in rows] == ["cardiac", "chest"] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(row.name for row in rows)
    for row in rows:
        assert len(list((tmp_path / row.name / "series").glob("*.dcm"))) == row.slices


@pytest.mark.parametrize("subjects", [1, 5, 12, 30])
def test_cohorts_share_out_zeros_and_categories(subjects: int) -> None:
    targets = np.array(spread_targets(subjects, 3, STANDARD))
    assert len(targets) == subjects
    assert np.count_nonzero(targets == 0) == round(subjects / 3)
    levels = np.searchsorted([10, 100, 400], targets[targets > 0])
    if subjects >= 12:
        assert np.ptp(np.bincount(levels, minlength=4)) <= 1


def test_cohort_refuses_nonsense(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subjects at least 1"):
        write_cohort(tmp_path, subjects=0, seed=1)
    with pytest.raises(ValueError, match="Received: kind='brain'"):
        write_cohort(tmp_path, subjects=1, seed=1, kind="brain")


@pytest.mark.slow
def test_command_writes_a_full_size_phantom_and_prints_its_truth(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--kind", "cardiac", "--subjects", "1", "--seed", "9"]
    result = CliRunner().invoke(phantom_command, arguments)
    assert result.exit_code == 0, result.output
    header, row = result.output.splitlines()
    assert header.split() == ["phantom", "slices", "plaques", "Agatston", "category"]
    truth = json.loads((tmp_path / "cardiac-0001/truth.json").read_text(encoding="utf-8"))
    assert float(row.split()[3]) == pytest.approx(
        truth["truth"]["agatston"]["agatston-1990"], abs=0.06
    )
