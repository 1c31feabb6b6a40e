"""From a candidate to a `Scan`, or to the reason why not."""

from __future__ import annotations

from pipelines.discovery import SeriesCandidate
from pipelines.scan import Scan


def read_scan(candidate: SeriesCandidate) -> Scan:
    """Read, check and rescale one series.

    Nothing is repaired: a series with a missing slice, two slices at one position or a
    damaged file is refused by name, because every guess would change the score.

    Args:
        candidate: A series from `find_series`.

    Returns:
        The scan in HU on its own grid, slices from feet to head.

    Raises:
        UnusableSeries: With a reason code and what is wrong where.
    """
    # pydicom and SimpleITK load only when a scan of their kind is read.
    if candidate.kind == "volume":
        from pipelines.volume_files import read_volume

        return read_volume(candidate)
    from pipelines.dicom_series import read_dicom_series

    return read_dicom_series(candidate)
