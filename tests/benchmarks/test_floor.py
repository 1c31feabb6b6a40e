import keras
import numpy as np
import pytest

from benchmarks.floor import Machine, layer_operations, slowest_notes
from registration.layers.bspline_field import BSplineField
from registration.layers.pooled_convolution import PooledConvolution2D


def operations(layer, *shapes):
    inputs = [np.zeros(shape, np.float32) for shape in shapes]
    return layer_operations(layer, inputs, layer(*inputs))


def test_a_convolution_counts_a_product_and_a_sum_per_weight_and_voxel():
    layer = keras.layers.Conv3D(5, 3, padding="same")
    assert operations(layer, (1, 4, 6, 8, 2)) == 2 * 27 * 2 * 5 * 4 * 6 * 8
    assert operations(keras.layers.Dense(7), (1, 10, 3)) == 2 * 3 * 7 * 10


def test_pooling_inside_of_a_convolution_does_not_make_it_smaller():
    assert operations(PooledConvolution2D(5), (1, 8, 6, 2)) == 2 * 9 * 2 * 5 * 8 * 6


def test_a_spline_is_one_matrix_product_per_axis():
    # (2, 3) control points to (8, 12) pixels, two channels: rows first
    expected = 2 * 2 * (8 * 3 * 2) + 2 * 3 * (8 * 12 * 2)
    assert operations(BSplineField((4, 4)), (1, 2, 3, 2), (1, 8, 12, 1)) == expected


def test_the_floor_is_the_longer_of_computing_and_moving():
    machine = Machine(flops=100.0, bandwidth=10.0)
    assert machine.floor_s(500.0, 10.0) == pytest.approx(5.0)
    assert machine.floor_s(5.0, 10.0) == pytest.approx(1.0)


def test_layers_that_lose_most_are_named_first():
    rows = [
        {"case": "a", "layer": name, "ms": ms, "floor ms": floor, "floor of time": floor / ms}
        for name, ms, floor in (
            ("x", 10.0, 9.0),
            ("y", 30.0, 3.0),
            ("z", 8.0, 1.0),
            ("w", 2.0, 1.9),
        )
    ]
    (note,) = slowest_notes(rows)
    assert note.startswith("a: most is lost in y (60% of the time, 10% of its floor's speed), z ")
    assert "w (" not in note
