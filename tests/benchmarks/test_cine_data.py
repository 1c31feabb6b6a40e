from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk


def frame(patient, number):
    from cine_frames import CineFrame

    return CineFrame(patient, number, Path("image"), Path("label"))


def test_pixels_count_whose_centers_lie_inside_a_polygon():
    from cine_stacks import polygon_mask

    # x from 0.5 to 3.5 and y from 0.5 to 2.5: columns 1 to 3 of rows 1 and 2
    box = polygon_mask([(0.5, 0.5), (3.5, 0.5), (3.5, 2.5), (0.5, 2.5)], (4, 6))
    expected = np.zeros((4, 6), bool)
    expected[1:3, 1:4] = True
    assert box.tolist() == expected.tolist()
    # below the line from (0.5, 4.5) to (4.5, 0.5): x + y < 5, x and y from 1
    triangle = polygon_mask([(0.5, 0.5), (4.5, 0.5), (0.5, 4.5)], (6, 6))
    assert triangle.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_the_sense_of_a_polygon_does_not_matter_and_a_line_is_empty():
    from cine_stacks import polygon_mask

    corners = [(0.6, 1.2), (6.3, 0.4), (7.7, 5.1), (2.2, 6.6)]
    forward, backward = polygon_mask(corners, (8, 9)), polygon_mask(corners[::-1], (8, 9))
    assert forward.any()
    assert np.array_equal(forward, backward)
    assert not polygon_mask(corners[:2], (8, 9)).any()


def test_the_area_of_a_round_contour_is_that_of_the_circle():
    from cine_stacks import polygon_mask

    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([40.3 + 21.7 * np.cos(angles), 38.8 + 21.7 * np.sin(angles)], axis=1)
    # pixels on the rim average out to about 1 %
    assert polygon_mask(circle, (80, 80)).sum() == pytest.approx(np.pi * 21.7**2, rel=0.01)


def test_end_diastole_is_where_the_outer_contours_are():
    from cine_stacks import contour_phases

    # frames 20, 40, 60 are phase 19, frames 7, 27, 47 phase 6
    assert contour_phases([20, 7, 40, 27, 60, 47], [20, 40, 60]) == (19, 6)
    assert contour_phases([7, 27, 47, 20, 40], [20, 40]) == (19, 6)
    with pytest.raises(ValueError, match="two phases"):
        contour_phases([20, 40], [20, 40])


def test_pairs_are_slices_drawn_at_exactly_two_phases():
    from cine_frames import slices_at_two_phases

    frames = [frame("A", n) for n in (60, 47, 20, 80, 67, 70)] + [frame("B", 48)]
    pairs = slices_at_two_phases(frames)
    # frame 20 is alone in slice 0, slice 3 has three frames, B has one
    assert [(a.patient, a.number, b.number) for a, b in pairs] == [("A", 47, 60)]
    assert (pairs[0][0].slice_number, pairs[0][0].phase, pairs[0][1].phase) == (2, 6, 19)


def write_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([array] * 3, -1), isVector=True), str(path))


def write_pictures(folder, numbers, patient="SC-N-05"):
    for number in numbers:
        name = f"{patient}-IM-0001-{number:04d}.dcm.png"
        image = np.full((8, 8), number, np.uint8)
        label = np.zeros((8, 8), np.uint8)
        label[2:6, 2 : 6 if number % 20 == 0 else 4] = 255
        write_picture(folder / "images" / name, image)
        write_picture(folder / "labels" / name, label)


def test_both_directions_of_a_slice_are_registered(tmp_path):
    from cine2d import read_pairs

    write_pictures(tmp_path, (7, 20, 27))
    pairs = read_pairs(tmp_path)
    assert [p.name for p in pairs] == ["SC-N-05-0007-0020", "SC-N-05-0020-0007"]
    assert sitk.GetArrayFromImage(pairs[0].fixed).max() == 7
    assert sitk.GetArrayFromImage(pairs[0].moving_labels).sum() == 16
    assert sitk.GetArrayFromImage(pairs[0].fixed_labels).sum() == 8
    assert read_pairs(tmp_path, "SC-N-06") == []


