"""Conventional registration by elastix, behind the interface of the networks.

Elastix comes with the optional extra `baselines`; nothing of it is imported before the first
pair is registered.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from registration.geometry import ImageGrid
from registration.pair_preparation import check_overlap
from registration.registrar import Registration

_MISSING = (
    "elastix needs the package itk-elastix, which the extra `baselines` brings: "
    "pip install 'calcium-score[baselines]'"
)

ParameterMap = dict[str, list[str]]
"""Settings of one elastix stage, as its parameter files hold them."""

COMMON_PARAMETERS: ParameterMap = {
    "AutomaticParameterEstimation": ["true"],
    "AutomaticTransformInitialization": ["false"],
    "FixedImagePyramid": ["FixedSmoothingImagePyramid"],
    "MovingImagePyramid": ["MovingSmoothingImagePyramid"],
    "Interpolator": ["LinearInterpolator"],
    "ResampleInterpolator": ["FinalLinearInterpolator"],
    "Resampler": ["DefaultResampler"],
    "Optimizer": ["AdaptiveStochasticGradientDescent"],
    "ImageSampler": ["RandomCoordinate"],
    "NewSamplesEveryIteration": ["true"],
    "HowToCombineTransforms": ["Compose"],
    "UseDirectionCosines": ["true"],
    "ErodeMask": ["false"],
    "WriteResultImage": ["false"],
}
"""What every stage shares: elastix's defaults for adaptive stochastic gradient descent."""

GRID_WIDENING = 2.0**0.5
"""Factor by which control points lie further apart at the next coarser resolution: that of
elastix's default parameter map."""

SIMILARITY = "AdvancedNormalizedCorrelation"
"""Elastix's name of the normalized cross-correlation."""

BENDING = "TransformBendingEnergyPenalty"
"""Elastix's name of the bending energy of the B-spline, 1/mm²."""


@dataclass(frozen=True, slots=True)
class ElastixStage:
    """One stage: an affine map or a B-spline, by normalized cross-correlation.

    Args:
        transform: `"affine"` or `"bspline"` (cubic).
        control_point_spacing_mm: Final distance between control points, mm, one number or one
            per image axis (x, y, z); wider by `GRID_WIDENING` at every coarser resolution.
            Affine stages have none.
        iterations: Iterations per resolution.
        resolutions: Levels of the Gaussian pyramid, each half as smooth as the one before.
        samples: Random points per iteration at which the images are compared.
        bending_weight: Weight of the bending energy beside the negative correlation, mm².
        valid_samples: Least share of the samples that must fall inside the moving image.
    """

    transform: Literal["affine", "bspline"]
    control_point_spacing_mm: float | tuple[float, ...] | None = None
    iterations: int = 100
    resolutions: int = 2
    samples: int = 2048
    bending_weight: float = 0.0
    valid_samples: float = 0.25

    def __post_init__(self) -> None:
        if self.transform not in ("affine", "bspline"):
            raise ValueError(
                f"transform must be 'affine' or 'bspline'. Received: {self.transform!r}"
            )
        if (self.transform == "bspline") != (self.control_point_spacing_mm is not None):
            raise ValueError(
                "control_point_spacing_mm belongs to B-spline stages, and they need it. "
                f"Received: {self.control_point_spacing_mm} for {self.transform!r}"
            )
        if self.bending_weight and self.transform == "affine":
            raise ValueError(
                "an affine map does not bend; leave bending_weight at zero. "
                f"Received: {self.bending_weight}"
            )
        if min(self.iterations, self.resolutions, self.samples) < 1:
            raise ValueError(
                "iterations, resolutions and samples must be positive. Received: "
                f"{self.iterations}, {self.resolutions} and {self.samples}"
            )

    def parameter_map(self, *, seed: int) -> ParameterMap:
        """The stage in elastix's words."""
        parameters = dict(COMMON_PARAMETERS)
        parameters |= {
            "MaximumNumberOfIterations": [str(self.iterations)],
            "NumberOfResolutions": [str(self.resolutions)],
            "NumberOfSpatialSamples": [str(self.samples)],
            "RequiredRatioOfValidSamples": [str(self.valid_samples)],
            "RandomSeed": [str(seed)],
            "Registration": ["MultiResolutionRegistration"],
            "Metric": [SIMILARITY],
        }
        if self.transform == "affine":
            return parameters | {
                "Transform": ["AffineTransform"],
                "AutomaticScalesEstimation": ["true"],
            }
        parameters |= {
            "Transform": ["BSplineTransform"],
            "FinalGridSpacingInPhysicalUnits": [str(s) for s in self._spacings()],
            "GridSpacingSchedule": self._schedule(),
        }
        if self.bending_weight:
            parameters |= {
                "Registration": ["MultiMetricMultiResolutionRegistration"],
                "Metric": [SIMILARITY, BENDING],
                "Metric0Weight": ["1.0"],
                "Metric1Weight": [str(self.bending_weight)],
            }
        return parameters

    def _spacings(self) -> tuple[float, ...]:
        spacing = self.control_point_spacing_mm
        return spacing if isinstance(spacing, tuple) else (float(spacing or 0.0),)

    def _schedule(self) -> list[str]:
        return [str(GRID_WIDENING**level) for level in reversed(range(self.resolutions))]


