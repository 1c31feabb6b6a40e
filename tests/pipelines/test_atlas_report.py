"""An atlas with deformable stages as the command makes it: its files, and its page."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from pipelines.atlas_report import INVERSE_LIMIT_MM, inverse_warning
from pipelines.cli import main
from registration.geometry import ImageGrid
from registration.transforms import moving_points
from tests.atlas.blob import intensity, known_maps, oblique_grid

NAMES = ("s0", "s1", "s2", "s3")
WAVES_MM = (4.0, -4.0, 3.0, -3.0)
RADII_MM = np.array([30.0, 24.0, 20.0])


def bent(matrix: np.ndarray, wave_mm: float, seed: int) -> tuple[sitk.Image, sitk.Image]:
    """The blob seen through an affine map and a wave, and the label of its body."""
    grid = oblique_grid(matrix)
    backward = np.linalg.inv(matrix)
    points = grid.voxel_points() @ backward[:3, :3].T + backward[:3, 3]
    points[..., 0] += wave_mm * np.sin(points[..., 0] / 9.0)
    noise = np.random.default_rng(seed).normal(0.0, 8.0, grid.shape)
    values = (intensity(points) + noise + 50.0).astype(np.float32)
    label = np.linalg.norm(points / RADII_MM, axis=-1) < 1.0
    return grid.to_image(values), grid.to_image((3 * label).astype(np.uint8))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bent")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number, name in enumerate(NAMES):
        image, label = bent(known_maps()[number], WAVES_MM[number], number)
        sitk.WriteImage(image, str(folder / "images" / f"{name}.nii.gz"))
        sitk.WriteImage(label, str(folder / "labels" / f"{name}.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def atlas(cohort, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "out"
    words = ["atlas", "build", str(cohort), "--out", str(out), "--rounds", "1", "--spacing", "4"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert re.search(r"at most about [\d.]+ GB of disk will be taken", result.output)
    return out


def read(path: Path) -> tuple[np.ndarray, ImageGrid]:
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), ImageGrid.from_image(image)


def body(grid: ImageGrid) -> np.ndarray:
    """Points of the atlas well within the blob, whose middle is that of the atlas."""
    points = grid.voxel_points().reshape(-1, 3)
    return points[np.linalg.norm(points / RADII_MM, axis=-1) < 0.8]


def rows(atlas: Path) -> dict[str, dict[str, str]]:
    with (atlas / "subjects.csv").open() as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_deformable_rounds_bring_bent_subjects_nearer(atlas):
    with (atlas / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    by_stage = {row["stage"].split(",")[0]: float(row["pairwise_ncc"]) for row in history}
    assert list(by_stage)[:3] == ["start", "rigid", "affine"]
    assert history[-1]["stage"].startswith("deformable")
    assert 1.0 - float(history[-1]["pairwise_ncc"]) < 0.6 * (1.0 - by_stage["affine"])


@pytest.mark.parametrize("name", NAMES)
def test_the_inverse_undoes_the_transform_to_what_is_said(atlas, name):
    _, grid = read(atlas / "atlas.nii.gz")
    forward = sitk.ReadTransform(str(atlas / "transforms" / f"{name}.tfm"))
    backward = sitk.ReadTransform(str(atlas / "transforms" / f"{name}.inverse.h5"))
    there = moving_points(forward, body(grid))
    error = np.linalg.norm(moving_points(backward, there) - body(grid), axis=-1)
    told = float(rows(atlas)[name]["inverse_error_mm"])
    assert error.mean() < 0.2  # mm, of voxels of 4
    assert 0.0 < told < 0.3
    affine = sitk.CompositeTransform(forward).GetNthTransform(0)
    bend = np.linalg.norm(there - moving_points(affine, body(grid)), axis=-1)
    assert bend.mean() > 0.5  # there is something to undo


def test_the_log_jacobian_is_that_of_the_exact_transform(atlas):
    logarithm, grid = read(atlas / "jacobians" / "s0.log-jacobian.nii.gz")
    forward = sitk.ReadTransform(str(atlas / "transforms" / "s0.tfm"))
    points, step = body(grid), 2.0
    slopes = [
        (moving_points(forward, points + shift) - moving_points(forward, points - shift))
        / (2.0 * step)
        for shift in step * np.eye(3)
    ]
    expected = np.log(np.linalg.det(np.stack(slopes, axis=-1)))
    index = np.rint(grid.indices(points)).astype(int)
    found = logarithm[tuple(index[:, ::-1].T)]
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=0.06)


def test_labels_lie_on_the_lattice_of_the_atlas_where_the_transform_brings_them(atlas, cohort):
    for name in NAMES:
        found, grid = read(atlas / "labels" / f"{name}.nii.gz")
        forward = sitk.ReadTransform(str(atlas / "transforms" / f"{name}.tfm"))
        label = sitk.ReadImage(str(cohort / "labels" / f"{name}.nii.gz"))
        reference = grid.empty_image(sitk.sitkUInt8)
        moved = sitk.Resample(label, reference, forward, sitk.sitkNearestNeighbor, 0)
        expected = sitk.GetArrayFromImage(moved)
        assert set(np.unique(found)) == {-1, 0, 3}
        assert (found[found >= 0] == expected[found >= 0]).mean() > 0.995
    fused, atlas_grid = read(atlas / "labels.nii.gz")
    assert atlas_grid == read(atlas / "atlas.nii.gz")[1]
    inside = np.linalg.norm(atlas_grid.voxel_points() / RADII_MM, axis=-1) < 1.0
    assert 2.0 * (inside & (fused == 3)).sum() / (inside.sum() + (fused == 3).sum()) > 0.93


class Page(HTMLParser):
    """Elements of a page as (tag, attributes), and all text by the card it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.cards: list[str] = []
        self.pictures: list[int] = []
        self._in_card = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "article":
            self._in_card = True
            self.cards.append("")
            self.pictures.append(0)
        if self._in_card and attributes.get("src", "").startswith("data:image/"):
            self.pictures[-1] += 1

    def handle_endtag(self, tag):
        self._in_card = self._in_card and tag != "article"

    def handle_data(self, data):
        if self._in_card:
            self.cards[-1] += data


