import pytest

from atlas.subjects import (
    HELD_OUT,
    Subject,
    held_out_ids,
    in_order,
    is_drawn_split,
    read_subjects,
)


def table(tmp_path, text):
    for name in ("b.nii.gz", "a.nii.gz", "m.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    path = tmp_path / "cohort.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_names_files_masks_labels_and_groups(tmp_path):
    path = table(tmp_path, "path,id,mask,group\nb.nii.gz,two,m.nii.gz,old\na.nii.gz,one,,\n")
    one, two = read_subjects(path)
    assert (one.subject_id, one.path, one.mask, one.group) == (
        "one", tmp_path / "a.nii.gz", None, "",
    )  # fmt: skip
    assert (two.subject_id, two.mask, two.group) == ("two", tmp_path / "m.nii.gz", "old")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_of_spreadsheets_in_other_languages_are_read(tmp_path, separator):
    text = "id,path,label\none,a.nii.gz,m.nii.gz\ntwo, b.nii.gz,\n".replace(",", separator)
    one, two = read_subjects(table(tmp_path, text))
    assert (one.subject_id, one.label) == ("one", tmp_path / "m.nii.gz")
    assert (two.path, two.label) == (tmp_path / "b.nii.gz", None)


def test_without_ids_the_file_names_stand_in(tmp_path):
    assert [
        s.subject_id for s in read_subjects(table(tmp_path, "image\nb.nii.gz\na.nii.gz\n"))
    ] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.nii.gz\n", "a column `path`"),
        ("path\nlost.nii.gz\n", "row 2 of cohort.csv"),
        ("path,id\na.nii.gz,../up\n", "becomes a file name"),
        ("path,id\na.nii.gz,x\nb.nii.gz,x\n", "Received twice"),
    ],
)
def test_unusable_tables_say_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_subjects(table(tmp_path, text))


def subjects(tmp_path, count, group=lambda n: ""):
    return in_order(
        [Subject(f"s{n:02d}", tmp_path / f"{n}.nii", group=group(n)) for n in range(count)]
    )


def test_the_split_is_written_once_and_kept(tmp_path):
    first = held_out_ids(tmp_path, subjects(tmp_path, 20), share=0.2, seed=1)
    assert len(first) == 4
    again = held_out_ids(tmp_path, subjects(tmp_path, 40), share=0.5, seed=2)
    assert again == first  # who came later takes part
    text = (tmp_path / "split.csv").read_text(encoding="utf-8")
    assert text.count(HELD_OUT) == 4
    assert text.count("training") == 36


def test_every_group_gives_its_share(tmp_path):
    cohort = subjects(tmp_path, 30, lambda n: "odd" if n % 3 == 0 else "even")
    held = held_out_ids(tmp_path, cohort, share=0.2, seed=0)
    groups = {s.subject_id: s.group for s in cohort}
    assert sorted(groups[name] for name in held) == ["even"] * 4 + ["odd"] * 2


def test_small_cohorts_hold_nobody_out(tmp_path):
    assert held_out_ids(tmp_path, subjects(tmp_path, 7), share=0.3, seed=0) == frozenset()


def test_an_atlas_that_began_small_draws_from_those_who_come_later(tmp_path):
    assert held_out_ids(tmp_path, subjects(tmp_path, 6), share=0.2, seed=0) == frozenset()
    assert held_out_ids(tmp_path, subjects(tmp_path, 20), share=0.2, seed=0) == frozenset()
    (tmp_path / "split.csv").unlink()
    held_out_ids(tmp_path, subjects(tmp_path, 6), share=0.2, seed=0)
    held = held_out_ids(tmp_path, subjects(tmp_path, 20), share=0.2, seed=0, goes_on=True)
    assert len(held) == 3  # a fifth of 14
    assert not held & {f"s{n:02d}" for n in range(6)}
    # drawn once: later ones change nothing
    again = held_out_ids(tmp_path, subjects(tmp_path, 40), share=0.2, seed=0, goes_on=True)
    assert again == held


def test_nobody_is_drawn_when_an_atlas_goes_on_that_held_nobody_out_of_many(tmp_path):
    held_out_ids(tmp_path, subjects(tmp_path, 20), share=0.0, seed=0)
    more = subjects(tmp_path, 40)
    assert not held_out_ids(tmp_path, more, share=0.2, seed=0, goes_on=True)


def test_a_split_that_was_drawn_is_known_from_one_made_by_hand(tmp_path):
    cohort = subjects(tmp_path, 20, lambda n: "odd" if n % 2 else "even")
    groups = {s.subject_id: s.group for s in cohort}
    held = held_out_ids(tmp_path, cohort, share=0.2, seed=3)
    path = tmp_path / "split.csv"
    assert is_drawn_split(path, groups, share=0.2, seed=3)
    assert not is_drawn_split(path, groups, share=0.2, seed=4)
    assert not is_drawn_split(path, {"s00": "even"}, share=0.2, seed=3)
    text = path.read_text()
    path.write_text(text.replace(f"{min(held)},held-out", f"{min(held)},training"))
    assert not is_drawn_split(path, groups, share=0.2, seed=3)
    path.write_text("something else\n1\n")
    assert not is_drawn_split(path, groups, share=0.2, seed=3)
