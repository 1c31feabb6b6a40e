from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registration.cohort import Cohort, CohortImage, read_folder, read_table, split_subjects


@pytest.fixture
def folder(tmp_path):
    for name in ("a-1.png", "a-2.png", "b-1.png", "b-2.png", "c-1.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c-2.nii.gz").touch()
    return tmp_path


def named_pairs(cohort):
    names = [image.path.name for image in cohort.images]
    return {(names[fixed], names[moving]) for fixed, moving in cohort.pairs}


def test_without_groups_any_two_images_of_a_folder_are_paired(folder):
    cohort = read_folder(folder)
    assert len(cohort.images) == 6
    assert len(cohort.pairs) == 6 * 5
    assert len(cohort.subjects) == 6


def test_hidden_files_are_no_images(folder):
    (folder / "._a-1.png").touch()
    assert len(read_folder(folder).images) == 6


def test_groups_of_a_folder_are_what_the_expression_matches(folder):
    cohort = read_folder(folder, group=r"([abc])-\d")
    assert ("a-1.png", "a-2.png") in named_pairs(cohort)
    assert ("c-2.nii.gz", "c-1.png") in named_pairs(cohort)
    assert len(cohort.pairs) == 6
    assert cohort.subjects == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"must match every path. Received: b-1\.png"):
        read_folder(folder, group="a-|c-")


def test_table_of_images_names_masks_groups_and_subjects(folder):
    table = folder / "images.csv"
    table.write_text(
        "image,mask,group,subject\n"
        "a-1.png,b-1.png,one,anna\na-2.png,,one,anna\nb-2.png,,two,bert\nc-1.png,,two,bert\n"
    )
    cohort = read_table(table)
    assert cohort.images[0].mask == folder / "b-1.png"
    assert cohort.images[1].mask is None
    assert cohort.subjects == ("anna", "bert")
    assert named_pairs(cohort) == {
        ("a-1.png", "a-2.png"),
        ("a-2.png", "a-1.png"),
        ("b-2.png", "c-1.png"),
        ("c-1.png", "b-2.png"),
    }


def test_table_of_pairs_is_taken_in_the_given_direction(folder):
    table = folder / "pairs.csv"
    table.write_text("fixed,moving,subject\na-1.png,a-2.png,anna\nb-1.png,b-2.png,bert\n")
    assert named_pairs(read_table(table)) == {("a-1.png", "a-2.png"), ("b-1.png", "b-2.png")}


def test_unusable_tables_are_refused(folder):
    table = folder / "table.csv"
    table.write_text("file\na-1.png\n")
    with pytest.raises(ValueError, match=r"column `image`, or `fixed` and `moving`.*\['file'\]"):
        read_table(table)
    table.write_text("image\nz.png\n")
    with pytest.raises(ValueError, match="every file of the table must exist"):
        read_table(table)
    table.write_text("image\na-1.png\n")
    with pytest.raises(ValueError, match="at least one pair"):
        read_table(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\na-1.png,\n,\n", "row 2 names no image"),
        ("image,mask\n,b-1.png\na-1.png,\na-2.png,\n", "row 1 names no image"),
        ("mask,image\nb-1.png\n", "row 1 names no image"),
        ("fixed,moving\na-1.png,a-2.png\nb-1.png\n", "row 2 names no moving image"),
        ("fixed,moving,fixed_mask\n,a-2.png,b-1.png\n", "row 1 names no fixed image"),
    ],
)
def test_rows_without_an_image_are_told_by_number(folder, text, message):
    table = folder / "table.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(table)


@pytest.mark.parametrize(
    "text",
    [
        "Image;Mask\na-1.png;b-1.png\na-2.png;\n",
        "image\tmask\na-1.png\tb-1.png\na-2.png\n",
        "\n image , mask \n a-1.png , b-1.png\na-2.png , \n",
        "\ufeffIMAGE,mask\r\na-1.png,b-1.png\r\na-2.png,\r\n",
    ],
)
def test_tables_of_any_spreadsheet_are_read(folder, text):
    table = folder / "table.csv"
    table.write_bytes(text.encode())
    cohort = read_table(table)
    assert [image.path.name for image in cohort.images] == ["a-1.png", "a-2.png"]
    assert [image.mask for image in cohort.images] == [folder / "b-1.png", None]


def test_a_row_with_more_cells_than_names_is_told_by_number(folder):
    table = folder / "table.csv"
    table.write_text("image,group\na-1.png,one\na-2.png,one,left\n")
    with pytest.raises(ValueError, match=r"3 cells under 2 names.* row 3"):
        read_table(table)
    table.write_text("image,group\na-1.png,one,\na-2.png,one,\n")  # as some spreadsheets end lines
    assert len(read_table(table).pairs) == 2


