"""Why a scan was refused or needs a second look: the codes of `scores.csv` and their sentences.

Source: own list; the codes are a contract with scripts that read `scores.csv`.
"""

from __future__ import annotations

REASONS: dict[str, str] = {
    "NO_PIXEL_DATA": "The files hold no image.",
    "NOT_CT": "The series is not a CT scan.",
    "LOCALIZER": "The series is a localizer (scout view), not a stack of slices.",
    "NOT_AXIAL": "The slices are not axial; calcium is scored on axial slices.",
    "NOT_HU": "The values are not in Hounsfield units.",
    "TOO_FEW_SLICES": "The series has too few slices to be a scan of the heart.",
    "MISSING_SLICE": "At least one slice is missing.",
    "DUPLICATE_SLICE": "Two or more slices lie at the same position.",
    "UNEVEN_SPACING": "The slices are not evenly spaced.",
    "SLICE_ORDER": "The images of the slices do not follow one another.",
    "GANTRY_TILT": "The slices are stacked askew (gantry tilt).",
    "MIXED_ORIENTATION": "The slices differ in orientation, matrix or pixel size.",
    "CORRUPT_FILE": "A file is damaged or cannot be read.",
    "TOO_LARGE": "The series is larger than this program accepts.",
    "HEART_NOT_COVERED": "The scan does not cover the whole heart.",
    "CONTRAST": "The scan seems to be made with intravenous contrast agent.",
    "KVP": "The tube voltage is not 120 kV, or not known.",
    "THICK_SLICES": "The slices are thicker or farther apart than calcium scoring asks for.",
    "SHARP_KERNEL": "The reconstruction kernel is sharper than calcium scoring asks for.",
    "METAL": "The scan holds metal, which can be mistaken for calcium.",
    "ALIGNMENT_UNCERTAIN": "The alignment of the scan to the atlas is uncertain.",
    "CATEGORY_UNCERTAIN": "The risk category is about as likely to be another one.",
    "MIXED_SETTINGS": "The slices were made with different tube voltages or kernels.",
    "LOSSY": "The images were compressed with loss, which changes their values.",
}
"""Plain-language sentence of every reason code, without the details of a case."""


class UnusableSeries(ValueError):  # noqa: N818 (the name says what is wrong, not that it is an error)
    """A series that is refused, with the reason a radiographer can act on.

    Args:
        code: Key of `REASONS`.
        message: What is wrong and where: file names and positions in mm, never a
            value of an identifying tag.

    Raises:
        ValueError: If `code` is not in `REASONS`.

    Example:
        >>> str(UnusableSeries("NOT_CT", "the modality is MR"))
        'NOT_CT: the modality is MR'
    """

    def __init__(self, code: str, message: str) -> None:
        if code not in REASONS:
            raise ValueError(f"code must be one of {sorted(REASONS)}. Received: {code!r}")
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
