"""A 3x3 convolution with average pooling, fast where there are few input channels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


def _kernel_elements() -> NDArray[np.int64]:
    """Element of a 3x3 kernel between the pixels of 2x2 blocks, or 9 where there is none.

    Returns:
        Indices by block below the kernel, pixel of that block, pixel of the output's block;
        blocks and pixels counted along rows first, shape `(4 * 4 * 4,)`.
    """
    block, pixel, output = np.meshgrid(*[np.arange(4)] * 3, indexing="ij")
    row = 2 * (block // 2) + pixel // 2 - output // 2
    column = 2 * (block % 2) + pixel % 2 - output % 2
    inside = (row >= 0) & (row < 3) & (column >= 0) & (column < 3)
    return np.where(inside, 3 * row + column, 9).ravel()


_KERNEL_ELEMENTS = _kernel_elements()


@keras.saving.register_keras_serializable(package="registration")
class PooledConvolution2D(keras.layers.Conv2D):
    """3x3 convolution, activation, and average pooling by two, as one layer.

    With the two channels of an image pair, a convolution of a full-resolution image spends
    its time on moving memory. Here every 2x2 block of pixels is made a pixel of four times
    the channels first: the same numbers, from a matrix product large enough to be fast, and
    the average is one over channels. Images with an odd side take the ordinary way.

    Args:
        filters: Kernels.
        **kwargs: Arguments of `keras.layers.Conv2D` but kernel size, strides and padding.

    Input shape:
        `(batch, rows, columns, channels)`.

    Output shape:
        `(batch, ceil(rows / 2), ceil(columns / 2), filters)`.

    Source:
        Rearrangement: own. Values: `Conv2D`, then `AveragePooling2D` with padding `"same"`.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        for name in ("kernel_size", "strides", "padding", "dilation_rate", "groups"):
            kwargs.pop(name, None)
        super().__init__(filters, 3, padding="same", **kwargs)

    def call(self, inputs: Any) -> Any:
        rows, columns = ops.shape(inputs)[1:3]
        odd = rows % 2 + columns % 2
        if isinstance(odd, int):
            return self._plain(inputs) if odd else self._blocked(inputs)
        return ops.cond(odd == 0, lambda: self._blocked(inputs), lambda: self._plain(inputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, *sides, _ = input_shape
        return (batch, *(None if n is None else -(-n // 2) for n in sides), self.filters)

    def _plain(self, inputs: Any) -> Any:
        return ops.average_pool(super().call(inputs), 2, strides=2, padding="same")

    def _blocked(self, inputs: Any) -> Any:
        batch, rows, columns = ops.shape(inputs)[:3]
        channels = inputs.shape[-1]
        # with a border of one, the 4x4 pixels below a block's kernels are 2x2 whole blocks
        padded = ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        blocks = ops.reshape(padded, (batch, rows // 2 + 1, 2, columns // 2 + 1, 2, channels))
        blocks = ops.reshape(
            ops.transpose(blocks, (0, 1, 3, 2, 4, 5)),
            (batch, rows // 2 + 1, columns // 2 + 1, 4 * channels),
        )
        outputs = ops.conv(blocks, self._block_kernel(channels), padding="valid")
        if self.use_bias:
            outputs = outputs + ops.tile(self.bias, [4])
        outputs = self.activation(outputs)
        outputs = ops.reshape(outputs, (batch, rows // 2, columns // 2, 4, self.filters))
        return ops.mean(outputs, axis=3)

    def _block_kernel(self, channels: int) -> Any:
        """Kernel from 2x2 blocks to the four outputs of one block, `(2, 2, 4 c, 4 filters)`."""
        kernel = ops.reshape(ops.convert_to_tensor(self.kernel), (9, channels * self.filters))
        padded = ops.pad(kernel, ((0, 1), (0, 0)))
        wide = ops.take(padded, _KERNEL_ELEMENTS, axis=0)
        wide = ops.reshape(wide, (4, 4, 4, channels, self.filters))
        return ops.reshape(
            ops.transpose(wide, (0, 1, 3, 2, 4)), (2, 2, 4 * channels, 4 * self.filters)
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in ("kernel_size", "strides", "padding", "dilation_rate", "groups"):
            config.pop(name, None)
        return config
