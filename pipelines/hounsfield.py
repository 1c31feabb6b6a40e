"""Whether the values of a volume can be Hounsfield units."""

from __future__ import annotations

from pipelines.reasons import UnusableSeries

AIR_CEILING_HU = -200.0
"""A CT scan has values below this [HU] (own): there is air in every chest and around it."""

TISSUE_FLOOR_HU = 0.0
"""A scan of a body has values above this [HU] (own): every soft tissue but fat, and all bone."""

HU_CEILING = 31000.0
"""No scanner writes values above this [HU] (own): the extended scale for metal ends at 30,710."""

HU_FLOOR = -(2.0**15)
"""No scanner or converter pads with values below this [HU] (own)."""


def check_hounsfield(low: float, high: float, name: str) -> None:
    """Refuse values that cannot be HU: masks, normalized images, CT without its rescale, pictures.

    Args:
        low: Smallest value of the volume.
        high: Largest value.
        name: How to call the volume.

    Raises:
        UnusableSeries: NOT_HU, if there is nothing like air, nothing like soft tissue, or something
            below any padding or above any metal.

    Example:
        >>> check_hounsfield(-1024, 3071, "scan.nii.gz")
        >>> check_hounsfield(0, 1, "mask.nii.gz")
        Traceback (most recent call last):
        pipelines.reasons.UnusableSeries: NOT_HU: the values in mask.nii.gz go from 0 to 1, ...
    """
    told = f"the values in {name} go from {low:g} to {high:g}, which does not look like HU"
    if not HU_FLOOR <= low <= AIR_CEILING_HU:
        raise UnusableSeries(
            "NOT_HU",
            f"{told}: air is at -1000. A mask, or a CT saved without its rescale?",
        )
    if high > HU_CEILING:
        raise UnusableSeries("NOT_HU", f"{told}. Padding, or values of the wrong sign?")
    if high <= TISSUE_FLOOR_HU:
        raise UnusableSeries(
            "NOT_HU",
            f"{told}: soft tissue and bone are above 0. A picture of a window, saved as a scan?",
        )
