"""From a candidate to a `Scan`, or to the reason why not."""

from __future__ import annotations

from pipelines.discovery import SeriesCandidate
from pipelines.scan import Scan


def read_scan(candidate: SeriesCandidate, *, any_modality: bool = False) -> Scan:
    """Read, check and rescale one series.

    Nothing is repaired: a series with a missing slice, two slices at one position or a
    damaged file is refused by name, because every guess would change the score.

    Args:
        candidate: A series from `find_series`.
        any_modality: Take images that cannot be scored as well: of other modalities, in any
            plane, of a single slice. Where slices lie is checked all the same.

    Returns:
        The scan in HU on its own grid, slices from feet to head. Of `any_modality` the values are
        those that the headers' rescale gives, and the stored ones where there is none.

    Raises:
        UnusableSeries: With a reason code and what is wrong where.
    """
    # pydicom and SimpleITK load only when a scan of their kind is read.
    if candidate.kind == "volume":
        from pipelines.volume_files import read_volume

        return read_volume(candidate, any_modality=any_modality)
    from pipelines.dicom_series import read_dicom_series

    return read_dicom_series(candidate, any_modality=any_modality)
