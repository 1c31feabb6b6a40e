"""The regressor of DIRNet and of the deformable stages of DLIR: two images to control points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import keras
from keras import layers

from registration.layers.bspline_field import BSplineField
from registration.layers.limited_displacement import LimitedDisplacement
from registration.layers.pair_normalization import PairNormalization
from registration.layers.pooled_convolution import PooledConvolution2D
from registration.layers.repeated_border import RepeatedBorder
from registration.layers.thin_plate_spline_field import ThinPlateSplineField
from registration.layers.velocity_integration import VelocityIntegration

Downsampling = Literal["average", "max", "strided"]
Transformer = Literal["bspline3", "bspline2", "thin_plate_spline"]
ReceptiveField = Literal["baseline", "overlapping", "full"]

FULL_IMAGE_DILATIONS = (1, 2, 4, 8)
"""Dilations after the last downsampling that let every control point see the whole image."""

_NORMALIZATION: dict[str, Any] = {"momentum": 0.95, "epsilon": 1e-5}
"""Epsilon below the variance of faint images, which 1e-3, the default, is not."""


@dataclass(frozen=True, slots=True)
class DeformableConfig:
    """What a deformable network looks like.

    Args:
        downsamplings: How often each array axis is halved; the control point spacing is 2
            to that power, voxels. Axes may differ, for stacks of few slices: an axis with
            fewer halvings is halved last.
        kernels: Kernels per convolution: one number for all, as published, or one per halving,
            the last of them for everything after.
        downsampling: Average or max pooling after, or stride in, each convolution.
        transformer: Spline of the displacement field.
        receptive_field: `"baseline"` ends in 1x1 convolutions; `"overlapping"` puts one
            more 3x3 convolution before them, so that the patches of neighboring control
            points overlap further; `"full"` four dilated ones, so that each sees the image.
        convolutions: Further 3x3 convolutions after the last downsampling.
        hidden_layers: 1x1 convolutions before the output.
        normalization: `"batch"` normalizes the images and the features after every convolution
            and its pooling; `None` is as published. With features near zero ELU is next to linear,
            and a network without it takes ten times the steps to learn to move anything.
        activation: `"elu"`, as published, or `"relu"`.
        stem_stride: Stride of the first convolution per axis, in place of its pooling;
            makes large 3-D images several times cheaper. 1 keeps the published layout.
        displacement_limit: Largest displacement of a control point as a share of the
            spacing, by tanh; `None` leaves it free.
        diffeomorphic: Read the field as a velocity and integrate it.
        border: Control points beyond the image at every end of every axis; as published there is
            one in the middle of every patch and none beyond, and the field is flat towards the
            border of the image. Needs a `"bspline"` transformer, and convolutions after the
            last downsampling, which is where those points see the image.
        forces: Show the network the demons force between the images, too: it then learns in half
            the steps, and further. Needs a normalization.
        passes: How often a registration runs the network on a pair, every time on what the passes
            before left over; their control points are added. It is trained on one, so that
            the number can be changed afterwards.
        pass_limit: Share of the spacing out of which passes after the first move no control point;
            0.4 keeps a cubic B-spline from folding, where nothing moves as far as that. `None`
            for no limit.
        steps: Gauss-Newton steps on the pair after the passes (`spline_steps`), under the same
            limit. They need no training, so that the number can be changed afterwards.
        step_shrink: Voxels that are averaged to one along every axis for these steps.
        step_bending: Weight of the bending energy in these steps, mm².
        unfold: Smooth the control points after passes and steps where their spline folds, until it
            does not (`unfolded`). Needs no training either.
    """

    downsamplings: tuple[int, ...] = (4, 4)
    kernels: int | tuple[int, ...] = 16
    downsampling: Downsampling = "average"
    transformer: Transformer = "bspline3"
    receptive_field: ReceptiveField = "baseline"
    convolutions: int = 0
    hidden_layers: int = 2
    normalization: Literal["batch"] | None = "batch"
    activation: Literal["elu", "relu"] = "elu"
    stem_stride: int = 1
    displacement_limit: float | None = None
    diffeomorphic: bool = False
    border: int = 0
    forces: bool = False
    passes: int = 1
    pass_limit: float | None = None
    steps: int = 0
    step_shrink: int = 1
    step_bending: float = 0.0
    unfold: bool = False

    def __post_init__(self) -> None:
        choices = {
            "downsampling": ("average", "max", "strided"),
            "transformer": ("bspline3", "bspline2", "thin_plate_spline"),
            "receptive_field": ("baseline", "overlapping", "full"),
            "normalization": ("batch", None),
            "activation": ("elu", "relu"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {allowed}. Received: {getattr(self, name)!r}"
                )
        object.__setattr__(self, "downsamplings", tuple(int(n) for n in self.downsamplings))
        if len(self.downsamplings) not in (2, 3) or min(self.downsamplings) < 0:
            raise ValueError(
                "downsamplings needs two or three numbers, none negative. "
                f"Received: {self.downsamplings}"
            )
        if not isinstance(self.kernels, int):
            object.__setattr__(self, "kernels", tuple(int(n) for n in self.kernels))
        if len(self.kernels_per_level) != max(1, *self.downsamplings):
            raise ValueError(
                f"kernels needs one number, or {max(self.downsamplings)}. Received: {self.kernels}"
            )
        if min(self.kernels_per_level) < 1:
            raise ValueError(f"kernels must be positive. Received: {self.kernels}")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2. Received: {self.stem_stride}")
        if self.forces and self.normalization is None:
            raise ValueError("forces need a normalization: they compare the images' values.")
        if self.passes < 1:
            raise ValueError(f"passes must be 1 or more. Received: {self.passes}")
        if self.pass_limit is not None and self.pass_limit <= 0:
            raise ValueError(f"pass_limit must be positive. Received: {self.pass_limit}")
        if self.passes > 1 and (self.diffeomorphic or self.displacement_limit is not None):
            raise ValueError(
                "passes add displacements, which neither a limit nor velocities allow."
            )
        self._check_steps()
        self._check_border()

    def _check_steps(self) -> None:
        if self.steps < 0 or self.step_bending < 0:
            raise ValueError(
                "steps and step_bending must not be negative. "
                f"Received: {self.steps} and {self.step_bending}"
            )
        if not 1 <= self.step_shrink <= min(self.control_point_spacing):
            raise ValueError(
                "step_shrink must be 1 or more, and no more than the control point spacing. "
                f"Received: {self.step_shrink}"
            )
        has_own_points = self.transformer != "thin_plate_spline" and not self.diffeomorphic
        if self.steps and (not has_own_points or self.displacement_limit is not None):
            raise ValueError("steps need a B-spline of displacements without a limit.")
        if self.unfold and not has_own_points:
            raise ValueError("unfold needs a B-spline of displacements.")

    def _check_border(self) -> None:
        sees = self.convolutions + (self.receptive_field != "baseline")
        if not 0 <= self.border <= sees:
            raise ValueError(
                "border must be 0, or at most the number of convolutions after the last "
                f"downsampling, {sees}. Received: {self.border}"
            )
        if self.border and self.transformer == "thin_plate_spline":
            raise ValueError(f"a thin plate spline has no border. Received: {self.border}")

    @property
    def dimension(self) -> int:
        """Number of image axes."""
        return len(self.downsamplings)

    @property
    def kernels_per_level(self) -> tuple[int, ...]:
        """Kernels of every convolution that is followed by a halving."""
        if isinstance(self.kernels, int):
            return (self.kernels,) * max(1, *self.downsamplings)
        return self.kernels

    @property
    def control_point_spacing(self) -> tuple[int, ...]:
        """Distance between control points per array axis, voxels."""
        return tuple(2**n for n in self.downsamplings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def deformable_network(
    config: DeformableConfig, *, image_shape: Sequence[int | None] | None = None
) -> keras.Model:
    """Network that registers a pair in one pass; its output starts at the identity.

    Args:
        config: Layout of the network.
        image_shape: Spatial shape, array order; unknown sizes by default, so that a network
            trained on patches runs on whole images. A thin plate spline is faster with it.

    Returns:
        Model from `(fixed, moving)`, each `(batch, *shape, 1)` scaled to about [0, 1], to a
        dictionary of `control_points` `(batch, *lattice, d)` and `displacement_field`
        `(batch, *shape, d)`, both in voxels, array axis order.

    Source:
        de Vos et al., DLMIA 2017 (arXiv:1704.06065) and Med Image Anal 2019;52:128-143
        (arXiv:1809.06130).
    """
    shape = (None,) * config.dimension if image_shape is None else tuple(image_shape)
    fixed = keras.Input((*shape, 1), name="fixed")
    moving = keras.Input((*shape, 1), name="moving")
    if config.normalization is None:
        features = layers.Concatenate(name="pair")([fixed, moving])
    else:
        normalization = PairNormalization(
            config.forces, name="normalization_pair", **_NORMALIZATION
        )
        features = normalization(fixed, moving)
    features = _encode(features, config)
    for number in range(config.hidden_layers):
        features = _convolution(config, 1, name=f"hidden_{number + 1}")(features)
        features = _normalized(features, config, f"hidden_{number + 1}")
    control_points = _convolution(
        config,
        1,
        name="control_points_free",
        filters=config.dimension,
        activation=None,
        kernel_initializer="zeros",
        dtype="float32",
    )(features)
    spacing = config.control_point_spacing
    # one unit of the linear output is one spacing: in voxels, learning to move far takes long
    control_points = layers.Rescaling(spacing, dtype="float32", name="spacing")(control_points)
    if config.displacement_limit is not None:
        scale = [config.displacement_limit * s for s in spacing]
        control_points = LimitedDisplacement(scale, name="limit")(control_points)
    if config.transformer == "thin_plate_spline":
        transformer: Any = ThinPlateSplineField(spacing, name="transformer")
    else:
        transformer = BSplineField(
            spacing, order=int(config.transformer[-1]), border=config.border, name="transformer"
        )
    field = transformer(control_points, fixed)
    if config.diffeomorphic:
        field = VelocityIntegration(name="integration")(field)
    outputs = {"control_points": control_points, "displacement_field": field}
    return keras.Model([fixed, moving], outputs, name="deformable_network")


def _encode(features: Any, config: DeformableConfig) -> Any:
    levels = max(config.downsamplings)
    for level in range(levels):
        # axes with fewer halvings wait, so that the voxel becomes isotropic on the way
        strides = tuple(2 if level >= levels - n else 1 for n in config.downsamplings)
        kernels = config.kernels_per_level[level]
        by_stride = config.downsampling == "strided" or (level == 0 and config.stem_stride == 2)
        if level == 0 and strides == (2, 2) and not by_stride and config.downsampling == "average":
            stem = PooledConvolution2D(kernels, activation=config.activation, name="convolution_1")
            features = _normalized(stem(features), config, "1")
            continue
        convolution = _convolution(
            config,
            3,
            filters=kernels,
            strides=strides if by_stride else 1,
            name=f"convolution_{level + 1}",
        )
        features = convolution(features)
        if not by_stride:
            features = _pooling(config, strides, name=f"pooling_{level + 1}")(features)
        features = _normalized(features, config, f"{level + 1}")
    if config.border:
        features = RepeatedBorder(config.border, name="border")(features)
    if config.receptive_field == "overlapping":
        features = _convolution(config, 3, name="overlap")(features)
        features = _normalized(features, config, "overlap")
    if config.receptive_field == "full":
        for dilation in FULL_IMAGE_DILATIONS:
            convolution = _convolution(
                config, 3, dilation_rate=dilation, name=f"dilated_{dilation}"
            )
            features = _normalized(convolution(features), config, f"dilated_{dilation}")
    for number in range(config.convolutions):
        features = _convolution(config, 3, name=f"context_{number + 1}")(features)
        features = _normalized(features, config, f"context_{number + 1}")
    return features


def _normalized(features: Any, config: DeformableConfig, name: str) -> Any:
    if config.normalization is None:
        return features
    normalization = layers.BatchNormalization(name=f"normalization_{name}", **_NORMALIZATION)
    return normalization(features)


def _convolution(config: DeformableConfig, kernel_size: int, **changes: Any) -> layers.Layer:
    arguments = {
        "filters": config.kernels_per_level[-1],
        "kernel_size": kernel_size,
        "padding": "same",
        "activation": config.activation,
        **changes,
    }
    return (layers.Conv2D if config.dimension == 2 else layers.Conv3D)(**arguments)


def _pooling(config: DeformableConfig, size: tuple[int, ...], name: str) -> layers.Layer:
    kinds: dict[tuple[str, int], Any] = {
        ("average", 2): layers.AveragePooling2D,
        ("average", 3): layers.AveragePooling3D,
        ("max", 2): layers.MaxPooling2D,
        ("max", 3): layers.MaxPooling3D,
    }
    # TensorFlow has no half-precision 3-D pooling on CPUs
    dtype = "float32" if config.dimension == 3 else None
    kind = kinds[config.downsampling, config.dimension]
    return kind(size, padding="same", dtype=dtype, name=name)