@pytest.mark.parametrize("content", ["image\nGefäß.png\n".encode("latin-1"), b"\x1f\x8b\x08\x00"])
def test_a_table_that_is_no_text_in_utf_8_is_refused_by_name(folder, content):
    (folder / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.csv is no text in UTF-8: .* or give a folder"):
        read_table(folder / "table.csv")


def test_a_folder_without_images_is_told_with_what_is_read(tmp_path):
    with pytest.raises(ValueError, match=rf"must hold images \(\.nii.*\.png.*{tmp_path.name}"):
        read_folder(tmp_path)


def test_an_expression_that_is_none_is_told(folder):
    with pytest.raises(ValueError, match=r"need a regular expression.*'\(', missing \)"):
        read_folder(folder, group="(")


def test_split_keeps_subjects_apart_and_is_that_of_the_seed(folder):
    cohort = read_folder(folder, group="[abc]-")
    training, validation = split_subjects(cohort, share=0.34, seed=3)
    assert validation is not None
    assert len(validation.subjects) == 1
    assert set(training.subjects) | set(validation.subjects) == set(cohort.subjects)
    assert not set(training.subjects) & set(validation.subjects)
    assert split_subjects(cohort, share=0.34, seed=3) == (training, validation)
    assert split_subjects(cohort, share=0.0, seed=3) == (cohort, None)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\)"):
        split_subjects(cohort, share=1.0, seed=3)


def test_pairs_between_subjects_leave_two_for_validation(folder):
    training, validation = split_subjects(read_folder(folder), share=0.1, seed=0)
    assert validation is not None
    assert len(validation.subjects) == 2
    assert len(validation.pairs) == 2
    assert len(training.pairs) == 4 * 3


def grouped(groups, subjects=None):
    """Cohort of images by group and subject, in letters: any two of a group make a pair."""
    images = [
        CohortImage(Path(f"{n}.png"), group, subject)
        for n, (group, subject) in enumerate(zip(groups, subjects or groups, strict=True))
    ]
    pairs = [
        (a, b)
        for a in range(len(images))
        for b in range(len(images))
        if a != b and groups[a] == groups[b]
    ]
    return Cohort(tuple(images), tuple(pairs))


def first_permuted(cohort, share, seed):
    """Split that trainings were made with: the first subjects in permuted order, come what may."""
    subjects = np.array(cohort.subjects)
    order = np.random.default_rng([seed, len(subjects)]).permutation(len(subjects))
    count = max(1, round(share * len(subjects)))
    if all(cohort.images[a].subject != cohort.images[b].subject for a, b in cohort.pairs):
        count = max(2, count)
    chosen = subjects[order[:count]].tolist()
    rest = [s for s in cohort.subjects if s not in chosen]
    return cohort.of_subjects(rest), cohort.of_subjects(sorted(chosen))


@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize(
    "cohort",
    [
        grouped("a" * 9, "ihgfedcba"),
        grouped("aabbccddee"),
        grouped("aabbccdef"),
        grouped("aaaabbbbcccc", "abcdefghijkl"),
        grouped("aaabbbccc", "aabccdeef"),
    ],
)
def test_a_split_with_pairs_on_both_sides_stays_that_of_its_seed(cohort, share):
    kept = 0
    for seed in range(20):
        split = split_subjects(cohort, share=share, seed=seed)
        try:
            expected = first_permuted(cohort, share, seed)
        except ValueError:
            continue
        kept += 1
        assert split == expected
    assert kept > 3


@pytest.mark.parametrize(
    ("groups", "subjects"),
    [
        ("aabbcdef", None),
        ("aabb", "abcd"),
        ("aaaa", "abcd"),
        ("aaabb", "abbcc"),
        ("aabbc", "aabbz"),
    ],
)
def test_both_sides_of_a_split_hold_pairs_wherever_they_can(groups, subjects):
    cohort = grouped(groups, subjects)
    for seed in range(20):
        training, validation = split_subjects(cohort, share=0.1, seed=seed)
        assert validation is not None
        assert training.pairs
        assert validation.pairs
        assert not set(training.subjects) & set(validation.subjects)
    assert split_subjects(cohort, share=0.9, seed=0)[0].pairs


@pytest.mark.parametrize(("groups", "subjects"), [("aa", "ab"), ("aaa", "abc"), ("aaaa", "aaaa")])
def test_too_few_subjects_are_told(groups, subjects):
    with pytest.raises(ValueError, match=r"too few subjects.*give --validation-share 0"):
        split_subjects(grouped(groups, subjects), share=0.1, seed=0)