def test_a_label_that_is_missing_is_named(tmp_path):
    from cine_frames import find_frames

    write_pictures(tmp_path, (7, 20))
    missing = tmp_path / "labels" / "SC-N-05-IM-0001-0020.dcm.png"
    missing.unlink()
    with pytest.raises(ValueError, match=r"needs a label.*0020"):
        find_frames(tmp_path)


def test_pictures_become_stacks_with_the_larger_ventricle_first(tmp_path):
    from cine_frames import find_frames
    from cine_stacks import stack_pictures

    write_pictures(tmp_path, (47, 60, 27, 40))
    (heart,) = stack_pictures(find_frames(tmp_path))
    diastole, systole = (sitk.GetArrayFromImage(image) for image in heart.images)
    # slices 1 and 2; frames 40 and 60 have the larger label
    assert diastole[:, 0, 0].tolist() == [40.0, 60.0]
    assert systole[:, 0, 0].tolist() == [27.0, 47.0]
    assert heart.labels[0].GetSpacing() == (1.37, 1.37, 8.0)


def test_patients_are_the_same_with_and_without_leading_zeros():
    from cine_frames import patient_key

    assert patient_key("SC-HF-I-05") == patient_key("SC-HF-I-5") == "SC-HF-I-5"
    assert patient_key("SC-HF-I-40") == "SC-HF-I-40"


def test_pictures_are_drawn_as_often_as_frames_of_all_phases():
    pytest.importorskip("tensorflow")
    from cine2d_recipes import balanced_cohort

    from registration.cohort import CohortImage

    pictures = [CohortImage(Path(n), "slice 1", "A") for n in ("a", "b")]
    beating = [(CohortImage(Path(str(k)), "slice 2", "B"), k) for k in (0, 2, 4, 10, 18)]
    cohort = balanced_cohort(pictures, beating)
    # at least five of twenty phases apart: 10 with each of 0, 2, 4 and 18; 4 with 18
    names = [(cohort.images[a].path.name, cohort.images[b].path.name) for a, b in cohort.pairs]
    one_way = {("0", "10"), ("2", "10"), ("4", "10"), ("10", "18"), ("4", "18")}
    assert set(names) == {("a", "b"), ("b", "a")} | one_way | {(b, a) for a, b in one_way}
    assert names.count(("a", "b")) == 5


def write_dicom(path, array, position):
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    ds.Modality = "MR"
    ds.Rows, ds.Columns = array.shape
    ds.PixelSpacing, ds.SliceThickness = [1.5, 1.25], 8
    ds.ImagePositionPatient, ds.ImageOrientationPatient = list(position), [0, 1, 0, 0, 0, -1]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = array.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def test_a_patient_is_stacked_by_position_with_contours_as_masks(tmp_path):
    from cine_stacks import read_patient

    folder = tmp_path / "SC-HF-I-7"
    # rows run along -z, columns along y: the normal is -x, so slice 0 at x = 16 comes first
    for number in (7, 20, 27, 40, 47, 60):
        position = (16.0 - 8.0 * ((number - 1) // 20), 5.0, 3.0)
        write_dicom(folder / "frames" / f"IM-0001-{number:04d}.dcm",
                    np.full((10, 12), number), position)  # fmt: skip
    box = "\n".join(["2.5 1.5", "6.5 1.5", "6.5 4.5", "2.5 4.5"])
    (folder / "contours").mkdir()
    for number, kinds in ((20, "io"), (7, "i"), (40, "io"), (27, "i")):
        for kind in kinds:
            name = f"IM-0001-{number:04d}-{kind}contour-manual.txt"
            (folder / "contours" / name).write_text(box, encoding="utf-8")
    heart = read_patient(folder)
    diastole, systole = (sitk.GetArrayFromImage(image) for image in heart.images)
    assert diastole[:, 0, 0].tolist() == [20.0, 40.0, 60.0]
    assert systole[:, 0, 0].tolist() == [7.0, 27.0, 47.0]
    assert heart.images[0].GetSpacing() == pytest.approx((1.25, 1.5, 8.0))
    labels = sitk.GetArrayFromImage(heart.labels[1])
    assert labels.sum(axis=(1, 2)).tolist() == [12, 12, 0]
    assert labels[0, 2:5, 3:7].all()
