"""The model card, from a model's settings and what the benchmarks measured of it.

    python benchmarks/model_card.py --results FOLDER... --out docs/model_card.md [--model FOLDER]

`--results` are folders that benchmarks wrote into. No figure of the card is typed by hand; a
benchmark that was not run is named as missing. A text beside a table, of its name with the ending
`.txt`, is told above it: with which version it was measured, if that was another one.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results_table import markdown_table
from pipelines.model import DEFAULT_MODEL, read_description, read_identity

PICTURES = "scoring_pictures.csv"
"""Table of the pictures of left-out patients."""

PICTURES_FOLDER = "model_card"
"""Where the card keeps its pictures, beside it."""

WORST = 5
"""Cases told of every benchmark, those with the largest error."""


@dataclass(frozen=True)
class Evidence:
    """One benchmark's part of the card.

    Args:
        title: Heading.
        table: CSV with the agreement.
        cases: CSV with `truth` and `score` of every scan, or none.
        note: What the figures are worth.
    """

    title: str
    table: str
    cases: str | None
    note: str


EVIDENCE = (
    Evidence(
        "Patients left out of the scoring network's training",
        "scoring_left_out.csv",
        "scoring_left_out_scans.csv",
        "Real chest CT of the patients named, each scored by a network trained without them, with "
        "simulated calcium put along their annotated arteries and their own calcium as annotated "
        "by eye. These networks are not the one that ships, which has seen all seven; atlas and "
        "alignment have seen them, too.",
    ),
    Evidence(
        "The left-out patients' own scans",
        "scoring_left_out_unchanged.csv",
        None,
        "The same networks on the patients' scans as they are; the truth is what was annotated by "
        "eye as coronary, `found` the part of the score that lies in it.",
    ),
    Evidence(
        "Fresh phantoms",
        "scoring_phantoms_agreement.csv",
        "scoring_phantoms.csv",
        "Digital phantoms of seeds that neither the training nor the choice of these weights has "
        "used, from the program that drew a part of "
        "the training scans: they say that the method works, not how it does on patients.",
    ),
    Evidence(
        "The same patients scanned again",
        "scoring_robustness.csv",
        None,
        "Phantoms scanned twice, one thing changed; `truth` is what the same change does to the "
        "score of a perfect reader.",
    ),
    Evidence(
        "Arteries named by their place",
        "vessel_territories.csv",
        None,
        "Share of places along each annotated artery that the courses of the other people name "
        "right.",
    ),
)


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    options = parser.parse_args()
    text = card(options.model, options.results, options.out.parent)
    options.out.write_text(text, encoding="utf-8")


def card(model: Path, results: Sequence[Path], out: Path) -> str:
    """The card as Markdown.

    Args:
        model: Model folder.
        results: Folders with CSV files of benchmarks; the first that holds a file is used.
        out: Folder of the card, which receives the pictures.
    """
    description = read_description(model)
    identity = read_identity(model)
    parts = [
        f"# Model card: {identity.label}",
        "Research use, not a medical device. Made by `benchmarks/model_card.py` from `model.json` "
        f"(SHA-256 `{identity.model_hash[:16]}…`) and the tables of the benchmarks.",
        "## Use",
        str(description.get("intended_use", "Not stated.")),
        "## Made of",
        markdown_table(description.get("data") or [{"name": "not stated"}]).rstrip(),
        _training(description),
        "## Measured",
        *(_section(evidence, results) for evidence in EVIDENCE),
        _pictures(results, out),
    ]
    return "\n\n".join(parts) + "\n"


def _training(description: Mapping[str, Any]) -> str:
    lines = []
    for name, record in description.get("training", {}).items():
        if isinstance(record, Mapping) and "command" in record:
            lines.append(f"- {name}: `{record['command']}`")
    return "\n".join(["Commands that made it:", "", *lines]) if lines else "Commands: not stated."


def _section(evidence: Evidence, results: Sequence[Path]) -> str:
    table = _read(evidence.table, results)
    if table is None:
        return f"### {evidence.title}\n\nNot measured: there is no `{evidence.table}`."
    remark = _find(f"{Path(evidence.table).stem}.txt", results)
    note = evidence.note if remark is None else f"{evidence.note} {remark.read_text().strip()}"
    text = f"### {evidence.title}\n\n{note}\n\n{markdown_table(_rounded(table)).rstrip()}"
    cases = _read(evidence.cases, results) if evidence.cases else None
    if cases:
        text += f"\n\nThe {WORST} with the largest error of the logarithmic score:\n\n"
        text += markdown_table(_rounded(worst(cases))).rstrip()
    return text


def _pictures(results: Sequence[Path], out: Path) -> str:
    """What left-out networks counted in patients' own scans, and where they failed."""
    title = "### Pictures of left-out patients"
    found = _find(PICTURES, results)
    if found is None:
        return f"{title}\n\nNot drawn: there is no `{PICTURES}`."
    folder = out / PICTURES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        f"{title}\n\nFirst the patients' own calcium, then the simulated scans that the same "
        "networks scored worst: slices as they are, and below with the outlines of what was "
        "counted and what was not."
    ]
    for row in _rows(found):
        shutil.copyfile(found.parent / row["picture"], folder / row["picture"])
        told = f"{row['scan']}: true score {row['truth']}, scored {row['score']}"
        parts.append(f"{told}\n\n![{told}]({PICTURES_FOLDER}/{row['picture']})")
    return "\n\n".join(parts)


def worst(cases: Sequence[Mapping[str, str]], *, count: int = WORST) -> list[dict[str, str]]:
    """Cases with the largest difference of `log1p` scores, largest first."""
    from math import log1p

    def error(row: Mapping[str, str]) -> float:
        return abs(log1p(float(row["score"])) - log1p(float(row["truth"])))

    ordered = sorted(cases, key=error, reverse=True)[:count]
    named = "case" if "case" in cases[0] else "scan"
    return [{"scan": r[named], "truth": r["truth"], "score": r["score"]} for r in ordered]


def _read(name: str | None, results: Sequence[Path]) -> list[dict[str, str]] | None:
    path = _find(name, results)
    return None if path is None else _rows(path)


def _find(name: str | None, results: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in results if name and (folder / name).is_file()), None)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _rounded(rows: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
    """Numbers as numbers, so that the table rounds them."""
    return [{key: _number(value) for key, value in row.items()} for row in rows]


def _number(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


if __name__ == "__main__":
    main()
