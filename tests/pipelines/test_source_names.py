import pytest

from pipelines.source_names import names_in_source


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("chest-ct/lung1.nrrd", {"chest-ct", "lung1.nrrd", "lung1"}),
        ("lidc-0002", {"lidc-0002"}),
        ("lidc-0002/", {"lidc-0002"}),
        ("all.zip/p1/ct.nii.gz", {"all.zip", "all", "p1", "ct.nii.gz", "ct"}),
        ("p1/IM1.DCM", {"p1", "IM1.DCM", "IM1"}),
        ("cohort/p1 [IM1.dcm and 9 more]", {"cohort", "p1"}),
        ("a.nii [a.nii]", {"a.nii", "a"}),
        ("p1 [old]", {"p1 [old]"}),
        ("1.2.840.10", {"1.2.840.10"}),  # a UID has no suffix
        ("", set()),
    ],
)
def test_names_are_whole_components_with_and_without_suffix(source, names):
    assert names_in_source(source) == names
