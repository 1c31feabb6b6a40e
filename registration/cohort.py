"""Which images there are to learn registration from, and which of them make pairs.

A cohort comes from a folder or from a CSV table. Images of one *group* are paired with each
other (say, the phases of a slice); images of one *subject* stay on one side of the split into
training and validation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registration.table_files import read_rows

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".tif", ".tiff")
"""Files that are taken for images when a folder is read."""


ONE_GROUP = "all"
"""Group of images of which any two may be paired."""


@dataclass(frozen=True, slots=True)
class CohortImage:
    """One image to learn from.

    Args:
        path: The image.
        group: Images of equal group are paired.
        subject: Images of equal subject are on one side of a split.
        mask: Image whose voxels above zero count in the similarity; all by default.
    """

    path: Path
    group: str
    subject: str
    mask: Path | None = None


@dataclass(frozen=True, slots=True)
class Cohort:
    """Images and the ordered pairs of them.

    Args:
        images: All images.
        pairs: Index of the fixed and of the moving image of every pair; ordered, so that two
            images that may be registered either way stand in it twice.
    """

    images: tuple[CohortImage, ...]
    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(
                "a cohort must hold at least one pair: two images of one group. "
                f"Received: {len(self.images)} images"
            )

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects in alphabetical order."""
        return tuple(sorted({image.subject for image in self.images}))

    def pairs_within(self, subjects: Sequence[str]) -> tuple[tuple[int, int], ...]:
        """Pairs of which both images are of some subjects; empty if there are none."""
        wanted = set(subjects)
        return tuple(
            (fixed, moving)
            for fixed, moving in self.pairs
            if {self.images[fixed].subject, self.images[moving].subject} <= wanted
        )

    def of_subjects(self, subjects: Sequence[str]) -> Cohort:
        """The part of the cohort whose pairs lie within some subjects.

        Raises:
            ValueError: If no pair is left.
        """
        pairs = self.pairs_within(subjects)
        used = sorted({index for pair in pairs for index in pair})
        place = {index: number for number, index in enumerate(used)}
        return Cohort(
            tuple(self.images[index] for index in used),
            tuple((place[fixed], place[moving]) for fixed, moving in pairs),
        )


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder and its subfolders in alphabetical order, hidden ones aside."""
    return sorted(
        path
        for path in folder.rglob("*")
        # macOS puts a file `._name` beside every file on foreign disks
        if path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".")
    )


def read_folder(
    folder: Path,
    *,
    group: str | None = None,
    subject: str | None = None,
    paths: Sequence[Path] | None = None,
) -> Cohort:
    """Every image of a folder and its subfolders, hidden files aside.

    Args:
        folder: Where to look.
        group: Regular expression; what it matches in the path below `folder` (its first
            bracket, if it has one) is the image's group. By default any two may be paired.
        subject: Likewise the subject; by default the group, or the image itself if all are
            of one group.
        paths: What in the folder is an image, where that is known; by default `image_files`.

    Raises:
        ValueError: If there is no image or no pair, or an expression is none, or matches nowhere
            in a path.
    """
    found = image_files(folder) if paths is None else paths
    if not found:
        raise ValueError(
            f"a folder to learn from must hold images ({', '.join(IMAGE_SUFFIXES)}). "
            f"Received: {folder}, which holds none"
        )
    images = []
    for path in found:
        name = path.relative_to(folder).as_posix()
        own_group = ONE_GROUP if group is None else _matched(group, name)
        default = name if group is None else own_group
        own_subject = default if subject is None else _matched(subject, name)
        images.append(CohortImage(path, own_group, own_subject))
    return Cohort(tuple(images), tuple(_pairs_within_groups(images)))


def read_table(table: Path) -> Cohort:
    """Images or pairs of a table (see `read_rows`); paths are relative to its folder.

    A path may be that of a folder, if whoever reads the images reads those.

    A table of images has the column `image` and, if wanted, `mask`, `group` and `subject`. A
    table of pairs has `fixed` and `moving` and, if wanted, `fixed_mask`, `moving_mask` and
    `subject`; pairs are then taken in the given direction only.

    Raises:
        ValueError: If it is no table in UTF-8, neither columns are there, a row names no image or
            has more cells than there are names, a file is missing, or there is no pair.
    """
    rows = read_rows(table)
    columns = set(rows[0]) if rows else set()
    if "image" in columns:
        return _image_rows(rows, table.parent)
    if {"fixed", "moving"} <= columns:
        return _pair_rows(rows, table.parent)
    raise ValueError(
        "the table must have a column `image`, or `fixed` and `moving`. "
        f"Received: {sorted(columns)}"
    )


def split_subjects(cohort: Cohort, *, share: float, seed: int) -> tuple[Cohort, Cohort | None]:
    """Training and validation part, by subjects.

    Args:
        cohort: All images.
        share: Share of the subjects that validate, rounded, at least one; 0 for none.
        seed: Which ones.

    Returns:
        Training cohort, and validation cohort or `None` if `share` is 0. Pairs between the
        two sides are dropped. Where the share alone would leave a side without pairs, subjects
        that have none do not count, and as many more as it takes to make a pair validate, or
        fewer if none would be left to learn from.

    Raises:
        ValueError: If there are too few subjects for pairs on both sides.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must lie in [0, 1). Received: {share}")
    if share == 0.0:
        return cohort, None
    rng = np.random.default_rng([seed, len(cohort.subjects)])
    order = np.array(cohort.subjects)[rng.permutation(len(cohort.subjects))].tolist()
    least = 2 if _pairs_cross_subjects(cohort) else 1
    parts = _parted(cohort, order[: max(least, round(share * len(order)))])
    if parts is not None:
        return parts
    with_pairs = set(cohort.of_subjects(order).subjects)
    order = [subject for subject in order if subject in with_pairs]
    count = max(least, round(share * len(order)))
    for stop in (*range(count, len(order)), *range(min(count, len(order)) - 1, least - 1, -1)):
        within = cohort.pairs_within(order[:stop])
        # those that only make up the number are of more use to the training
        chosen = {cohort.images[index].subject for pair in within for index in pair}
        parts = _parted(cohort, sorted(chosen))
        if parts is not None:
            return parts
    raise ValueError(
        "too few subjects to set some aside for validation; give --validation-share 0. "
        f"Received: {len(order)} subjects with pairs"
    )


