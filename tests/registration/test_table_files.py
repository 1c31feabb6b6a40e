import pytest

from registration.table_files import read_rows


def table(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "id,path,mask\na,b.nii,\nc,d e.nii,m\n",
        "ID, Path ,mask\n a , b.nii, \nc,d e.nii,m \n",
        "id;path;mask\r\na;b.nii\r\n\r\nc;d e.nii;m\r\n",
        "\ufeffid\tpath\tmask\na\tb.nii\t\n\nc\td e.nii\tm",
        'id, path ,mask\na,b.nii,,\n"c",d e.nii,m',
    ],
)
def test_cells_are_separated_by_what_separates_the_names(tmp_path, text):
    assert read_rows(table(tmp_path, text)) == [
        {"id": "a", "path": "b.nii", "mask": ""},
        {"id": "c", "path": "d e.nii", "mask": "m"},
    ]


def test_other_separators_are_text(tmp_path):
    assert read_rows(table(tmp_path, 'path;id\n"a;b";c,d\n')) == [{"path": "a;b", "id": "c,d"}]
    assert read_rows(table(tmp_path, "path\na b\n")) == [{"path": "a b"}]


def test_empty_tables_have_no_rows(tmp_path):
    assert read_rows(table(tmp_path, "")) == []
    assert read_rows(table(tmp_path, "id,path\n\n")) == []


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("id,path\na,b,c\n", "utf-8", "3 cells under 2 names.*row 2"),
        ("id,path\nä,b\n", "latin-1", "CSV UTF-8"),
    ],
)
def test_unusable_tables_say_what_is_wrong(tmp_path, text, encoding, message):
    with pytest.raises(ValueError, match=message):
        read_rows(table(tmp_path, text, encoding))
