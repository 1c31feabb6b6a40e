"""Measures of a registration, on numpy arrays in (z, y, x) order.

Overlap and surface distances compare label masks, target registration errors compare
points, the Jacobian measures say how far a field is from folding, and the bending energy
how smooth it is.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """Distances between the surfaces of two masks, in the unit of the spacing given.

    Args:
        mean: Average over both surfaces of the distance to the other one (the ASD, or
            mean absolute distance, of the registration literature).
        p95: Larger of the two 95th percentiles (robust Hausdorff distance).
        maximum: Hausdorff distance.
    """

    mean: float
    p95: float
    maximum: float


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice overlap of two masks: 1 for equal ones, 0 for disjoint ones.

    Args:
        first: Boolean mask, any shape.
        second: Boolean mask, same shape.

    Returns:
        `2 |A ∩ B| / (|A| + |B|)`; NaN if both are empty.

    Raises:
        ValueError: If the shapes differ.

    Source:
        Dice, Ecology 1945;26(3):297-302.

    Example:
        >>> dice(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool))
        0.4
    """
    a, b = _masks(first, second)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2.0 * np.count_nonzero(a & b) / total) if total else float("nan")


def surface_distances(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, spacing: Sequence[float]
) -> SurfaceDistances:
    """Mean, 95 % and greatest distance between the surfaces of two masks.

    Surface elements are weighted by their area, so that coarse and fine grids agree.

    Args:
        first: Boolean mask, 2-D or 3-D, array order.
        second: Boolean mask, same shape.
        spacing: Voxel spacing per *array* axis (z, y, x); its unit is that of the result.

    Returns:
        The three distances; NaN if both masks are empty, infinite if one of them is.

    Raises:
        ValueError: If the shapes differ or a spacing is missing.

    Source:
        Nikolov et al., J Med Internet Res 2021;23(7):e26151 (package surface-distance).
    """
    a, b = _masks(first, second)
    if len(spacing) != a.ndim:
        raise ValueError(f"spacing needs {a.ndim} values. Received: {tuple(spacing)}")
    if not a.any() and not b.any():
        return SurfaceDistances(float("nan"), float("nan"), float("nan"))
    if not a.any() or not b.any():
        return SurfaceDistances(float("inf"), float("inf"), float("inf"))
    from surface_distance import metrics

    with warnings.catch_warnings():
        # the package reaches scipy.ndimage by a name that SciPy 1 still forwards
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = metrics.compute_surface_distances(a, b, tuple(float(s) for s in spacing))
    sums = [
        (np.sum(distances[f"distances_{x}"] * areas), np.sum(areas))
        for x, areas in (
            ("gt_to_pred", distances["surfel_areas_gt"]),
            ("pred_to_gt", distances["surfel_areas_pred"]),
        )
    ]
    return SurfaceDistances(
        mean=float(sum(s for s, _ in sums) / sum(n for _, n in sums)),
        p95=float(metrics.compute_robust_hausdorff(distances, 95)),
        maximum=float(metrics.compute_robust_hausdorff(distances, 100)),
    )


