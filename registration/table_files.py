"""Tables in text files, as spreadsheets of any language write them."""

from __future__ import annotations

import csv
from pathlib import Path

SEPARATORS = ",;\t"
"""What may stand between the cells of a table; spreadsheets take the one of their language."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table with a line of names, by column.

    Cells are separated by what separates the names: commas, semicolons or tabs. Spaces around
    them do not count, nor does the case of the names.

    Args:
        path: Text in UTF-8.

    Returns:
        One dictionary per line that is not blank, names in lower case; cells that a row lacks are
        empty.

    Raises:
        ValueError: If it is not text in UTF-8, or a row has more cells than there are names.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is no text in UTF-8: save tables as CSV UTF-8, or give a folder of images"
        ) from error
    head = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(SEPARATORS, key=head.count))
    filled = ((reader.line_num, cells) for cells in reader if cells)
    _, names = next(filled, (0, []))
    names = [name.strip().lower() for name in names]
    rows = []
    for number, row in filled:
        cells = [cell.strip() for cell in row]
        if any(cells[len(names) :]):
            raise ValueError(
                f"{path.name} has {len(cells)} cells under {len(names)} names; texts with a "
                f"separator need quotes. Received: row {number}"
            )
        cells += [""] * (len(names) - len(cells))
        rows.append(dict(zip(names, cells, strict=False)))
    return rows
