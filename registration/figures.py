"""Pictures of a registration: checkerboard, deformed grid, Jacobian map, averages, training curve.

Images are drawn as one plane of a volume, or as they are if two-dimensional; all is PNG bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

PANEL_INCHES = 2.8
FIGURE_DPI = 110
CHECKERS = 8
"""Fields of the checkerboard along the longer side."""

JACOBIAN_RANGE = 1.0
"""Volume change shown at the ends of the color scale: 0 (gone) to 2 (doubled)."""

Array = NDArray[np.floating]


def middle_plane(volume: ArrayLike, *, axis: int = 0) -> Array:
    """Middle plane of a volume along an array axis; a picture stays what it is.

    Args:
        volume: Shape `(z, y, x)` or `(y, x)`, and channels after them if there are any.
        axis: Array axis across the plane: 0 axial, 1 coronal, 2 sagittal.
    """
    array = np.asarray(volume)
    return array if array.ndim == 2 else np.take(array, array.shape[axis] // 2, axis=axis)


def checkerboard(first: Array, second: Array, *, fields: int = CHECKERS) -> Array:
    """Two pictures in turn, so that edges run on across the fields where they agree.

    Args:
        first: Picture, shape `(rows, columns)`.
        second: Picture of the same shape.
        fields: Fields along the longer side, at least one.

    Returns:
        Picture of the same shape; the first field is of `first`.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> checkerboard(np.zeros((2, 4)), np.ones((2, 4)), fields=4).tolist()
        [[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]]
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"two pictures of one shape are needed. Received: {a.shape}, {b.shape}")
    edge = max(1, -(-max(a.shape) // fields))
    rows, columns = np.ogrid[: a.shape[0], : a.shape[1]]
    return np.where((rows // edge + columns // edge) % 2 == 0, a, b)


def pair_figure(
    fixed: Array,
    moving: Array,
    moved: Array,
    displacement_field: Array,
    jacobian_determinants: Array,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
) -> bytes:
    """One registration in one row: the pair, checkerboards, the grid and the Jacobian.

    Args:
        fixed: Picture, shape `(rows, columns)`.
        moving: Before registration, on the same grid.
        moved: After registration.
        displacement_field: In the plane, pixels, `(rows, columns, 2)`, components (row,
            column).
        jacobian_determinants: Shape `(rows, columns)`.
        spacing: Row and column spacing, mm; decides the aspect of the pictures.

    Returns:
        PNG.
    """
    figure, axes = panels(1, 6)
    aspect = float(spacing[0]) / float(spacing[1])
    pictures = {
        "fixed": fixed,
        "moving": moving,
        "before": checkerboard(_scaled(fixed), _scaled(moving)),
        "after": checkerboard(_scaled(fixed), _scaled(moved)),
    }
    for panel, (title, picture) in zip(axes[0], pictures.items(), strict=False):
        panel.imshow(picture, cmap="gray", aspect=aspect, interpolation="nearest")
        panel.set_title(title, fontsize=9)
    draw_deformed_grid(axes[0][4], displacement_field, aspect=aspect)
    draw_jacobian(axes[0][5], jacobian_determinants, aspect=aspect)
    return png(figure)


def draw_deformed_grid(
    axes: Axes, displacement_field: Array, *, step: int | None = None, aspect: float = 1.0
) -> None:
    """Lines of the fixed grid where the transform takes them in the moving image.

    Args:
        axes: Where to draw.
        displacement_field: Pixels, `(rows, columns, 2)`, components (row, column).
        step: Pixels between lines; by default some thirty lines.
        aspect: Row spacing over column spacing.
    """
    rows, columns = displacement_field.shape[:2]
    step = step or max(1, max(rows, columns) // 30)
    y, x = np.mgrid[:rows, :columns].astype(float)
    y, x = y + displacement_field[..., 0], x + displacement_field[..., 1]
    for k in range(0, rows, step):
        axes.plot(x[k], y[k], color="#1a5490", linewidth=0.5)
    for k in range(0, columns, step):
        axes.plot(x[:, k], y[:, k], color="#1a5490", linewidth=0.5)
    axes.set_aspect(aspect)
    axes.invert_yaxis()
    axes.set_title("grid", fontsize=9)


def draw_jacobian(axes: Axes, jacobian_determinants: Array, *, aspect: float = 1.0) -> None:
    """Volume change: blue shrinks, red grows from fixed to moving; black where it folds."""
    change = np.ma.masked_less_equal(np.asarray(jacobian_determinants, dtype=float), 0.0)
    axes.set_facecolor("black")  # what is masked is not painted
    shown = axes.imshow(
        change,
        cmap="RdBu_r",
        vmin=1.0 - JACOBIAN_RANGE,
        vmax=1.0 + JACOBIAN_RANGE,
        aspect=aspect,
        interpolation="nearest",
    )
    axes.figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03)
    axes.set_title("Jacobian", fontsize=9)


def averages_figure(stacks: Mapping[str, Mapping[str, Array]]) -> bytes:
    """Averages of image stacks as a table of pictures.

    Args:
        stacks: Columns by name; each the rows by name, an average of shape
            `(rows, columns)`, such as `before` and `after`.

    Returns:
        PNG.

    Raises:
        ValueError: If there is no column.
    """
    if not stacks:
        raise ValueError("stacks must hold at least one column. Received: none")
    names = list(next(iter(stacks.values())))
    figure, axes = panels(len(names), len(stacks), inches=1.2)
    for column, (title, pictures) in enumerate(stacks.items()):
        for row, name in enumerate(names):
            panel = axes[row][column]
            panel.imshow(pictures[name], cmap="gray", interpolation="nearest")
            if row == 0:
                panel.set_title(title, fontsize=9)
            if column == 0:
                panel.text(-0.15, 0.5, name, transform=panel.transAxes, fontsize=9,
                           rotation=90, ha="right", va="center")  # fmt: skip
    return png(figure)


def curve_figure(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Loss of a training, and loss and similarity on the validation pairs, stage by stage.

    Args:
        rows: Rows of `curve.csv`: stage, step, loss, validation_loss, validation_similarity; values
            that are not numbers, as without validation pairs, are not drawn.

    Returns:
        PNG; stages follow one another along the steps, a line between them.
    """
    figure = Figure(figsize=(2.6 * PANEL_INCHES, 1.2 * PANEL_INCHES), dpi=FIGURE_DPI)
    figure.set_layout_engine("constrained")
    losses, similarities = figure.subplots(1, 2)
    start = 0.0
    for stage in sorted({row["stage"] for row in rows}):
        own = [row for row in rows if row["stage"] == stage]
        steps = [start + row["step"] for row in own]
        for panel, name, color in (
            (losses, "loss", "#999999"),
            (losses, "validation_loss", "#1a5490"),
            (similarities, "validation_similarity", "#1a5490"),
        ):
            values = [row[name] for row in own]
            label = name.replace("_", " ") if start == 0.0 else None
            panel.plot(steps, values, color=color, marker=".", markersize=4, label=label)
            if start > 0.0:
                panel.axvline(start, color="#cccccc", linewidth=0.8)
        start = steps[-1]
    for panel in (losses, similarities):
        panel.set_xlabel("step")
        if panel.lines:
            panel.legend(fontsize=8)
    return png(figure)


def panels(rows: int, columns: int, *, inches: float = PANEL_INCHES) -> tuple[Figure, Any]:
    """Figure with a table of panels without axes, and the panels by row and column."""
    size = (inches * columns, inches * rows + 0.3)
    figure = Figure(figsize=size, dpi=FIGURE_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    return figure, axes


def _scaled(picture: Array) -> Array:
    """Intensities from 0 to 1 between the 1st and 99th percentile."""
    low, high = np.percentile(picture, (1.0, 99.0))
    scaled: Array = np.clip((picture - low) / max(float(high - low), 1e-12), 0.0, 1.0)
    return scaled


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
