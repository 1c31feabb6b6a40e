"""Places along annotated arteries, named by those of other people: how often it is the right one.

    python benchmarks/vessel_territories.py --data SCANS --out DIR [--annotations FOLDER]

Every annotated scan is aligned, and its arteries are compared with those of all the others.
Every artery counts alike, whatever its length.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.results_table import write_results
from calcium.simulation.plaques import interpolate_path
from calcium.territories import TERRITORY_OF_VESSEL, VesselAtlas
from pipelines.model import DEFAULT_MODEL
from pipelines.scoring_scans import find_backgrounds, load_aligner, vessel_atlas

ANNOTATIONS = Path(__file__).resolve().parent.parent / "calcium" / "models" / "training"

PLACES = 60
"""Places along each artery, evenly spaced."""


def main() -> None:
    """Leave one person out after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, default=ANNOTATIONS / "annotations")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    options = parser.parse_args()
    aligner, heart = load_aligner(options.model)
    sources = list(find_backgrounds([options.data], options.annotations, aligner))
    if len(sources) < 2:
        raise SystemExit("at least two annotated scans are needed")
    people = vessel_atlas(sources, heart).people
    rows = []
    for number, source in enumerate(sources):
        others = VesselAtlas(tuple(p for k, p in enumerate(people) if k != number))
        row: dict[str, object] = {"scan": source.name}
        for vessel, course in people[number].items():
            places = interpolate_path(course, np.linspace(0.0, 1.0, PLACES))
            names = others.territories(places)
            row[vessel] = names.count(TERRITORY_OF_VESSEL[vessel]) / PLACES
        rows.append(row)
    columns = ["scan", *TERRITORY_OF_VESSEL]
    rows = [{c: row.get(c) for c in columns} for row in rows]
    rows.append({"scan": "mean", **{v: mean_of(rows, v) for v in TERRITORY_OF_VESSEL}})
    known = [
        float(str(row[v])) for row in rows[:-1] for v in TERRITORY_OF_VESSEL if row[v] is not None
    ]
    print(write_results("vessel_territories", rows, options.out))
    print(f"Mean over arteries and scans: {np.mean(known):.3f}")


def mean_of(rows: list[dict[str, object]], vessel: str) -> float | None:
    """Mean over the scans in which the vessel was annotated."""
    values = [float(str(row[vessel])) for row in rows if row[vessel] is not None]
    return float(np.mean(values)) if values else None


if __name__ == "__main__":
    main()
