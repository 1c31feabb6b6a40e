"""Random but reproducible changes of training pairs: pose, shape and intensity.

What is drawn are small arrays (numpy, from one generator); what they do to the images is
computed with the training step, in `keras.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from registration.bsplines import bspline_field
from registration.warping import sample_linear, voxel_indices

LARGEST_BLANK = 0.3
"""Largest share of an axis that is blank at either of its ends."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of the changes. The first five act on both images of a pair alike.

    Args:
        rotation_deg: Largest rotation about each axis, degrees.
        scale: Largest relative change of size per axis.
        translation: Largest shift, as a share of the image.
        flip_axes: Array axes that are mirrored half of the time.
        elastic_vox: Largest displacement of an elastic deformation, voxels.
        moving_rotation_deg: Largest further rotation of the moving image, degrees.
        moving_scale: Largest further relative change of its size.
        moving_translation: Largest further shift of it, as a share of the image.
        moving_elastic_vox: Largest further elastic displacement of it, voxels.
        gamma: Largest logarithm of the exponent that intensities are raised to, per image.
        noise: Standard deviation of the noise, of intensities from 0 to 1, per image at most.
        elastic_spacing_vox: Distance between control points of elastic deformations, voxels.
        in_plane: Rotate about the first array axis only: right for stacks of thick slices.
        blank: Share of the images that are blank beyond a random box, as those are that were
            resampled onto a larger grid; each image of a pair by itself. What is blank is no
            part of the mask.
    """

    rotation_deg: float = 0.0
    scale: float = 0.0
    translation: float = 0.0
    flip_axes: tuple[int, ...] = ()
    elastic_vox: float = 0.0
    moving_rotation_deg: float = 0.0
    moving_scale: float = 0.0
    moving_translation: float = 0.0
    moving_elastic_vox: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    elastic_spacing_vox: int = 32
    in_plane: bool = False
    blank: float = 0.0

    @property
    def is_geometric(self) -> bool:
        """Whether images have to be resampled at all."""
        return bool(self.flip_axes) or any(
            getattr(self, name) > 0
            for name in self.__dataclass_fields__
            if name.endswith(("rotation_deg", "scale", "translation", "elastic_vox"))
        )

    def draw(
        self,
        rng: np.random.Generator,
        batch: int,
        shape: Sequence[int],
        spacing: Sequence[float],
    ) -> dict[str, NDArray[np.float32]]:
        """Parameters for a batch of pairs.

        Args:
            rng: Where randomness comes from.
            batch: Number of pairs.
            shape: Spatial shape of the images, array order.
            spacing: Voxel spacing per array axis; rotations are rotations in it.

        Returns:
            `linear` `(batch, 2, d, d)` and `shift` `(batch, 2, d)` in voxels about the middle,
            array axis order; `elastic` `(batch, 2, *lattice, d)` in voxels; `gamma` and
            `noise` `(batch, 2)`; `box` `(batch, 2, 2, d)`, its first and last corner in shares
            of the image. The second axis stands for fixed and moving.
        """
        d = len(shape)
        shared = self._linear(rng, batch, d, self.rotation_deg, self.scale)
        for axis in self.flip_axes:
            shared[..., axis] *= rng.choice([-1.0, 1.0], size=(batch, 1))
        own = self._linear(rng, batch, d, self.moving_rotation_deg, self.moving_scale)
        scale = np.asarray(spacing, dtype=float)
        linear = np.stack([shared, shared @ own], axis=1) * scale / scale[:, None]
        size = np.asarray(shape, dtype=float)
        shift = rng.uniform(-1, 1, (batch, d)) * self.translation * size
        extra = rng.uniform(-1, 1, (batch, d)) * self.moving_translation * size
        lattice = [int(np.ceil(n / self.elastic_spacing_vox)) for n in shape]
        both = rng.uniform(-1, 1, (batch, *lattice, d)) * self.elastic_vox
        single = rng.uniform(-1, 1, (batch, *lattice, d)) * self.moving_elastic_vox
        drawn = {
            "linear": linear,
            "shift": np.stack([shift, shift + extra], axis=1),
            "elastic": np.stack([both, both + single], axis=1),
            "gamma": np.exp(rng.uniform(-1, 1, (batch, 2)) * self.gamma),
            "noise": rng.uniform(0, 1, (batch, 2)) * self.noise,
        }
        drawn["box"] = self._boxes(rng, batch, d)
        return {name: values.astype(np.float32) for name, values in drawn.items()}

    def apply(self, images: Any, drawn: dict[str, Any], which: int, noise: Any) -> Any:
        """Changed images.

        Args:
            images: Intensities from 0 to 1 and a mask, shape `(batch, *shape, 2)`.
            drawn: What `draw` gave.
            which: 0 for fixed, 1 for moving images.
            noise: Standard normal numbers, shape `(batch, *shape, 1)`, or `None` for no noise.

        Returns:
            Same shape; the mask is 0 where the image was left.
        """
        if self.is_geometric:
            images = _deformed(images, drawn, which, self.elastic_spacing_vox)
        values, mask = images[..., :1], images[..., 1:]
        corner = (slice(None), which, *(None,) * (len(images.shape) - 1))
        if self.gamma > 0:
            values = ops.clip(values, 1e-6, 1.0) ** drawn["gamma"][corner]
        if noise is not None:
            values = values + noise * drawn["noise"][corner]
        if self.blank > 0:
            shown = _inside(drawn["box"][:, which], ops.shape(images)[1:-1])
            values, mask = values * shown, mask * shown
        return ops.concatenate([values, mask], axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def _linear(
        self, rng: np.random.Generator, batch: int, d: int, rotation_deg: float, scale: float
    ) -> NDArray[np.float64]:
        matrix = np.tile(np.eye(d), (batch, 1, 1))
        planes = [(d - 2, d - 1)] if self.in_plane or d == 2 else [(0, 1), (0, 2), (1, 2)]
        for first, second in planes:
            angle = np.radians(rng.uniform(-rotation_deg, rotation_deg, batch))
            turn = np.tile(np.eye(d), (batch, 1, 1))
            turn[:, first, first] = turn[:, second, second] = np.cos(angle)
            turn[:, first, second], turn[:, second, first] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        return np.asarray(matrix * (1.0 + rng.uniform(-scale, scale, (batch, 1, d))))

    def _boxes(self, rng: np.random.Generator, batch: int, d: int) -> NDArray[np.float64]:
        """Corners of what is not blank: the whole image, but for a share of the images."""
        box = np.broadcast_to(np.array([[0.0], [1.0]]), (batch, 2, 2, d)).copy()
        if self.blank > 0:
            # every other face of a box is cut off
            cut = rng.uniform(0, LARGEST_BLANK, box.shape) * (rng.random(box.shape) < 0.5)
            cut *= rng.random((batch, 2, 1, 1)) < self.blank
            box += cut * np.array([[1.0], [-1.0]])
        return box


def _inside(box: Any, shape: Any) -> Any:
    """1 for voxels within a box, 0 elsewhere, shape `(batch, *shape, 1)`."""
    index = voxel_indices(shape)
    place = (index + 0.5) / ops.stack([ops.cast(n, "float32") for n in shape])
    corner = (slice(None), *(None,) * len(shape))
    inside = (place >= box[:, 0][corner]) & (place < box[:, 1][corner])
    return ops.cast(ops.all(inside, axis=-1, keepdims=True), "float32")


def _deformed(images: Any, drawn: dict[str, Any], which: int, spacing: int) -> Any:
    shape = ops.shape(images)[1:-1]
    d = len(images.shape) - 2
    index = voxel_indices(shape)
    middle = (ops.stack([ops.cast(n, "float32") for n in shape]) - 1.0) / 2.0
    points = ops.reshape(index - middle, (1, -1, d))
    linear = ops.transpose(drawn["linear"][:, which], (0, 2, 1))
    moved = ops.matmul(points, linear) + drawn["shift"][:, which][:, None]
    field = ops.reshape(moved - points, (-1, *shape, d))
    field = field + bspline_field(drawn["elastic"][:, which], shape, spacing=[float(spacing)] * d)
    # a voxel all around, the image's edge and no mask, serves both in one pass over the voxels
    border = [(0, 0), *[(1, 1)] * d, (0, 0)]
    values = ops.pad(images[..., :1], border, mode="symmetric")
    both = ops.concatenate([values, ops.pad(images[..., 1:], border)], axis=-1)
    return sample_linear(both, index + field + 1.0)
