"""How the first atlas of the chest is iterated: the whole thorax first, then the heart."""

from __future__ import annotations

from atlas.affine_mean import AtlasRound
from registration.affine_refinement import RefinementLevel
from registration.geometry import Ellipsoid, ImageGrid

THORAX = Ellipsoid((0.0, 0.0, -20.0), (150.0, 110.0, 130.0))
"""Region of the thorax about the centroid of the lungs, LPS mm; own, read off a mean of seven."""
HEART = Ellipsoid((30.0, -30.0, -44.0), (72.0, 62.0, 62.0))
"""Region of the heart about the centroid of the lungs, LPS mm; likewise."""
BUILDING_GRID = ImageGrid.centered((100, 80, 90), (4.0, 4.0, 4.0), (0.0, 0.0, -20.0))
"""Lattice on which the mean is iterated; its origin is the centroid of the lungs."""

_HEART_AND_RIM = HEART.scaled(1.25)
CHEST_ROUNDS = (
    *(
        AtlasRound(THORAX, (RefinementLevel(10.0, 14.0, 20), RefinementLevel(6.0, 10.0, 15)))
        for _ in range(2)
    ),
    AtlasRound(_HEART_AND_RIM, (RefinementLevel(8.0, 10.0, 20), RefinementLevel(4.0, 7.0, 15))),
    AtlasRound(_HEART_AND_RIM, (RefinementLevel(4.0, 7.0, 15),)),
)
"""Two rounds on the thorax, two on the heart: a third of each changes nothing measurable."""
