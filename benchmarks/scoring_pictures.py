"""Pictures of what networks counted and missed in patients that they had not seen.

    python benchmarks/scoring_pictures.py --fold WORK MODEL [--fold WORK MODEL ...] --out DIR

WORK is the `--work` folder of a training with `--hold-out`, MODEL its `--out`. Drawn are the scans
of the left-out patients as they are, if they have calcium of their own, and the `--worst` simulated
ones with the largest error of the logarithmic score. `scoring_pictures.csv` names them.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray

from benchmarks.model_card import worst
from benchmarks.results_table import write_results
from benchmarks.scoring_left_out import HELD_OUT, read
from calcium.lattice_scan import LatticeScan, load_lattice_scan
from calcium.networks.slice_inputs import SOFT_TISSUE_CENTER_HU, SOFT_TISSUE_HALF_WIDTH_HU
from pipelines.scoring_scan_keys import KEY_LENGTH
from pipelines.scoring_scans import UNCHANGED

SLICES = 3
"""Slices drawn of every scan, those with most calcium that is true or counted."""

HALF_WIDTH = 96
"""Lattice points shown to every side of the middle of the heart: 67 mm."""

WEBP_QUALITY = 88

COLORS = {
    "counted, coronary": "#2ca02c",
    "counted, not coronary": "#d62728",
    "coronary, missed": "#ffd000",
    "left alone": "#4aa3ff",
}


def main() -> None:
    """Draw the scans and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fold", nargs=2, type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worst", type=int, default=5)
    options = parser.parse_args()
    rows = [
        {**row, "fold": fold}
        for fold in options.fold
        for path in fold[0].glob(HELD_OUT)
        for row in read(path)
    ]
    if not rows:
        raise SystemExit("no WORK holds a held_out.csv: train with --hold-out first")
    options.out.mkdir(parents=True, exist_ok=True)
    table = []
    for row in chosen(rows, options.worst):
        path = options.out / f"{row['scan']}.webp"
        path.write_bytes(_picture(row["fold"], str(row["scan"])))
        shown = {key: value for key, value in row.items() if key != "fold"}
        table.append({**shown, "picture": path.name})
    print(write_results("scoring_pictures", table, options.out))


def chosen(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Patients with calcium of their own as they are, then the worst simulated scans."""
    own = [row for row in rows if str(row["scan"]).endswith(UNCHANGED)]
    simulated = {str(row["scan"]): row for row in rows if row not in own}
    told = [{key: str(row[key]) for key in ("scan", "truth", "score")} for row in rows]
    failed = [row for row in worst(told, count=len(told)) if row["scan"] in simulated][:count]
    return [row for row in own if row["truth"]] + [simulated[row["scan"]] for row in failed]


def _picture(fold: Sequence[Path], name: str) -> bytes:
    """WebP of one scan of a fold."""
    work, model = fold
    scan = load_lattice_scan(_cached_scan(work, name))
    return draw(scan, counted(scan, model))


def _cached_scan(work: Path, name: str) -> Path:
    """File of a scan, the latest if it was made anew.

    The generator names its scans by seeds; the cache counts them and adds a digest.
    """
    counted = name
    if not name.endswith(UNCHANGED):
        group, seed, _, number = name.rsplit("-", 3)
        counted = f"{group}-{seed}-{int(number):04d}"
    digest = "[0-9a-f]" * KEY_LENGTH
    found = list((work / "scans").glob(f"{counted}-{digest}.npz"))
    if not found:
        raise SystemExit(f"there is no scan {counted} in {work.name}/scans: train there first")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def counted(scan: LatticeScan, model: Path) -> NDArray[np.float64]:
    """What every lattice point adds to the score under the network of a model folder."""
    from calcium.counting_rule import CountingRule
    from calcium.feedback import decide
    from calcium.networks.predictor import Predictor
    from calcium.validation import flat_points, lattice_attention
    from pipelines.model import SCORING_WEIGHTS_NAME, read_description

    settings = read_description(model)["scoring"]
    predictor = Predictor.from_settings(settings, model / SCORING_WEIGHTS_NAME)
    attention = lattice_attention(lambda inputs: predictor.predict(inputs, batch_size=8), scan)
    rule = CountingRule.from_dict(settings["counting"])
    flat, shape = flat_points(scan)
    decision = settings["decision"]
    return decide(attention, scan.density, flat, shape, decision, rule, spacing_mm=scan.spacing_mm)


def kinds(scan: LatticeScan, value: NDArray[np.floating]) -> NDArray[np.intp]:
    """Place in `COLORS` of every lattice point."""
    coronary = scan.coronary > 0.5 * scan.density
    return np.where(value > 0, np.where(coronary, 0, 1), np.where(coronary, 2, 3))


def shown_slices(scan: LatticeScan, kind: NDArray[np.intp]) -> list[int]:
    """Slices with most density that is true or counted, from the feet up."""
    matters = np.where(kind < 3, scan.density, 0.0)
    sums = np.bincount(scan.points[:, 0], matters, minlength=len(scan.hu))
    largest = np.argsort(-sums, kind="stable")[:SLICES]
    return sorted(largest[sums[largest] > 0].tolist()) or [len(scan.hu) // 2]


def draw(scan: LatticeScan, value: NDArray[np.floating]) -> bytes:
    """WebP: slices as they are, and below with the outlines of what counts and what does not."""
    from registration.figures import panels, png

    kind = kinds(scan, value)
    slices = shown_slices(scan, kind)
    figure, axes = panels(2, len(slices))
    middle = scan.hu.shape[1] // 2
    box = slice(middle - HALF_WIDTH, middle + HALF_WIDTH)
    window = (SOFT_TISSUE_CENTER_HU - SOFT_TISSUE_HALF_WIDTH_HU,)
    window += (SOFT_TISSUE_CENTER_HU + 2 * SOFT_TISSUE_HALF_WIDTH_HU,)
    for column, number in enumerate(slices):
        here = scan.points[:, 0] == number
        rows, cols = scan.points[here, 1:].T
        for row in range(2):
            axes[row][column].imshow(
                scan.hu[number][box, box], cmap="gray", vmin=window[0], vmax=window[1]
            )
        for place, (name, color) in enumerate(COLORS.items()):
            image = np.zeros(scan.hu.shape[1:], np.float32)
            chosen_here = kind[here] == place
            image[rows[chosen_here], cols[chosen_here]] = 1.0
            if image[box, box].any():
                axes[1][column].contour(image[box, box], [0.5], colors=color, linewidths=0.8)
            if column == 0:
                axes[1][0].plot([], [], color=color, label=name)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return _smaller(png(figure))


def _smaller(picture: bytes) -> bytes:
    """A PNG as WebP, a fifth as large."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
