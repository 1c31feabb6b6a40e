"""Files and archive members behind one kind of path."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.storage import (
    UnreadableFile,
    combined_digest,
    digest,
    file_size,
    list_files,
    read_bytes,
    read_head,
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("x/1", b"one" * 1000)
        opened.writestr("2", b"two")
    return path


def test_members_are_paths_through_the_archive(archive: Path) -> None:
    assert list(list_files(archive)) == [archive / "2", archive / "x" / "1"]
    assert read_bytes(archive / "2") == b"two"
    assert read_head(archive / "x" / "1", 4) == b"oneo"


@pytest.mark.parametrize("name", ["./x/1", "x\\1", "x//1"])
def test_untidy_member_names_are_tidied(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        info = zipfile.ZipInfo("_")
        info.filename = name
        opened.writestr(info, b"one")
    assert list(list_files(path)) == [path / "x" / "1"]
    assert read_bytes(path / "x" / "1") == b"one"


def test_a_changed_archive_is_opened_anew(archive: Path) -> None:
    assert read_bytes(archive / "2") == b"two"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("2", b"other")
    assert read_bytes(archive / "2") == b"other"


def test_digest_is_that_of_the_content(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"two")
    expected = hashlib.sha256(b"two").hexdigest()
    assert digest(tmp_path / "plain") == digest(archive / "2") == expected


def test_digest_follows_a_change(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(b"one")
    before = digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert digest(path) != before


def test_digest_of_a_set_has_no_order() -> None:
    assert combined_digest(["b", "a"]) == hashlib.sha256(b"a\nb").hexdigest()


@pytest.mark.parametrize("member", ["2", "x/1"])
def test_what_is_too_large_is_not_read(archive: Path, member: str) -> None:
    with pytest.raises(UnreadableFile, match="larger than 2 bytes"):
        read_bytes(archive / member, limit=2)
    with pytest.raises(UnreadableFile, match="larger than 2 bytes"):
        read_bytes(archive, limit=2)


def test_a_head_is_unpacked_no_farther_than_asked(tmp_path: Path) -> None:
    """The damage at the end of the member does not matter to its head."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("x", np.random.default_rng(0).bytes(500_000))
    content = bytearray(path.read_bytes())
    content[400_000:400_100] = bytes(100)
    path.write_bytes(content)
    assert read_head(path / "x", 100) == np.random.default_rng(0).bytes(500_000)[:100]
    with pytest.raises(UnreadableFile, match="cannot be unpacked"):
        read_bytes(path / "x")


def test_a_member_that_lies_about_its_size_is_not_unpacked_further(archive: Path) -> None:
    """A bomb: the directory announces 3000 bytes, and more come out."""
    content = bytearray(archive.read_bytes())
    size = (3000).to_bytes(4, "little")
    assert content.count(size) == 2
    archive.write_bytes(content.replace(size, (7).to_bytes(4, "little")))
    with pytest.raises(UnreadableFile, match="cannot be unpacked"):
        read_bytes(archive / "x" / "1")


@pytest.mark.parametrize("name", ["nowhere", "a.zip/nowhere", "a.zip/2/deeper"])
def test_missing_files_are_unreadable(archive: Path, name: str) -> None:
    with pytest.raises(UnreadableFile, match=r"[Nn]o such file|Not a directory|cannot be unpacked"):
        read_bytes(archive.parent / name)


def test_an_encrypted_member_is_unreadable(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(magic)
        content[start + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(UnreadableFile, match="cannot be unpacked"):
        read_bytes(archive / "x" / "1")


def test_what_cannot_be_read_has_a_digest_whatever_its_name(tmp_path: Path) -> None:
    missing = tmp_path / os.fsdecode(b"caf\xe9.raw")
    assert len(digest(missing)) == 64
    assert digest(missing) != digest(tmp_path / "cafe.raw")


def test_a_member_may_have_a_longer_path_than_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    name = "/".join(["folder of two hundred letters".ljust(200, "x")] * 30)
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(name, b"one")
    (member,) = list_files(path)
    assert (read_bytes(member), file_size(member)) == (b"one", 3)
