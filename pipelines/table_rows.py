"""Rows of a CSV table that somebody filled in, each with its line; nothing is cut in silence."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path


class UnusableTable(ValueError):  # noqa: N818 (the name says what is wrong, not that it is an error)
    """A table of scores that cannot be read or joined, with the place."""


def read_rows(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """Rows of a table by the line of the file on which each ends, counted from 1.

    Empty cells beyond the header, as spreadsheets write them, are passed over. Cells that say
    something there are refused: a decimal comma would make another score of `12,5` in silence.

    Args:
        path: CSV in UTF-8, cells separated by commas, with a header.
        columns: Columns that must be there.

    Returns:
        Column to cell of every row; cells that a row lacks are empty. No blank lines.

    Raises:
        UnusableTable: If the file is no such table, has no rows, lacks a column, or a row has
            more cells than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            lines = ((reader.line_num, cells) for cells in reader if cells)
            _, header = next(lines, (0, []))
            _refuse_semicolons(path, header, columns)
            rows = dict(_rows(path, header, lines))
    except (UnicodeDecodeError, csv.Error):
        raise UnusableTable(f"{path.name} is not a table in UTF-8 CSV") from None
    if not rows:
        raise UnusableTable(f"{path.name} has no rows")
    missing = [column for column in columns if column not in header]
    if missing:
        raise UnusableTable(
            f"{path.name} must have the columns {', '.join(columns)}; missing: {', '.join(missing)}"
        )
    return rows


def _refuse_semicolons(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    """Spreadsheets separate cells by semicolons where the comma is the decimal sign."""
    if not set(columns) & set(header) and any(";" in name for name in header):
        raise UnusableTable(
            f"{path.name} must be separated by commas, with decimal points; it is separated by "
            "semicolons"
        )


def _rows(
    path: Path, header: Sequence[str], lines: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, str]]]:
    width = max((k + 1 for k, name in enumerate(header) if name), default=0)
    for line, cells in lines:
        if any(cell.strip() for cell in cells[width:]):
            raise UnusableTable(
                f"line {line} of {path.name} has more cells than the header; write decimal "
                "points and no thousands separators"
            )
        cells += [""] * (width - len(cells))
        yield line, {name: cell for name, cell in zip(header, cells, strict=False) if name}
