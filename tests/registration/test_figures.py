import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from registration.figures import (
    averages_figure,
    checkerboard,
    curve_figure,
    draw_deformed_grid,
    draw_jacobian,
    middle_plane,
    pair_figure,
)


def test_the_fields_of_a_checkerboard_alternate_in_both_directions():
    board = checkerboard(np.zeros((4, 6)), np.ones((4, 6)), fields=3)
    assert board.astype(int).tolist() == [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
    ]


def test_refuses_pictures_of_different_shapes():
    with pytest.raises(ValueError, match="one shape"):
        checkerboard(np.zeros((4, 6)), np.zeros((6, 4)))


def test_the_middle_plane_lies_across_the_axis_named():
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert middle_plane(volume).tolist() == volume[1].tolist()
    assert middle_plane(volume, axis=2).tolist() == volume[:, :, 2].tolist()
    assert middle_plane(volume[0]).tolist() == volume[0].tolist()


def test_lines_of_the_grid_are_drawn_where_their_points_go():
    axes = Figure().subplots()
    field = np.zeros((5, 7, 2))
    field[..., 0], field[..., 1] = 1.5, -0.25
    draw_deformed_grid(axes, field, step=2)
    first = axes.lines[0]
    assert np.asarray(first.get_ydata()).tolist() == [1.5] * 7
    assert np.asarray(first.get_xdata()).tolist() == [c - 0.25 for c in range(7)]
    # rows 0, 2, 4 and columns 0, 2, 4, 6
    assert len(axes.lines) == 7


def test_folds_are_masked_in_the_jacobian_map():
    axes = Figure().subplots()
    draw_jacobian(axes, np.array([[1.0, 0.0], [-0.5, 2.0]]))
    mask = np.ma.getmaskarray(axes.images[0].get_array())
    assert mask.tolist() == [[False, True], [True, False]]


def test_figures_are_readable_pictures():
    picture = np.random.default_rng(0).random((20, 30))
    field = np.zeros((20, 30, 2))
    row = pair_figure(picture, picture, picture, field, np.ones((20, 30)), spacing=(2.0, 1.0))
    table = averages_figure({str(k): {"before": picture, "after": picture} for k in range(3)})
    sizes = [Image.open(io.BytesIO(data)).size for data in (row, table)]
    assert sizes[0][0] > 4 * sizes[0][1]
    assert sizes[1][0] > sizes[1][1]


def test_refuses_no_column():
    with pytest.raises(ValueError, match="at least one column"):
        averages_figure({})


def test_a_curve_is_drawn_of_any_stages_and_without_validation() -> None:
    rows = [
        {"stage": s, "step": k, "loss": -0.1 * k, "validation_loss": v, "validation_similarity": v}
        for s, v in ((0.0, 0.5), (1.0, float("nan")))
        for k in (2.0, 4.0)
    ]
    drawn = curve_figure(rows)
    assert drawn.startswith(b"\x89PNG")
    assert drawn != curve_figure(rows[:2])
    assert curve_figure([]).startswith(b"\x89PNG")
