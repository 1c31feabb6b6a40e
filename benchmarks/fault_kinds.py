"""What goes wrong with CT on its way from a scanner to a folder, and what a run must make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import series_changes as changes
from series_changes import Files

Expected = Literal["same", "refused", "warned", "noticed"]
"""What a run must make of it.

same: the untouched score and reasons.
refused: it is rejected, with one of the codes.
warned: it has one of the codes.
noticed: it is rejected, or has some reason that the untouched series has not.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens to a series.

    Args:
        name: In words.
        change: Does it.
        expected: What a run must make of it.
        codes: Reasons of which one must be given.
    """

    name: str
    change: Callable[[Files], None]
    expected: Expected
    codes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Name of a folder, made of the name."""
        return "".join(c if c.isalnum() else "-" for c in self.name)


UNTOUCHED = Fault("untouched", changes.leave, "same")

FAULTS = (
    Fault("files renamed and shuffled", changes.rename, "same"),
    Fault("other files beside", changes.add_other_files, "same"),
    Fault("every file twice", changes.write_twice, "same"),
    Fault("in a zip archive", changes.put_in_zip, "same"),
    Fault("uncompressed", changes.each(changes.decompress), "same"),
    Fault("RLE compressed", changes.each(changes.compress), "same"),
    Fault("implicit value representations", changes.each(changes.make_implicit), "same"),
    Fault("no preamble", changes.drop_preamble, "same"),
    Fault("every instance number 1", changes.set_values(InstanceNumber=1), "same"),
    Fault("last row first", changes.each(changes.store_from_below), "same"),
    Fault("Hounsfield units stored", changes.each(changes.store_hu), "same"),
    Fault("positions to a hundredth", changes.each(changes.round_positions), "same"),
    Fault("wrong SpacingBetweenSlices", changes.set_values(SpacingBetweenSlices=99), "same"),
    Fault("localizer in the series", changes.add_localizer, "same"),
    Fault("a slice missing", changes.drop_middle, "refused", ("MISSING_SLICE",)),
    Fault(
        "three slices missing", changes.drop_several, "refused", ("MISSING_SLICE", "UNEVEN_SPACING")
    ),
    Fault("a file cut short", changes.cut_file, "refused", ("CORRUPT_FILE",)),
    Fault("a file of zero bytes", changes.empty_file, "refused", ("CORRUPT_FILE", "MISSING_SLICE")),
    Fault("a zip archive cut short", changes.break_zip, "refused", ("CORRUPT_FILE",)),
    Fault("two images at one place", changes.second_image, "refused", ("DUPLICATE_SLICE",)),
    Fault("a slice out of place", changes.move_one, "refused", ("UNEVEN_SPACING",)),
    Fault("gantry tilt of 12 deg", changes.tilt, "refused", ("GANTRY_TILT",)),
    Fault(
        "a slice turned", changes.middle_one(changes.turn_one), "refused", ("MIXED_ORIENTATION",)
    ),
    Fault(
        "a slice of other pixel size",
        changes.middle_one(changes.zoom_one),
        "refused",
        ("MIXED_ORIENTATION",),
    ),
    Fault(
        "a slice without rescale",
        changes.middle_one(changes.drop_keyword("RescaleIntercept")),
        "refused",
        ("NOT_HU",),
    ),
    Fault(
        "a slice without position",
        changes.middle_one(changes.drop_keyword("ImagePositionPatient")),
        "refused",
        ("CORRUPT_FILE",),
    ),
    Fault(
        "no pixels", changes.each(changes.drop_keyword("PixelData")), "refused", ("NO_PIXEL_DATA",)
    ),
    Fault("modality MR", changes.set_values(Modality="MR"), "refused", ("NOT_CT",)),
    Fault("four slices", changes.keep_four, "refused", ("TOO_FEW_SLICES",)),
    Fault("coronal", changes.make_coronal, "refused", ("NOT_AXIAL",)),
    Fault("all values 1024 too high", changes.each(changes.raise_values), "refused", ("NOT_HU",)),
    Fault("256 gray values", changes.each(changes.export_window), "refused", ("NOT_HU",)),
    Fault("uppermost third alone", changes.keep_part(0.67, 1.0), "refused", ("HEART_NOT_COVERED",)),
    Fault("lowermost sixth alone", changes.keep_part(0.0, 0.17), "refused", ("HEART_NOT_COVERED",)),
    Fault("80 kV", changes.set_values(KVP=80), "warned", ("KVP",)),
    Fault(
        "contrast agent named",
        changes.set_values(ContrastBolusAgent="Iodine"),
        "warned",
        ("CONTRAST",),
    ),
    Fault(
        "sharp kernel", changes.set_values(ConvolutionKernel="B70f"), "warned", ("SHARP_KERNEL",)
    ),
    Fault("slices 10 mm thick", changes.set_values(SliceThickness=10), "warned", ("THICK_SLICES",)),
    Fault("two tube voltages", changes.mix_voltages, "warned", ("MIXED_SETTINGS",)),
    Fault(
        "compressed with loss", changes.set_values(LossyImageCompression="01"), "warned", ("LOSSY",)
    ),
    Fault("upside down", changes.turn_upside_down, "noticed"),
    Fault("left for right", changes.each(changes.pixels(lambda v: v[:, ::-1])), "noticed"),
    Fault("front for back", changes.each(changes.pixels(lambda v: v[::-1])), "noticed"),
    Fault(
        "half a turn about the long axis",
        changes.each(changes.pixels(lambda v: v[::-1, ::-1])),
        "noticed",
    ),
    Fault("slices in any order", changes.shuffle, "noticed"),
    Fault("twice the distance of slices", changes.stretch, "noticed"),
    Fault("pixels 1.5 times as large", changes.each(changes.scale_pixels(1.5)), "noticed"),
    Fault("pixels half as large", changes.each(changes.scale_pixels(0.5)), "noticed"),
    Fault("air alone", changes.each(changes.pixels(lambda v: np.full_like(v, v.min()))), "noticed"),
)
"""Everything that is done to a series, from harmless to hidden."""
