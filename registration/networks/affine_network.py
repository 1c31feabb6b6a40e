"""AIR: the network that estimates an affine transform in one shot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from registration.layers.affine_from_parameters import AffineFromParameters
from registration.layers.affine_from_votes import AffineFromVotes
from registration.layers.spatial_moments import SpatialMoments

HEADS = ("flatten", "average", "moments", "votes")


@keras.saving.register_keras_serializable(package="registration")
class AffineNetwork(keras.Model):
    """Affine image registration network, from images to homogeneous matrices.

    Convolutions and average poolings alternate, a last convolution follows, and fully
    connected layers end in the parameters of `AffineFromParameters`. The last layer starts
    at zero, so training starts at the identity.

    As published, the network is a twin: fixed and moving image go through one encoder and
    their features are concatenated. Against a constant reference the fixed features would
    be constant too, and the twin may be dropped: the network then sees the moving image
    alone. Global average pooling admits any image size but forgets where things are, which
    for one branch is fatal; flattening needs a fixed size and remembers; moments do both.
    With votes, the fully connected layers act on every cell of the feature map alike and end
    in its displacement and weight, to which the transform is fitted (`AffineFromVotes`).

    Args:
        filters: Kernels of each 3 x 3 (x 3) convolution; a pooling follows all but the last.
        dense_units: Units of the fully connected layers.
        twin: Whether a fixed image is given beside the moving one.
        head: `"flatten"`, `"average"` or `"moments"`, what turns feature maps into a vector;
            or `"votes"`, which leaves them.
        center_mm: Center of the transforms, mm; its length sets the dimension.
        bounds: Further arguments of `AffineFromParameters`, or of `AffineFromVotes`, by name.
        normalized: Whether images, pooled features and what the head gives are normalized by batch.
        shrink: Voxels that are averaged to one along every axis before the first convolution.
        **kwargs: Passed to `keras.Model`.

    Call arguments:
        inputs: Moving images, or for a twin the pair `(fixed, moving)`, channels last.

    Input shape:
        `(batch, z, y, x, channels)`, or `(batch, y, x, channels)` in 2-D.

    Output shape:
        `(batch, 4, 4)`, or `(batch, 3, 3)` in 2-D, float32.

    Raises:
        ValueError: If `head` is unknown.

    Source:
        De Vos et al., Medical Image Analysis 2019;52:128-143; one branch and other heads own.
    """

    def __init__(
        self,
        filters: Sequence[int] = (16, 32, 32, 32),
        dense_units: Sequence[int] = (64, 64),
        *,
        twin: bool = False,
        head: str = "flatten",
        center_mm: Sequence[float] = (0.0, 0.0, 0.0),
        bounds: dict[str, Any] | None = None,
        normalized: bool = False,
        shrink: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}. Received: {head}")
        self.filters = tuple(int(n) for n in filters)
        self.dense_units = tuple(int(n) for n in dense_units)
        self.twin = bool(twin)
        self.head = head
        self.center_mm = tuple(float(v) for v in center_mm)
        self.bounds = dict(bounds or {})
        self.normalized = bool(normalized)
        self.shrink = int(shrink)
        kind = AffineFromVotes if head == "votes" else AffineFromParameters
        self.transform = kind(self.center_mm, name="transform", **self.bounds)
        self.encoder_layers = self._encoder_layers(len(self.center_mm))
        self.regressor_layers = [
            *(
                keras.layers.Dense(n, activation="elu", dtype=self.dtype_policy)
                for n in self.dense_units
            ),
            keras.layers.Dense(
                self.transform.parameter_count,
                kernel_initializer="zeros",
                dtype="float32",
                name="parameters",
            ),
        ]

    def _encoder_layers(self, dimension: int) -> list[keras.layers.Layer]:
        library = keras.layers
        convolution = library.Conv3D if dimension == 3 else library.Conv2D
        pooling = library.AveragePooling3D if dimension == 3 else library.AveragePooling2D
        average = (
            library.GlobalAveragePooling3D if dimension == 3 else library.GlobalAveragePooling2D
        )
        # TensorFlow has no half-precision 3-D pooling on CPUs.
        layers = [pooling(self.shrink, dtype="float32")] if self.shrink > 1 else []
        if self.normalized:
            layers.append(self._normalization())
        for number, kernels in enumerate(self.filters):
            if number:
                layers.append(pooling(2, dtype="float32"))
                if self.normalized:
                    layers.append(self._normalization())
            layers.append(
                convolution(kernels, 3, padding="same", activation="elu", dtype=self.dtype_policy)
            )
        heads = {"flatten": library.Flatten, "average": average, "moments": SpatialMoments}
        if self.head in heads:
            layers.append(heads[self.head](dtype="float32"))
        if self.normalized:
            layers.append(self._normalization())
        return layers

    @staticmethod
    def _normalization() -> keras.layers.Layer:
        return keras.layers.BatchNormalization(momentum=0.95, epsilon=1e-5, dtype="float32")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.twin:
            parts = [self._encode(image, training) for image in inputs]
            features = ops.concatenate(parts, axis=-1)
        else:
            features = self._encode(inputs, training)
        for layer in self.regressor_layers:
            features = layer(features)
        if self.head == "votes":
            return self.transform(features, inputs[0] if self.twin else inputs)
        return self.transform(features)

    def _encode(self, images: Any, training: bool | None) -> Any:
        for layer in self.encoder_layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                images = layer(images, training=training)
            else:
                images = layer(images)
        return images

    def build(self, input_shape: Any) -> None:
        shapes = [tuple(shape) for shape in input_shape] if self.twin else [tuple(input_shape)]
        encoded = [self._build_chain(self.encoder_layers, shape) for shape in shapes]
        width = sum(shape[-1] for shape in encoded)
        found = self._build_chain(self.regressor_layers, (*encoded[0][:-1], width))
        self.transform.build(found)
        self.built = True

    @staticmethod
    def _build_chain(layers: Sequence[keras.layers.Layer], shape: tuple[Any, ...]) -> Any:
        for layer in layers:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)
        return shape

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch = input_shape[0][0] if self.twin else input_shape[0]
        return (batch, len(self.center_mm) + 1, len(self.center_mm) + 1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "dense_units": self.dense_units,
            "twin": self.twin,
            "head": self.head,
            "center_mm": self.center_mm,
            "bounds": self.bounds,
            "normalized": self.normalized,
            "shrink": self.shrink,
        }