class ElastixRegistrar:
    """Registers pairs with itk-elastix, stage after stage.

    Every stage starts from the ones before and resamples the original moving image. Results
    are SimpleITK affine maps, B-splines and composites of them, exact and small. The same
    seed and number of threads give the same result.

    Args:
        stages: Stages, coarse to fine, at least one.
        name: Name for tables.
        threads: Threads elastix may use.
        seed: Seed of its random samples.

    Raises:
        ValueError: If there is no stage.

    Source:
        Klein et al., IEEE Trans Med Imaging 2010;29(1):196-205; Klein et al., Int J Comput
        Vis 2009;81:227-239 (the optimizer).
    """

    def __init__(
        self,
        stages: Sequence[ElastixStage],
        *,
        name: str = "elastix",
        threads: int = 1,
        seed: int = 121212,
    ) -> None:
        if not stages:
            raise ValueError("stages must hold at least one stage. Received: none")
        self.stages = tuple(stages)
        self.name = name
        self.threads = threads
        self.seed = seed

    def register(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        *,
        fixed_mask: sitk.Image | None = None,
        moving_mask: sitk.Image | None = None,
    ) -> Registration:
        """Register one pair.

        Args:
            fixed: Image whose grid and space the result lives in, 2-D or 3-D.
            moving: Image to be brought there, of the same dimension.
            fixed_mask: Nonzero where the images are compared, on the grid of `fixed`.
            moving_mask: Nonzero where the moving image is valid, on the grid of `moving`.

        Returns:
            The accumulated pull-back and the wall time after every stage.

        Raises:
            ValueError: If the dimensions differ.
            ImportError: If itk-elastix is not installed.
            NoOverlapError: If the images share no point in space.
            RuntimeError: If elastix gives up, usually because they hardly overlap.
        """
        if fixed.GetDimension() != moving.GetDimension():
            raise ValueError(
                "fixed and moving must have the same dimension. "
                f"Received: {fixed.GetDimension()} and {moving.GetDimension()}"
            )
        check_overlap(ImageGrid.from_image(fixed), ImageGrid.from_image(moving))
        with warnings.catch_warnings():
            # ITK's libraries load on first use and warn of their own types meanwhile; where
            # warnings are errors, that one would end the process
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._register(fixed, moving, fixed_mask, moving_mask)

    def _register(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        fixed_mask: sitk.Image | None,
        moving_mask: sitk.Image | None,
    ) -> Registration:
        itk = _import_itk()
        start = time.perf_counter()
        images = {"FixedImage": _to_itk(itk, fixed), "MovingImage": _to_itk(itk, moving)}
        if fixed_mask is not None:
            images["FixedMask"] = _to_itk(itk, fixed_mask != 0, np.uint8)
        if moving_mask is not None:
            images["MovingMask"] = _to_itk(itk, moving_mask != 0, np.uint8)
        found: Any = None
        parts: list[sitk.Transform] = []
        accumulated: list[sitk.Transform] = []
        seconds = []
        for stage in self.stages:
            found = self._run(itk, stage, images, found)
            last = found.GetParameterMap(found.GetNumberOfParameterMaps() - 1)
            parts.append(_to_sitk(dict(last), fixed.GetDimension()))
            accumulated.append(_chain(parts))
            seconds.append(time.perf_counter() - start)
        return Registration(tuple(accumulated), tuple(seconds))

    def _run(self, itk: Any, stage: ElastixStage, images: Mapping[str, Any], before: Any) -> Any:
        """Transform parameters of all stages so far, the new one last."""
        parameters = itk.ParameterObject.New()
        parameters.AddParameterMap(stage.parameter_map(seed=self.seed))
        kinds = type(images["FixedImage"]), type(images["MovingImage"])
        method = itk.ElastixRegistrationMethod[kinds].New(**images)
        method.SetParameterObject(parameters)
        method.SetLogToConsole(False)
        method.SetNumberOfThreads(self.threads)
        if before is not None:
            method.SetInitialTransformParameterObject(before)
        try:
            method.UpdateLargestPossibleRegion()
        except RuntimeError as error:
            raise RuntimeError(f"elastix failed in its {stage.transform} stage: {error}") from error
        return method.GetTransformParameterObject()


