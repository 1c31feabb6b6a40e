import os

import pytest
import SimpleITK as sitk

from pipelines.pair_files import UnusableFile, read_pair_image
from pipelines.reference_scores import read_mask
from registration.image_files import read_image_file


@pytest.fixture
def oddly_named(tmp_path):
    """An image whose name is valid on disk and no UTF-8."""
    plain = tmp_path / "plain.mha"
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkInt16), str(plain))
    odd = tmp_path / os.fsdecode(b"M\xfcller.mha")
    try:
        plain.rename(odd)
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    return odd


@pytest.mark.parametrize(
    ("read", "error"),
    [(read_image_file, UnicodeError), (read_pair_image, UnusableFile), (read_mask, ValueError)],
)
def test_a_name_that_would_end_the_process_is_refused_with_what_to_do(oddly_named, read, error):
    with pytest.raises(error, match="not UTF-8; rename the file or its folder") as caught:
        read(oddly_named)
    str(caught.value).encode("utf-8")
