"""Writing what a benchmark measured: one CSV and one Markdown table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_results(
    name: str,
    rows: Sequence[Mapping[str, object]],
    out: Path,
    *,
    table: Sequence[Mapping[str, object]] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Write `NAME.csv` and `NAME.md` and return the Markdown.

    Args:
        name: Name of the benchmark.
        rows: One mapping per line; the first names the columns.
        out: Folder, made if needed.
        table: Lines of the Markdown table, where it shows other ones than the CSV.
        notes: Sentences below the table.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / f"{name}.csv", rows)
    text = markdown_table(table or rows) + "".join(f"\n{note}\n" for note in notes)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows, at least one, as CSV; the first one names the columns."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table; floats with three significant digits, a dash for nothing."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(row[c]) for c in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
