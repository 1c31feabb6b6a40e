from __future__ import annotations

import pytest

from registration.cohort import read_folder, read_table, split_subjects


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
