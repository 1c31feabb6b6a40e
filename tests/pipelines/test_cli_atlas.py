import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from pipelines import atlas_build
from pipelines.cli import main
from registration.geometry import ImageGrid
from tests.atlas.blob import known_maps, oblique_grid, subject
from tests.pipelines.atlas_commands import QUICK, run, write_images

ROOT = Path(__file__).resolve().parent.parent.parent
BYTES = (
    "atlas.nii.gz",
    "deviation.nii.gz",
    "coverage.nii.gz",
    "transforms/s0.tfm",
    "transforms/s0.inverse.h5",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("atlas") / "out"
    result = run("build", images, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    return out


def test_a_folder_becomes_an_atlas_with_everything_in_place(finished):
    record = json.loads((finished / "atlas.json").read_text())
    assert record["subjects_averaged"] == 6
    assert record["left_out"] == []
    atlas = sitk.ReadImage(str(finished / "atlas.nii.gz"))
    assert atlas.GetSpacing() == (4.0, 4.0, 4.0)
    for name in ("s0", "s5"):
        forward = sitk.ReadTransform(str(finished / "transforms" / f"{name}.tfm"))
        backward = sitk.ReadTransform(str(finished / "transforms" / f"{name}.inverse.h5"))
        point = (5.0, -4.0, 3.0)
        there = backward.TransformPoint(forward.TransformPoint(point))
        np.testing.assert_allclose(there, point, atol=1e-3)
        assert (finished / "jacobians" / f"{name}.log-jacobian.nii.gz").exists()
    with (finished / "history.csv").open() as stream:
        assert [row["stage"] for row in csv.DictReader(stream)] == ["start", "rigid", "affine"]
    page = (finished / "qc.html").read_text()
    assert "Averages before and after" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_the_log_jacobian_is_that_of_the_affine_map(finished):
    transform = sitk.CompositeTransform(
        sitk.ReadTransform(str(finished / "transforms" / "s1.tfm"))
    ).GetNthTransform(0)
    matrix = np.reshape(sitk.AffineTransform(transform).GetMatrix(), (3, 3))
    image = sitk.ReadImage(str(finished / "jacobians" / "s1.log-jacobian.nii.gz"))
    expected = np.log(np.linalg.det(matrix))
    np.testing.assert_allclose(sitk.GetArrayViewFromImage(image), expected, atol=1e-4)


def test_labels_are_carried_over_and_fused(finished):
    labels = sitk.ReadImage(str(finished / "labels.nii.gz"))
    agreement = sitk.ReadImage(str(finished / "labels-agreement.nii.gz"))
    for x, expected in ((12.0, 1), (-12.0, 0)):
        index = labels.TransformPhysicalPointToIndex((x, 0.0, 0.0))
        assert labels[index] == expected
        assert agreement[index] == 1.0


def test_labels_count_only_where_their_subjects_are_in_view(tmp_path):
    """Two subjects are whole; of the others the upper part is cut off."""
    folder, out = tmp_path / "mixed", tmp_path / "out"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number, matrix in enumerate(known_maps()):
        grid = oblique_grid(matrix)
        if number >= 2:
            grid = ImageGrid((36, 26, 12), grid.spacing, grid.origin, grid.direction)
        backward = np.linalg.inv(matrix)
        points = grid.voxel_points() @ backward[:3, :3].T + backward[:3, 3]
        label = np.linalg.norm(points / np.array([30.0, 24.0, 20.0]), axis=-1) < 1.0
        for name, image in (
            ("images", subject(matrix, grid, seed=number)),
            ("labels", grid.to_image(label.astype(np.uint8))),
        ):
            sitk.WriteImage(image, str(folder / name / f"s{number}.nii.gz"))
    result = run("build", folder, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    labels, agreement, coverage, whole, cut = (
        sitk.ReadImage(str(out / name))
        for name in (
            "labels.nii.gz",
            "labels-agreement.nii.gz",
            "coverage.nii.gz",
            "labels/s0.nii.gz",
            "labels/s5.nii.gz",
        )
    )
    index = labels.TransformPhysicalPointToIndex((0.0, 0.0, 10.0))
    assert (coverage[index], whole[index], cut[index]) == (2, 1, -1)
    assert (labels[index], agreement[index]) == (1, 1.0)
    index = labels.TransformPhysicalPointToIndex((0.0, 0.0, -10.0))
    assert (coverage[index], whole[index], cut[index]) == (6, 1, 1)


def test_a_finished_atlas_is_left_as_it_is(images, finished):
    before = (finished / "qc.html").stat().st_mtime_ns
    result = run("build", images, "--out", finished, *QUICK)
    assert result.exit_code == 0
    assert "nothing is left to do" in result.output
    assert (finished / "qc.html").stat().st_mtime_ns == before


def test_a_finished_atlas_may_be_told_to_keep_its_results_alone(images, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = (out / "atlas.json").read_bytes()
    result = run("build", images, "--out", out, *QUICK, "--keep", "outputs")
    assert result.exit_code == 0
    assert "nothing is left to do" in result.output
    assert [path.name for path in (out / "work").iterdir()] == ["settings.json"]
    assert (out / "atlas.json").read_bytes() == before


def test_every_result_is_hashed_and_taken_away_with_the_build(images, finished, tmp_path):
    written = {path.name for path in finished.glob("*.*") if path.is_file()}
    hashed = set(json.loads((finished / "atlas.json").read_text())["files"])
    assert written - hashed == {"atlas.json", "qc.html", "split.csv", ".lock"}
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "notes.txt").write_text("of somebody else")
    atlas_build.remove_build(out)
    assert {path.name for path in out.iterdir()} == {"notes.txt", ".lock"}


def test_what_only_the_end_needs_is_not_kept(images, finished, tmp_path):
    kept = sorted(path.name for path in (finished / "work" / "final").iterdir())
    assert kept == [f"s{number}.facts.npz" for number in range(6)]
    out = tmp_path / "out"
    result = run("build", images, "--out", out, *QUICK, "--keep", "rounds")
    assert result.exit_code == 0, result.output
    rounds = out / "work" / "rounds"
    for number, variant in enumerate(("start", "affine", "affine")):
        folder = rounds / f"{number:02d}"
        assert (folder / "mean.npz").exists()
        for kind in ("moved", "kept"):
            assert len(list((folder / f"{kind}-{variant}").iterdir())) == 6
    assert not list((finished / "work" / "rounds").glob("*/moved-*"))
    assert not (finished / "work" / "rounds" / "01" / "mean.npz").exists()
    assert (out / "atlas.nii.gz").read_bytes() == (finished / "atlas.nii.gz").read_bytes()


def test_an_atlas_that_lost_a_file_is_written_again(images, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "atlas.nii.gz").unlink()
    result = run("build", images, "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    for name in BYTES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    assert not list((out / "work" / "final").glob("*.npy"))


def test_another_cohort_does_not_go_into_the_same_folder(images, finished):
    result = run("build", images, "--out", finished, *QUICK, "--average", "median")
    assert result.exit_code == 2
    assert "--fresh" in result.output


def test_a_folder_of_results_alone_knows_whose_it_is(images, tmp_path):
    out, results = tmp_path / "out", ("--keep", "outputs")
    assert run("build", images, "--out", out, *QUICK, *results).exit_code == 0
    assert [path.name for path in (out / "work").iterdir()] == ["settings.json"]
    result = run("build", images / "labels", "--out", out, *QUICK, *results)
    assert result.exit_code == 2
    assert "of another cohort" in result.output
    result = run("build", images, "--out", out, *QUICK, *results)
    assert result.exit_code == 0
    assert "nothing is left to do" in result.output
    result = run("refine", out, images, "--out", tmp_path / "refined")
    assert result.exit_code == 2
    assert "--keep work" in result.output
    shutil.rmtree(out / "work")
    result = run("build", images, "--out", out, *QUICK, *results)
    assert result.exit_code == 2
    assert "cannot be told" in result.output
    assert not (out / "work").exists()


def test_a_fresh_build_owes_nothing_to_the_one_before_in_the_same_process(
    images, finished, tmp_path
):
    out = tmp_path / "out"
    assert run("build", images, "--out", out, *QUICK, "--start", "s0").exit_code == 0
    assert (out / "atlas.nii.gz").read_bytes() != (finished / "atlas.nii.gz").read_bytes()
    assert run("build", images, "--out", out, *QUICK, "--fresh").exit_code == 0
    for name in BYTES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_fresh_build_keeps_a_split_made_by_hand(images, tmp_path):
    out, split = tmp_path / "out", tmp_path / "out" / "split.csv"
    out.mkdir()
    by_hand = "id,part\ns0,training\ns1,held-out\n"
    split.write_text(by_hand)
    assert run("build", images, "--out", out, *QUICK).exit_code == 0
    for _ in range(2):
        result = run("build", images, "--out", out, *QUICK, "--fresh", "--only", "rigid")
        assert result.exit_code == 0, result.output
        assert by_hand.splitlines()[2] in split.read_text().splitlines()
    record = json.loads((out / "atlas.json").read_text())
    assert record["subjects_averaged"] == 5


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", [1, 4, 9, 15, 22, 40])
def test_a_build_that_was_killed_ends_with_the_same_bytes(
    images, finished, tmp_path, monkeypatch, moment
):
    real, calls = atlas_build.perform, []

    def mortal(function, item):
        calls.append(item)
        if len(calls) == moment:
            raise Killed
        real(function, item)

    monkeypatch.setattr(atlas_build, "perform", mortal)
    with pytest.raises(Killed):
        CliRunner().invoke(
            main,
            ["atlas", "build", str(images), "--out", str(tmp_path / "out"), *QUICK],
            catch_exceptions=False,
        )
    monkeypatch.setattr(atlas_build, "perform", real)
    result = run("build", images, "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.output
    for name in BYTES:
        assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.5, 5.0])
def test_kill_9_and_two_workers_change_no_byte(images, finished, tmp_path, seconds):
    words = [sys.executable, "-m", "pipelines", "atlas", "build", str(images)]
    words += ["--out", str(tmp_path / "out"), *QUICK, "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)  # the workers notice
    subprocess.run(words, env=environment, check=True, capture_output=True, cwd=tmp_path)
    for name in BYTES:
        assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes(), name


def test_unusable_subjects_are_named_and_the_others_go_on(images, tmp_path):
    rows = ["id,path,group"]
    rows += [f"{path.name[:2]},{path},g" for path in sorted((images / "images").iterdir())]
    grid = oblique_grid(known_maps()[0])
    sitk.WriteImage(
        grid.to_image(np.full(grid.shape, 7.0, np.float32)), str(tmp_path / "air.nii.gz")
    )
    (tmp_path / "torn.nii.gz").write_bytes((images / "images" / "s0.nii.gz").read_bytes()[:3000])
    upside_down = known_maps()[2].copy()
    upside_down[:3, :3] = upside_down[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    sitk.WriteImage(subject(upside_down), str(tmp_path / "head.nii.gz"))
    rows += ["air,air.nii.gz,g", "torn,torn.nii.gz,g", "upside-down,head.nii.gz,g"]
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    result = run("build", tmp_path / "cohort.csv", "--out", out, *QUICK, "--hold-out", "0")
    assert result.exit_code == 3, result.output
    record = json.loads((out / "atlas.json").read_text())
    reasons = {row["id"]: row["reason"] for row in record["left_out"]}
    assert set(reasons) == {"air", "torn", "upside-down"}
    assert "shows nothing" in reasons["air"]
    assert reasons["torn"].startswith("CORRUPT_FILE")
    assert record["subjects_averaged"] == 6
    assert all(name in (out / "qc.html").read_text() for name in reasons)


def test_labels_of_no_volume_or_of_another_place_are_refused_by_name(images, tmp_path):
    flat, away = tmp_path / "flat.nrrd", tmp_path / "away.nrrd"
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(flat))
    label = sitk.ReadImage(str(images / "labels" / "s4.nii.gz"))
    label.SetOrigin([x + 60.0 for x in label.GetOrigin()])
    sitk.WriteImage(label, str(away))
    labels = {"s1": flat, "s4": away}
    rows = ["id,path,label"]
    for number in range(6):
        name = f"s{number}"
        own = images / "labels" / f"{name}.nii.gz"
        rows.append(f"{name},{images / 'images' / name}.nii.gz,{labels.get(name, own)}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    result = run("build", tmp_path / "cohort.csv", "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 3, result.output
    told = " ".join(result.output.split())
    assert "left out: s1: its label flat.nrrd must be a volume; it has the size (8, 8)" in told
    assert "left out: s4: its label away.nrrd does not lie on the image" in told
    assert "Mean of 4 subjects" in told


def test_a_subject_whose_files_cannot_be_written_is_named_and_tried_again(images, tmp_path):
    out = tmp_path / "out"
    in_the_way = out / "labels" / "s2.nii.gz"
    in_the_way.mkdir(parents=True)
    (in_the_way / "other.txt").write_text("a folder where a file should be")
    result = run("build", images, "--out", out, *QUICK, "--keep", "outputs")
    assert result.exit_code == 3, result.output
    assert "failed: s2: its files could not be written" in result.output
    with (out / "subjects.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert [name for name, row in rows.items() if row["failed"]] == ["s2"]
    assert rows["s2"]["left_out"] == ""
    assert float(rows["s2"]["similarity"]) > 0.9
    assert (out / "transforms" / "s5.inverse.h5").exists()
    assert "Without files" in (out / "qc.html").read_text()
    shutil.rmtree(in_the_way)
    result = run("build", images, "--out", out, *QUICK, "--keep", "outputs")
    assert result.exit_code == 0, result.output
    assert in_the_way.is_file()
    assert json.loads((out / "atlas.json").read_text())["failed"] == []
    assert "Without files" not in (out / "qc.html").read_text()
    assert [path.name for path in (out / "work").iterdir()] == ["settings.json"]


def test_a_folder_claimed_by_an_earlier_version_is_still_known(images, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "atlas")
    path = tmp_path / "atlas" / "work" / "settings.json"
    claimed = json.loads(path.read_text())
    del claimed["settings"]["registration_sha256"]
    for stage in claimed["settings"]["stages"]:
        del stage["trained"]
    path.write_text(json.dumps(claimed))
    result = run("build", images, "--out", tmp_path / "atlas", *QUICK)
    assert result.exit_code == 0, result.output
    assert "nothing is left to do" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--start", "nobody"), "start must be mean, medoid or the id"),
        (("--workers", "2", "--scheduler", "tcp://x:1"), "exclude each other"),
        (("--method", "trained"), "--method trained needs --registration"),
        (("--registration", "."), "--method trained needs --registration"),
        (
            ("--method", "trained", "--registration", str(ROOT)),
            "There is no registration.json in",
        ),
    ],
)
def test_wrong_options_are_told(images, tmp_path, words, message):
    result = run("build", images, "--out", tmp_path / "out", *QUICK, *words)
    assert result.exit_code != 0
    assert message in result.output
    assert ".." not in result.output


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "nothing").mkdir()
    result = run("build", tmp_path / "nothing", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "no images or CT series" in result.output
