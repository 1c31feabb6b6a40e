"""Taking apart series that mix several stacks of slices under one SeriesInstanceUID.

A series is split only where that is safe: every part must be a stack of its own, and
the parts must lie over one another. One odd slice among many stays where it is, so that
the geometry check refuses the series by name instead of scoring what is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipelines.dicom_headers import FileHeader

MIN_STACK_SLICES = 3
"""Fewer slices are an oddity in a series, not a stack of their own (own)."""

ORIENTATION_ATOL = 0.01
"""Largest difference of direction cosines within a stack, about 0.6° (own): reformats of
one series differ by far more, rounding by far less."""

SPACING_ATOL_MM = 1e-3
"""Largest difference of pixel spacings within a reconstruction [mm] (own): below what
shifts the far corner of a 512² slice by a pixel."""

SAME_POSITION_MM = 0.05
"""Slices nearer than this lie at the same position [mm] (own): no CT slice is as thin."""

_Key = Callable[[FileHeader], object]

_PLANES: tuple[_Key, ...] = (
    # not of single slices: some anonymizers give every file a coordinate system of its own
    lambda header: header.frame_of_reference_uid,
    lambda header: header.orientation,
)
"""Parts that differ in these can never be one volume."""

_RECONSTRUCTIONS: tuple[_Key, ...] = (
    lambda header: (header.rows, header.columns),
    lambda header: header.pixel_spacing_mm,
    lambda header: header.convolution_kernel,
    lambda header: header.slice_thickness_mm,
)
"""Parts that differ in these are reconstructions if they cover the same range."""

_PHASES: tuple[_Key, ...] = (
    lambda header: header.image_type,
    lambda header: header.temporal_position,
    lambda header: header.cardiac_phase_percent,
    lambda header: header.acquisition_number,
    lambda header: header.kvp,
    lambda header: header.trigger_time_ms,
    lambda header: header.path.parent,
)
"""Parts that differ in these are phases if they hold the same positions. Step-and-shoot
scans number each step as an acquisition of its own, so a difference alone says nothing."""


def split_stacks(headers: Sequence[FileHeader]) -> list[list[FileHeader]]:
    """Stacks of the slices of one series, each in the order of `headers`.

    Localizers, screen captures, other modalities and other patients are always split off.

    Args:
        headers: All files with one SeriesInstanceUID.

    Returns:
        At least one stack; a series that is not mixed, or is mixed in a way that
        cannot be taken apart safely, comes back whole.
    """
    rules = (
        (_PLANES, ORIENTATION_ATOL, _are_stacks),
        (_RECONSTRUCTIONS, SPACING_ATOL_MM, _cover_same_range),
        (_PHASES, 0.0, _share_positions),
    )
    stacks = _partition(headers, _origin)
    for keys, tolerance, is_safe in rules:
        stacks = [
            part
            for stack in stacks
            for part in (
                _split(stack, keys, tolerance, is_safe) if stack[0].modality == "CT" else [stack]
            )
        ]
    return stacks


def _origin(header: FileHeader) -> object:
    """Where slices come from: whatever their UIDs say, patients are never mixed."""
    origin = (header.patient, header.study_uid, header.modality)
    return (*origin, header.is_slice, header.is_localizer)


def along_normal(headers: Sequence[FileHeader]) -> NDArray[np.float64]:
    """Positions along the normal of the first slice that has one, mm, shape `(n,)`.

    NaN where a header has no position, or no header an orientation.
    """
    orientation = next((h.orientation for h in headers if h.orientation), None)
    if orientation is None:
        return np.full(len(headers), np.nan)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([np.dot(h.position, normal) if h.position else np.nan for h in headers])


def _split(
    stack: list[FileHeader],
    keys: Sequence[_Key],
    tolerance: float,
    is_safe: Callable[[list[list[FileHeader]]], bool],
) -> list[list[FileHeader]]:
    for number, key in enumerate(keys, start=1):
        parts = _partition(stack, key, tolerance)
        if len(parts) > 1 and _are_stacks(parts) and is_safe(parts):
            rest = keys[number:]
            return [piece for part in parts for piece in _split(part, rest, tolerance, is_safe)]
    return [stack]


def _partition(
    headers: Sequence[FileHeader], key: _Key, tolerance: float = 0.0
) -> list[list[FileHeader]]:
    parts: list[tuple[object, list[FileHeader]]] = []
    for header in headers:
        value = key(header)
        for other, part in parts:
            if _is_same(value, other, tolerance):
                part.append(header)
                break
        else:
            parts.append((value, [header]))
    return [part for _, part in parts]


def _is_same(a: object, b: object, tolerance: float) -> bool:
    if a == b or not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return a == b
    if not all(isinstance(value, float) for value in (*a, *b)):
        return False
    return bool(np.allclose(a, b, rtol=0.0, atol=tolerance))


def _are_stacks(parts: list[list[FileHeader]]) -> bool:
    return all(len(part) >= MIN_STACK_SLICES for part in parts)


def _cover_same_range(parts: list[list[FileHeader]]) -> bool:
    """Whether two parts overlap by more than half of the shorter one."""
    ranges = [
        (np.nanmin(z), np.nanmax(z)) for z in map(along_normal, parts) if not np.isnan(z).all()
    ]
    return any(
        min(a[1], b[1]) - max(a[0], b[0]) > 0.5 * min(a[1] - a[0], b[1] - b[0])
        for a, b in combinations(ranges, 2)
    )


def _share_positions(parts: list[list[FileHeader]]) -> bool:
    """Whether the parts clash as one stack, and none clashes in itself."""
    together = [header for part in parts for header in part]
    return _has_clash(together) and not any(_has_clash(part) for part in parts)


def _has_clash(headers: list[FileHeader]) -> bool:
    positions = np.sort(along_normal(headers))
    return bool(np.any(np.diff(positions) < SAME_POSITION_MM))
