"""Finding every series in what the user gave: folders, archives, single files.

Files are recognized by content, never by suffix or name, and only headers are read.
Whatever looks like an image series becomes a candidate, also what will be refused, so
that a run accounts for all of it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.dicom_headers import FileHeader, has_preamble, is_dicom, read_header
from pipelines.dicom_values import tolerant_reading
from pipelines.scan_folder import is_scan_folder
from pipelines.stacks import MIN_STACK_SLICES, along_normal, split_stacks
from pipelines.storage import (
    UnreadableFile,
    combined_digest,
    digest,
    file_size,
    is_zip,
    list_files,
    read_head,
)
from pipelines.volume_headers import data_files, is_volume, suffix_of

SCAN_ID_LENGTH = 12
"""Hexadecimal digits of a scan's pseudonym: a clash among a million scans has odds of 1:500."""

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
"""Usual endings of DICOM files, in lower case; many have none."""

_LOGGER = logging.getLogger(__name__)
_HEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class SeriesCandidate:
    """The files of one series, before anybody has looked at a pixel.

    Args:
        files: Absolute paths; one may lead through a zip archive (`read_bytes`
            of `pipelines.storage` opens such paths).
        source: The folder or file that holds the series, from the name of the input on.
        modality: DICOM Modality, `None` if unknown and for other formats.
        kind: `"dicom"`, or `"volume"` for NIfTI, NRRD and MetaImage files.
        base: Folder that file names in messages are relative to.
    """

    files: tuple[Path, ...]
    source: str
    modality: str | None = None
    kind: Literal["dicom", "volume"] = "dicom"
    base: Path = field(default=Path(), repr=False)

    @property
    def scan_id(self) -> str:
        """Pseudonym made of the files' content alone: no name, no tag, no path goes into it."""
        return self.content_hash[:SCAN_ID_LENGTH]

    @property
    def content_hash(self) -> str:
        """SHA-256 over the files' bytes, hexadecimal; their order and names do not matter."""
        return combined_digest([digest(path) for path in self.files])

    def name_of(self, path: Path) -> str:
        """Name of one of the files as the user would find it."""
        return display_name(path, self.base)


def display_name(path: Path, base: Path) -> str:
    """Path relative to `base` with forward slashes, or the bare name outside of it."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def find_series(
    inputs: Sequence[Path | str], *, exclude: Sequence[Path | str] = ()
) -> list[SeriesCandidate]:
    """Every image series in the inputs, in an order that depends on their names alone.

    Copies of the same file count once. Files that are neither DICOM, NIfTI, NRRD nor
    MetaImage are passed over in silence; damaged DICOM files go to the series they lie
    beside, which is then refused by `read_scan`, or become a candidate of their own. What
    an earlier run wrote about its scans is not entered, unless it is given as an input.

    Args:
        inputs: Folders, zip archives or files.
        exclude: Folders that are not entered, for instance the output folder.

    Returns:
        One candidate per stack of slices, empty if there is none.

    Raises:
        FileNotFoundError: If an input does not exist.
    """
    bases: dict[Path, Path] = {}
    results: set[Path] = set()

    def is_result(folder: Path) -> bool:
        if is_scan_folder(folder):
            results.add(folder)
        return folder in results

    for given in map(Path, inputs):
        given.stat()
        root = Path(os.path.abspath(given))  # other processes may work in another folder
        excluded = [Path(folder) for folder in exclude]
        for path in list_files(root, excluded, is_excluded=is_result):
            bases.setdefault(path, root.parent)
    if results:  # no name: it may be that of a patient
        _LOGGER.warning("results of an earlier run are passed over (scans: %d)", len(results))
    with tolerant_reading():
        candidates = _find_among(list(bases), bases)
    order = {path: number for number, path in enumerate(bases)}
    candidates.sort(key=lambda c: min(order.get(path, len(order)) for path in c.files))
    return _with_sources(_without_copies(candidates))


def _find_among(paths: list[Path], bases: dict[Path, Path]) -> list[SeriesCandidate]:
    headers: list[FileHeader] = []
    candidates: list[SeriesCandidate] = []
    damaged: list[Path] = []
    unknown: list[Path] = []
    for path in paths:
        head = b""
        try:
            head = read_head(path, _HEAD_BYTES)
            if is_dicom(head):
                header = read_header(path)
                headers.extend([header] if header else [])
            elif is_volume(head, path.name):
                files = (path, *data_files(path))
                candidates.append(SeriesCandidate(files, "", kind="volume", base=bases[path]))
            elif is_zip(head) and path.suffix.lower() == ".zip":  # `list_files` could not open it
                candidates.append(SeriesCandidate((path,), "", base=bases[path]))
            elif _is_ruin(head, path):
                (damaged if _has_dicom_suffix(path) else unknown).append(path)
        except UnreadableFile as error:
            if has_preamble(head) or _is_ruin(b"", path):
                _LOGGER.warning("%s: %s", display_name(path, bases[path]), error)
                damaged.append(path)
            elif suffix_of(path.name) and not path.name.startswith("."):
                candidates.append(SeriesCandidate((path,), "", kind="volume", base=bases[path]))
    damaged.extend(_named_like_slices(unknown, headers))
    candidates.extend(_dicom_candidates(headers, damaged, bases))
    return candidates


def _is_ruin(head: bytes, path: Path) -> bool:
    """Whether an unrecognized file is likely what is left of a DICOM file."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):  # what file managers leave behind
        return False
    return _has_dicom_suffix(path) or (
        not head.strip(b"\0") and (not suffix or suffix[1:].isdigit())
    )


