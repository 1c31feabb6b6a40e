"""Positions to grids: every tolerance from both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipelines.reasons import UnusableSeries
from pipelines.slice_geometry import SlicePlane, listed, stack_planes

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def planes(
    places: Sequence[Sequence[float]], orientation: tuple[float, ...] = AXIAL
) -> list[SlicePlane]:
    return [
        SlicePlane(f"{n}.dcm", (5, 7), tuple(map(float, place)), orientation, (0.9, 0.6))
        for n, place in enumerate(places)
    ]


def on_axis(heights: Sequence[float]) -> list[SlicePlane]:
    return planes([(3.0, -4.0, z) for z in heights])


def test_grid_holds_rows_columns_and_slices_in_itk_order() -> None:
    grid, order, tilt_deg = stack_planes(on_axis([9, 3, 0, 6, 12]))
    assert grid.size == (7, 5, 5)
    assert grid.spacing == (0.6, 0.9, 3.0)
    assert grid.origin == (3.0, -4.0, 0.0)
    assert order.tolist() == [2, 1, 3, 0, 4]
    assert tilt_deg == 0.0


@pytest.mark.parametrize(
    ("heights", "code"),
    [
        ([0, 3, 6, 9, 12.1], None),
        ([0, 3, 6, 9, 12.2], "UNEVEN_SPACING"),
        ([0, 10, 20, 30, 40.19], None),  # within 2 %
        ([0, 10, 20, 30, 40.3], "UNEVEN_SPACING"),
        ([0, 3, 6, 9, 13.4], "UNEVEN_SPACING"),
        ([0, 3, 6, 9, 13.6], "MISSING_SLICE"),
        ([0, 3, 9, 15, 18], "MISSING_SLICE"),
        ([0, 3, 6, 9, 9.04], "DUPLICATE_SLICE"),
        ([0, 0.06, 0.12, 0.18, 0.24], None),
        ([0, 0, 0, 0, 0], "DUPLICATE_SLICE"),
        ([0, 3, 6, 9], "TOO_FEW_SLICES"),
        ([], "TOO_FEW_SLICES"),
    ],
)
def test_gaps(heights: list[float], code: str | None) -> None:
    if code is None:
        assert stack_planes(on_axis(heights))[0].spacing[2] == pytest.approx(
            (heights[-1] - heights[0]) / (len(heights) - 1)
        )
        return
    with pytest.raises(UnusableSeries, match=f"^{code}: "):
        stack_planes(on_axis(heights))


@pytest.mark.parametrize(("tilt_deg", "accepted"), [(0.4, True), (0.6, False), (-25.0, False)])
def test_tilt(tilt_deg: float, accepted: bool) -> None:
    slope = np.tan(np.radians(tilt_deg))
    askew = planes([(0.0, 3.0 * n * slope, 3.0 * n) for n in range(6)])
    if accepted:
        assert stack_planes(askew)[2] == pytest.approx(abs(tilt_deg), abs=1e-6)
        return
    with pytest.raises(UnusableSeries, match=rf"^GANTRY_TILT: .*at {abs(tilt_deg)}°"):
        stack_planes(askew)


@pytest.mark.parametrize(("shift_mm", "accepted"), [(0.45, True), (0.55, False)])
def test_sideways_shift(shift_mm: float, accepted: bool) -> None:
    shifted = planes([(shift_mm if n == 3 else 0.0, 0.0, 3.0 * n) for n in range(6)])
    if accepted:
        assert stack_planes(shifted)[0].spacing[2] == pytest.approx(3.0)
        return
    with pytest.raises(UnusableSeries, match=r"^UNEVEN_SPACING: 3\.dcm is shifted sideways"):
        stack_planes(shifted)


@pytest.mark.parametrize(("angle_deg", "accepted"), [(19.9, True), (20.1, False), (60.0, False)])
def test_obliquity(angle_deg: float, accepted: bool) -> None:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    normal = np.array([0.0, -s, c])
    oblique = planes([tuple(3.0 * n * normal) for n in range(6)], (1.0, 0.0, 0.0, 0.0, c, s))
    if accepted:
        assert stack_planes(oblique)[0].direction_matrix[:, 2] == pytest.approx(normal)
        return
    with pytest.raises(UnusableSeries, match=r"^NOT_AXIAL: "):
        stack_planes(oblique)


def test_directions_that_are_not_perpendicular_are_refused() -> None:
    skew = planes([(0, 0, 3 * n) for n in range(6)], (1.0, 0.0, 0.0, 0.5, 0.8660254, 0.0))
    with pytest.raises(UnusableSeries, match=r"^CORRUPT_FILE: .*perpendicular"):
        stack_planes(skew)


def test_directions_of_few_decimals_become_exact_unit_vectors() -> None:
    rough = planes([(0, 0, 3 * n) for n in range(6)], (0.998, 0.062, 0.0, -0.062, 0.998, 0.0))
    matrix = stack_planes(rough)[0].direction_matrix
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-12)


def test_few_names_are_listed_whole() -> None:
    assert listed(["a", "b", "c"]) == "a, b, c"
