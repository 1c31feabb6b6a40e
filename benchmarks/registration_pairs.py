"""Measuring registrations: labels carried over, distances, folding and seconds per pair."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk
from results_table import write_results

from registration.geometry import ImageGrid
from registration.metrics import (
    bending_energy,
    dice,
    folding_fraction,
    jacobian_determinant,
    jacobian_standard_deviation,
    surface_distances,
)
from registration.registrar import Registrar, Registration
from registration.transforms_dense import displacement_field_vox

IN_A_ROW = 10
"""Pairs that are registered one after the other before they are measured, as a batch would be:
what measuring leaves in the processor's caches is not charged to the registration."""

Row = dict[str, Any]
"""One line of the table of cases."""


@dataclass(frozen=True, slots=True)
class LabeledPair:
    """Two images and what is marked in both.

    Args:
        name: Name of the case.
        fixed: Image whose labels are the truth.
        moving: Image whose labels are carried over.
        fixed_labels: Label image on the grid of `fixed`.
        moving_labels: Label image on the grid of `moving`.
    """

    name: str
    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image


@dataclass(frozen=True, slots=True)
class Method:
    """A registrar to be measured.

    Args:
        rows: Name of its row in the table, or one per stage; they stand for its last stages.
        build: Makes the registrar; reading weights or training happens here.
    """

    rows: tuple[str, ...]
    build: Callable[[], Registrar]


def center_image(image: sitk.Image) -> sitk.Image:
    """The image with its middle at the physical origin; spacing and direction stay."""
    centered = sitk.Image(image)
    origin = np.array(image.GetOrigin()) - ImageGrid.from_image(image).center
    centered.SetOrigin(origin.tolist())
    return centered


class NoRegistration:
    """Leaves the moving image where it is: the row `none`."""

    name = "none"

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        """The identity."""
        del moving
        return Registration((sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity),))


class PairMeasurement(Protocol):
    """What is measured of a pull-back; `Measurement` is the usual one."""

    def of_pair(self, pair: LabeledPair, transform: sitk.Transform, method: str = "") -> Row:
        """Columns of the table of cases."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a benchmark measures in every pair.

    Args:
        labels: Name and value of every label.
        unit: Unit of distances: `"mm"`, or `"px"` where the spacing is not known.
        jacobians: Whether correlation of the images, folding, the spread of the Jacobian and
            the bending energy (1/`unit`²) belong in the table.
    """

    labels: Mapping[str, int]
    unit: str = "mm"
    jacobians: bool = True

    def of_pair(self, pair: LabeledPair, transform: sitk.Transform, method: str = "") -> Row:
        """Overlap, surface distances, correlation and Jacobian of one pull-back."""
        del method
        moved = sitk.Resample(
            pair.moving_labels, pair.fixed_labels, transform, sitk.sitkNearestNeighbor, 0
        )
        truth, found = (sitk.GetArrayViewFromImage(i) for i in (pair.fixed_labels, moved))
        grid = ImageGrid.from_image(pair.fixed)
        spacing = (1.0,) * grid.dimension if self.unit == "px" else grid.spacing[::-1]
        row: Row = {}
        for label, value in self.labels.items():
            masks = truth == value, found == value
            distances = surface_distances(*masks, spacing=spacing)
            row |= {
                f"dice_{label}": dice(*masks),
                f"p95_{label}_{self.unit}": distances.p95,
                f"mean_{label}_{self.unit}": distances.mean,
                f"hausdorff_{label}_{self.unit}": distances.maximum,
            }
        if self.jacobians:
            row["ncc_images"] = correlation(pair.fixed, pair.moving, transform)
            field = displacement_field_vox(transform, grid) * np.array(spacing)
            determinants = jacobian_determinant(field, spacing=spacing)
            row["folding_percent"] = 100.0 * folding_fraction(determinants)
            row["sd_jacobian"] = jacobian_standard_deviation(determinants)
            row[f"bending_energy_per_{self.unit}2"] = bending_energy(field, spacing=spacing)
        return row


