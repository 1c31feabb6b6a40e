"""A second round of refinement, on a grid finer than the one that the networks see.

Networks look at few voxels to be fast. What a vessel is worth there is lost between two of them:
steps on the networks' grid end where that grid does. A second round takes the pair as it is by
then to a grid of half the spacing and adds a B-spline of its own, whose lattice begins anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from registration.blank_margins import content_masks
from registration.geometry import ImageGrid
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.pair_preparation import on_grid, working_grid
from registration.refinement import ControlPointRefiner, RefinementOptions
from registration.transforms import bspline_transform, composite_transform

_BORDER = 1
"""Control points beyond the image: the field need not be flat towards its border."""


class FinerRefinement:
    """Steps on a finer grid after those on the grid of the networks; a B-spline is added.

    Args:
        options: `finer_steps` of them are taken, everything else is as in the first round.
        config: Of the networks, the last of which has a B-spline.
    """

    def __init__(self, options: RefinementOptions, config: RegistrationConfig) -> None:
        last = config.stages[-1]
        assert isinstance(last, DeformableConfig)
        self._options = replace(options, steps=options.finer_steps)
        self._config = config
        self._lattice_spacing = last.control_point_spacing
        self._order = int(last.transformer[-1])
        self._unfold = last.unfold
        self._refiners: dict[tuple[tuple[float, ...], ...], ControlPointRefiner] = {}

    def refine(
        self, fixed: sitk.Image, moving: sitk.Image, found: sitk.Transform
    ) -> sitk.Transform:
        """The transform found so far, followed by a B-spline.

        Args:
            fixed: Scalar image.
            moving: Scalar image.
            found: Pull-back from fixed to moving points, LPS mm.
        """
        grid = working_grid(ImageGrid.from_image(fixed), self._spacing_mm(fixed))
        scaling = self._config.scaling
        seen, moved = (
            scaling.apply(
                on_grid(image, grid, transform), scaling.limits(sitk.GetArrayViewFromImage(image))
            )[None, ..., None]
            for image, transform in ((fixed, None), (moving, found))
        )
        refiner = self._refiner(grid)
        reached = np.array(refiner.spacing)
        lattice = np.ceil(np.array(grid.shape) / reached).astype(int) + 2 * _BORDER
        start = np.zeros((1, *lattice, grid.dimension))
        masks = content_masks(fixed, moving, grid, found) if self._options.ignore_margins else {}
        points = refiner.refine(seen, moved, start, **masks)[0]
        added = bspline_transform(
            points, grid, spacing=refiner.spacing, border=_BORDER, order=self._order
        )
        return composite_transform([found, added])

    def _spacing_mm(self, fixed: sitk.Image) -> tuple[float, ...] | None:
        """Half the networks' spacing, where the image has as much to show."""
        coarse = self._config.spacing_mm
        if coarse is None:
            return None
        own = fixed.GetSpacing()
        return tuple(max(c / 2, min(c, o)) for c, o in zip(coarse, own, strict=True))

    def _refiner(self, grid: ImageGrid) -> ControlPointRefiner:
        """Control points as far apart as those of the last network."""
        coarse = self._config.spacing_mm or grid.spacing
        ratio = np.array(coarse[::-1]) / np.array(grid.spacing[::-1])
        spacing = tuple((np.array(self._lattice_spacing) * ratio).tolist())
        reckoned = grid.spacing if self._config.spacing_mm else self._config.network_spacing
        key = (spacing, tuple(reckoned[::-1]))
        if key not in self._refiners:
            self._refiners[key] = ControlPointRefiner(
                self._options,
                spacing=spacing,
                spacing_mm=key[1],
                border=_BORDER,
                order=self._order,
                unfold=self._unfold,
            )
        return self._refiners[key]
