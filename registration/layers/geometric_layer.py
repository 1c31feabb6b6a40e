"""What the layers that handle coordinates have in common."""

from __future__ import annotations

from typing import Any

import keras


class GeometricLayer(keras.layers.Layer):
    """Base of layers without weights that compute coordinates, always in float32.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, without `dtype`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor, with the precision left out: it is fixed."""
        config = super().get_config()
        config.pop("dtype", None)
        return config