def _has_dicom_suffix(path: Path) -> bool:
    return path.suffix.lower() in DICOM_SUFFIXES


def _named_like_slices(paths: list[Path], headers: list[FileHeader]) -> list[Path]:
    """Files without DICOM suffix that may be slices: not those among files that all have one."""
    slices = {header.path.parent for header in headers}
    plain = {header.path.parent for header in headers if not _has_dicom_suffix(header.path)}
    return [path for path in paths if path.parent in plain or path.parent not in slices]


def _dicom_candidates(
    headers: list[FileHeader], damaged: list[Path], bases: dict[Path, Path]
) -> list[SeriesCandidate]:
    series = _series_of(headers)
    stacks = [stack for members in series for stack in split_stacks(_distinct(members))]
    stacks = _without_copied_stacks(stacks)
    ordered = [(_in_slice_order(stack), stack[0].modality) for stack in stacks]
    for lost in _by_folder(damaged).values():
        owners = [paths for paths, modality in ordered if _may_own(paths, modality, lost[0])]
        if len(owners) == 1:
            owners[0].extend(lost)
        else:
            ordered.append((lost, None))
    return [
        SeriesCandidate(tuple(paths), "", modality, "dicom", bases[paths[0]])
        for paths, modality in ordered
    ]


def _may_own(paths: list[Path], modality: str | None, damaged: Path) -> bool:
    """Whether a damaged file may have been a slice of a CT stack: it lies beside its slices."""
    is_stack = modality == "CT" and len(paths) >= MIN_STACK_SLICES
    return is_stack and any(path.parent == damaged.parent for path in paths)


def _series_of(headers: list[FileHeader]) -> list[list[FileHeader]]:
    """Files by SeriesInstanceUID; those without one by what comes nearest to it.

    Such a file joins the one series in its folder that it is like in everything else.
    """
    series: dict[object, list[FileHeader]] = defaultdict(list)
    alike: dict[object, set[str]] = defaultdict(set)
    for header in headers:
        if header.series_uid:
            series[header.series_uid].append(header)
            alike[_likeness(header)].add(header.series_uid)
    for header in headers:
        if not header.series_uid:
            key = _likeness(header)
            only = next(iter(alike[key])) if len(alike[key]) == 1 else key
            series[only].append(header)
    return list(series.values())


def _likeness(header: FileHeader) -> object:
    orientation = header.orientation and tuple(round(value, 1) for value in header.orientation)
    return (
        header.path.parent,
        header.study_uid,
        header.series_number,
        header.rows,
        header.columns,
        orientation,
    )


def _distinct(headers: list[FileHeader]) -> list[FileHeader]:
    """The headers without copies: files of one SOPInstanceUID with the same bytes.

    Files without one may be copies if they are of one size.
    """
    names = [header.instance_uid or file_size(header.path) for header in headers]
    times = Counter(names)
    kept: dict[object, FileHeader] = {}
    for name, header in zip(names, headers, strict=True):
        key = header.path if times[name] == 1 else (name, digest(header.path))
        kept.setdefault(key, header)
    return list(kept.values())


def _without_copied_stacks(stacks: list[list[FileHeader]]) -> list[list[FileHeader]]:
    """The stacks without those that hold the same bytes as an earlier one.

    Only files without SeriesInstanceUID can: those of one series are looked through together.
    """
    sizes = [
        None
        if all(h.series_uid for h in stack)
        else tuple(sorted(file_size(h.path) for h in stack))
        for stack in stacks
    ]
    times = Counter(sizes)
    kept: dict[object, list[FileHeader]] = {}
    for number, (size, stack) in enumerate(zip(sizes, stacks, strict=True)):
        is_alone = size is None or times[size] == 1
        key = number if is_alone else combined_digest([digest(h.path) for h in stack])
        kept.setdefault(key, stack)
    return list(kept.values())


def _in_slice_order(stack: list[FileHeader]) -> list[Path]:
    """Paths by position along the normal, feet or head first; by name where unknown."""
    positions = along_normal(stack)
    return [stack[number].path for number in np.argsort(positions, kind="stable")]


def _by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return folders


def _without_copies(candidates: list[SeriesCandidate]) -> list[SeriesCandidate]:
    """The candidates without volume files that hold the same bytes as an earlier one."""
    sizes = [c.kind == "volume" and file_size(c.files[0]) for c in candidates]
    times = Counter(sizes)
    kept: dict[object, SeriesCandidate] = {}
    for number, (size, candidate) in enumerate(zip(sizes, candidates, strict=True)):
        is_alone = size is False or times[size] == 1
        kept.setdefault(number if is_alone else candidate.content_hash, candidate)
    return list(kept.values())


def _with_sources(candidates: list[SeriesCandidate]) -> list[SeriesCandidate]:
    folders = [_folder_of(candidate) for candidate in candidates]
    times = Counter(folders)
    named = []
    for folder, candidate in zip(folders, candidates, strict=True):
        source = folder
        if times[folder] > 1:
            more = len(candidate.files) - 1
            source += f" [{candidate.files[0].name}{f' and {more} more' if more else ''}]"
        named.append(replace(candidate, source=source))
    return named


def _folder_of(candidate: SeriesCandidate) -> str:
    if candidate.kind == "volume" or len(candidate.files) == 1:
        return candidate.name_of(candidate.files[0])
    folder = Path(os.path.commonpath([path.parent for path in candidate.files]))
    if not folder.name:  # files of two inputs that share the root of all folders alone
        folder = candidate.files[0].parent
    name = candidate.name_of(folder)
    return name if name != "." else folder.name