def target_registration_errors_mm(points: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Distance of every transformed point to its target, mm, shape `(n,)`.

    Points travel from the fixed to the moving image: transform the *fixed* landmarks and
    compare them with the moving ones.

    Args:
        points: Transformed landmarks, LPS mm, shape `(n, d)`.
        targets: Corresponding landmarks, LPS mm, shape `(n, d)`.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> target_registration_errors_mm([[0, 0, 0], [1, 2, 2]], [[3, 4, 0], [1, 2, 2]]).tolist()
        [5.0, 0.0]
    """
    a, b = np.asarray(points, dtype=float), np.asarray(targets, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"points and targets must match. Received: {a.shape} and {b.shape}")
    return np.asarray(np.linalg.norm(a - b, axis=-1))


def jacobian_determinant(
    displacement_field_mm: NDArray[np.floating], *, spacing: Sequence[float]
) -> NDArray[np.float64]:
    """Determinant of the Jacobian of `x + u(x)` on the grid.

    Args:
        displacement_field_mm: Shape `(*shape, d)`; channels along the grid's index axes in
            array order (z, y, x), mm.
        spacing: Voxel spacing per array axis, mm.

    Returns:
        Shape `shape`; central differences, one-sided at the border.

    Raises:
        ValueError: If the channels or spacings do not match the number of axes.
    """
    field, dimension = _field(displacement_field_mm, spacing)
    gradients = np.gradient(field, *spacing, axis=tuple(range(dimension)))
    jacobian = np.stack(list(gradients), axis=-1)  # component, then derivative
    return np.asarray(np.linalg.det(jacobian + np.eye(dimension)))


def folding_fraction(jacobian_determinants: NDArray[np.floating]) -> float:
    """Share of voxels whose Jacobian determinant is zero or negative, 0 to 1."""
    return float(np.mean(np.asarray(jacobian_determinants) <= 0.0))


def jacobian_standard_deviation(jacobian_determinants: NDArray[np.floating]) -> float:
    """Standard deviation of Jacobian determinants around their mean, no unit; 0 if all are equal.

    Source:
        de Vos et al., Med Image Anal 2019;52:128-143, which compares registrations by it.
    """
    return float(np.std(np.asarray(jacobian_determinants, dtype=float)))


def bending_energy(
    displacement_field_mm: NDArray[np.floating], *, spacing: Sequence[float]
) -> float:
    """Bending energy `P = 1/V ∫ Σ_c (Tzz² + Tyy² + Txx² + 2 Tzy² + 2 Tzx² + 2 Tyx²) dV`.

    The sum is over the components `c` of the displacement, as in training; other packages may
    have the mean. By central differences, and over the voxels inside the border alone.

    Args:
        displacement_field_mm: Shape `(*shape, d)`; channels along the grid's index axes in
            array order (z, y, x), mm.
        spacing: Voxel spacing per array axis, mm.

    Returns:
        Energy in 1/mm², 0 for affine maps. Along axes of fewer than three voxels, as of a
        single slice, derivatives count as zero.

    Raises:
        ValueError: If the channels or spacings do not match the number of axes.

    Source:
        Rueckert et al., IEEE Trans Med Imaging 1999;18(8):712-721, equation 6.
    """
    field, dimension = _field(displacement_field_mm, spacing)
    energy = 0.0
    for first, second in itertools.combinations_with_replacement(range(dimension), 2):
        derivative = _second_difference(field, first, second) / (spacing[first] * spacing[second])
        count = 1.0 if first == second else 2.0
        energy += count * float(np.mean(np.sum(derivative**2, axis=-1)))
    return energy


def _field(
    displacement_field_mm: NDArray[np.floating], spacing: Sequence[float]
) -> tuple[NDArray[np.float64], int]:
    field = np.asarray(displacement_field_mm, dtype=float)
    dimension = field.ndim - 1
    if field.shape[-1] != dimension or len(spacing) != dimension:
        raise ValueError(
            f"a field of {dimension} axes needs as many channels and spacings. "
            f"Received: {field.shape[-1]} channels, spacing={tuple(spacing)}"
        )
    return field, dimension


def _second_difference(field: NDArray[np.float64], first: int, second: int) -> NDArray[np.float64]:
    """Second derivative per voxel² on the voxels inside the border; zero along short axes."""

    def shifted(along_first: int, along_second: int) -> NDArray[np.float64]:
        window = []
        for axis, length in enumerate(field.shape[:-1]):
            # an axis without an inside is left whole and not shifted: all differences are zero
            margin = int(length >= 3)
            shift = along_first * (axis == first) + along_second * (axis == second)
            begin = margin * (1 + shift)
            window.append(slice(begin, begin + length - 2 * margin))
        return field[tuple(window)]

    if first == second:
        return np.asarray(shifted(1, 0) - 2.0 * shifted(0, 0) + shifted(-1, 0))
    same, opposite = shifted(1, 1) + shifted(-1, -1), shifted(1, -1) + shifted(-1, 1)
    return np.asarray((same - opposite) / 4.0)


def _masks(
    first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"masks must have the same shape. Received: {a.shape} and {b.shape}")
    return a, b