def test_every_subject_has_a_card_the_least_alike_first(atlas):
    page = Page((atlas / "qc.html").read_text())
    ranked = sorted(rows(atlas).values(), key=lambda row: float(row["similarity"]))
    assert len(page.cards) == len(NAMES)
    for card, pictures, row in zip(page.cards, page.pictures, ranked, strict=True):
        told = (
            f"correlation {float(row['similarity']):.3f} · "
            f"inverse {float(row['inverse_error_mm']):.2f} mm off"
        )
        assert card.split()[0].startswith(row["id"])
        assert told in card
        assert pictures == 4  # three planes and the log-Jacobian
        assert "Warning" not in card


def test_every_chart_shows_every_round(atlas):
    text = (atlas / "qc.html").read_text()
    record = json.loads((atlas / "atlas.json").read_text())
    lines = [a["points"] for tag, a in Page(text).elements if tag == "polyline"]
    counts = [len(points.split()) for points in lines]
    rounds = record["rounds"]
    # sharpness and pairs also know the start
    assert counts == [rounds + 1, rounds + 1, rounds, rounds]
    values = re.findall(r'<text class="value"[^>]*>([^<]+)<', text)
    assert values[0] == f"{record['sharpness']['end']:.1f}"
    assert float(values[1]) == pytest.approx(record["pairwise_ncc"]["end"], abs=6e-4)
    # the last point of a line lies at the right end, the highest value at the top
    assert all(points.split()[-1].startswith("300.0,") for points in lines)
    assert all(min(float(p.split(",")[1]) for p in points.split()) == 0.0 for points in lines)


def test_an_inverse_that_is_far_off_is_warned_of():
    assert inverse_warning({"inverse_error_mm": INVERSE_LIMIT_MM}) == ""
    warning = inverse_warning({"inverse_error_mm": 3.44})
    assert warning.startswith("Warning")
    assert "3.4 mm off" in warning
