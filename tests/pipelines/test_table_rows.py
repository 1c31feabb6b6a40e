"""Tables as spreadsheets write them: what is told apart, and what is refused rather than cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.table_rows import UnusableTable, read_rows


def table(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_have_the_line_on_which_they_end(tmp_path: Path) -> None:
    path = table(tmp_path, '\ufeffscan,agatston\n\na,1\n\n"b\nc",2\nd\n')
    assert read_rows(path, ["scan", "agatston"]) == {
        3: {"scan": "a", "agatston": "1"},
        6: {"scan": "b\nc", "agatston": "2"},
        7: {"scan": "d", "agatston": ""},
    }


@pytest.mark.parametrize(
    "text",
    ["scan,agatston\ns1,1,250\n", "scan,agatston\ns1,12,5,,\n", "scan,agatston,,\ns1,12,5,\n"],
)
def test_cells_beyond_the_header_are_refused_with_the_line(text: str, tmp_path: Path) -> None:
    message = (
        "line 2 of t.csv has more cells than the header; write decimal points and no thousands "
        "separators"
    )
    with pytest.raises(UnusableTable, match=message):
        read_rows(table(tmp_path, text), ["agatston"])


def test_empty_cells_beyond_the_header_and_columns_without_a_name_are_passed_over(
    tmp_path: Path,
) -> None:
    path = table(tmp_path, ",scan,agatston,\n0,a,1.5,\n1,b,2,, ,\n")
    rows = list(read_rows(path, ["agatston"]).values())
    assert rows == [{"scan": "a", "agatston": "1.5"}, {"scan": "b", "agatston": "2"}]


def test_tables_separated_by_semicolons_are_told_so(tmp_path: Path) -> None:
    path = table(tmp_path, "scan;agatston\ns1;12,5\n")
    with pytest.raises(UnusableTable, match=r"t\.csv must be separated by commas, with decimal"):
        read_rows(path, ["scan", "agatston"])


def test_missing_columns_and_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableTable, match=r"columns scan, agatston; missing: agatston"):
        read_rows(table(tmp_path, "scan,score\na,1\n"), ["scan", "agatston"])
    for text in ("", "scan,agatston\n\n"):
        with pytest.raises(UnusableTable, match=r"t\.csv has no rows"):
            read_rows(table(tmp_path, text), ["scan", "agatston"])
