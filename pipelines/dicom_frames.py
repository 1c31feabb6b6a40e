"""Attributes of one slice, wherever its file keeps them.

A classic CT file holds one slice and its attributes at the top. An enhanced one holds
many, with attributes in functional groups per frame or shared by all; the rescale
parameters in them are what pydicom's `apply_modality_lut` passes over.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from pipelines.dicom_values import first_item, integer

GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "FrameType": "CTImageFrameTypeSequence",
    "KVP": "CTXRayDetailsSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
}
"""Functional group of every attribute that is read per slice (DICOM PS3.3 A.38.1.4)."""

_CONVERTED = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
"""Where converters to enhanced files leave what has no group of its own (PS3.3 C.7.6.16.2.25)."""


@dataclass(frozen=True, slots=True)
class FrameAttributes:
    """Where the attributes of one frame are.

    Args:
        ds: The file.
        number: Frame of the file, from 0.
    """

    ds: Dataset
    number: int = 0

    def holder(self, keyword: str) -> Dataset:
        """The dataset that holds an attribute of this frame, the whole file if none does."""
        if not is_enhanced(self.ds):
            return self.ds
        groups = [self._per_frame(), first_item(self.ds, "SharedFunctionalGroupsSequence")]
        for sequence in (GROUP_OF[keyword], *_CONVERTED):
            for group in groups:
                item = None if group is None else first_item(group, sequence)
                if item is not None and keyword in item:
                    return item
        return self.ds

    def _per_frame(self) -> Dataset | None:
        groups = self.ds.get("PerFrameFunctionalGroupsSequence") or []
        return groups[self.number] if self.number < len(groups) else None


def is_enhanced(ds: Dataset) -> bool:
    """Whether a file keeps its attributes in functional groups."""
    return "PerFrameFunctionalGroupsSequence" in ds or "SharedFunctionalGroupsSequence" in ds


def count_frames(ds: Dataset) -> int:
    """Frames in a file, at least 1."""
    return max(1, integer(ds, "NumberOfFrames") or 1)
