"""What varies between phantoms, and how far: two named populations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

Range = tuple[float, float]
"""Lower and upper bound of a value drawn uniformly."""

KINDS = ("cardiac", "chest")
"""Gated calcium-scoring scans with a tight field of view, and whole non-gated chests."""

CATEGORIES = ("0", "1-10", "11-100", "101-400", ">400")
"""Risk categories by Agatston score."""


@dataclass(frozen=True, slots=True)
class AnatomySettings:
    """Ranges of body and heart, as factors of an average adult unless a unit is named.

    Args:
        body_scale: Size of the whole thorax, all axes alike.
        axis_scale: Further factor drawn for every axis on its own.
        fat_mm: Subcutaneous fat.
        heart_scale: Size of the heart within its thorax.
        heart_rotation_deg: Turn of the heart about each axis, either way.
        heart_shift_mm: Displacement of the heart along each axis, either way.
        roll_deg: Turn of the patient on the table, either way.
        warp_mm: Amplitude of the smooth deformation of everything.
        epicardial_fat_mm: Fat between heart muscle and pericardium.
        aorta_radius_mm: Radius of the ascending aorta.
        diaphragm_shift_mm: Height of the diaphragm, upward positive.
        lung_hu: Mean attenuation of lung tissue.
        blood_hu: Attenuation of blood, low in anemia.
        female: Chance of a female chest.
        emphysema: Chance of emphysema.
        effusion: Chance of pleural effusion.
    """

    body_scale: Range = (0.90, 1.10)
    axis_scale: Range = (0.94, 1.06)
    fat_mm: Range = (4.0, 35.0)
    heart_scale: Range = (0.86, 1.14)
    heart_rotation_deg: float = 12.0
    heart_shift_mm: float = 7.0
    roll_deg: float = 4.0
    warp_mm: Range = (0.0, 4.0)
    epicardial_fat_mm: Range = (1.5, 8.0)
    aorta_radius_mm: Range = (14.0, 21.0)
    diaphragm_shift_mm: Range = (-15.0, 20.0)
    lung_hu: Range = (-880.0, -800.0)
    blood_hu: Range = (32.0, 50.0)
    female: float = 0.45
    emphysema: float = 0.2
    effusion: float = 0.1


@dataclass(frozen=True, slots=True)
class CalciumSettings:
    """Coronary plaques, and calcium and metal that must score zero.

    Args:
        zero_fraction: Share of phantoms without coronary calcium.
        category_weights: Relative frequency of the other categories, `1-10` to `>400`.
        faint_fraction: Share of plaques whose peak stays between 130 and 250 HU.
        max_score: Upper end of the intended scores.
        plaque_length_mm: Length of plaques along the vessel.
        density_mg_cm3: Hydroxyapatite in the solid part of a plaque.
        aortic_wall: Chance of calcium in the aortic wall.
        aortic_valve: Chance of calcium on the aortic valve.
        mitral_annulus: Chance of calcium at the mitral annulus.
        nodes: Chance of calcified mediastinal and hilar nodes.
        airway: Chance of calcified tracheal and bronchial cartilage.
        pericardium: Chance of pericardial calcium.
        lead: Chance of a pacemaker lead.
        wires: Chance of sternal wires.
    """

    zero_fraction: float = 1 / 3
    category_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    faint_fraction: float = 0.5
    max_score: float = 2000.0
    plaque_length_mm: Range = (1.0, 18.0)
    density_mg_cm3: Range = (150.0, 1200.0)
    aortic_wall: float = 0.45
    aortic_valve: float = 0.2
    mitral_annulus: float = 0.12
    nodes: float = 0.2
    airway: float = 0.25
    pericardium: float = 0.04
    lead: float = 0.05
    wires: float = 0.06


@dataclass(frozen=True, slots=True)
class AcquisitionSettings:
    """Scanner and reconstruction.

    Args:
        fov_mm: Field of view of cardiac scans.
        slice_spacing_mm: Distances between slice positions to choose from.
        thickness_factors: Slice thickness as a multiple of the spacing, to choose from.
        chest_fov_mm: Field of view of whole chests.
        chest_slice_spacing_mm: The same for whole chests.
        kernels: Names to choose from, see `acquisition.KERNELS`.
        noise_hu: Standard deviation at the center of an average body, 3-mm slices, soft kernel.
        kvp: Tube voltages to choose from.
        padding: Chance of a constant value outside the reconstruction circle.
        motion_mm: Range of coronary motion during a non-gated exposure.
        gated_motion_mm: The same for gated scans.
    """

    fov_mm: Range = (170.0, 250.0)
    slice_spacing_mm: tuple[float, ...] = (2.5, 3.0, 3.0, 3.0)
    thickness_factors: tuple[float, ...] = (1.0, 1.0, 1.0)
    chest_fov_mm: Range = (310.0, 420.0)
    chest_slice_spacing_mm: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 5.0)
    kernels: tuple[str, ...] = ("soft", "standard", "standard", "sharp")
    noise_hu: Range = (9.0, 24.0)
    kvp: tuple[int, ...] = (120,)
    padding: float = 0.3
    motion_mm: Range = (0.0, 6.0)
    gated_motion_mm: Range = (0.0, 1.2)


@dataclass(frozen=True, slots=True)
class PhantomSettings:
    """One population of phantoms.

    Args:
        name: Name of the population.
        anatomy: Ranges of body and heart.
        calcium: Plaques and distractors.
        acquisition: Scanner and reconstruction.
        matrix: Rows and columns of a slice.
        render_spacing_mm: Voxel size the organs are drawn at, before resampling;
            `None` chooses 1.2 mm for cardiac and 1.6 mm for chest scans.
        heart_crop_mm: If given, only a cube of this size about the heart is made
            (for training in memory); the field of view then is this size.
    """

    name: str = "standard"
    anatomy: AnatomySettings = field(default_factory=AnatomySettings)
    calcium: CalciumSettings = field(default_factory=CalciumSettings)
    acquisition: AcquisitionSettings = field(default_factory=AcquisitionSettings)
    matrix: int = 512
    render_spacing_mm: float | None = None
    heart_crop_mm: float | None = None

    def with_zero_fraction(self, zero_fraction: float) -> PhantomSettings:
        """The same population with another share of calcium-free phantoms."""
        return replace(self, calcium=replace(self.calcium, zero_fraction=zero_fraction))


STANDARD = PhantomSettings()
"""Population for the demo, the benchmark and half of the training."""

VARIED = PhantomSettings(
    name="varied",
    anatomy=AnatomySettings(
        body_scale=(0.86, 1.14),
        axis_scale=(0.92, 1.08),
        fat_mm=(2.0, 50.0),
        heart_scale=(0.82, 1.24),
        heart_rotation_deg=16.0,
        heart_shift_mm=10.0,
        roll_deg=7.0,
        warp_mm=(0.0, 6.0),
        epicardial_fat_mm=(0.5, 11.0),
        aorta_radius_mm=(12.5, 24.0),
        diaphragm_shift_mm=(-22.0, 28.0),
        lung_hu=(-910.0, -770.0),
        blood_hu=(28.0, 55.0),
        emphysema=0.3,
        effusion=0.2,
    ),
    calcium=CalciumSettings(
        faint_fraction=0.55,
        max_score=3000.0,
        plaque_length_mm=(0.8, 24.0),
        density_mg_cm3=(120.0, 1400.0),
        aortic_wall=0.7,
        aortic_valve=0.4,
        mitral_annulus=0.3,
        nodes=0.35,
        airway=0.35,
        pericardium=0.1,
        lead=0.08,
        wires=0.1,
    ),
    acquisition=AcquisitionSettings(
        fov_mm=(160.0, 280.0),
        slice_spacing_mm=(2.0, 2.5, 3.0, 3.0),
        thickness_factors=(1.0, 1.0, 1.2),
        chest_fov_mm=(300.0, 450.0),
        chest_slice_spacing_mm=(1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
        noise_hu=(8.0, 30.0),
        padding=0.4,
        motion_mm=(0.0, 8.0),
        gated_motion_mm=(0.0, 2.0),
    ),
)
"""Wider population for the other half of the training: more distractors, noise and motion."""

SHIFTED = PhantomSettings(
    name="shifted",
    anatomy=AnatomySettings(
        body_scale=(0.84, 1.16),
        axis_scale=(0.90, 1.10),
        fat_mm=(2.0, 60.0),
        heart_scale=(0.80, 1.30),
        heart_rotation_deg=18.0,
        heart_shift_mm=11.0,
        roll_deg=8.0,
        warp_mm=(2.0, 7.0),
        epicardial_fat_mm=(0.5, 13.0),
        aorta_radius_mm=(12.0, 25.0),
        diaphragm_shift_mm=(-25.0, 32.0),
        lung_hu=(-920.0, -760.0),
        blood_hu=(26.0, 56.0),
        emphysema=0.4,
        effusion=0.25,
    ),
    calcium=CalciumSettings(
        faint_fraction=0.65,
        category_weights=(1.5, 1.5, 1.0, 0.7),
        max_score=3000.0,
        plaque_length_mm=(0.8, 26.0),
        density_mg_cm3=(120.0, 1500.0),
        aortic_wall=0.65,
        aortic_valve=0.35,
        mitral_annulus=0.25,
        nodes=0.35,
        airway=0.4,
        pericardium=0.08,
        lead=0.1,
        wires=0.12,
    ),
    acquisition=AcquisitionSettings(
        fov_mm=(160.0, 300.0),
        slice_spacing_mm=(2.0, 2.5, 3.0),
        thickness_factors=(1.0, 1.0, 1.25),
        chest_fov_mm=(300.0, 450.0),
        chest_slice_spacing_mm=(1.25, 2.0, 3.0, 4.0, 5.0),
        noise_hu=(12.0, 32.0),
        padding=0.5,
        motion_mm=(1.0, 9.0),
        gated_motion_mm=(0.0, 2.5),
    ),
)
"""Population for generalization tests: other anatomy, more faint plaque, more noise and motion."""