def _import_itk() -> Any:
    """The module `itk` with elastix in it.

    Raises:
        ImportError: If itk-elastix is not installed; the message names the extra.
    """
    try:
        import itk
    except ImportError as error:
        raise ImportError(_MISSING) from error
    if not hasattr(itk, "ElastixRegistrationMethod"):
        raise ImportError(_MISSING)
    return itk


def _to_itk(itk: Any, image: sitk.Image, dtype: type = np.float32) -> Any:
    """A copy of the image for ITK's own Python package, same place in space."""
    converted = itk.image_from_array(sitk.GetArrayFromImage(image).astype(dtype))
    dimension = image.GetDimension()
    converted.SetSpacing(image.GetSpacing())
    converted.SetOrigin(image.GetOrigin())
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    converted.SetDirection(itk.matrix_from_array(direction))
    return converted


def _to_sitk(parameters: Mapping[str, Sequence[str]], dimension: int) -> sitk.Transform:
    """The SimpleITK transform of one of elastix's transform parameter maps."""

    def numbers(key: str) -> list[float]:
        return [float(value) for value in parameters[key]]

    coefficients = numbers("TransformParameters")
    if parameters["Transform"][0] == "AffineTransform":
        affine = sitk.AffineTransform(dimension)
        affine.SetMatrix(coefficients[: dimension**2])
        affine.SetTranslation(coefficients[dimension**2 :])
        affine.SetCenter(numbers("CenterOfRotationPoint"))
        return affine
    # elastix lists direction matrices by columns, ITK by rows
    direction = np.reshape(numbers("GridDirection"), (dimension, dimension)).T.ravel().tolist()
    bspline = sitk.BSplineTransform(dimension, 3)
    bspline.SetFixedParameters(
        [*numbers("GridSize"), *numbers("GridOrigin"), *numbers("GridSpacing"), *direction]
    )
    bspline.SetParameters(coefficients)
    return bspline


def _chain(parts: Sequence[sitk.Transform]) -> sitk.Transform:
    """The transform that applies the parts in order, the first one first."""
    if len(parts) == 1:
        return parts[0]
    return sitk.CompositeTransform(list(reversed(parts)))