def _parted(cohort: Cohort, chosen: Sequence[str]) -> tuple[Cohort, Cohort] | None:
    """Cohort without some subjects, and of these alone; `None` if either has no pair."""
    rest = sorted(set(cohort.subjects) - set(chosen))
    if not cohort.pairs_within(rest) or not cohort.pairs_within(chosen):
        return None
    return cohort.of_subjects(rest), cohort.of_subjects(chosen)


def _pairs_cross_subjects(cohort: Cohort) -> bool:
    """Whether every pair is between two subjects, so that one subject alone has none."""
    images = cohort.images
    return all(images[a].subject != images[b].subject for a, b in cohort.pairs)


def _matched(expression: str, name: str) -> str:
    try:
        found = re.search(expression, name)
    except re.error as error:
        raise ValueError(
            f"groups and subjects need a regular expression. Received: {expression!r}, {error}"
        ) from error
    if found is None:
        raise ValueError(f"{expression!r} must match every path. Received: {name}")
    return found.group(1) if found.groups() else found.group(0)


def _pairs_within_groups(images: Sequence[CohortImage]) -> Iterator[tuple[int, int]]:
    members: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        members.setdefault(image.group, []).append(index)
    for group in members.values():
        yield from ((a, b) for a in group for b in group if a != b)


def _image_rows(rows: Sequence[Mapping[str, str]], base: Path) -> Cohort:
    images = []
    for number, row in enumerate(rows, start=1):
        if not row["image"]:
            raise ValueError(f"row {number} names no image; rows are counted below the header")
        group = row.get("group") or ONE_GROUP
        default = row["image"] if group == ONE_GROUP else group
        image = _image(base, row["image"], row.get("mask"), group, row.get("subject") or default)
        images.append(image)
    return Cohort(tuple(images), tuple(_pairs_within_groups(images)))


def _pair_rows(rows: Sequence[Mapping[str, str]], base: Path) -> Cohort:
    images: list[CohortImage] = []
    pairs = []
    for number, row in enumerate(rows, start=1):
        subject = row.get("subject") or f"pair {number}"
        for role in ("fixed", "moving"):
            if not row[role]:
                raise ValueError(
                    f"row {number} names no {role} image; rows are counted below the header"
                )
            mask = row.get(f"{role}_mask")
            images.append(_image(base, row[role], mask, f"pair {number}", subject))
        pairs.append((len(images) - 2, len(images) - 1))
    return Cohort(tuple(images), tuple(pairs))


def _image(base: Path, name: str, mask: str | None, group: str, subject: str) -> CohortImage:
    path, mask_path = base / name, base / mask if mask else None
    for file in (path, mask_path):
        if file is not None and not file.exists():
            raise ValueError(f"every file of the table must exist. Received: {file}")
    return CohortImage(path, group, subject, mask_path)
