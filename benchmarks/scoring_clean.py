"""Scans without coronary calcium stay without it: as they are, and changed again and again.

    python benchmarks/scoring_clean.py --data FOLDER --out DIR [--model FOLDER] [--scans A,B]

Every CT series of FOLDER (or those whose path holds one of `--scans`) is scored as it is and
`--changes` times changed: turned, scaled and shifted as another body in the same pose would be, cut
to a cardiac field of view half of the time, sampled at another start offset and slice spacing,
smoothed, made noisier with noise of some correlation, and its attenuation stretched by some
percent. Calcium is neither added nor taken away. The table says how many of them score at most
`--most` points. Give the model of a training that has not seen the scans (`--hold-out`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.results_table import write_results
from benchmarks.scoring_methods import common_options, use_threads
from pipelines.discovery import find_series
from pipelines.model import load_model
from pipelines.reading import read_scan
from pipelines.run import scan_kind
from registration.geometry import ImageGrid

PADDING_HU = -1024.0
"""At and below this nothing was measured: no noise is added there."""

CARDIAC_HALF_MM = np.array([105.0, 105.0, 70.0])
"""Half of a cardiac field of view."""

CARDIAC_SHARE = 0.5
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Change:
    """How a scan is changed; lengths in mm.

    Args:
        rotation_deg: About left, back and up.
        scale: Of the body.
        start_offset: Share of a slice that the first slice lies further up.
        slice_factor: New slice spacing in old ones.
        smoothing_mm: Standard deviation of a Gaussian in the plane.
        noise_hu: Standard deviation of the noise that is added.
        noise_mm: Its correlation in the plane.
        gain: Factor of the attenuation above that of air.
        cardiac_shift_mm: Middle of a cardiac field of view from that of the heart; `None` for all.
        seed: Of the noise.
    """

    rotation_deg: tuple[float, float, float]
    scale: float
    start_offset: float
    slice_factor: float
    smoothing_mm: float
    noise_hu: float
    noise_mm: float
    gain: float
    cardiac_shift_mm: tuple[float, float, float] | None
    seed: int


def main() -> None:
    """Change and score every scan, and print the table."""
    parser = common_options(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scans", default="", help="parts of paths, comma-separated")
    parser.add_argument("--changes", type=int, default=50, help="per scan")
    parser.add_argument("--most", type=float, default=10.0, help="points of a clean scan")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_threads(options.threads)
    model = load_model(options.model)
    rows: list[dict[str, object]] = []
    for name, image in _scans(options.data, options.scans.split(",")):
        middle = model.aligner.align(image).atlas_to_scan.TransformPoint((30.0, -30.0, -44.0))
        for number, changed in enumerate(changes_of(image, middle, options)):
            grid = ImageGrid.from_image(changed)
            transform = model.aligner.align(changed).atlas_to_scan
            score = model.scorer.score(changed, transform, kind=scan_kind(grid)).agatston
            what = str(number) if number else AS_IT_IS
            rows.append(
                {"scan": name, "change": what, "kind": scan_kind(grid), "score": round(score, 2)}
            )
            print(name, what, rows[-1]["kind"], rows[-1]["score"], flush=True)
    if not rows:
        raise SystemExit("no scan was found that can be scored")
    write_results("scoring_clean_scans", rows, options.out)
    print(write_results("scoring_clean", summary(rows, options.most), options.out))


def _scans(data: Path, parts: Sequence[str]) -> Iterator[tuple[str, sitk.Image]]:
    for candidate in find_series([data]):
        path = str(candidate.files[0])
        part = next((part for part in parts if part in path), None)
        if part is not None:
            yield part or candidate.scan_id, read_scan(candidate).image


def changes_of(image: sitk.Image, middle_mm: Sequence[float], options) -> Iterator[sitk.Image]:
    """The scan itself, then every changed one."""
    yield image
    rng = np.random.default_rng(options.seed)
    for _ in range(options.changes):
        yield changed_scan(image, middle_mm, draw(rng))


def draw(rng: np.random.Generator) -> Change:
    """A change of moderate size."""
    cardiac = rng.random() < CARDIAC_SHARE
    shift = tuple(rng.uniform(-10.0, 10.0, 3).tolist())
    return Change(
        rotation_deg=tuple((rng.uniform(-1.0, 1.0, 3) * [5.0, 5.0, 10.0]).tolist()),
        scale=float(rng.uniform(0.92, 1.08)),
        start_offset=float(rng.random()),
        slice_factor=float(rng.uniform(0.8, 1.2)),
        smoothing_mm=float(rng.uniform(0.0, 0.8)),
        noise_hu=float(rng.uniform(0.0, 15.0)),
        noise_mm=float(rng.uniform(0.3, 1.2)),
        gain=float(rng.uniform(0.97, 1.03)),
        cardiac_shift_mm=shift if cardiac else None,
        seed=int(rng.integers(2**31)),
    )


def changed_scan(image: sitk.Image, middle_mm: Sequence[float], change: Change) -> sitk.Image:
    """A scan changed; the heart's middle stays where it is.

    Args:
        image: Attenuation, HU.
        middle_mm: Middle of the heart, LPS mm.
        change: What is done to it.
    """
    grid = ImageGrid.from_image(image)
    transform = sitk.Similarity3DTransform()
    transform.SetCenter([float(v) for v in middle_mm])
    transform.SetScale(1.0 / change.scale)
    turn = sitk.Euler3DTransform([0.0] * 3, *np.radians(change.rotation_deg).tolist())
    transform.SetMatrix((np.array(turn.GetMatrix()) / change.scale).tolist())
    new = _field_of_view(grid, np.array(middle_mm), change)
    moved = sitk.Resample(
        image, new.empty_image(sitk.sitkFloat32), transform, sitk.sitkLinear,
        PADDING_HU, sitk.sitkFloat32,
    )  # fmt: skip
    values = sitk.GetArrayFromImage(moved)
    measured = values > PADDING_HU
    sigma = change.smoothing_mm / new.spacing[0]
    values = gaussian_filter(values, (0.0, sigma, sigma)) if sigma > 0.2 else values
    values = (values + 1000.0) * change.gain - 1000.0 + _noise(new, change)
    values = np.where(measured, np.maximum(values, PADDING_HU), PADDING_HU)
    return new.to_image(np.rint(values).astype(np.int16))


def _field_of_view(grid: ImageGrid, middle_mm: NDArray[np.float64], change: Change) -> ImageGrid:
    """The same planes, or those of a cardiac scan, with other slices."""
    spacing = np.array(grid.spacing) * [1.0, 1.0, change.slice_factor]
    low, high = np.zeros(3), np.array(grid.size) - 1.0
    if change.cardiac_shift_mm is not None:
        # the middle of a cardiac scan lies some 12 mm below that of the heart
        middle = middle_mm + np.array(change.cardiac_shift_mm) - [0.0, 0.0, 12.0]
        reach = grid.indices([middle - CARDIAC_HALF_MM, middle + CARDIAC_HALF_MM])
        low, high = np.maximum(low, reach.min(axis=0)), np.minimum(high, reach.max(axis=0))
    low = np.floor(low)
    low[2] += change.start_offset
    steps = (high - low) * np.array(grid.spacing) / spacing
    size = np.maximum(1, np.floor(steps).astype(int) + 1)
    origin = grid.physical_points([low])[0]
    return ImageGrid(
        tuple(size.tolist()), tuple(spacing.tolist()), tuple(origin.tolist()), grid.direction
    )


def _noise(grid: ImageGrid, change: Change) -> NDArray[np.float32]:
    """Noise of a standard deviation, correlated in the plane."""
    rng = np.random.default_rng(change.seed)
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    sigma = change.noise_mm / grid.spacing[0]
    noise = gaussian_filter(noise, (0.0, sigma, sigma))
    return np.asarray(noise * np.float32(change.noise_hu / max(float(noise.std()), 1e-6)))


def summary(rows: Sequence[Mapping[str, object]], most: float) -> list[dict[str, object]]:
    """How every scan and all of them fared."""
    table = []
    for name in [*dict.fromkeys(str(row["scan"]) for row in rows), "all"]:
        own = [row for row in rows if name in ("all", row["scan"])]
        scores = np.array([float(str(r["score"])) for r in own if r["change"] != AS_IT_IS])
        first = [float(str(r["score"])) for r in own if r["change"] == AS_IT_IS]
        table.append(
            {
                "scan": name,
                AS_IT_IS: first[0] if name != "all" else None,
                "changed": len(scores),
                f"at most {most:g}": float((scores <= most).mean()) if scores.size else None,
                "zero": float((scores == 0).mean()) if scores.size else None,
                "highest": float(scores.max()) if scores.size else None,
            }
        )
    return table


if __name__ == "__main__":
    main()
