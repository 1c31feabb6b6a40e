"""Pictures of an atlas: averages, subjects laid over them, deformed grids, courses of measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas.atlas_mean import PLANES
from pipelines.pictures import image_uri

LEAST_PIXELS = 150
"""Height or width to which small planes are enlarged, pixels."""

WINDOW_CT_HU = (-300.0, 400.0)
"""Black and white of CT averages, HU."""

GRID_LINES = 16
"""Lines of a deformed grid along the longer side of a plane."""

DIM = 0.3
"""Brightness of an overlay where either atlas or subject ends."""

CHART_WIDTH, CHART_HEIGHT = 300.0, 110.0
"""Size of a chart in its own units."""

Plane = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Picture:
    """One plane; lengths in mm.

    Args:
        uri: The picture, a data URI.
        width_mm: Its width.
        height_mm: Its height.
        title: What it shows.
    """

    uri: str
    width_mm: float
    height_mm: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """The course of a measure over the rounds.

    Args:
        title: Name of the measure.
        lines: Name and SVG points of every line.
        dots: Last point of every line: `(x, y, text)`.
        ticks: Positions of the stages' first rounds: `(x, text)`.
        low: Lowest value shown.
        high: Highest value shown.
        note: What it says.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    dots: tuple[tuple[float, float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    low: str
    high: str
    note: str


def window_of(values: NDArray[np.floating], modality: str) -> tuple[float, float]:
    """Black and white under which all pictures of an atlas are shown."""
    if modality == "ct":
        return WINDOW_CT_HU
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, (0.5, 99.7)).tolist()
    return float(low), max(float(high), float(low) + 1e-6)


def gray_picture(
    plane: Plane, name: str, window: tuple[float, float], spacing_mm: float, title: str = ""
) -> Picture:
    """A plane in gray, head and front on top.

    Args:
        plane: Values; NaN is shown as black.
        name: Which plane, one of `PLANES`.
        window: Black and white.
        spacing_mm: Edge of a pixel.
        title: What it shows.
    """
    gray = scaled(hung(plane, name), window)
    return _picture(np.rint(gray * 255).astype(np.uint8), spacing_mm, title)


def overlay_picture(
    mean: Plane, moved: Plane, name: str, window: tuple[float, float], spacing_mm: float
) -> Picture:
    """Atlas in magenta and subject in green on top of each other: gray where they agree."""
    a, b = (scaled(hung(plane, name), window) for plane in (mean, moved))
    # where only one of them is, there is nothing to agree on: shown, but dim
    shared = np.isfinite(hung(moved, name)) & np.isfinite(hung(mean, name))
    rgb = np.stack([a, b, a], axis=-1) * np.where(shared, 1.0, DIM)[..., None]
    return _picture(np.rint(rgb * 255).astype(np.uint8), spacing_mm)


def map_picture(
    plane: Plane, name: str, limits: tuple[float, float], spacing_mm: float, colors: str
) -> Picture:
    """A plane in the colors of a matplotlib color map."""
    from matplotlib import colormaps

    shown = scaled(hung(plane, name), limits)
    rgb = colormaps[colors](shown)[..., :3]
    rgb[~np.isfinite(hung(plane, name))] = 0.0
    return _picture(np.rint(rgb * 255).astype(np.uint8), spacing_mm)


def grid_path(field: Plane, name: str) -> tuple[str, float, float]:
    """SVG path of the lines of the atlas' grid where they lie in the subject, and its size.

    Args:
        field: Displacement in the plane, voxels, shape `(rows, columns, 2)`.
        name: Which plane.
    """
    rows, columns = field.shape[:2]
    step = max(1, max(rows, columns) // GRID_LINES)
    y, x = np.mgrid[:rows, :columns].astype(float)
    y, x = y + field[..., 0] + 0.5, x + field[..., 1] + 0.5
    if name != "axial":  # the head is on top
        y = rows - y
    lines = [(x[k], y[k]) for k in range(step // 2, rows, step)]
    lines += [(x[:, k], y[:, k]) for k in range(step // 2, columns, step)]
    path = "".join(
        "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(xs[::2], ys[::2], strict=True))
        for xs, ys in lines
    )
    return path, float(columns), float(rows)


def chart(
    title: str,
    records: Sequence[Mapping[str, object]],
    columns: Mapping[str, str],
    *,
    digits: int = 3,
    note: str = "",
) -> Chart:
    """The course of measures over the rounds, as lines to be drawn.

    Args:
        title: Name of the measure.
        records: The rounds in order.
        columns: Name of every line, by key in the records.
        digits: Decimals of the values shown.
        note: What the measure says.
    """
    series = {
        name: [(n, float(r[key])) for n, r in enumerate(records) if _is_number(r.get(key))]  # type: ignore[arg-type]
        for key, name in columns.items()
    }
    values = [value for points in series.values() for _, value in points] or [0.0]
    low, high = min(values), max(values)
    span = max(high - low, 10.0**-digits)
    last = max(1, len(records) - 1)

    def place(n: int, value: float) -> tuple[float, float]:
        return CHART_WIDTH * n / last, CHART_HEIGHT * (1.0 - (value - low) / span)

    lines, dots = [], []
    for name, points in series.items():
        if not points:
            continue
        lines.append((name, " ".join("{:.1f},{:.1f}".format(*place(*p)) for p in points)))
        x, y = place(*points[-1])
        dots.append((x, y, f"{points[-1][1]:.{digits}f}"))
    ticks, stage = [], None
    for n, record in enumerate(records):
        if record["stage"] != stage:
            stage = record["stage"]
            ticks.append((CHART_WIDTH * n / last, str(stage)))
    return Chart(
        title,
        tuple(lines),
        tuple(dots),
        tuple(ticks),
        f"{low:.{digits}f}",
        f"{high:.{digits}f}",
        note,
    )


def hung(plane: Plane, name: str) -> Plane:
    """A plane as it is hung: front on top of axial ones, head on top of the others."""
    if name not in PLANES:
        raise ValueError(f"name must be one of {PLANES}. Received: {name!r}")
    return plane if name == "axial" else plane[::-1]


def scaled(plane: Plane, window: tuple[float, float]) -> Plane:
    """Values from 0 to 1 between black and white; NaN is 0."""
    low, high = window
    share = (np.asarray(plane, dtype=float) - low) / (high - low)
    return np.nan_to_num(np.clip(share, 0.0, 1.0), nan=0.0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _picture(pixels: NDArray[np.uint8], spacing_mm: float, title: str = "") -> Picture:
    """Enlarged by whole factors where it is small, so that browsers do not blur it away."""
    height, width = pixels.shape[:2]
    factor = max(1, -(-LEAST_PIXELS // max(height, width)))
    large = _enlarged(pixels, factor) if factor > 1 else pixels
    return Picture(image_uri(large), width * spacing_mm, height * spacing_mm, title)


def _enlarged(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = pixels.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    size = (width * factor, height * factor)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