def correlation(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Correlation of intensities where the moving image reaches; not a number if it is constant.

    Args:
        fixed: Scalar image.
        moving: Scalar image.
        transform: Pull-back from fixed to moving points.
    """
    moved = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    everywhere = sitk.Image(moving.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(moving)
    reached = sitk.Resample(everywhere, fixed, transform, sitk.sitkNearestNeighbor, 0)
    inside = sitk.GetArrayViewFromImage(reached) > 0
    values = [sitk.GetArrayViewFromImage(image)[inside].astype(float) for image in (fixed, moved)]
    if min((v.std() for v in values if v.size), default=0.0) == 0.0:
        return math.nan
    return float(np.corrcoef(*values)[0, 1])


def measure_methods(
    methods: Iterable[Method],
    pairs: Sequence[LabeledPair],
    measurement: PairMeasurement,
    *,
    on_method: Callable[[list[Row]], None] = lambda rows: None,
) -> tuple[list[Row], list[str]]:
    """Register every pair with every method, one after the other.

    Args:
        methods: What to compare.
        pairs: On what.
        measurement: What is measured.
        on_method: Called with all rows so far when a method is done.

    Returns:
        One row per method, stage and case, and notes on starting and failing.
    """
    rows: list[Row] = []
    notes = []
    built = []
    for method in methods:  # all first: missing weights are told before hours of measuring
        start = time.perf_counter()
        built.append((method, method.build(), time.perf_counter() - start))
    for method, registrar, building in built:
        start = time.perf_counter()
        _attempt(registrar, pairs[0])  # warm-up: libraries, traces and caches
        start_up = building + time.perf_counter() - start
        failures = 0
        for first in range(0, len(pairs), IN_A_ROW):
            some = pairs[first : first + IN_A_ROW]
            attempts = [_attempt(registrar, pair) for pair in some]
            for pair, (found, seconds) in zip(some, attempts, strict=True):
                failures += found is None
                rows += _rows_of(method, pair, found, seconds, measurement)
            message = f"{method.rows[-1]}: {first + len(some)} of {len(pairs)} pairs measured"
            print(message, file=sys.stderr, flush=True)
        if not isinstance(registrar, NoRegistration):
            notes.append(f"{method.rows[-1]}: start-up with first pair {start_up:.1f} s.")
        if failures:
            notes.append(
                f"{method.rows[-1]} failed on {failures} of {len(pairs)} pairs; "
                "they count as not registered."
            )
        on_method(rows)
    return rows, notes


def _attempt(registrar: Registrar, pair: LabeledPair) -> tuple[Registration | None, float]:
    start = time.perf_counter()
    try:
        found = registrar.register(pair.fixed, pair.moving)
    except RuntimeError as error:
        print(f"{registrar.name} failed on {pair.name}: {error}", file=sys.stderr)
        found = None
    return found, time.perf_counter() - start


def _rows_of(
    method: Method,
    pair: LabeledPair,
    found: Registration | None,
    seconds: float,
    measurement: PairMeasurement,
) -> list[Row]:
    count = len(method.rows)
    if found is None:
        identity = sitk.Transform(pair.fixed.GetDimension(), sitk.sitkIdentity)
        found = Registration((identity,) * count)
    passed: list[float | None] = [*found.seconds[:-1], seconds]
    passed = [None] * (count - len(passed)) + passed[-count:]
    return [
        {
            "method": name,
            "case": pair.name,
            **measurement.of_pair(pair, transform, name),
            "seconds": s,
        }
        for name, transform, s in zip(method.rows, found.stages[-count:], passed, strict=True)
    ]


def summary(rows: Sequence[Row], columns: Mapping[str, str]) -> list[Row]:
    """Mean ± standard deviation per method; the median of seconds.

    Cases whose value is not finite (a label that is empty or vanished) are left out of a
    column and counted in `lost`.

    Args:
        rows: One per method and case.
        columns: Names of the columns of the summary, by name in `rows`.
    """
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        line: Row = {"method": method, "pairs": len(own)}
        lost = 0
        for column, title in columns.items():
            values = [row[column] for row in own if row.get(column) is not None]
            finite = [v for v in values if math.isfinite(v)]
            lost = max(lost, len(values) - len(finite))
            line[title] = _statistic(column, finite)
        line["lost"] = lost or None
        seconds = [row["seconds"] for row in own if row["seconds"] is not None]
        line["median s"] = _rounded(statistics.median(seconds)) if seconds else None
        table.append(line)
    return table


def _statistic(column: str, values: Sequence[float]) -> str | None:
    if not values:
        return None
    if column.startswith("folding"):
        return f"{statistics.fmean(values):.3f} (max {max(values):.2f})"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 2 if column.startswith(("p95", "mean", "hausdorff")) else 3
    return f"{statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}"


def _rounded(seconds: float) -> str:
    return f"{seconds:.3g}"


def report(
    name: str,
    rows: Sequence[Row],
    columns: Mapping[str, str],
    out: Path,
    *,
    notes: Sequence[str],
    threads: int,
) -> str:
    """Write CSV and Markdown of a benchmark; returns the Markdown."""
    finite = [{k: _cell(v) for k, v in row.items()} for row in rows]
    threads_note = f"{threads} thread(s) for every method; seconds are medians after a warm-up."
    return write_results(
        name, finite, out, table=summary(rows, columns), notes=[threads_note, *notes]
    )


def _cell(value: object) -> object:
    return round(value, 6) if isinstance(value, float | np.floating) else value
