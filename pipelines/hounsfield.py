"""Whether the values of a volume can be Hounsfield units."""

from __future__ import annotations

from pipelines.reasons import UnusableSeries

AIR_CEILING_HU = -200.0
"""A CT scan has values below this [HU] (own): there is air in every chest and around it."""

HU_FLOOR = -(2.0**15)
"""No scanner or converter pads with values below this [HU] (own)."""


def check_hounsfield(low: float, high: float, name: str) -> None:
    """Refuse values that cannot be HU: masks, normalized images, CT without its rescale.

    Args:
        low: Smallest value of the volume.
        high: Largest value.
        name: How to call the volume.

    Raises:
        UnusableSeries: NOT_HU, if there is nothing like air, or something below any padding.

    Example:
        >>> check_hounsfield(-1024, 3071, "scan.nii.gz")
        >>> check_hounsfield(0, 1, "mask.nii.gz")
        Traceback (most recent call last):
        pipelines.reasons.UnusableSeries: NOT_HU: the values in mask.nii.gz go from 0 to 1, ...
    """
    if not HU_FLOOR <= low <= AIR_CEILING_HU:
        raise UnusableSeries(
            "NOT_HU",
            f"the values in {name} go from {low:g} to {high:g}, which does not look like HU: air "
            "is at -1000. A mask, or a CT saved without its rescale?",
        )
