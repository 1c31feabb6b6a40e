"""Batches of training pairs: images cached on their working grid, drawn by seed and step alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.augmentation import Augmentation
from registration.cohort import Cohort, CohortImage
from registration.geometry import ImageGrid
from registration.image_files import read_image_file
from registration.networks.registration_network import RegistrationConfig
from registration.pair_preparation import (
    check_numbers,
    gray_image,
    initial_transform,
    on_grid,
    working_grid,
)
from registration.single_slices import as_picture

Batch = dict[str, NDArray[np.float32]]
"""`fixed` and `moving` `(batch, *shape, 2)`, intensity and mask; and what was drawn for them."""

MOST_NAMED = 5
"""Images that cannot be used and are named in one message."""

ReadImage = Callable[[Path], sitk.Image]


@dataclass(frozen=True, slots=True)
class CachedImage:
    """A scaled image on its own working grid.

    Args:
        values: Intensities from 0 to 1 and a mask, shape `(2, *shape)`.
        grid: Working grid.
    """

    values: NDArray[np.float32]
    grid: ImageGrid

    def image(self, channel: int) -> sitk.Image:
        """One channel as an image in physical space."""
        return self.grid.to_image(self.values[channel])


class ImageCache:
    """Scaled images of a cohort as files, made when first asked for, read when drawn.

    Args:
        folder: Where the files are; shared by trainings of any configuration.
        config: Working spacing and scaling of intensities.
        read: Reads the images, by default files that ITK knows; it raises `RuntimeError` or
            `ValueError` where it cannot.
    """

    def __init__(
        self, folder: Path, config: RegistrationConfig, *, read: ReadImage = read_image_file
    ) -> None:
        self.folder = folder
        self.config = config
        self.read = read
        self._known: dict[CohortImage, tuple[Path, ImageGrid]] = {}

    def load(self, image: CohortImage) -> CachedImage:
        """The image on its working grid.

        Raises:
            ValueError: If it cannot be read, is not of the networks' dimension, has colors,
                holds values that are not numbers, or its mask is empty.
        """
        grid = self.grid(image)
        return CachedImage(np.load(self._known[image][0]), grid)

    def grid(self, image: CohortImage) -> ImageGrid:
        """Working grid of the image, whose scaled form is made if it is not there.

        Raises:
            ValueError: As `load`.
        """
        if image not in self._known:
            name = self.folder / f"{self._key(image)}.npy"
            if not name.exists() or not name.with_suffix(".json").exists():
                self._make(image, name)
            grid = ImageGrid(**json.loads(name.with_suffix(".json").read_text(encoding="utf-8")))
            self._known[image] = name, grid
        return self._known[image][1]

    def _key(self, image: CohortImage) -> str:
        """Name that changes with the files and with whatever decides their cached form."""
        files = [file_state(path) for path in (image.path, image.mask) if path is not None]
        settings = [self.config.spacing_mm, self.config.scaling.to_dict()]
        return hashlib.sha256(json.dumps([files, settings]).encode()).hexdigest()[:24]

    def _make(self, image: CohortImage, name: Path) -> None:
        read = _scalar_image(image.path, self.config.dimension, self.read)
        check_numbers(read, image.path.name)
        grid = working_grid(ImageGrid.from_image(read), self.config.spacing_mm)
        scaling = self.config.scaling
        limits = scaling.limits(sitk.GetArrayViewFromImage(read))
        values = scaling.apply(on_grid(read, grid), limits)
        mask = np.ones_like(values)
        if image.mask is not None:
            drawn = _scalar_image(image.mask, self.config.dimension, self.read)
            mask = (on_grid(drawn, grid, labels=True) > 0).astype(np.float32)
            if not mask.any():
                raise ValueError(
                    f"nothing can be learnt from {image.path.name}: its mask is empty where the "
                    f"image is ({image.mask.name})"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = name.with_suffix(f".{os.getpid()}.partial.npy")
        np.save(partial, np.stack([values, mask]))
        os.replace(partial, name)
        described = {k: getattr(grid, k) for k in ("size", "spacing", "origin", "direction")}
        partial = name.with_suffix(f".{os.getpid()}.partial.json")
        partial.write_text(json.dumps(described), encoding="utf-8")
        os.replace(partial, name.with_suffix(".json"))


class PairSampler:
    """Draws batches of pairs; a batch depends on seed, stage and step alone.

    Args:
        cohort: Images and pairs.
        cache: Where their scaled forms come from.
        batch_size: Pairs per batch.
        seed: Of pairs and augmentation.
        augmentation: Ranges of random changes.
    """

    def __init__(
        self,
        cohort: Cohort,
        cache: ImageCache,
        *,
        batch_size: int,
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive. Received: {batch_size}")
        self.cohort = cohort
        self.cache = cache
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = augmentation or Augmentation()

    def fill_cache(self) -> None:
        """Make the scaled form of every image there is a pair of, and look for what is wrong.

        A training meets some images after hours only; here all are looked at, and all that cannot
        be used are named at once.

        Raises:
            ValueError: If images cannot be used.
        """
        wrong = []
        fixed = {first for first, _ in self.cohort.pairs}
        for number in sorted({index for pair in self.cohort.pairs for index in pair}):
            image = self.cohort.images[number]
            try:
                grid = self.cache.grid(image)
                if number in fixed:
                    self._check_shape(grid, image.path.name)
            except ValueError as error:
                if str(error) not in wrong:  # an image may stand in many pairs
                    wrong.append(str(error))
        if wrong:
            more = len(wrong) - MOST_NAMED
            told = "; ".join(wrong[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
            raise ValueError(told)

    def batch(self, stage: int, step: int) -> Batch:
        """The batch of one training step."""
        rng = np.random.default_rng([self.seed, stage, step])
        numbers = rng.integers(len(self.cohort.pairs), size=self.batch_size)
        return self._assembled([self.cohort.pairs[n] for n in numbers], rng)

    def single(self, number: int) -> Batch:
        """One pair of the cohort as it is, as a batch of one."""
        fixed, moving = self._placed(*self.cohort.pairs[number])
        return {"fixed": fixed[None], "moving": moving[None]}

    def _assembled(self, pairs: Sequence[tuple[int, int]], rng: np.random.Generator) -> Batch:
        placed = [self._placed(*pair) for pair in pairs]
        shape = tuple(np.max([fixed.shape[:-1] for fixed, _ in placed], axis=0).tolist())
        batch = {
            "fixed": np.stack([_padded(fixed, shape) for fixed, _ in placed]),
            "moving": np.stack([_padded(moving, shape) for _, moving in placed]),
        }
        spacing = self.cache.config.network_spacing[::-1]
        batch |= self.augmentation.draw(rng, len(pairs), shape, spacing)
        batch["corner"] = rng.random((len(pairs), len(shape))).astype(np.float32)
        return batch

    def _placed(self, fixed: int, moving: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A pair on the fixed image's grid, each with its mask as the second channel."""
        first = self.cache.load(self.cohort.images[fixed])
        second = self.cache.load(self.cohort.images[moving])
        how = self.cache.config.initialization
        transform = initial_transform(first.grid, second.grid, how)
        self._check_shape(first.grid, self.cohort.images[fixed].path.name)
        fixed_pair = np.moveaxis(first.values, 0, -1)
        if transform is None and first.grid == second.grid:
            return fixed_pair, np.moveaxis(second.values, 0, -1)
        values = on_grid(second.image(0), first.grid, transform)
        mask = on_grid(second.image(1), first.grid, transform, labels=True)
        return fixed_pair, np.stack([values, mask], axis=-1)

    def _check_shape(self, grid: ImageGrid, name: str) -> None:
        known = self.cache.config.image_shape
        if known is not None and grid.shape != known:
            raise ValueError(
                f"image_shape {known} of the networks must be that of all images. Received: "
                f"{grid.shape} of {name}"
            )
        self.cache.config.check_shape(grid.shape, name)


