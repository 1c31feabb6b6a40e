"""DIRNet on cine MR: the variants of the table, and what they are trained on.

Pairs are two time points of one slice. Part 1 of the Sunnybrook pictures gives two phases per
slice; DICOM folders of the same study give all phases that are there. Patients of the test
folder are never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk
from cine_frames import PHASES, CineFrame, find_frames, patient_key
from trained_registrars import Recipe, grouped_cohort, pairs_in_groups, write_image

from registration.augmentation import Augmentation
from registration.cohort import Cohort, CohortImage
from registration.networks.deformable_network import DeformableConfig
from registration.networks.registration_network import RegistrationConfig
from registration.objective import Objective
from registration.refinement import RefinementOptions
from registration.training import TrainingOptions

VALIDATION = ("SC-HF-I-40", "SC-HF-NI-36", "SC-HYP-40", "SC-N-40")
"""Patients of part 1 that choose the best step: the last of every group."""

BASELINE = DeformableConfig(
    downsamplings=(4, 4), kernels=(8, 12, 16, 32), convolutions=2, forces=True
)
"""Few kernels where the image is large: most of the work is there, and little of what is learnt."""

PICTURE_SHAPE = (256, 256)
"""Pixels of Sunnybrook's pictures; a thin plate spline must know them."""

VARIANTS = {
    "dirnet": RegistrationConfig((BASELINE,)),
    "dirnet-max": RegistrationConfig((replace(BASELINE, downsampling="max"),)),
    "dirnet-strided": RegistrationConfig((replace(BASELINE, downsampling="strided"),)),
    "dirnet-bspline2": RegistrationConfig((replace(BASELINE, transformer="bspline2"),)),
    "dirnet-tps": RegistrationConfig(
        (replace(BASELINE, transformer="thin_plate_spline"),), image_shape=PICTURE_SHAPE
    ),
    "dirnet-overlapping": RegistrationConfig((replace(BASELINE, receptive_field="overlapping"),)),
    "dirnet-full": RegistrationConfig((replace(BASELINE, receptive_field="full"),)),
    "dirnet-small": RegistrationConfig((replace(BASELINE, kernels=16, convolutions=0),)),
}
"""Layouts by the name of the method. The last one has 16 kernels everywhere, and nothing but 1x1
convolutions at the control points."""

LEAST_PHASES_APART = 5
"""Of 20: frames of the DICOM patients nearer in the cycle hardly differ."""

AUGMENTATION = Augmentation(
    rotation_deg=180.0,
    scale=0.2,
    translation=0.08,
    flip_axes=(1,),
    elastic_vox=6.0,
    gamma=0.2,
    noise=0.01,
)
"""Strong, as there are only some hundred slices; both frames of a pair move alike."""

OBJECTIVE = Objective("ncc", bending_weight=0.0, folding_weight=1.0)

TRAINING = TrainingOptions(
    steps=4000,
    batch_size=4,
    learning_rate=2e-3,
    objective=OBJECTIVE,
    symmetric=False,
    augmentation=AUGMENTATION,
    evaluate_every=500,
    validation_pairs=64,
    seed=1,
)

REFINEMENT = RefinementOptions(steps=40, learning_rate=0.5, objective=OBJECTIVE)
"""Gradient steps of `+refine` on the control points of one pair."""


def recipe(name: str, pictures: Path | None, phases: Path | None, test: Path, work: Path) -> Recipe:
    """Layout and training of a variant.

    Args:
        name: One of `VARIANTS`.
        pictures: Folder with `images/` and `labels/` to train on.
        phases: Folder of patients with `frames/*.dcm` to train on as well.
        test: Folder whose patients must not be trained on.
        work: Where gray pictures are put for the training.
    """
    return Recipe(
        f"cine2d-{name}",
        VARIANTS[name],
        TRAINING,
        lambda: cohorts(pictures, phases, test, work),
    )


def cohorts(
    pictures: Path | None, phases: Path | None, test: Path, work: Path
) -> tuple[Cohort, Cohort]:
    """Training and validation images, without any patient of the test folder.

    Raises:
        ValueError: If there is nothing to train on.
    """
    if pictures is None:
        raise ValueError("--train needs --training FOLDER with images/ and labels/")
    left_out = {patient_key(frame.patient) for frame in find_frames(test)}
    judges = {patient_key(name) for name in VALIDATION}
    shown = [
        _picture(frame, work)
        for frame in find_frames(pictures)
        if patient_key(frame.patient) not in left_out
    ]
    training = [image for image in shown if patient_key(image.subject) not in judges]
    validation = [image for image in shown if patient_key(image.subject) in judges]
    beating: list[tuple[CohortImage, int]] = []
    for folder in sorted(phases.iterdir()) if phases is not None else ():
        if patient_key(folder.name) not in left_out | judges:
            beating += [_phase(path, work) for path in sorted((folder / "frames").glob("*.dcm"))]
    return balanced_cohort(training, beating), grouped_cohort(validation)


def balanced_cohort(
    pictures: Sequence[CohortImage], beating: Sequence[tuple[CohortImage, int]]
) -> Cohort:
    """Pairs of pictures, repeated until they are drawn about as often as those of all phases.

    Args:
        pictures: Two of a slice make pairs.
        beating: Frames with their phases; those far enough apart in the cycle make pairs.
    """
    shown = pairs_in_groups(pictures)
    first = len(pictures)
    pairs = [
        (first + a, first + b)
        for a, (one, phase) in enumerate(beating)
        for b, (other, later) in enumerate(beating)
        if one.group == other.group and phases_apart(phase, later) >= LEAST_PHASES_APART
    ]
    repeats = max(1, round(len(pairs) / len(shown))) if shown else 1
    images = (*pictures, *(image for image, _ in beating))
    return Cohort(images, shown * repeats + tuple(pairs))


def phases_apart(first: int, second: int) -> int:
    """Phases between two of a cycle, the shorter way round.

    Example:
        >>> phases_apart(1, 18)
        3
    """
    way = abs(first - second) % PHASES
    return min(way, PHASES - way)


def _picture(frame: CineFrame, work: Path) -> CohortImage:
    path = work / f"{frame.patient}-{frame.number:04d}.png"
    write_image(sitk.Cast(frame.image(), sitk.sitkUInt8), path)
    return CohortImage(path, f"{frame.patient} {frame.slice_number}", frame.patient)


def _phase(path: Path, work: Path) -> tuple[CohortImage, int]:
    """A DICOM frame as a picture of spacing 1, and its phase."""
    patient, number = path.parent.parent.name, int(path.stem.rsplit("-", 1)[-1])
    written = work / f"{patient}-{number:04d}.mha"
    if not written.is_file():
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32))[0]
        write_image(sitk.GetImageFromArray(pixels), written)
    group = f"{patient} all phases {(number - 1) // PHASES}"
    return CohortImage(written, group, patient), (number - 1) % PHASES
