"""The affine stage of a registration: a pair to a matrix, and the field it stands for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import keras
from keras import layers

from registration.layers.affine_field import AffineField
from registration.networks.affine_network import AffineNetwork

Fusion = Literal["twin", "pair"]
Pooling = Literal["average", "moments", "votes"]


@dataclass(frozen=True, slots=True)
class AffineConfig:
    """What an affine network for arbitrary pairs looks like.

    Args:
        dimension: Number of image axes, 2 or 3.
        kernels: Kernels per convolution: one number for all, or one each, one more than poolings.
        poolings: Poolings by 2 between convolutions.
        dense_units: Units of the fully connected layers.
        fusion: `"twin"`, as published, encodes both images alike and compares what is left
            of them; `"pair"` gives the encoder both as channels.
        head: `"average"`, as published, `"moments"`, which remembers positions, or `"votes"`:
            every cell of the feature map says where it belongs, and the transform is fitted to
            all of them. The bounds below are not asked of a fit.
        translation_mm: Translation per unit of the network's output, mm (voxels, if the
            registration works in voxels).
        max_rotation_rad: Bound of each rotation, radians.
        max_scale: Bound of each scaling; its inverse is the other one.
        max_shear: Bound of each shear, without unit.
        normalization: As in `DeformableConfig`.
        shrink: Voxels that are averaged to one along every axis before the first convolution: many
            times faster, and what an affine transform does shows in coarse images.
        passes: As in `DeformableConfig`; the matrices of all passes are multiplied. An affine
            network has to be trained for it (`second_looks` of `TrainingOptions`): it learns to
            turn and stretch by what pairs need on average, which is too much for what is left.
        steps: Gauss-Newton steps on the pair after the network (`affine_steps`). They need no
            training, and bring images nearer whose correlation tells how they lie.
        step_shrink: Voxels that are averaged to one along every axis for these steps; as `shrink`
            says by default.
    """

    dimension: int = 3
    kernels: int | tuple[int, ...] = 32
    poolings: int = 3
    dense_units: tuple[int, ...] = (64,)
    fusion: Fusion = "twin"
    head: Pooling = "moments"
    translation_mm: float = 10.0
    max_rotation_rad: float = 0.6
    max_scale: float = 2.0
    max_shear: float = 0.3
    normalization: Literal["batch"] | None = "batch"
    shrink: int = 1
    passes: int = 1
    steps: int = 0
    step_shrink: int | None = None

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "fusion": ("twin", "pair"),
            "head": ("average", "moments", "votes"),
            "dimension": (2, 3),
            "normalization": ("batch", None),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {allowed}. Received: {getattr(self, name)!r}"
                )
        if self.max_scale <= 1.0:
            raise ValueError(f"max_scale must be above 1. Received: {self.max_scale}")
        if min(self.passes, self.shrink) < 1:
            raise ValueError(
                f"passes and shrink must be 1 or more. Received: {self.passes} and {self.shrink}"
            )
        if self.steps < 0:
            raise ValueError(f"steps must not be negative. Received: {self.steps}")
        if self.step_shrink is not None and self.step_shrink < 1:
            raise ValueError(f"step_shrink must be 1 or more. Received: {self.step_shrink}")
        object.__setattr__(self, "dense_units", tuple(int(n) for n in self.dense_units))
        if not isinstance(self.kernels, int):
            object.__setattr__(self, "kernels", tuple(int(n) for n in self.kernels))
            if len(self.filters) != self.poolings + 1:
                raise ValueError(
                    f"kernels needs {self.poolings + 1} numbers, one more than poolings. "
                    f"Received: {self.kernels}"
                )

    @property
    def filters(self) -> tuple[int, ...]:
        """Kernels of every convolution."""
        if isinstance(self.kernels, int):
            return (self.kernels,) * (self.poolings + 1)
        return self.kernels

    @property
    def cell_vox(self) -> int:
        """Edge of what becomes one value of the last feature map, voxels."""
        return int(self.shrink * 2**self.poolings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def affine_stage(config: AffineConfig, *, spacing: tuple[float, ...]) -> keras.Model:
    """Network that finds an affine transform between two images of one grid.

    Args:
        config: Layout of the network.
        spacing: Voxel spacing that the affine acts in, ITK order (x, y, z), mm; 1 for voxels.

    Returns:
        Model from `[fixed, moving]`, each `(batch, *shape, 1)`, to a dictionary of `matrix`
        `(batch, d + 1, d + 1)`, about the middle of the image, (x, y, z) order, and
        `displacement_field` `(batch, *shape, d)`, voxels, array axis order.

    Source:
        de Vos et al., Med Image Anal 2019;52:128-143; pair fusion and moments own.
    """
    shape = (None,) * config.dimension
    fixed = keras.Input((*shape, 1), name="fixed")
    moving = keras.Input((*shape, 1), name="moving")
    network = AffineNetwork(
        config.filters,
        config.dense_units,
        twin=config.fusion == "twin",
        head=config.head,
        center_mm=(0.0,) * config.dimension,
        bounds=_bounds(config, spacing),
        normalized=config.normalization == "batch",
        shrink=config.shrink,
        name="air",
    )
    pair = [fixed, moving] if network.twin else layers.Concatenate(name="pair")([fixed, moving])
    matrix = network(pair)
    field = AffineField(spacing, name="affine_field")(matrix, fixed)
    outputs = {"matrix": matrix, "displacement_field": field}
    return keras.Model([fixed, moving], outputs, name="affine_stage")


def _bounds(config: AffineConfig, spacing: tuple[float, ...]) -> dict[str, Any]:
    """Arguments of the layer that makes the matrix."""
    if config.head == "votes":
        return {
            "spacing": spacing,
            "cell_vox": config.cell_vox,
            "translation_mm": config.translation_mm,
        }
    return {
        "translation_mm": config.translation_mm,
        "max_rotation_rad": config.max_rotation_rad,
        "max_log_scale": math.log(config.max_scale),
        "max_shear": config.max_shear,
    }