def _padded(images: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Image in the middle of a larger one: edges repeated, and masked out."""
    missing = [wanted - own for wanted, own in zip(shape, images.shape[:-1], strict=True)]
    if not any(missing):
        return images
    widths = [(n // 2, n - n // 2) for n in missing]
    values = np.pad(images[..., 0], widths, mode="edge")
    return np.stack([values, np.pad(images[..., 1], widths)], axis=-1)


def file_state(path: Path, base: Path | None = None) -> tuple[str, int, int]:
    """Where a file is, its size, and when it was changed, ns: what tells a file that was replaced.

    Of a folder the size of all files in it, and when the latest was changed; hidden ones aside.

    Args:
        path: The file, by whatever path.
        base: Resolved folder below which files are named relative to it.

    Raises:
        ValueError: If there is no such file.
    """
    try:
        files = [f for f in path.rglob("[!.]*") if f.is_file()] if path.is_dir() else [path]
        states = [file.stat() for file in files]
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read; replace it, or take it out") from error
    place = path.resolve()
    inside = base is not None and place.is_relative_to(base)
    name = place.relative_to(base).as_posix() if base is not None and inside else str(place)
    changed = max((state.st_mtime_ns for state in states), default=0)
    return name, sum(state.st_size for state in states), changed


def _scalar_image(path: Path, dimension: int, read_image: ReadImage) -> sitk.Image:
    try:
        read = read_image(path)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} cannot be read as an image; replace it, or take it out"
        ) from error
    try:
        image = gray_image(read)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be learnt from: {error}") from error
    if dimension == 2:
        image = as_picture(image)
    if image.GetDimension() != dimension:
        raise ValueError(
            f"images must have {dimension} axes. Received: {path.name} with {image.GetDimension()}"
        )
    return image
