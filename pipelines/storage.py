"""Files as the user gave them: folder trees, single files, and members of zip archives.

A member of an archive is named by a path *through* the archive,
`study.zip/series 1/IM0001`. It is read in memory and never unpacked, so an archive
cannot write anywhere, nothing has to be cleaned up, and worker processes on other
machines can read what the first one found.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

MAX_FILE_BYTES = 4 * 2**30
"""Larger files are refused [bytes]: 2³¹ voxels of 2 bytes, far beyond any CT series (own)."""

_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What opening a path through an archive ends with."""

_LOGGER = logging.getLogger(__name__)
_CHUNK_BYTES = 2**20
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    KeyError,
    ValueError,
    RuntimeError,
    EOFError,
    OverflowError,
)
"""What `zipfile` raises on archives that are damaged, encrypted or of an unknown kind."""


class UnreadableFile(OSError):  # noqa: N818 (says what is wrong with the file)
    """A file that exists and cannot be read; the message does not repeat its name."""


def list_files(
    root: Path,
    exclude: Sequence[Path] = (),
    *,
    is_excluded: Callable[[Path], bool] = lambda folder: False,
) -> Iterator[Path]:
    """Regular files under `root` in a stable order, archives replaced by their members.

    Links to folders are followed, each real folder visited once, so that loops end. Pipes,
    sockets and devices are passed over. Folders that cannot be listed are named in the log.

    Args:
        root: A folder, an archive or a file.
        exclude: Folders that are not entered (the output folder of a run, say).
        is_excluded: Tells of every folder below `root` whether it is not entered either.
    """

    def is_entered(folder: Path) -> bool:
        return folder == root or not is_excluded(folder)

    for path in _walk(root, {os.path.realpath(folder) for folder in exclude}, is_entered):
        if _is_sound_archive(path):
            yield from _list_members(path)
        else:
            yield path


def is_zip(head: bytes) -> bool:
    """Whether a file is a zip archive, by its first bytes."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """A file or archive member for reading; of a member, only what is read is unpacked.

    Raises:
        UnreadableFile: If it cannot be opened, read or unpacked.
    """
    try:
        with _open_either(path) as stream:
            yield stream
    except UnreadableFile:
        raise
    except OSError as error:
        raise UnreadableFile(error.strerror or "cannot be opened") from error
    except _ZIP_ERRORS as error:
        raise UnreadableFile("cannot be unpacked from its archive") from error


def read_bytes(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Content of a file or archive member.

    Args:
        path: A path from `list_files`.
        limit: Most bytes accepted; larger files are refused, whatever their size is said to be.

    Raises:
        UnreadableFile: If it cannot be opened or unpacked, or is larger than `limit`.
    """
    with open_file(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise UnreadableFile(f"larger than {limit} bytes")
    return content


def read_head(path: Path, size: int) -> bytes:
    """First `size` bytes of a file or archive member, fewer if it is shorter.

    Raises:
        UnreadableFile: If it cannot be opened or unpacked.
    """
    with open_file(path) as stream:
        return stream.read(size)


def file_size(path: Path) -> int:
    """Size of a file or archive member in bytes, -1 if it cannot be known."""
    return _signature(path)[0]


def find_archive(path: Path) -> Path | None:
    """The archive a path leads through, or `None` for an ordinary path."""
    return next((parent for parent in path.parents if _is_file(parent)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # longer than the system allows, as members of an archive may be
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file or archive member, hexadecimal; remembered while the file is unchanged.

    A file that cannot be read gives a digest of its path, so that a refused series still
    has an identity.
    """
    return _digest(path, _signature(path))


def combined_digest(digests: Sequence[str]) -> str:
    """SHA-256 over the sorted digests of a file set, hexadecimal: no order, no names."""
    return hashlib.sha256("\n".join(sorted(digests)).encode("ascii")).hexdigest()


def _walk(root: Path, skipped: set[str], is_entered: Callable[[Path], bool]) -> Iterator[Path]:
    seen = set(skipped)
    pending = [root]
    while pending:
        path = pending.pop()
        try:
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                yield path
            elif stat.S_ISDIR(mode) and (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                if is_entered(path):
                    pending.extend(sorted(path.iterdir(), reverse=True))
        except OSError as error:
            _LOGGER.warning("%s: passed over (%s)", path, error.strerror)


def _is_sound_archive(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            if not is_zip(stream.read(4)):
                return False
        _open(path)
        return True
    except (OSError, *_ZIP_ERRORS):
        return False


def _list_members(archive: Path) -> Iterator[Path]:
    for name in sorted(_open(archive).members):
        if _is_inside(name):
            yield archive / name
        else:
            _LOGGER.warning("%s: member %r passed over, its path leads outside", archive, name)


def _is_inside(name: str) -> bool:
    return not (name.startswith("/") or "\0" in name or ".." in PurePosixPath(name).parts)


def _open_either(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        if error.errno not in _NO_SUCH_FILE:
            raise
        archive = find_archive(path)
        if archive is None:
            raise
        opened = _open(archive)
        return opened.file.open(opened.members[path.relative_to(archive).as_posix()])


@dataclass(frozen=True, slots=True)
class _Archive:
    """An open archive and its files by tidy name: Windows writes backslashes, others `./`."""

    file: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]


def _open(archive: Path) -> _Archive:
    # A forked process must not share the position in the file with its parent.
    return _open_once(archive, _signature(archive), os.getpid())


@lru_cache(maxsize=4)
def _open_once(archive: Path, signature: tuple[int, int], process: int) -> _Archive:
    opened = zipfile.ZipFile(archive)
    files = [member for member in opened.infolist() if not member.is_dir()]
    names = [PurePosixPath(member.filename.replace("\\", "/")).as_posix() for member in files]
    return _Archive(opened, dict(zip(names, files, strict=True)))


def _signature(path: Path) -> tuple[int, int]:
    """Size and time of change; for a member, its size and the archive's time."""
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    except OSError:
        archive = find_archive(path)
        if archive is None:
            return -1, 0
        changed = archive.stat().st_mtime_ns
        try:
            name = path.relative_to(archive).as_posix()
            return _open(archive).members[name].file_size, changed
        except _ZIP_ERRORS:
            return -1, changed


@lru_cache(maxsize=2**16)
def _digest(path: Path, signature: tuple[int, int]) -> str:
    try:
        with open_file(path) as stream:
            hasher = hashlib.sha256()
            while chunk := stream.read(_CHUNK_BYTES):
                hasher.update(chunk)
            return hasher.hexdigest()
    except UnreadableFile:
        return hashlib.sha256(b"unreadable " + os.fsencode(path)).hexdigest()
