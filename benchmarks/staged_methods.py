"""The rows of a multi-stage table: none, then every stage of elastix and of the networks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import SimpleITK as sitk
from registration_pairs import Method, NoRegistration

from registration.baselines import ElastixRegistrar, ElastixStage

if TYPE_CHECKING:
    from trained_registrars import Recipe

    from registration.network_registrar import NetworkRegistrar
    from registration.refinement import RefinementOptions
    from registration.registrar import Registrar, Registration

    Networks = Callable[[], tuple[Recipe, RefinementOptions]]

STAGES = ("AIR", "DIR-1", "DIR-2", "DIR-3")
"""Affine registration, then three deformable ones, coarse to fine."""

METHODS = ("none", "elastix", "elastix+window", "network", "network+refine")


@dataclass(frozen=True, slots=True)
class ElastixSettings:
    """The conventional side of a multi-stage table.

    Args:
        control_point_spacings_mm: Of the deformable stages.
        iterations: Per resolution, of all stages.
        samples: Random points per iteration.
        bending_weight: Of the deformable stages, mm².
        valid_samples: Least share of samples inside the moving image.
        window: Intensities that the row `elastix+window` sees, those beyond clipped.
    """

    control_point_spacings_mm: tuple[float, ...]
    iterations: int
    samples: int = 2048
    bending_weight: float = 0.0
    valid_samples: float = 0.1
    window: tuple[float, float] | None = None

    def registrar(self, threads: int) -> ElastixRegistrar:
        """Elastix with all stages."""
        shared = {
            "iterations": self.iterations,
            "samples": self.samples,
            "valid_samples": self.valid_samples,
        }
        stages = [ElastixStage("affine", **shared)]
        stages += [
            ElastixStage("bspline", spacing, bending_weight=self.bending_weight, **shared)
            for spacing in self.control_point_spacings_mm
        ]
        return ElastixRegistrar(stages, threads=threads)


@dataclass(frozen=True, slots=True)
class WindowedRegistrar:
    """A registrar that sees the intensities of a window alone.

    Args:
        inner: The registrar.
        window: Intensities, those beyond clipped.
    """

    inner: Registrar
    window: tuple[float, float]

    @property
    def name(self) -> str:
        """Name for tables."""
        return f"{self.inner.name}+window"

    def register(self, fixed: sitk.Image, moving: sitk.Image) -> Registration:
        """As of the inner registrar."""
        fixed, moving = (
            sitk.Clamp(image, sitk.sitkFloat32, *self.window) for image in (fixed, moving)
        )
        return self.inner.register(fixed, moving)


def staged_methods(
    names: Sequence[str],
    options: argparse.Namespace,
    *,
    elastix: ElastixSettings,
    networks: Networks,
) -> list[Method]:
    """Methods of a table in the order asked for.

    Networks are measured with one, two and more of their stages, so that every row has a time
    of its own.

    Args:
        names: Of `METHODS`.
        options: Command line.
        elastix: Settings of the rows of that name; `elastix+window` needs its window.
        networks: Gives the recipe of the rows `network` and the steps per pair of
            `network+refine`; called for these alone, as it imports TensorFlow.
    """
    methods = []
    for name in names:
        if name == "none":
            methods.append(Method((name,), NoRegistration))
        elif name.startswith("elastix"):
            rows = tuple(f"{name} {stage}" for stage in STAGES)
            window = elastix.window if name.endswith("+window") else None
            methods.append(Method(rows, partial(_elastix, elastix, options.threads, window)))
        elif name == "network":
            for count, stage in enumerate(STAGES, start=1):
                methods.append(Method((f"{name} {stage}",), _cut_network(networks, options, count)))
        else:
            methods.append(Method((name,), _refined_network(networks, options)))
    return methods


def _elastix(
    settings: ElastixSettings, threads: int, window: tuple[float, float] | None
) -> Registrar:
    registrar = settings.registrar(threads)
    return registrar if window is None else WindowedRegistrar(registrar, window)


def _cut_network(
    networks: Networks, options: argparse.Namespace, count: int
) -> Callable[[], Registrar]:
    """Builder of the first stages of a network."""

    def build() -> Registrar:
        from trained_registrars import trained_registrar

        return first_stages(trained_registrar(networks()[0], options), count)

    return build


def _refined_network(networks: Networks, options: argparse.Namespace) -> Callable[[], Registrar]:
    """Builder of all stages, refined on every pair."""

    def build() -> Registrar:
        from trained_registrars import trained_registrar

        recipe, refinement = networks()
        return trained_registrar(recipe, options, refinement=refinement)

    return build


def first_stages(registrar: NetworkRegistrar, count: int) -> NetworkRegistrar:
    """A registrar of the first `count` stages of another, with the same weights."""
    from registration.network_registrar import NetworkRegistrar
    from registration.networks.registration_network import registration_of

    config = replace(registrar.config, stages=registrar.config.stages[:count])
    network = registration_of(registrar.network.stages[:count], config)
    return NetworkRegistrar(network, config, name=registrar.name)
