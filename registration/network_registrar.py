"""Registration of a pair of images by trained networks, in one shot, with exact ITK transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.blank_margins import content_masks, has_blank_margin
from registration.finer_refinement import FinerRefinement
from registration.geometry import ImageGrid, affine_matrix, affine_transform
from registration.networks.affine_stage import AffineConfig
from registration.networks.deformable_network import DeformableConfig
from registration.networks.multi_stage import MultiStageRegistration
from registration.networks.registration_network import RegistrationConfig, StageConfig
from registration.pair_preparation import PreparedPair, check_overlap, prepare_pair
from registration.refinement import ControlPointRefiner, RefinementOptions
from registration.registrar import Registration
from registration.transforms import (
    bspline_transform,
    centered_affine_transform,
    composite_transform,
)
from registration.transforms_dense import displacement_field_transform


class NetworkRegistrar:
    """Registers any pair through trained stages; a `Registrar`.

    Images are scaled and brought to the working grid for the networks' eyes only: the result
    is a transform in physical space, through which the original moving image is resampled
    once. Affine and B-spline stages stay what they are. Only a thin plate spline, a velocity
    field, or added stages become dense fields, as ITK knows nothing else for them.

    Where an image has blank margins, as one that was resampled onto a larger grid, steps on the
    pair (`steps` of a stage) compare neither those nor what lies beyond the moving image.

    Args:
        network: Trained stages.
        config: What they were built from.
        name: Name for tables.
        refinement: Optimizer steps on the last stage's control points after the networks;
            none by default.

    Raises:
        ValueError: If a refinement is asked of a last stage that has no B-spline.
    """

    def __init__(
        self,
        network: MultiStageRegistration,
        config: RegistrationConfig,
        *,
        name: str = "network",
        refinement: RefinementOptions | None = None,
    ) -> None:
        self.network = network
        self.config = config
        self._name = name
        self._estimate = _compiled(network, config)
        self._masked_estimate: Any = None
        self._refiner: ControlPointRefiner | None = None
        self._finer: FinerRefinement | None = None
        if refinement is not None and max(refinement.steps, refinement.finer_steps) > 0:
            last = config.stages[-1]
            if not _has_control_points(last, config):
                raise ValueError(
                    "refinement needs a B-spline as the last stage, composed with the others. "
                    f"Received: {last}"
                )
            assert isinstance(last, DeformableConfig)
            if refinement.steps > 0:
                self._refiner = ControlPointRefiner(
                    refinement,
                    spacing=last.control_point_spacing,
                    spacing_mm=config.network_spacing[::-1],
                    border=last.border,
                    order=int(last.transformer[-1]),
                    unfold=last.unfold,
                )
            if refinement.finer_steps > 0:
                self._finer = FinerRefinement(refinement, config)

    @property
    def name(self) -> str:
        """Name for tables."""
        return self._name

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        """Register one pair, 2-D or 3-D, of any grids.

        Args:
            fixed: Scalar image whose space the result lives in.
            moving: Scalar image to be brought there.

        Raises:
            ValueError: If the images are not of the networks' dimension, of another size than
                networks that were built for one, too small for their poolings, or hold values
                that are not numbers.
            NoOverlapError: If they share no point, and are taken as they lie.
        """
        if fixed.GetDimension() != self.config.dimension:
            raise ValueError(
                f"the networks register images of {self.config.dimension} axes. "
                f"Received: {fixed.GetDimension()}"
            )
        pair = prepare_pair(
            fixed,
            moving,
            scaling=self.config.scaling,
            spacing_mm=self.config.spacing_mm,
            initialization=self.config.initialization,
        )
        if self.config.initialization == "identity":
            check_overlap(ImageGrid.from_image(fixed), ImageGrid.from_image(moving))
        known = self.config.image_shape
        if known is not None and pair.fixed.shape != known:
            raise ValueError(
                f"these networks register images of {_told(known)} voxels (x, y, ...) only: they "
                f"were built for one size. Received: {_told(pair.fixed.shape)}"
            )
        self.config.check_shape(pair.fixed.shape, "the fixed image")
        found, last_moving = self._estimated(fixed, moving, pair)
        outputs = [np.asarray(output)[0].astype(float) for output in found]
        if self._refiner is not None:
            outputs[-1] = self._refiner.refine(
                pair.fixed[None, ..., None],
                last_moving,
                outputs[-1][None],
                **self._masks(fixed, moving, pair, outputs),
            )[0]
        stages = _accumulated(outputs, pair, self.config)
        if self._finer is not None:
            stages = (*stages[:-1], self._finer.refine(fixed, moving, stages[-1]))
        return Registration(stages)

    def _estimated(
        self, fixed: sitk.Image, moving: sitk.Image, pair: PreparedPair
    ) -> tuple[Any, Any]:
        """What the stages find, and the moving image that the last one was given."""
        images = [_tensor(pair.fixed), _tensor(pair.moving)]
        if not self._steps_see_blank(fixed, moving):
            return self._estimate(*images)
        if self._masked_estimate is None:
            self._masked_estimate = _compiled(self.network, self.config, masked=True)
        masks = content_masks(fixed, moving, pair.grid, pair.initial)
        return self._masked_estimate(*images, masks["fixed_mask"], masks["moving_mask"])

    def _steps_see_blank(self, fixed: sitk.Image, moving: sitk.Image) -> bool:
        """Whether steps on the pair would compare margins where nothing corresponds."""
        if not any(stage.steps > 0 for stage in self.config.stages):
            return False
        images = (sitk.GetArrayViewFromImage(image) for image in (fixed, moving))
        return any(has_blank_margin(image) for image in images)

    def _masks(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        pair: PreparedPair,
        outputs: Sequence[NDArray[np.float64]],
    ) -> dict[str, NDArray[np.float32]]:
        """What of either image the last stage may compare; nothing for all of it."""
        assert self._refiner is not None
        if not self._refiner.options.ignore_margins:
            return {}
        before = (pair.initial, *_accumulated(outputs, pair, self.config))[-2]
        return content_masks(fixed, moving, pair.grid, before)


def _told(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in reversed(shape))


def _tensor(image: NDArray[np.float32]) -> Any:
    """An image as a batch of one, one channel."""
    import tensorflow as tf

    return tf.constant(image[None, ..., None])


def _compiled(
    network: MultiStageRegistration, config: RegistrationConfig, *, masked: bool = False
) -> Any:
    """One function for images of every size; what no result needs is pruned from its graph.

    Args:
        network: Trained stages.
        config: What they were built from.
        masked: Take masks of what steps on the pair may compare after the images.
    """
    import tensorflow as tf

    shape = (1, *config.network_shape, 1)
    specification = tf.TensorSpec(shape, tf.float32)

    @tf.function(autograph=False, input_signature=[specification] * (4 if masked else 2))
    def estimate(fixed: Any, moving: Any, *masks: Any) -> Any:
        results = network.run(fixed, moving, len(config.stages), masks or None)
        found = []
        for number, stage in enumerate(config.stages):
            output = results["stages"][number]
            if config.composition == "add" and len(config.stages) > 1:
                found.append(results["stage_fields"][number])
            elif isinstance(stage, AffineConfig):
                found.append(output["matrix"])
            elif _has_control_points(stage, config):
                found.append(output["control_points"])
            else:
                found.append(output["displacement_field"])
        return found, results["stage_moving"][-1]

    # the one trace there is: looking for it at every call takes as long as a small convolution
    return estimate.get_concrete_function()


def _has_control_points(stage: StageConfig, config: RegistrationConfig) -> bool:
    """Whether a stage leaves as an ITK B-spline."""
    if isinstance(stage, AffineConfig) or (config.composition == "add" and len(config.stages) > 1):
        return False
    return stage.transformer != "thin_plate_spline" and not stage.diffeomorphic


def _accumulated(
    outputs: Sequence[NDArray[np.float64]], pair: PreparedPair, config: RegistrationConfig
) -> tuple[sitk.Transform, ...]:
    """The pull-back after every stage, the initial one included."""
    adding = config.composition == "add" and len(config.stages) > 1
    parts: list[sitk.Transform] = [] if pair.initial is None else [pair.initial]
    stages = []
    for stage, output in zip(config.stages, outputs, strict=True):
        found = _stage_transform(stage, output, pair.grid, config)
        if adding:
            stages.append(composite_transform(_joined([*parts, found])))
            continue
        parts = _joined([*parts, found])
        stages.append(composite_transform(parts))
    return tuple(stages)


def _stage_transform(
    stage: StageConfig,
    output: NDArray[np.float64],
    grid: ImageGrid,
    config: RegistrationConfig,
) -> sitk.Transform:
    if config.composition == "add" and len(config.stages) > 1:
        return displacement_field_transform(output, grid)
    if isinstance(stage, AffineConfig):
        return centered_affine_transform(output, grid, spacing=config.network_spacing)
    if _has_control_points(stage, config):
        return bspline_transform(
            output,
            grid,
            spacing=stage.control_point_spacing,
            border=stage.border,
            order=int(stage.transformer[-1]),
        )
    return displacement_field_transform(output, grid)


def _joined(parts: Sequence[sitk.Transform]) -> list[sitk.Transform]:
    """Neighboring linear parts as one affine, the first found applied last."""
    joined: list[sitk.Transform] = []
    for part in parts:
        if joined and part.IsLinear() and joined[-1].IsLinear():
            joined[-1] = affine_transform(affine_matrix(joined[-1]) @ affine_matrix(part))
        else:
            joined.append(part)
    return joined
